"""Models that write replies faster: their inner products in bfloat16, all else in float32.

Replies are mostly matrix products, which a processor with bfloat16 in hardware does several times
faster than in float32. The residual stream, norms, attention scores and logits stay in float32,
so two tokens come level no oftener than before. What measures predictions (KL, patching) does not
use this: rounding moves them by some thousandths of a nat.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers import PreTrainedModel

from anaglyph.core.devices import multiplies_bfloat16
from anaglyph.pair.blocks import forward_replaced

_LEAST_WEIGHTS = 2**16
"""Smaller matrices gain nothing."""
_MOST_WEIGHTS = 2**31
"""Larger models are left alone: the copy of their weights might not fit into memory."""


@contextmanager
def rough_products(model: PreTrainedModel) -> Iterator[None]:
    """Let a model's linear layers multiply in bfloat16 meanwhile, where the processor does that.

    The output embedding stays exact. Weights are copied on entering: change none of them inside.

    Example:
        >>> with rough_products(model):                         # doctest: +SKIP
        ...     model.generate(ids)
    """
    head = model.get_output_embeddings()
    layers = [
        each
        for each in model.modules()
        if isinstance(each, nn.Linear) and each is not head and _is_slow(each)
    ]
    if not multiplies_bfloat16(model.device) or model.num_parameters() > _MOST_WEIGHTS:
        layers = []
    with ExitStack() as stack:
        for layer in layers:
            stack.enter_context(forward_replaced(layer, _rough(layer)))
        yield


def _is_slow(layer: nn.Linear) -> bool:
    """Say whether a layer is plain, in float32, large and not replaced already."""
    return (
        type(layer) is nn.Linear
        and layer.weight.dtype == torch.float32
        and layer.weight.numel() >= _LEAST_WEIGHTS
        and "forward" not in vars(layer)
    )


def _rough(layer: nn.Linear) -> Callable[[Tensor], Tensor]:
    weight, bias = layer.weight.detach().bfloat16(), layer.bias

    def forward(values: Tensor) -> Tensor:
        found = linear(values.bfloat16(), weight).float()
        return found if bias is None else found + bias

    return forward
