"""What an adapter of any kind makes of each weight under it, as PEFT itself merges it.

Only a copy of one layer is merged at a time, in float64, so that the model stays as it is and a
small change is not lost in rounding.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from anaglyph.core.errors import ModelError
from anaglyph.pair.quiet import first_line, quiet


@dataclass(frozen=True)
class AdaptedModule:
    """A module that an adapter changes.

    Attributes:
        path: Its path in the model without the adapter.
        wrapper: The adapter's module, which stands in its place.
        original: The model's own module.
    """

    path: str
    wrapper: nn.Module
    original: nn.Module

    def merged(self) -> dict[str, Tensor]:
        """Return the parameters of the module with the adapter merged into it, by name.

        In float64; those that the adapter does not change are among them.

        Raises:
            ModelError: The adapter is of a kind that PEFT cannot merge.
        """
        from peft.tuners.tuners_utils import BaseTunerLayer
        from peft.utils.other import AuxiliaryTrainingWrapper

        double: Any = copy.deepcopy(self.wrapper).double().requires_grad_(False)
        plain = double
        try:
            with torch.no_grad(), quiet():
                if isinstance(double, AuxiliaryTrainingWrapper):
                    plain = double.unload_and_optionally_merge_module(True, False, None)
                else:
                    # Where several parameters of one module are adapted, PEFT wraps it as often.
                    while isinstance(plain, BaseTunerLayer):
                        layer: Any = plain
                        layer.merge(safe_merge=False)
                        plain = layer.base_layer
        except (NotImplementedError, RuntimeError, ValueError, TypeError, AttributeError) as error:
            raise ModelError(
                f"{self.path} is adapted by a {type(self.wrapper).__name__}, which peft cannot"
                f" merge into a weight: {first_line(error)}"
            ) from error
        return {name: parameter.data for name, parameter in plain.named_parameters()}


def adapted_modules(model: nn.Module) -> Iterator[AdaptedModule]:
    """Yield every module that the adapter in a model changes, outermost first.

    Args:
        model: With a PEFT adapter's modules in it; the adapter may be switched off.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    kinds = (BaseTunerLayer, AuxiliaryTrainingWrapper)
    inside: tuple[str, ...] = ()
    modules: Any = model.named_modules(remove_duplicate=False)
    for path, module in modules:
        wrapper: Any = module
        if not isinstance(module, kinds) or path.startswith(inside or ("\0",)):
            continue
        inside = (*inside, f"{path}.")
        yield AdaptedModule(path, wrapper, plain_module(wrapper))


def plain_module(module: Any) -> nn.Module:
    """Return the model's own module under an adapter's."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    plain = module
    while isinstance(plain, (BaseTunerLayer, AuxiliaryTrainingWrapper)):
        layer: Any = plain
        saved = isinstance(plain, AuxiliaryTrainingWrapper)
        plain = layer.original_module if saved else layer.get_base_layer()
    return plain
