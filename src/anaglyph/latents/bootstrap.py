"""Confidence intervals over sequences by a block bootstrap.

Tokens of one sequence depend on each other, so whole sequences are drawn with replacement. To bound
memory, sequences are first grouped into at most 256 blocks of neighbours, and blocks are drawn.
This also keeps neighbouring documents of one kind together.
"""

import numpy as np
from jaxtyping import Float64, Int64
from numpy import ndarray

from anaglyph.core.rng import rng

MOST_BLOCKS = 256
LOW, HIGH = 0.025, 0.975
# With fewer defined draws there is no 95% interval.
_LEAST_DRAWS = 40


def assign_blocks(n_sequences: int, n_blocks: int) -> Int64[ndarray, " sequences"]:
    """Return the block of each sequence: neighbours together, block sizes equal to within one."""
    return np.arange(n_sequences, dtype=np.int64) * n_blocks // max(n_sequences, 1)


def draw_weights(n_blocks: int, resamples: int, seed: int) -> Float64[ndarray, "resamples blocks"]:
    """Return how often each block is drawn in each resample; rows sum to ``n_blocks``."""
    generator = rng(seed, "latent bootstrap")
    shares = np.full(n_blocks, 1 / n_blocks)
    return generator.multinomial(n_blocks, shares, size=resamples).astype(np.float64)


def interval(
    draws: Float64[ndarray, "resamples latents"],
) -> tuple[Float64[ndarray, " latents"], Float64[ndarray, " latents"]]:
    """Return the 2.5% and 97.5% points of each column, linearly interpolated.

    NaN marks a resample in which the statistic is undefined (the latent was not drawn); such
    resamples are left out. A column with fewer than 40 defined draws has no interval: NaN.
    """
    if len(draws) < _LEAST_DRAWS:
        return np.full(draws.shape[1], np.nan), np.full(draws.shape[1], np.nan)
    ordered = np.sort(draws, axis=0)  # NaN last
    defined = np.count_nonzero(~np.isnan(draws), axis=0)
    points = []
    for share in (LOW, HIGH):
        place = share * np.maximum(defined - 1, 0)
        below = np.floor(place).astype(np.int64)
        above = np.minimum(below + 1, np.maximum(defined - 1, 0))
        columns = np.arange(draws.shape[1])
        first, second = ordered[below, columns], ordered[above, columns]
        point = first + (place - below) * (second - first)
        points.append(np.where(defined >= _LEAST_DRAWS, point, np.nan))
    return points[0], points[1]
