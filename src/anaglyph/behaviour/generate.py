"""Replies to prompts, token by token, with whatever makes the next token's logits.

A *stepper* reads the tokens that are new and returns the logits after the last of them; it keeps
its own key-value cache. One model is a stepper, and so is the sum of two models' logits. Prompts
are padded on the left, as positions and masks tell the model; the reply of a prompt does not depend
on its neighbours beyond rounding.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor
from transformers import DynamicCache

from anaglyph.core.errors import InputError
from anaglyph.core.rng import rng
from anaglyph.pair import ModelPair, Side
from anaglyph.pair.blocks import LastBlockReached, find_blocks

Stepper = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(new token ids [batch, new], mask of all tokens so far [batch, so far], positions of the new ones
[batch, new]) to the logits after the last token [batch, vocabulary]."""


def model_stepper(model: Any) -> Stepper:
    """Return a stepper over one Hugging Face model, with a cache of its own."""
    cache = DynamicCache(config=model.config)

    def step(ids: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
        output = model(
            input_ids=ids.to(model.device),
            attention_mask=mask.to(model.device),
            position_ids=positions.to(model.device),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return output.logits[:, -1].float().cpu()

    return step


def side_stepper(pair: ModelPair, side: Side) -> Stepper:
    """Return a stepper over one side of a pair; the other side may step in between."""
    with pair.side(side) as model:
        inner = model_stepper(model)

    def step(ids: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
        with pair.side(side):
            return inner(ids, mask, positions)

    return step


def layer_stepper(
    pair: ModelPair, side: Side, layer: int
) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Return what a stepper over one side has at the output of a block, at the new tokens.

    No later block is computed.
    """
    step = side_stepper(pair, side)

    def read(ids: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
        reached: list[Tensor] = []

        def stop(hidden: Tensor) -> None:
            reached.append(hidden)
            raise LastBlockReached

        with suppress(LastBlockReached), hooked(pair, side, layer, stop):
            step(ids, mask, positions)
        return reached[0]

    return read


def contrast_stepper(pair: ModelPair, alpha: int | float) -> Stepper:
    """Return the stepper of logit amplification, ``l_tuned + alpha (l_tuned - l_base)``.

    docs/maths.md, section 7. ``alpha`` 0 is the tuned model, -1 the base model.
    """
    tuned, base = side_stepper(pair, "tuned"), side_stepper(pair, "base")

    def step(ids: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
        after, before = tuned(ids, mask, positions), base(ids, mask, positions)
        return after + alpha * (after - before)

    return step


@torch.no_grad()
def continue_prompts(
    make_stepper: Callable[[], Stepper],
    prompts: Sequence[Int64[np.ndarray, " _"]],
    *,
    new_tokens: int,
    ends: Sequence[int],
    temperature: int | float = 0.0,
    seed: int = 0,
    batch: int = 16,
) -> list[list[int]]:
    """Return the tokens that follow each prompt, the closing one left out.

    Args:
        make_stepper: Gives a fresh stepper for each batch.
        prompts: Token ids of each prompt.
        new_tokens: Longest reply.
        ends: Tokens that close a reply.
        temperature: 0 always takes the likeliest token; above it tokens are sampled.
        seed: Of the sampling. A prompt's place in ``prompts`` decides its random numbers, not its
            batch.
        batch: Prompts at once.

    Raises:
        InputError: A setting is out of range, or a prompt is empty.
    """
    if new_tokens < 1 or batch < 1 or temperature < 0:
        raise InputError(
            f"new_tokens and batch must be at least 1 and temperature at least 0; got {new_tokens},"
            f" {batch} and {temperature}"
        )
    if any(len(prompt) == 0 for prompt in prompts):
        raise InputError("a prompt is empty: it holds no token")
    generator = rng(seed, "sampled replies")
    chances = torch.from_numpy(generator.random((len(prompts), new_tokens)))
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    replies: list[list[int]] = [[] for _ in prompts]
    for start in range(0, len(order), batch):
        rows = order[start : start + batch]
        ids, mask = _padded([prompts[row] for row in rows])
        positions = (mask.cumsum(1) - 1).clamp_min(0)
        step, open_rows = make_stepper(), torch.ones(len(rows), dtype=torch.bool)
        for number in range(new_tokens):
            chosen = _choose(step(ids, mask, positions), chances[rows, number], temperature)
            open_rows &= ~torch.isin(chosen, torch.tensor(list(ends), dtype=torch.int64))
            for row, token, is_open in zip(rows, chosen.tolist(), open_rows.tolist(), strict=True):
                if is_open:
                    replies[row].append(token)
            if not open_rows.any():
                break
            ids = chosen[:, None]
            mask = torch.cat([mask, torch.ones_like(ids)], dim=1)
            positions = positions[:, -1:] + 1
    return replies


def end_tokens(pair: ModelPair) -> list[int]:
    """Return the tokens that close a reply: the tokenizer's and those of the model's settings."""
    with pair.side("tuned") as model:
        own = getattr(model.generation_config, "eos_token_id", None)
    listed = own if isinstance(own, list) else [own]
    return sorted({token for token in (*listed, pair.tokenizer.eos_token_id) if token is not None})


def reply_texts(pair: ModelPair, replies: Sequence[Sequence[int]]) -> list[str]:
    """Return replies as people read them."""
    return [pair.tokenizer.decode(list(ids), skip_special_tokens=True).strip() for ids in replies]


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

    def hook(_block: Any, _inputs: Any, output: Any) -> Any:
        hidden = output[0] if isinstance(output, tuple) else output
        changed = change(hidden)
        if changed is None:
            return None
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    with pair.side(side) as model:
        block = find_blocks(model.get_decoder(), pair.n_layers)[layer]
    handle = block.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def _padded(prompts: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
    longest = max(len(prompt) for prompt in prompts)
    ids = torch.zeros(len(prompts), longest, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = torch.from_numpy(np.asarray(prompt, np.int64))
        mask[row, longest - len(prompt) :] = 1
    return ids, mask


def _choose(logits: Tensor, chances: Tensor, temperature: int | float) -> Tensor:
    if temperature == 0:
        return logits.argmax(-1)
    # One uniform number a token picks where it falls among the summed probabilities.
    summed = (logits.double() / temperature).softmax(-1).cumsum(-1)
    found = torch.searchsorted(summed, chances[:, None] * summed[:, -1:], right=True)[:, 0]
    return found.clamp_max(logits.shape[1] - 1)
