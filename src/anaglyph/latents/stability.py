"""Does a latent come again when another dictionary is trained on the same pair?

A latent that training with another seed does not find says more about the training than about the
models.
"""

import numpy as np
import polars as pl
from jaxtyping import Float32, Float64
from numpy import ndarray

from anaglyph.dictionaries import Dictionary
from anaglyph.errors import InputError
from anaglyph.latents.norms import row_norms

# Rows compared at once: the cosines in memory stay below 2048 x (latents of the other).
_ROWS = 2048


def stability(dic_a: Dictionary, dic_b: Dictionary) -> pl.DataFrame:
    """Find each latent of one dictionary in another, by the cosine of their decoders.

    The decoders of all sources are laid end to end, each source in the units that the dictionary
    selects by (``source_weights``), so that of a crosscoder both the direction and the share of
    each model must agree. Dead latents are compared like all others: join the result with the
    latent tables to leave them out.

    Args:
        dic_a: The dictionary whose latents are looked for.
        dic_b: Where they are looked for; usually the same method with another seed. It may have
            another number of latents.

    Returns:
        One row a latent of ``dic_a``: ``latent``, ``match`` (the latent of ``dic_b`` of highest
        cosine; of equal ones, the first), ``cosine``, and ``mutual``, whether that latent's best
        match is this one. Null for a latent whose decoders are zero.

    Raises:
        InputError: The two rebuild different sources or activations of different widths.
    """
    if (dic_a.spec.sources, dic_a.widths) != (dic_b.spec.sources, dic_b.widths):
        raise InputError(
            f"latents of {dic_a.method} ({', '.join(dic_a.spec.sources)}; widths {dic_a.widths}) "
            f"and {dic_b.method} ({', '.join(dic_b.spec.sources)}; widths {dic_b.widths}) do not "
            "have comparable decoders"
        )
    (rows_a, norms_a), (rows_b, norms_b) = _unit_rows(dic_a), _unit_rows(dic_b)
    match = np.zeros(len(rows_a), dtype=np.int64)
    cosine = np.empty(len(rows_a))
    back = np.zeros(len(rows_b), dtype=np.int64)
    back_cosine = np.full(len(rows_b), -np.inf)
    for start in range(0, len(rows_a), _ROWS):
        part = slice(start, start + _ROWS)
        cosines = rows_a[part] @ rows_b.T
        # Zero decoders have no direction; they match nothing.
        cosines[:, norms_b == 0] = -np.inf
        match[part] = cosines.argmax(axis=1)
        cosine[part] = cosines.max(axis=1)
        cosines[norms_a[part] == 0] = -np.inf
        best = cosines.argmax(axis=0)
        highest = cosines.max(axis=0)
        better = highest > back_cosine
        back[better], back_cosine[better] = start + best[better], highest[better]
    found = (norms_a > 0) & np.isfinite(cosine)
    columns = {
        "latent": np.arange(len(rows_a)),
        "match": match,
        "cosine": np.clip(cosine, -1, 1),
        "mutual": back[match] == np.arange(len(rows_a)),
    }
    known = pl.Series(found)
    return pl.DataFrame(columns).with_columns(
        pl.when(known).then(pl.col(name)).alias(name) for name in ("match", "cosine", "mutual")
    )


def _unit_rows(
    dic: Dictionary,
) -> tuple[Float32[ndarray, "latents all_d"], Float64[ndarray, " latents"]]:
    """Return each latent's decoders end to end at unit length (zero stays zero), and the length."""
    weighted = [
        weight * matrix.numpy()
        for weight, matrix in zip(dic.source_weights, dic.decoder, strict=True)
    ]
    rows = np.concatenate(weighted, axis=1, dtype=np.float32)
    norms = row_norms(rows)
    return rows / np.where(norms > 0, norms, 1)[:, None].astype(np.float32), norms
