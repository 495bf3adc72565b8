"""Models between and beyond the two: W_base + alpha (W_tuned - W_base), part by part.

docs/maths.md, section 7. Alpha 0 is the base's part and 1 the tuned model's, both the very weights,
so that a mixture of zeros is the base bit for bit; other values interpolate, amplify (above 1) or
reverse the change (below 0). The tuned model is changed in place for a while and put back after: a
third model never exists, only copies of the parts whose alpha is neither 0 nor 1.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from anaglyph.core.errors import InputError, ModelError
from anaglyph.pair import ModelPair
from anaglyph.pair.blocks import find_blocks
from anaglyph.pair.merging import adapted_modules
from anaglyph.pair.names import by_plain_name, is_text


@dataclass(frozen=True)
class Shares:
    """Alpha of each part of a model: 0 is the base's, 1 the tuned model's.

    Attributes:
        embedding: What comes before the blocks (and the head, where it is tied to the embedding).
        blocks: Each decoder block.
        head: What comes after: the final norm and the output embedding.
    """

    embedding: float
    blocks: tuple[float, ...]
    head: float

    @classmethod
    def everywhere(cls, n_layers: int, alpha: int | float) -> "Shares":
        """Return the same alpha for every part."""
        return cls(float(alpha), (float(alpha),) * n_layers, float(alpha))

    @classmethod
    def one_block(cls, n_layers: int, layer: int, alpha: int | float) -> "Shares":
        """Return the tuned model with one block's change scaled."""
        blocks = [1.0] * n_layers
        blocks[layer] = float(alpha)
        return cls(1.0, tuple(blocks), 1.0)


class Mixer:
    """Makes mixtures of a pair's two models."""

    def __init__(self, pair: ModelPair) -> None:
        """Check that the two models differ in nothing but weights.

        Raises:
            ModelError: Their parameters differ in name or shape, or the base's weights in the tuned
                model do not make the base (the configurations differ, say).
        """
        pair.check_related("a mixture of weights")
        self.pair = pair
        ids = torch.arange(4)[None] % pair.vocabulary
        with self.model(Shares.everywhere(pair.n_layers, 0.0)) as model, torch.no_grad():
            mixed = model(ids.to(model.device), use_cache=False).logits
        with pair.side("base") as model, torch.no_grad():
            base = model(ids.to(model.device), use_cache=False).logits
        if not torch.equal(mixed, base):
            raise ModelError(
                f"{pair.names[0]} and {pair.names[1]} differ in more than their weights (their"
                " configurations, say) and cannot be mixed"
            )

    @contextmanager
    def model(self, shares: Shares) -> Iterator[PreTrainedModel]:
        """Give the mixture; the pair's own models must not be used meanwhile.

        Raises:
            InputError: There is not one alpha a block.
            ModelError: The two models' parameters differ in name or shape, or the adapter is of a
                kind that peft cannot merge into weights.
        """
        pair = self.pair
        if len(shares.blocks) != pair.n_layers:
            raise InputError(
                f"{len(shares.blocks)} alphas for {pair.n_layers} blocks: give one a block"
            )
        with pair.side("tuned") as tuned, ExitStack() as undo:
            blocks = find_blocks(tuned, pair.n_layers)
            if pair.has_adapter:
                _scale_adapter(tuned, blocks, shares, undo)
            elif not pair.same_weights:
                with pair.side("base") as base:
                    # The very tensors: an overlay puts others into the same parameters.
                    named = dict(base.named_parameters(remove_duplicate=False))
                    own = {
                        plain: (named[name], named[name].data)
                        for plain, name in by_plain_name(named).items()
                    }
                _mix_weights(own, tuned, blocks, shares, undo)
            yield tuned


def _mix_weights(
    own: dict[str, tuple[nn.Parameter, Tensor]],
    tuned: PreTrainedModel,
    blocks: list[nn.Module],
    shares: Shares,
    undo: ExitStack,
) -> None:
    alphas = _alphas([list(block.parameters()) for block in blocks], shares)
    first_names: dict[int, str] = {}
    alpha, after = shares.embedding, shares.head
    theirs = dict(tuned.named_parameters(remove_duplicate=False))
    for plain, name in by_plain_name(theirs).items():
        parameter = theirs[name]
        if plain not in own and not is_text(name):
            continue  # a tower that the base lacks
        source, before = own.get(plain, (None, None))
        if source is None or before is None or before.shape != parameter.shape:
            raise ModelError(f"the models differ in the parameter {name} and cannot be mixed")
        if id(parameter) in first_names:
            # A tied weight moved with its first name; base must tie the two as well.
            if own[first_names[id(parameter)]][0] is not source:
                raise ModelError(f"the tuned model ties {name}, the base does not")
            continue
        first_names[id(parameter)] = plain
        if id(parameter) in alphas:
            # Parameters come in the order of the forward: past the blocks, all else is the head.
            share, alpha = alphas[id(parameter)], after
        else:
            share = alpha
        if share != 1:
            undo.callback(_restore, parameter, parameter.data)
            parameter.data = _blend(before, parameter.data, share)


def _blend(base: Tensor, tuned: Tensor, alpha: float) -> Tensor:
    if alpha == 0:
        return base
    before = base.float()
    return (before + alpha * (tuned.float() - before)).to(tuned.dtype)


def _restore(parameter: nn.Parameter, data: Tensor) -> None:
    parameter.data = data


def _scale_adapter(
    tuned: PreTrainedModel, blocks: list[nn.Module], shares: Shares, undo: ExitStack
) -> None:
    adapted = {id(module.wrapper): module for module in adapted_modules(tuned)}
    alphas = _alphas([list(block.modules()) for block in blocks], shares)
    alpha, moved = shares.embedding, set()
    for module in tuned.modules():
        if id(module) in alphas:
            share, alpha = alphas[id(module)], shares.head
        else:
            share = alpha
        if share == 1 or id(module) not in adapted:
            continue
        if share != 0 and _is_sum(module):
            plain: Any = module
            undo.callback(plain.scaling.update, dict(plain.scaling))
            plain.scaling.update({key: share * scale for key, scale in plain.scaling.items()})
            continue
        merged = adapted[id(module)].merged() if share != 0 else {}
        _disable(module, undo)
        for name, parameter in adapted[id(module)].original.named_parameters():
            # Modules that share a weight (a tied head) move it once.
            if name in merged and id(parameter) not in moved:
                moved.add(id(parameter))
                undo.callback(_restore, parameter, parameter.data)
                new = merged[name].to(parameter.dtype)
                parameter.data = _blend(parameter.data, new, share)


def _is_sum(module: nn.Module) -> bool:
    """Say whether a module is the base's plus scale * B A, so that the scale alone is alpha's."""
    from peft.tuners.lora import LoraLayer
    from peft.tuners.tuners_utils import BaseTunerLayer

    if not isinstance(module, LoraLayer) or module.lora_variant:
        return False
    nested: Any = module
    return not isinstance(nested.base_layer, BaseTunerLayer)


def _disable(module: nn.Module, undo: ExitStack) -> None:
    """Switch an adapter's module off, and those inside it."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    for part in module.modules():
        if isinstance(part, (BaseTunerLayer, AuxiliaryTrainingWrapper)):
            layer: Any = part
            undo.callback(layer.requires_grad_, False)  # PEFT takes switching on for training
            undo.callback(layer.enable_adapters, True)
            layer.enable_adapters(False)


def _alphas(members: list[list[Any]], shares: Shares) -> dict[int, float]:
    """Return the alpha of each parameter or module of the blocks, by identity."""
    pairs = zip(members, shares.blocks, strict=True)
    return {id(member): alpha for block, alpha in pairs for member in block}
