"""A pair in which nothing was learned: the base with random changes of the size of the real ones.

What a method says of such a pair it says of noise; only what it says beyond that counts.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from anaglyph.errors import InputError, ModelError
from anaglyph.pair import ModelPair


def change_norms(pair: ModelPair) -> dict[str, float]:
    """Return the Frobenius norm of the change of each of the base's parameters that changed.

    Raises:
        InputError: The adapter is of a kind whose change of a weight cannot be had.
        ModelError: The two models' parameters differ in name or shape.
    """
    with pair.side("base") as base, pair.side("tuned") as tuned:
        if pair.adapted_from is not None:
            return _adapter_norms(tuned)
        own, norms = dict(base.named_parameters()), {}
        for name, after in tuned.named_parameters():
            before = own.get(name)
            if before is None or before.shape != after.shape:
                raise ModelError(f"the models differ in the parameter {name}")
            norm = float((after.double() - before.double()).norm())
            if norm > 0:
                norms[name] = norm
        return norms


@contextmanager
def perturbed_base(
    pair: ModelPair, norms: dict[str, float], scale: int | float = 1.0, seed: int = 0
) -> Iterator[None]:
    """Add Gaussian noise to the base's parameters for a while.

    Args:
        pair: Both models; only the base side may be used meanwhile.
        norms: From `change_norms`: how far each parameter moves.
        scale: Multiplies all of them.
        seed: Of the noise.
    """
    generator = torch.Generator().manual_seed(seed)
    saved: list[tuple[nn.Parameter, torch.Tensor]] = []
    with pair.side("base") as base:
        parameters = dict(base.named_parameters())
    try:
        for name in sorted(norms):
            parameter = parameters[name]
            noise = torch.randn(parameter.shape, generator=generator)
            noise *= scale * norms[name] / noise.norm()
            saved.append((parameter, parameter.data))
            parameter.data = (parameter.data.float() + noise.to(parameter.device)).to(
                parameter.dtype
            )
        yield
    finally:
        for parameter, data in saved:
            parameter.data = data


def _adapter_norms(model: nn.Module) -> dict[str, float]:
    from peft.tuners.lora import LoraLayer
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import ModulesToSaveWrapper

    names = {id(parameter): name for name, parameter in model.named_parameters()}
    norms: dict[str, float] = {}
    modules: Any = model.named_modules()
    for path, module in modules:
        if isinstance(module, LoraLayer):
            adapted: Any = module
            weight = adapted.get_base_layer().weight
            delta = sum(adapted.get_delta_weight(name) for name in adapted.active_adapters)
            norms[names[id(weight)]] = float(torch.as_tensor(delta).double().norm())
        elif isinstance(module, ModulesToSaveWrapper):
            saved = module.modules_to_save[module.active_adapters[0]]
            new = dict(saved.named_parameters())
            for name, parameter in module.original_module.named_parameters():
                moved = float((new[name].double() - parameter.double()).norm())
                norms[names[id(parameter)]] = moved
        elif isinstance(module, BaseTunerLayer):
            raise InputError(
                f"{path} is adapted by a {type(module).__name__}, for which no null pair can be"
                " made: merge the adapter and give the whole model"
            )
    return {name: norm for name, norm in norms.items() if norm > 0}
