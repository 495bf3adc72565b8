"""Is a latent found again when another dictionary is trained on the same pair?

A latent that training with another seed does not find says more about the training than about the
models.
"""

import numpy as np
import polars as pl

from anaglyph.dictionaries import Dictionary
from anaglyph.dictionaries.agreement import agreement


def stability(dic_a: Dictionary, dic_b: Dictionary) -> pl.DataFrame:
    """Find each latent of one dictionary in another, by the cosine of their decoders.

    Decoders of several sources are compared together (``dictionaries.agreement``). Dead latents are
    compared too; join the result with the latent tables to leave them out.

    Args:
        dic_a: The dictionary whose latents are looked for.
        dic_b: The dictionary to search; usually the same method with another seed. It may have
            another number of latents.

    Returns:
        One row a latent of ``dic_a``: ``latent``, ``match`` (the latent of ``dic_b`` of highest
        cosine; of equal ones, the first), ``cosine``, and ``mutual``, whether that latent's best
        match is this one. Null for a latent whose decoders are zero.

    Raises:
        InputError: The two rebuild different sources or activations of different widths.
    """
    found = agreement(dic_a, dic_b)
    columns = {
        "latent": np.arange(len(found.match)),
        "match": found.match,
        "cosine": found.cosine,
        "mutual": found.mutual,
    }
    known = pl.Series(found.known)
    return pl.DataFrame(columns).with_columns(
        pl.when(known).then(pl.col(name)).alias(name) for name in ("match", "cosine", "mutual")
    )
