"""Does the model that lacks a concept where an atom fires have it at other tokens?

A concept that only one model shows at some tokens is new there, but it may be an old one in new
places. So its direction is looked for in the other model's activations at all other tokens, with
the filter that lets least of everything else through (w = S^-1 u / <u, S^-1 u>, S the covariance:
minimum variance at unit gain). Firings of the concept stand out above, never below, so what counts
is the number of projections above a height minus the number below its negative. How large that
number gets by other features alone is measured on random directions of the same run.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64
from numpy import ndarray

from anaglyph.core.rng import rng
from anaglyph.findings.sample import column_medians
from anaglyph.findings.strengths import GROUPS, Estimate, jackknife

HEIGHTS = (0.5, 0.65, 0.8, 1.0, 1.2)
"""Of the concept's mean strength; the one that tells best is taken."""
RANDOM_DIRECTIONS = 128
LEAST = 0.15
"""Firings elsewhere, relative to the atom's own, that are worth the name."""
SURE = 3.5
"""In standard deviations over the random directions."""
TOGETHER = 1.25
"""From this overlap on, firings elsewhere lie in the same sequences: the contexts are the same."""
SEQUENCE = 8.0
"""Mean length, in tokens, below which sequences say nothing about contexts."""
_RIDGE = 1e-3


@dataclass(frozen=True)
class Elsewhere:
    """How often a model shows a concept at tokens where the atom does not fire."""

    relative: Estimate
    """Firings elsewhere over firings of the atom; one number."""
    deviations: float
    """How far that lies above what random directions give, in their standard deviations."""
    overlap: float | None
    """Whether both lie in the same sequences: 1 as if by chance, 0 never; None if unknown."""

    @property
    def present(self) -> bool:
        """Whether the model has the concept elsewhere."""
        return float(self.relative.value[0]) > LEAST and bool(self.deviations > SURE)


class Search:
    """Looks for directions in one model's activations."""

    def __init__(
        self,
        values: Float[ndarray, "tokens d"],
        sequences: Int64[ndarray, " tokens"],
        seed: int,
    ) -> None:
        self._values = values - column_medians(values)
        self._sequences = sequences
        centred = self._values - self._values.mean(0)
        covariance = (centred.T @ centred).astype(np.float64) / len(values)
        width = len(covariance)
        covariance += _RIDGE * max(np.trace(covariance) / width, 1e-30) * np.eye(width)
        self._inverse = np.linalg.inv(covariance)
        draws = rng(seed, "random directions").standard_normal((RANDOM_DIRECTIONS, width))
        projected = self._project(draws) / self._deviations(draws).astype(np.float32)
        self._random = np.sort(np.ascontiguousarray(projected.T), axis=1)

    def _project(self, directions: Float64[ndarray, "n d"]) -> Float[ndarray, "tokens n"]:
        unit = directions / np.linalg.norm(directions, axis=1, keepdims=True)
        filters = unit @ self._inverse
        filters /= (filters * unit).sum(1, keepdims=True)
        return self._values @ filters.T.astype(np.float32)

    def _deviations(self, directions: Float64[ndarray, "n d"]) -> Float64[ndarray, " n"]:
        """Return the standard deviation of each projection."""
        unit = directions / np.linalg.norm(directions, axis=1, keepdims=True)
        return 1 / np.sqrt((unit @ self._inverse * unit).sum(1))

    def look(
        self,
        direction: Float[ndarray, " d"],
        activations: Float64[ndarray, " firings"],
        fires: Bool[ndarray, " tokens"],
    ) -> Elsewhere:
        """Look for a concept outside the tokens at which it fires.

        Args:
            direction: Its unit direction.
            activations: How strong it is in the other model where it fires.
            fires: Those tokens.
        """
        directions = direction[None].astype(np.float64)
        projected = self._project(directions)[:, 0]
        # Random directions may vary more or less; as many deviations out, they are alike.
        deviation = float(self._deviations(directions)[0])
        strength = float(np.mean(activations))
        best: tuple[float, float, float, float, float] | None = None
        tokens = len(projected)
        for height in HEIGHTS:
            level = height * strength
            seen = float((activations > level).mean())
            # Of the sorted numbers' own type: else each is converted before it is searched.
            out = np.float32(level / deviation)
            above = tokens - np.array([np.searchsorted(c, out, "right") for c in self._random])
            below = np.array([np.searchsorted(c, -out, "left") for c in self._random])
            chance = (above - below) / fires.sum()
            spread = float(chance.std()) + 0.01
            if best is None or seen / spread > best[0]:
                best = (seen / spread, level, seen, float(chance.mean()), spread)
        _, level, seen, mean, spread = best if best is not None else (0, 0, 1, 0, 1)
        signs = (projected > level).astype(np.float64) - (projected < -level)
        signs[fires] = 0.0
        found = float(signs.sum()) / fires.sum()
        groups = self._sequences % GROUPS
        counted = np.bincount(groups, signs, GROUPS)
        fired = np.bincount(groups, fires, GROUPS)
        rows = np.concatenate([[counted.sum()], counted.sum() - counted])
        rows = rows / np.maximum(np.concatenate([[fired.sum()], fired.sum() - fired]), 1) / seen
        counted = jackknife((rows - mean / seen)[:, None])
        # Which other features happen to lie along the direction is as uncertain as between
        # random directions, whatever the number of tokens.
        half = np.hypot(counted.high - counted.value, 1.96 * spread / seen)
        relative = Estimate(counted.value, counted.value - half, counted.value + half)
        return Elsewhere(relative, float(found - mean) / spread, self._overlap(signs, fires))

    def _overlap(self, signs: ndarray, fires: ndarray) -> float | None:
        lengths = np.bincount(self._sequences).astype(np.float64)
        tokens = lengths.sum()
        if np.square(lengths).sum() / tokens < SEQUENCE or signs.sum() <= 0:
            return None
        here, there = np.bincount(self._sequences, fires), np.bincount(self._sequences, signs)
        by_chance = here.sum() * there.sum() * np.square(lengths).sum() / tokens**2
        return float((here * there).sum() / by_chance)
