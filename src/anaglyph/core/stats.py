"""Numbers with their 95% confidence intervals: means, shares, mean KL and KL recovered.

Intervals of KL come from a bootstrap over sequences. Tokens of one text depend on one another, and
an interval over tokens would be several times too narrow. Every intervention is judged on the same
draws, so two rows of a table may be compared.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64
from scipy.special import ndtri, stdtrit

from anaglyph.core.rng import rng

DRAWS = 1000
LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A number with the ends of its confidence interval; None where it is undefined."""

    value: float | None
    low: float | None
    high: float | None


def half_width(error: Float64[np.ndarray, "*shape"] | float, freedom: int) -> Any:
    """Return half the width of an interval: Student's t quantile times the standard error.

    Args:
        error: Standard error of the estimate.
        freedom: Degrees of freedom behind it, at least 1.
    """
    return stdtrit(freedom, (1 + LEVEL) / 2) * error


def mean_interval(values: Iterable[float | int | None]) -> Interval:
    """Return the mean and its Student's t interval.

    None does not count. Without any number the mean is None; fewer than two have no interval.

    Example:
        >>> mean_interval([1.0, 3.0, None]).value
        2.0
    """
    known = np.array([value for value in values if value is not None], float)
    if len(known) == 0:
        return Interval(None, None, None)
    mean = float(known.mean())
    if len(known) == 1:
        return Interval(mean, None, None)
    half = half_width(known.std(ddof=1) / len(known) ** 0.5, len(known) - 1)
    return Interval(mean, float(mean - half), float(mean + half))


def wilson(hits: int, total: int) -> Interval:
    """Return the share ``hits / total`` and its interval (Wilson, 1927); of nothing, None.

    Example:
        >>> round(wilson(0, 20).high, 3)
        0.161
    """
    if total == 0:
        return Interval(None, None, None)
    z = float(ndtri((1 + LEVEL) / 2))
    share, z2 = hits / total, z**2
    centre = (share + z2 / (2 * total)) / (1 + z2 / total)
    half = z / (1 + z2 / total) * math.sqrt(share * (1 - share) / total + z2 / (4 * total**2))
    return Interval(share, max(0.0, centre - half), min(1.0, centre + half))


def sequence_draws(sequences: int, seed: int) -> Float64[np.ndarray, "draws sequences"]:
    """Return how often each sequence comes up in each bootstrap draw."""
    generator = rng(seed, "causal bootstrap")
    equal = np.full(sequences, 1 / sequences)
    return generator.multinomial(sequences, equal, size=DRAWS).astype(np.float64)


def mean_kl(
    sums: Float64[np.ndarray, " sequences"],
    tokens: Int64[np.ndarray, " sequences"],
    draws: Float64[np.ndarray, "draws sequences"],
) -> Interval:
    """Return the mean KL per token (nats) from each sequence's KL sum and token count."""
    return _ratio(sums, tokens.astype(np.float64), draws)


def recovered(
    sums: Float64[np.ndarray, " sequences"],
    none: Float64[np.ndarray, " sequences"],
    draws: Float64[np.ndarray, "draws sequences"],
) -> Interval:
    """Return ``1 - KL_patch / KL_none`` (docs/maths.md, section 4), sequences drawn in pairs.

    Args:
        sums: Each sequence's KL sum under the intervention, nats.
        none: The same without one (the base model's activation in the tuned model).
        draws: From `sequence_draws`.
    """
    ratio = _ratio(sums, none, draws)
    if ratio.value is None:
        return ratio
    if ratio.low is None or ratio.high is None:
        return Interval(1 - ratio.value, None, None)
    return Interval(1 - ratio.value, 1 - ratio.high, 1 - ratio.low)


def _ratio(
    over: Float64[np.ndarray, " sequences"],
    under: Float64[np.ndarray, " sequences"],
    draws: Float64[np.ndarray, "draws sequences"],
) -> Interval:
    """Return sum(over) / sum(under) with percentile bounds.

    One sequence says nothing about the spread, and a draw without any of ``under`` in it has no
    ratio: such bounds are None.
    """
    total = under.sum()
    if total == 0:
        return Interval(None, None, None)
    value = float(over.sum() / total)
    below = draws @ under
    if len(under) < 2 or (below == 0).any():
        return Interval(value, None, None)
    tail = (1 - LEVEL) / 2
    low, high = np.quantile((draws @ over) / below, [tail, 1 - tail])
    return Interval(value, float(low), float(high))


def q_values(p: Float64[np.ndarray, " tests"]) -> Float64[np.ndarray, " tests"]:
    """Return the smallest false-discovery rate at which each test is called (step-up)."""
    order = np.argsort(p, kind="stable")
    ranked = p[order] * len(p) / np.arange(1, len(p) + 1)
    q = np.empty(len(p))
    q[order] = np.minimum.accumulate(ranked[::-1])[::-1].clip(max=1.0)
    return q
