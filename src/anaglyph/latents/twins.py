"""Twins: one concept stored by a crosscoder as a tuned-only and a base-only latent.

Latent Decoupling (docs/maths.md, section 3) makes a shared concept look specific to each model. Its
sign is a pair of latents of opposite norm classes whose decoders point the same way.

Do twins fire together? If so they are one concept; if not, their triggers differ.

Twin divergence (docs/maths.md, section 3, after Minder, Dumas et al. 2025, arXiv 2504.02922): of
the tokens at which either of the pair fires strongly, the share at which the other is weak. Both
are measured relative to the highest strength that either reaches, so one pass over the codes comes
first. If there are no twins, the store is not read again.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64, Shaped
from numpy import ndarray

from anaglyph.core.progress import Progress
from anaglyph.dictionaries import Dictionary
from anaglyph.latents.norms import BASE_ONLY, TUNED_ONLY, row_norms
from anaglyph.latents.reading import renumbered, scoring_codes
from anaglyph.store import PairedStore

TWIN_COSINE = 0.9
# Rows compared at once: the cosines held in memory stay below 2048 x (latents of the other class).
_ROWS = 2048
STRONG, WEAK = 0.4, 0.1
# Tokens x pairs compared at once.
_COMPARED = 4 * 2**20


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


def twin_divergence(
    dic: Dictionary,
    store: PairedStore,
    twin: Int64[ndarray, " latents"],
    lengths: Float64[ndarray, " latents"],
    largest: Float64[ndarray, " latents"],
    progress: Progress,
) -> Float64[ndarray, " latents"]:
    """Return the divergence of each latent from its twin: 0 together, 1 apart; NaN without one.

    Strength is ``f_j ||d_j||``, the length of what the latent adds. (A code alone has no scale,
    because doubling the decoder halves it.) Strong is above 0.4 of the pair's joint maximum, weak
    at or below 0.1 of it.

    Args:
        dic: The dictionary.
        store: The store that ``largest`` was computed from.
        twin: Each latent's twin, -1 for none.
        lengths: Norm of the decoder that was compared to find each latent's twin.
        largest: Highest code of each latent.
        progress: Told after each block of tokens.
    """
    divergence = np.full(twin.shape, np.nan)
    has_twin = np.flatnonzero(twin >= 0)
    if not has_twin.size:
        return divergence
    ends = np.stack([has_twin, twin[has_twin]])
    latents, places = np.unique(ends, return_inverse=True)
    # Most pairs are mutual: count each once.
    pairs, pair_of = np.unique(np.sort(places.reshape(2, -1), axis=0), axis=1, return_inverse=True)
    lengths = lengths[latents]
    joint = (largest[latents] * lengths)[pairs].max(axis=0)
    strong = np.zeros(joint.size, dtype=np.int64)
    apart = np.zeros(joint.size, dtype=np.int64)
    step = max(1, _COMPARED // joint.size)
    done = 0
    for block in store.blocks():
        codes = renumbered(scoring_codes(dic, block.base, block.tuned), latents, dic.n_latents)
        dense = codes.dense(latents.size)
        for start in range(0, len(dense), step):
            first, second = (dense[start : start + step] * lengths)[:, pairs].swapaxes(0, 1)
            fires = np.maximum(first, second) > STRONG * joint
            strong += fires.sum(axis=0)
            apart += (fires & (np.minimum(first, second) <= WEAK * joint)).sum(axis=0)
        done += block.tokens.size
        progress("twins", done, store.n_tokens)
    divergence[has_twin] = (apart / strong)[pair_of.reshape(-1)]
    return divergence


def _unit_rows(rows: Float[ndarray, "latents d"]) -> Float[ndarray, "latents d"]:
    # No row is zero, because by its class this decoder is the longer of the two.
    return rows / row_norms(rows)[:, None].astype(rows.dtype)
