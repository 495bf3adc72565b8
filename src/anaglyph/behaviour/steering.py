"""Vectors added to the residual stream while a model reads or writes, and hooks that do it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from anaglyph.core.errors import InputError
from anaglyph.pair import ModelPair, Side

WHERE = ("all", "prompt", "reply")
"""Where a vector is added: at every token; at those of the prompt; from the prompt's last token,
which predicts the reply, on."""


@dataclass(frozen=True)
class Push:
    """A vector added at a layer's output, at some tokens of the text.

    Attributes:
        layer: Index of the block after which it is added.
        vector: What is added.
        at: A name of `WHERE`, or positions counted from the beginning of the text.
    """

    layer: int
    vector: Float[Tensor, " d"]
    at: str | tuple[int, ...] = "all"


class Steering:
    """Pushes on one side of a pair, one for each prompt (None adds nothing)."""

    def __init__(self, pair: ModelPair, side: Side, pushes: Sequence[Push | None]) -> None:
        """Check the pushes.

        Raises:
            InputError: A layer or place is unknown, or a vector has another width or is not finite.
        """
        width = pair.d_base if side == "base" else pair.d_tuned
        for push in pushes:
            if push is None:
                continue
            pair.resolve_layer(push.layer)
            if len(push.vector) != width or not push.vector.isfinite().all():
                raise InputError(
                    f"the direction has {len(push.vector)} entries; it needs {width}, all finite"
                )
            if isinstance(push.at, str) and push.at not in WHERE:
                raise InputError(f"at={push.at!r} is unknown: use one of {', '.join(WHERE)}")
        self._pushes, self._width = pushes, width
        self._layers = sorted({push.layer for push in pushes if push is not None})
        self._blocks = {layer: pair.block(side, layer) for layer in self._layers}

    def __len__(self) -> int:
        """Return the number of prompts."""
        return len(self._pushes)

    @property
    def spares_prompts(self) -> bool:
        """Whether no prompt is changed before its last token."""
        return all(push is None or push.at == "reply" for push in self._pushes)

    @contextmanager
    def acting(
        self, rows: Sequence[int], positions: Int64[Tensor, "batch new"], lengths: Sequence[int]
    ) -> Iterator[None]:
        """Add the pushes of some prompts while a model reads tokens at the given positions.

        Args:
            rows: Which prompt each row of the batch is.
            positions: Where the new tokens are in their texts.
            lengths: Tokens of each row's prompt.
        """
        with ExitStack() as stack:
            for layer in self._layers:
                vectors = torch.zeros(len(rows), self._width)
                where = torch.zeros_like(positions)
                for row, prompt in enumerate(rows):
                    push = self._pushes[prompt]
                    if push is not None and push.layer == layer:
                        vectors[row] = push.vector
                        where[row] = _where(push.at, positions[row], lengths[row])

                def add(hidden: Tensor, where: Tensor = where, vectors: Tensor = vectors) -> Tensor:
                    return hidden + where.to(hidden)[:, :, None] * vectors.to(hidden)[:, None]

                stack.enter_context(_hooked(self._blocks[layer], add))
            yield


@contextmanager
def added(pair: ModelPair, side: Side, layer: int, vector: Float[Tensor, " d"]) -> Iterator[None]:
    """Add a vector to one side's residual stream after a block, at every token, for a while.

    Raises:
        InputError: The layer is out of range or the vector has another width.
    """
    layer = pair.resolve_layer(layer)
    if len(vector) != pair.d_tuned:
        raise InputError(
            f"the direction has {len(vector)} entries, the model's width is {pair.d_tuned}"
        )
    with hooked(pair, side, layer, lambda hidden: hidden + vector.to(hidden)):
        yield


@contextmanager
def hooked(
    pair: ModelPair, side: Side, layer: int, change: Callable[[Tensor], Tensor | None]
) -> Iterator[None]:
    """Show a block's output to ``change`` for a while; what it returns takes its place."""
    with _hooked(pair.block(side, layer), change):
        yield


@contextmanager
def _hooked(block: torch.nn.Module, change: Callable[[Tensor], Tensor | None]) -> Iterator[None]:
    def hook(_block: Any, _inputs: Any, output: Any) -> Any:
        hidden = output[0] if isinstance(output, tuple) else output
        changed = change(hidden)
        if changed is None:
            return None
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    handle = block.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def _where(
    at: str | tuple[int, ...], positions: Int64[Tensor, " tokens"], length: int
) -> Int64[Tensor, " tokens"]:
    """Return 1 at the tokens of a text where a push acts, 0 elsewhere."""
    if at == "prompt":
        mask = positions < length
    elif at == "reply":
        mask = positions >= length - 1
    elif isinstance(at, tuple):
        mask = torch.isin(positions, torch.tensor(at, dtype=torch.long))
    else:
        mask = torch.ones_like(positions, dtype=torch.bool)
    return mask.long()
