"""The settings of a training, checked once."""

import math
from dataclasses import asdict, dataclass
from typing import Any

from anaglyph.dictionaries.methods import get_method
from anaglyph.dictionaries.sparsity import SPARSITIES
from anaglyph.errors import InputError


@dataclass(frozen=True)
class TrainConfig:
    """All that determines a training, apart from the store and the number of threads.

    Raises:
        InputError: A setting is out of range; the message names it and its value.
    """

    method: str
    latents: int
    k: int
    tokens: int
    """How many tokens are seen, repetitions included."""
    seed: int
    lr: float
    """Peak learning rate."""
    sparsity: str = "batchtopk"
    batch: int = 2048
    device: str = "cpu"
    kernels: str = "auto"

    def __post_init__(self) -> None:
        """Check every setting."""
        get_method(self.method)
        SPARSITIES.get(self.sparsity)
        for field in ("latents", "k", "tokens", "batch"):
            if getattr(self, field) < 1:
                raise InputError(f"{field}={getattr(self, field)} must be at least 1")
        if self.k > self.latents:
            raise InputError(f"k={self.k} exceeds latents={self.latents}")
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise InputError(f"lr={self.lr} must be a positive number")
        if self.seed < 0:
            raise InputError(f"seed={self.seed} must not be negative")

    @property
    def steps(self) -> int:
        """Number of optimiser steps."""
        return steps_of(self.tokens, self.batch)

    @property
    def dead_after(self) -> int:
        """Tokens without firing after which a latent counts as dead.

        The paper takes 10M of 100M tokens: a tenth of the run.
        """
        return max(self.batch, min(10_000_000, self.tokens // 10))

    def as_dict(self) -> dict[str, Any]:
        """Return the settings as plain values."""
        return asdict(self)


def steps_of(tokens: int, batch: int) -> int:
    """Return how many batches hold that many tokens."""
    return -(-tokens // max(1, batch))
