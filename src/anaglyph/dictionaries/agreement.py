"""Which latents of two dictionaries are the same, by the cosine of their decoders.

The decoders of all sources are concatenated, each weighted as in the selection
(``source_weights``). So for a crosscoder both the direction and the share of each model must agree.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64
from numpy import ndarray

from anaglyph.core.errors import InputError
from anaglyph.dictionaries.dictionary import Dictionary

# Rows compared at once: at most 2048 x (latents of the other) cosines are in memory.
_ROWS = 2048


@dataclass(frozen=True)
class Agreement:
    """The nearest latent of another dictionary, for each latent of one."""

    match: Int64[ndarray, " latents"]
    """Of equal ones, the first."""
    cosine: Float64[ndarray, " latents"]
    mutual: Bool[ndarray, " latents"]
    """Whether the nearest latent of that latent is this one."""
    known: Bool[ndarray, " latents"]
    """False for a latent whose decoders are zero, because it has no direction."""


def agreement(dic_a: Dictionary, dic_b: Dictionary) -> Agreement:
    """Find each latent of one dictionary in another.

    Args:
        dic_a: The dictionary whose latents are searched for.
        dic_b: The dictionary to search; it may have another number of latents.

    Raises:
        InputError: The two reconstruct different sources or activations of different widths.
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
    return Agreement(
        match,
        np.clip(cosine, -1, 1),
        back[match] == np.arange(len(rows_a)),
        (norms_a > 0) & np.isfinite(cosine),
    )


def _unit_rows(
    dic: Dictionary,
) -> tuple[Float32[ndarray, "latents all_d"], Float64[ndarray, " latents"]]:
    """Return each latent's concatenated decoders as unit rows (zero stays zero), and norms."""
    weighted = [
        weight * matrix.numpy()
        for weight, matrix in zip(dic.source_weights, dic.decoder, strict=True)
    ]
    rows = np.concatenate(weighted, axis=1, dtype=np.float32)
    norms = np.sqrt(np.einsum("jd,jd->j", rows, rows, dtype=np.float64))
    return rows / np.where(norms > 0, norms, 1)[:, None].astype(np.float32), norms
