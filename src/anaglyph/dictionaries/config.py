"""The settings of one training: those of `core/settings.py`, with nothing left open."""

from typing import Any

import numpy as np
from pydantic import Field, model_validator

from anaglyph.core.devices import resolve_device
from anaglyph.core.errors import InputError
from anaglyph.core.settings import DictionarySettings
from anaglyph.core.validation import check_type, validate
from anaglyph.dictionaries.initial import training_tokens
from anaglyph.dictionaries.methods import get_method
from anaglyph.dictionaries.optimiser import default_rate
from anaglyph.dictionaries.sparsity import SPARSITIES, default_mu
from anaglyph.store import PairedStore


class TrainConfig(DictionarySettings, frozen=True):
    """All that determines a training, apart from the store and the number of threads.

    Make one with ``of`` or ``resolve``.
    """

    method: str
    k: int | float | None = None
    """None for a sparsity that takes none."""
    choose: bool = Field(default=False, exclude=True)
    """Whether k is still to be chosen from the data (``choice.py``)."""
    tokens: int = Field(ge=1)
    lr: float = Field(gt=0)
    seed: int = Field(default=0, ge=0)
    device: str = "cpu"
    kernels: str = "auto"
    """Implementation of the sparse operations: see ``choose_kernels``."""

    @classmethod
    def of(cls, **fields: Any) -> "TrainConfig":
        """Return a checked config.

        Raises:
            InputError: A setting is out of range; the message names it and its value.

        Example:
            >>> TrainConfig.of(method="diff-sae", latents=64, k=4, tokens=100, lr=0.01).steps
            1
        """
        return validate(cls, plain(fields))

    def changed(self, **changes: Any) -> "TrainConfig":
        """Return this config with some fields replaced, checked again."""
        return self.of(**{**self.as_dict(), **changes})

    @model_validator(mode="after")
    def _fits_method(self) -> "TrainConfig":
        method, kind = get_method(self.method, self.options), SPARSITIES.get(self.sparsity)
        method.check(self.latents)
        kind.check(self)
        if self.budgets is not None and not kind.selects_k:
            raise InputError(
                f"{self.method} gives blocks of latents a k each, {self.sparsity} selects by none"
            )
        for _, k in self.budgets or ():
            if kind.whole_k and k != int(k):
                raise InputError(
                    f"k={self.k}: {self.method} gives a block {k:g} of it, {self.sparsity} "
                    "selects a whole number for each token"
                )
        return self

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
        return self.model_dump()


def plain(fields: dict[str, Any]) -> dict[str, Any]:
    """Return the fields with NumPy's numbers as Python's."""
    return {
        name: value.item() if isinstance(value, np.generic) else value
        for name, value in fields.items()
    }


def resolve(
    store: PairedStore,
    method: str,
    settings: DictionarySettings,
    seed: int = 0,
    device: str = "auto",
) -> TrainConfig:
    """Fill in what the settings leave open, from the method and the store.

    Args:
        store: Activations to train on.
        method: Name of a registered method.
        settings: How to train; k, mu, tokens and lr may be None.
        seed: Seed of the initial weights and of the order of the data.
        device: Where to train: see `core.devices.resolve_device`.

    Raises:
        InputError: A setting is out of range, the method does not fit the store, or the device is
            not there.
    """
    check_type("store", store, PairedStore, "make one with collect or PairedStore.from_arrays")
    spec, kind = get_method(method, settings.options), SPARSITIES.get(settings.sparsity)
    widths = spec.widths(store.d_base, store.d_tuned)
    tokens = settings.tokens or default_tokens(training_tokens(store))
    fields = {name: getattr(settings, name) for name in DictionarySettings.model_fields}
    fields |= {"method": method, "seed": seed, "tokens": tokens}
    fields["device"] = str(resolve_device(device))
    if settings.lr is None:
        fields["lr"] = default_rate(max(widths), steps_of(tokens, settings.batch))
    if kind.takes_mu and settings.mu is None:
        fields["mu"] = default_mu(spec.norm, widths)
    fields["choose"] = settings.k == "auto"
    if fields["choose"] and not kind.takes_k:
        raise InputError(f"k=auto: {settings.sparsity} takes no k, set mu")
    if settings.k is None or settings.k == "auto":
        fields["k"] = min(spec.default_k, settings.latents)
    if not kind.takes_k:
        fields["k"] = None
    return TrainConfig.of(**fields)


def default_tokens(available: int) -> int:
    """Return how many tokens to train on, given how many there are.

    Two million (a thousand steps) or one epoch, whichever is more, but no token over a hundred
    times.
    """
    return max(1, available, min(2_048_000, 100 * available))


def steps_of(tokens: int, batch: int) -> int:
    """Return how many batches hold that many tokens."""
    return -(-tokens // batch)
