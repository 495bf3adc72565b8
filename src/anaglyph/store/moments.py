"""Means and variances of activations, in a form that can be merged without reading them again.

Each shard stores its own count, mean and sum of squared deviations in float64. Merging follows
Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing sample
variances" (1979): no sum of squares is formed, so a large mean does not swamp a small variance.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float64
from torch import Tensor

CHUNK = 4096  # rows held in float64 at a time


@dataclass(frozen=True)
class Moments:
    """Count, mean and squared deviations of a set of activations, per dimension.

    Attributes:
        count: Number of tokens, at least 1.
        mean: Mean over tokens.
        m2: Sum over tokens of the squared deviation from the mean.
    """

    count: int
    mean: Float64[np.ndarray, " d"]
    m2: Float64[np.ndarray, " d"]

    @staticmethod
    def of(values: Float[Tensor, "tokens d"]) -> "Moments":
        """Measure activations in float64, whatever their own precision."""
        return _over(part.double().numpy() for part in values.split(CHUNK))

    @staticmethod
    def of_difference(
        base: Float[Tensor, "tokens d"], tuned: Float[Tensor, "tokens d"]
    ) -> "Moments":
        """Measure ``tuned - base``, subtracted in float64."""
        parts = zip(base.split(CHUNK), tuned.split(CHUNK), strict=True)
        return _over(after.double().numpy() - before.double().numpy() for before, after in parts)

    def merge(self, other: "Moments") -> "Moments":
        """Return the moments of both sets together."""
        count = self.count + other.count
        shift = other.mean - self.mean
        return Moments(
            count,
            self.mean + shift * (other.count / count),
            self.m2 + other.m2 + shift**2 * (self.count * other.count / count),
        )

    @property
    def variance_sum(self) -> float:
        """Sum over dimensions of the population variance (divisor ``count``)."""
        return float(self.m2.sum()) / self.count

    @property
    def rms(self) -> float:
        """Square root of the mean of x² over tokens and dimensions."""
        squares = float(self.m2.sum()) + self.count * float(self.mean @ self.mean)
        return math.sqrt(squares / (self.count * self.mean.size))


class Statistics(NamedTuple):
    """The moments of both sides over the whole store.

    ``difference`` is for tuned minus base; None if the two widths differ.
    """

    base: Moments
    tuned: Moments
    difference: Moments | None


def _over(chunks: Iterable[Float64[np.ndarray, "rows d"]]) -> Moments:
    return reduce(Moments.merge, map(_of_chunk, chunks))


def _of_chunk(chunk: Float64[np.ndarray, "rows d"]) -> Moments:
    mean = chunk.mean(axis=0)
    deviation = chunk - mean
    return Moments(len(chunk), mean, np.einsum("nd,nd->d", deviation, deviation))
