"""A constant that the fine-tune adds to every token: the difference where no atom fires."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64
from numpy import ndarray
from scipy.sparse import csr_matrix

from anaglyph.findings.sample import Sample
from anaglyph.findings.significance import sign_flip_bound
from anaglyph.findings.strengths import GROUPS, jackknife

LEAST = 0.02
"""Norm worth reporting, relative to the typical length of a tuned activation about its mean."""


@dataclass(frozen=True)
class Shift:
    """The mean shift of a pair."""

    direction: Float64[ndarray, " d"]
    norm: tuple[float, float, float]
    """Value, low, high."""
    relative: float
    """Norm over the typical length of a tuned activation about its mean."""
    p_value: float


def measure_shift(
    sample: Sample, delta: Float[ndarray, "tokens d"], fires: csr_matrix
) -> Shift | None:
    """Measure the mean difference over tokens at which no atom fires.

    The direction is taken from tokens that are not held out; held-out sequences then say whether
    they agree (sign flips, as in ``significance.py``). None where every token has an atom, or the
    difference is too small to matter.
    """
    quiet = np.asarray(fires.sum(1)).ravel() == 0
    fit, test = quiet & ~sample.heldout, quiet & sample.heldout
    if not fit.any() or not test.any():
        return None
    direction = delta[fit].mean(0, dtype=np.float64)
    length = float(np.linalg.norm(direction))
    typical = float(np.sqrt(np.square(sample.tuned - sample.tuned.mean(0)).sum(1).mean()))
    if length == 0 or typical == 0:
        return None
    direction /= length
    sums = np.bincount(sample.sequences[test], delta[test] @ direction)
    groups = sample.groups(GROUPS)[quiet]
    totals = np.stack([delta[quiet][groups == g].sum(0, dtype=np.float64) for g in range(GROUPS)])
    counts = np.bincount(groups, minlength=GROUPS)
    left = np.concatenate([totals.sum(0)[None], totals.sum(0) - totals])
    means = left / np.maximum(np.concatenate([[counts.sum()], counts.sum() - counts]), 1)[:, None]
    norm = jackknife(np.linalg.norm(means, axis=1)[:, None])
    value, low, high = (float(x[0]) for x in (norm.value, norm.low, norm.high))
    if value < LEAST * typical:
        return None
    return Shift(
        direction,
        (value, low, high),
        value / typical,
        float(sign_flip_bound(sums[:, None])[0]),
    )
