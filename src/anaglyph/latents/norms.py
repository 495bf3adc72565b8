"""Decoder geometry: the norms of a latent's two decoders and the cosine between them.

Formulas: docs/maths.md, section 2, after Minder, Dumas et al. 2025 (arXiv 2504.02922). Undefined
numbers are NaN in these arrays and become null in the table.
"""

import numpy as np
from jaxtyping import Float, Float64, Shaped
from numpy import ndarray

TUNED_ONLY = "tuned-only"
BASE_ONLY = "base-only"
SHARED = "shared"
OTHER = "other"


def row_norms(decoder: Float[ndarray, "latents d"]) -> Float64[ndarray, " latents"]:
    """Return the Euclidean length of every decoder row."""
    return np.sqrt(row_products(decoder, decoder))


def row_products(
    left: Float[ndarray, "latents d"], right: Float[ndarray, "latents d"]
) -> Float64[ndarray, " latents"]:
    """Return the inner product of every row of ``left`` with the same row of ``right``."""
    return np.einsum("jd,jd->j", left, right, dtype=np.float64)


def delta_norm(
    norm_base: Float64[ndarray, " latents"], norm_tuned: Float64[ndarray, " latents"]
) -> Float64[ndarray, " latents"]:
    """Return the relative decoder norm difference: 0 base only, 1/2 shared, 1 tuned only.

    ``1/2 * ((tuned - base) / max(tuned, base) + 1)``; NaN where both norms are zero.
    """
    longest = np.maximum(norm_base, norm_tuned)
    difference = np.full(longest.shape, np.nan)
    np.divide(norm_tuned - norm_base, longest, out=difference, where=longest > 0)
    return (difference + 1) / 2


def norm_classes(delta: Float64[ndarray, " latents"]) -> Shaped[ndarray, " latents"]:
    """Name each latent's class by its Delta_norm, in the bands of the paper.

    Above 0.9 tuned-only, below 0.1 base-only, 0.4 to 0.6 shared, anything else other; NaN gives
    None.
    """
    named = np.full(delta.shape, OTHER, dtype=object)
    named[delta > 0.9] = TUNED_ONLY
    named[delta < 0.1] = BASE_ONLY
    named[(delta >= 0.4) & (delta <= 0.6)] = SHARED
    named[np.isnan(delta)] = None
    return named


def decoder_cosine(
    base: Float[ndarray, "latents d"], tuned: Float[ndarray, "latents d"]
) -> Float64[ndarray, " latents"]:
    """Return the cosine between each latent's two decoders; NaN where one of them is zero."""
    lengths = row_norms(base) * row_norms(tuned)
    cosine = np.full(lengths.shape, np.nan)
    np.divide(row_products(base, tuned), lengths, out=cosine, where=lengths > 0)
    return np.clip(cosine, -1, 1)
