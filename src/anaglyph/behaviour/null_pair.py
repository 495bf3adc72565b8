"""A pair in which nothing was learned: the base with random changes of the size of the real ones.

What a method says of such a pair it says of noise; only what it says beyond that counts.
"""

import math
from collections.abc import Callable, Mapping

import torch
from torch import nn

from anaglyph.core.errors import ModelError
from anaglyph.pair import ModelPair
from anaglyph.pair.merging import adapted_modules
from anaglyph.pair.names import by_plain_name, is_text

_MATCHING = 3
"""Steps to the scale at which a null pair differs as much as the real one: nearly linear."""


def change_norms(pair: ModelPair) -> dict[str, float]:
    """Return the Frobenius norm of the change of each of the base's parameters that changed.

    Raises:
        ModelError: The two models' parameters differ in name or shape, or the adapter is of a kind
            that peft cannot merge into weights.
    """
    pair.check_related("a null pair")
    with pair.side("base") as base:
        # The very tensors: an overlay puts others into the same parameters.
        own = {name: each.data for name, each in base.named_parameters(remove_duplicate=False)}
        first = {id(each): name for name, each in base.named_parameters()}
        names = {n: first[id(each)] for n, each in base.named_parameters(remove_duplicate=False)}
    with pair.side("tuned") as tuned:
        if pair.has_adapter:
            return _adapter_norms(tuned)
        found: dict[tuple[str, int], float] = {}
        plain = by_plain_name(filter(is_text, own))
        theirs = dict(tuned.named_parameters(remove_duplicate=False))
        for key, name in by_plain_name(filter(is_text, theirs)).items():
            before = own.get(plain.get(key, name))
            after = theirs[name]
            if before is None or before.shape != after.shape:
                raise ModelError(f"the models differ in the parameter {name}")
            # A weight that only one of the two ties to another is compared twice.
            place = names[plain.get(key, name)], id(after)
            if place not in found:
                found[place] = float((after.data.double() - before.double()).norm())
        norms: dict[str, float] = {}
        for (name, _), norm in found.items():
            norms[name] = math.hypot(norms.get(name, 0.0), norm)
        return {name: norm for name, norm in norms.items() if norm > 0}


class Noise:
    """Gaussian noise in a model's parameters that can be switched on and off (`ModelPair`)."""

    def __init__(
        self, model: nn.Module, norms: Mapping[str, float], scale: int | float, seed: int
    ) -> None:
        """Draw the noise; arguments as for `null_pair`."""
        generator = torch.Generator().manual_seed(seed)
        parameters = dict(model.named_parameters())
        self.on = False
        self._other: list[tuple[nn.Parameter, torch.Tensor]] = []
        for name in sorted(norms):
            parameter = parameters[name]
            noise = torch.randn(parameter.shape, generator=generator)
            noise *= scale * norms[name] / noise.norm()
            moved = parameter.data.float() + noise.to(parameter.device)
            self._other.append((parameter, moved.to(parameter.dtype)))

    def switch(self, on: bool) -> None:
        """Let the noise act, or not."""
        if on == self.on:
            return
        for place, (parameter, other) in enumerate(self._other):
            self._other[place] = (parameter, parameter.data)
            parameter.data = other
        self.on = on

    def first_block(self, blocks: list[nn.Module]) -> int:
        """Return the first block with noise; 0 where noise lies outside the blocks."""
        block_of = {id(p): i for i, block in enumerate(blocks) for p in block.parameters()}
        touched = [block_of.get(id(parameter), 0) for parameter, _ in self._other]
        return min(touched, default=len(blocks))


def null_pair(
    pair: ModelPair, norms: Mapping[str, float], scale: int | float = 1.0, seed: int = 0
) -> ModelPair:
    """Return the base beside the base with noise in its weights.

    Args:
        pair: Both models; not to be used while the null pair is.
        norms: From `change_norms`: how far each parameter moves.
        scale: Multiplies all of them.
        seed: Of the noise.
    """
    with pair.side("base") as base:
        noise = Noise(base, norms, scale, seed)
    name = f"{pair.names[0]} with noise of {scale:.6g} the change (seed {seed})"
    return pair.overlaid(noise, name)


def matched_null_pair(
    pair: ModelPair, moved: Callable[[ModelPair], float], wanted: float, seed: int
) -> tuple[ModelPair, float]:
    """Return the null pair whose activations differ as much as the real pair's, and its scale.

    Args:
        pair: Both models.
        moved: Measures by how much a pair's activations differ; 0 where they do not.
        wanted: What it says of the real pair.
        seed: Of the noise.

    Raises:
        ModelError: As in `change_norms`.
    """
    norms, scale = change_norms(pair), 1.0
    for _ in range(_MATCHING):
        found = moved(null_pair(pair, norms, scale, seed))
        if found == 0:
            break
        scale *= wanted / found
    return null_pair(pair, norms, scale, seed), scale


def _adapter_norms(model: nn.Module) -> dict[str, float]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    norms: dict[str, float] = {}
    for module in adapted_modules(model):
        merged = module.merged()
        for name, parameter in module.original.named_parameters():
            norm = float((merged[name] - parameter.double()).norm())
            if norm > 0:
                norms[names[id(parameter)]] = norm
    return norms
