"""The settings of a training, checked once."""

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from anaglyph.core.errors import InputError
from anaglyph.dictionaries.methods import get_method
from anaglyph.dictionaries.sparsity import SPARSITIES


@dataclass(frozen=True)
class TrainConfig:
    """All that determines a training, apart from the store and the number of threads.

    Raises:
        InputError: A setting is out of range; the message names it and its value.
    """

    method: str
    latents: int
    k: int | float | None
    """Mean number of active latents a token; None for a sparsity that does not take one.

    Below 1 where fewer than one latent fires at most tokens: a difference often is that sparse.
    """
    tokens: int
    """How many tokens are seen, repetitions included."""
    seed: int
    lr: float
    """Peak learning rate."""
    sparsity: str = "batchtopk"
    batch: int = 2048
    mu: float | None = None
    """Weight of the sparsity's penalty; None for a sparsity without one."""
    anneal: float = 0.0
    """Fraction of the run over which k falls to its value."""
    options: dict[str, Any] = field(default_factory=dict)
    """Options of the method."""
    device: str = "cpu"
    kernels: str = "auto"
    """Implementation of the sparse operations: see ``choose_kernels``."""

    def __post_init__(self) -> None:
        """Check every setting."""
        method = get_method(self.method, self.options)
        for name in ("latents", "tokens", "batch"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)} must be at least 1")
        method.check(self.latents)
        self._check_sparsity()
        self._check_budgets()
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise InputError(f"lr={self.lr} must be a positive number")
        if self.seed < 0:
            raise InputError(f"seed={self.seed} must not be negative")

    def _check_sparsity(self) -> None:
        kind = SPARSITIES.get(self.sparsity)
        if kind.takes_k != (self.k is not None):
            raise InputError(f"k={self.k}: {self.sparsity} {_takes(kind.takes_k)} k")
        if self.k is not None and not (math.isfinite(self.k) and self.k > 0):
            raise InputError(f"k={self.k} must be a positive number")
        if self.k is not None and self.k > self.latents:
            raise InputError(f"k={self.k} exceeds latents={self.latents}")
        if self.k is not None and kind.whole_k and self.k != int(self.k):
            raise InputError(f"k={self.k}: {self.sparsity} selects a whole number for each token")
        if self.k is not None and self.k * self.batch < 1:
            raise InputError(f"k={self.k} selects nothing of a batch of {self.batch} tokens")
        if kind.takes_mu != (self.mu is not None):
            raise InputError(f"mu={self.mu}: {self.sparsity} {_takes(kind.takes_mu)} mu")
        if self.mu is not None and not (math.isfinite(self.mu) and self.mu >= 0):
            raise InputError(f"mu={self.mu} must be a finite number and not negative")
        if not 0 <= self.anneal <= 0.5:
            raise InputError(f"anneal={self.anneal} must lie between 0 and 0.5")
        if self.anneal > 0 and not kind.selects_k:
            raise InputError(f"anneal={self.anneal}: {self.sparsity} does not select by k")

    def _check_budgets(self) -> None:
        if self.budgets is not None and not SPARSITIES.get(self.sparsity).selects_k:
            raise InputError(
                f"{self.method} gives blocks of latents a k each, {self.sparsity} selects by none"
            )
        if SPARSITIES.get(self.sparsity).whole_k:
            for _, k in self.budgets or ():
                if k != int(k):
                    raise InputError(
                        f"k={self.k}: {self.method} gives a block {k:g} of it, {self.sparsity} "
                        "selects a whole number for each token"
                    )

    @property
    def budgets(self) -> tuple[tuple[int, int | float], ...] | None:
        """The method's blocks with a k of their own, if it has such."""
        k = self.latents if self.k is None else self.k
        return get_method(self.method, self.options).budgets(k, self.latents)

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


def _takes(wanted: bool) -> str:
    return "needs a" if wanted else "takes no"


def steps_of(tokens: int, batch: int) -> int:
    """Return how many batches hold that many tokens."""
    return -(-tokens // max(1, batch))
