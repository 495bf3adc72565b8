"""Twins: one concept stored by a crosscoder as a tuned-only and a base-only latent.

Latent Decoupling (docs/maths.md, section 3) makes a shared concept look specific to each model. Its
sign is a pair of latents of opposite norm classes whose decoders point the same way.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64, Shaped
from numpy import ndarray

from anaglyph.latents.norms import BASE_ONLY, TUNED_ONLY, row_norms

TWIN_COSINE = 0.9
# Rows compared at once: the cosines held in memory stay below 2048 x (latents of the other class).
_ROWS = 2048


@dataclass(frozen=True)
class Twins:
    """Each latent's twin: ``index`` (-1 for none) and ``cosine`` (NaN for none)."""

    index: Int64[ndarray, " latents"]
    cosine: Float64[ndarray, " latents"]


def find_twins(
    base: Float[ndarray, "latents d"],
    tuned: Float[ndarray, "latents d"],
    classes: Shaped[ndarray, " latents"],
    alive: Bool[ndarray, " latents"],
) -> Twins:
    """Find, for each tuned-only and each base-only latent, its twin of the other class.

    Tuned decoders of tuned-only latents are compared with base decoders of base-only ones. The twin
    is the latent with the highest cosine, if that exceeds 0.9; of equal ones, the first.

    Args:
        base: Decoder of the base model.
        tuned: Decoder of the tuned model, of the same width.
        classes: Norm class of each latent, as ``norm_classes`` gives it.
        alive: Whether a latent fired; dead latents are left out.
    """
    index = np.full(classes.shape, -1, dtype=np.int64)
    cosine = np.full(classes.shape, np.nan)
    sides = {
        TUNED_ONLY: np.flatnonzero((classes == TUNED_ONLY) & alive),
        BASE_ONLY: np.flatnonzero((classes == BASE_ONLY) & alive),
    }
    directions = {
        TUNED_ONLY: _unit_rows(tuned[sides[TUNED_ONLY]]),
        BASE_ONLY: _unit_rows(base[sides[BASE_ONLY]]),
    }
    for own, other in ((TUNED_ONLY, BASE_ONLY), (BASE_ONLY, TUNED_ONLY)):
        if not sides[other].size:
            continue
        for start in range(0, sides[own].size, _ROWS):
            rows = sides[own][start : start + _ROWS]
            cosines = directions[own][start : start + _ROWS] @ directions[other].T
            best = cosines.argmax(axis=1)
            highest = cosines[np.arange(rows.size), best]
            found = highest > TWIN_COSINE
            index[rows[found]] = sides[other][best[found]]
            cosine[rows[found]] = np.minimum(highest[found], 1)
    return Twins(index, cosine)


def _unit_rows(rows: Float[ndarray, "latents d"]) -> Float[ndarray, "latents d"]:
    # No row is zero, because by its class this decoder is the longer of the two.
    return rows / row_norms(rows)[:, None].astype(rows.dtype)
