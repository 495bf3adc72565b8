"""Crosscoders: one code for both models, a decoder for each.

The variants differ in the loss of the two errors and in constraints on the decoders.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from anaglyph.core.errors import InputError
from anaglyph.dictionaries.methods.base import DictionaryMethod, register
from anaglyph.dictionaries.weights import Weights


@register("crosscoder")
class Crosscoder(DictionaryMethod):
    """One code for both models, a decoder for each (arXiv 2504.02922)."""

    kind = "crosscoder"
    sources = ("base", "tuned")
    centred = False
    # Codes represent everything in either model, so k is that of an SAE.
    default_k = 32
    scaling_targets = ("error", "recon", "act")

    def difference(self, rebuilt: tuple[Tensor, ...]) -> Tensor | None:
        """Return the tuned reconstruction minus the base one, biases included."""
        base, tuned = rebuilt
        return tuned - base if base.shape == tuned.shape else None


@register("lambda-bridge")
@dataclass(frozen=True)
class LambdaBridge(Crosscoder):
    """A crosscoder with loss |e_t|^2 + |e_b|^2 + 2 lambda <e_t, e_b>, between it and a diff-SAE.

    At lambda = 0 it is the crosscoder, at -1 it reconstructs only the difference: |e_t - e_b|^2
    (docs/maths.md, section 1). Both models share one scale, so that their errors can be compared.
    """

    common_scale = True

    lambda_: float = -0.5

    def __post_init__(self) -> None:
        """Refuse a lambda outside [-1, 0], and the unsquared norm (the loss is quadratic)."""
        super().__post_init__()
        if not -1 <= self.lambda_ <= 0:
            raise InputError(f"lambda={self.lambda_} must lie between -1 and 0")
        if self.norm != "squared":
            raise InputError(f"norm={self.norm} is not defined for {self.name}: use squared")

    def widths(self, d_base: int, d_tuned: int) -> tuple[int, ...]:
        """Return the two widths; they may differ only if the errors are not compared."""
        if self.lambda_ != 0 and d_base != d_tuned:
            raise self._needs_one_width(d_base, d_tuned, f"with lambda={self.lambda_} compares")
        return super().widths(d_base, d_tuned)

    def loss(
        self, errors: tuple[Float[Tensor, "tokens _"], ...]
    ) -> tuple[float, tuple[Float[Tensor, "tokens _"], ...]]:
        """Return the mean over tokens of the quadratic form, and its gradient."""
        value, (base, tuned) = super().loss(errors)
        if self.lambda_ == 0:
            return value, (base, tuned)
        product = float(torch.vdot(errors[0].flatten(), errors[1].flatten()))
        value += 2 * self.lambda_ * product / len(errors[0])
        return value, (base + self.lambda_ * tuned, tuned + self.lambda_ * base)


class _SharedBlock(Crosscoder):
    """Latents 0..n_shared have one decoder for both models; a base class for variants."""

    common_scale = True
    constrained = True

    def shared(self, latents: int) -> int:
        """Return the size of the shared block."""
        raise NotImplementedError

    def widths(self, d_base: int, d_tuned: int) -> tuple[int, ...]:
        """Return the two widths, which must be equal."""
        if d_base != d_tuned:
            raise self._needs_one_width(d_base, d_tuned, "ties decoders")
        return super().widths(d_base, d_tuned)

    def constrain(self, weights: Weights) -> None:
        """Average the shared rows of the two decoders."""
        base, tuned = weights.decoder
        rows = slice(0, self.shared(len(base)))
        base[rows] = tuned[rows] = (base[rows] + tuned[rows]) / 2

    def named_blocks(self, latents: int) -> dict[str, slice]:
        """Return the block whose decoders are not tied."""
        return {"untied": slice(self.shared(latents), latents)}

    def check(self, latents: int) -> None:
        """Refuse empty blocks."""
        if not 0 < self.shared(latents) < latents:
            raise InputError(
                f"{self.name}: a shared block of {self.shared(latents)} of {latents} latents "
                f"leaves a block empty"
            )


@register("designated-crosscoder")
@dataclass(frozen=True)
class DesignatedCrosscoder(_SharedBlock):
    """A crosscoder whose first latents are shared by design, with tied decoders, and cheaper.

    Designated shared features represent what both models have, so that the others need not
    (Anthropic, "Insights on Crosscoder Model Diffing", 2025).
    """

    share: float = 0.1
    """Fraction of latents that are designated as shared."""
    price: float = 0.7
    """Cost of a designated latent relative to the others (``prices``). With a penalty, 0.2 works.
    Where latents compete for k, prices below 0.5 let the designated ones crowd out the others (on
    planted pairs FVE falls from 0.99 to 0.90 at 0.4 and 0.44 at 0.2)."""

    def __post_init__(self) -> None:
        """Refuse shares outside (0, 1) and prices outside (0, 1]."""
        super().__post_init__()
        _check_share("share", self.share)
        if not 0 < self.price <= 1:
            raise InputError(f"price={self.price} must be above 0 and at most 1")

    def shared(self, latents: int) -> int:
        """Return the size of the designated block."""
        return round(self.share * latents)

    def prices(self, latents: int) -> Float[Tensor, " latents"] | None:
        """Return the lower price for designated latents, and one for all others."""
        prices = torch.ones(latents)
        prices[: self.shared(latents)] = self.price
        return prices


@register("dfc")
@dataclass(frozen=True)
class DedicatedFeatureCrosscoder(Crosscoder):
    """A crosscoder with dedicated latents of one model: the other decoder is fixed at zero.

    Latents in order: shared, base-only, tuned-only (dedicated-feature crosscoder, arXiv
    2602.11729). Encoders are free: a dedicated latent starts by reading its own model and may learn
    to read the other.
    """

    constrained = True

    base_share: float = 0.05
    """Fraction of latents that are dedicated to the base."""
    tuned_share: float = 0.05
    """Fraction of latents that are dedicated to the tuned model."""

    def __post_init__(self) -> None:
        """Refuse shares that leave no shared latents."""
        super().__post_init__()
        _check_share("base_share", self.base_share)
        _check_share("tuned_share", self.tuned_share)
        if self.base_share + self.tuned_share >= 1:
            raise InputError(
                f"base_share={self.base_share} and tuned_share={self.tuned_share} must leave "
                f"shared latents"
            )

    def blocks(self, latents: int) -> tuple[slice, slice]:
        """Return the base-only and the tuned-only latents."""
        tuned = latents - round(self.tuned_share * latents)
        base = tuned - round(self.base_share * latents)
        return slice(base, tuned), slice(tuned, latents)

    def named_blocks(self, latents: int) -> dict[str, slice]:
        """Return the dedicated blocks."""
        base, tuned = self.blocks(latents)
        return {"base-only": base, "tuned-only": tuned}

    def check(self, latents: int) -> None:
        """Refuse empty blocks."""
        base, tuned = self.blocks(latents)
        if not 0 < base.start < base.stop < tuned.stop:
            raise InputError(f"{self.name}: {latents} latents leave a block empty")

    def constrain(self, weights: Weights) -> None:
        """Set the decoder of the other model to zero for dedicated latents."""
        base, tuned = weights.decoder
        only_base, only_tuned = self.blocks(len(base))
        base[only_tuned] = 0
        tuned[only_base] = 0


@register("delta-crosscoder")
@dataclass(frozen=True)
class DeltaCrosscoder(_SharedBlock, LambdaBridge):
    """A crosscoder of shared latents with tied decoders and delta latents, each with its own k.

    After arXiv 2603.04426: two budgets, and a loss that stresses the difference. The published loss
    |e_t|^2 + |e_b|^2 + w |e_t - e_b|^2 is 1 + w times that of the lambda-bridge with
    lambda = -w / (1 + w). So it uses the option lambda; -0.5 is w = 1.
    """

    share: float = 0.75
    """Fraction of latents that are shared."""
    delta_k: float = 0.25
    """Fraction of k for the delta latents."""

    def __post_init__(self) -> None:
        """Refuse shares outside (0, 1)."""
        super().__post_init__()
        _check_share("share", self.share)
        _check_share("delta_k", self.delta_k)

    def shared(self, latents: int) -> int:
        """Return the size of the shared block."""
        return round(self.share * latents)

    def budgets(self, k: int | float, latents: int) -> tuple[tuple[int, int | float], ...] | None:
        """Return the ends of the shared and the delta block with their k."""
        delta = self.delta_k * k
        shared = self.shared(latents)
        if not 0 < k - delta <= shared or delta > latents - shared:
            raise InputError(
                f"{self.name}: k={k} gives {k - delta:g} to {shared} shared latents and "
                f"{delta:g} to {latents - shared} delta latents"
            )
        return ((shared, k - delta), (latents, delta))


def _check_share(name: str, value: float) -> None:
    if not 0 < value < 1:
        raise InputError(f"{name}={value} must lie between 0 and 1")
