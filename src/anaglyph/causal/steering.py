"""Steering: a direction added to the residual stream while a model writes.

The push is added by a hook at the outputs of a block, at absolute positions: with a key-value cache
a step shows the block only the newest token, so the hook is told where that token stands. What an
earlier token left in the cache was computed with its push, and stays so. All variants of one prompt
are the rows of one batch: they have equal lengths, and no padding can shift a position.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from anaglyph.behaviour.prompts import prompt_ids
from anaglyph.core.errors import InputError
from anaglyph.core.progress import Progress, silent
from anaglyph.dictionaries import Dictionary
from anaglyph.dictionaries.vectors import latent_vectors
from anaglyph.pair import ModelPair, Side
from anaglyph.pair.blocks import find_blocks
from anaglyph.store import DifferenceSpace

WHERE = ("all", "prompt", "reply")
"""Every token; those of the prompt; from the prompt's last token, which predicts the reply, on."""


@dataclass(frozen=True)
class Direction:
    """What is added at a strength of 1.

    Attributes:
        name: For people.
        layer: At whose output.
        vector: [d]; for a latent its vector times its maximum activation.
    """

    name: str
    layer: int
    vector: Float[Tensor, " d"]

    @classmethod
    def latent(
        cls, dic: Dictionary, layer: int, latent: int, max_activation: int | float
    ) -> "Direction":
        """Return a latent's direction; a strength of 1 is its maximum activation.

        Raises:
            InputError: There is no such latent, or it never fired.
        """
        if not 0 <= latent < dic.n_latents:
            raise InputError(f"latent {latent} is out of range: there are {dic.n_latents}")
        if not max_activation > 0:
            raise InputError(f"latent {latent} never fired: it has no strength to steer by")
        vector = latent_vectors(dic)[latent] * max_activation
        return cls(f"{dic.method}/{latent}", layer, vector)

    @classmethod
    def mean_shift(cls, space: DifferenceSpace, layer: int) -> "Direction":
        """Return the mean difference; a strength of 1 is its own length."""
        return cls("mean difference", layer, torch.from_numpy(space.mean).float())

    @classmethod
    def component(cls, space: DifferenceSpace, layer: int, number: int) -> "Direction":
        """Return a principal component (0 is the first) at one standard deviation.

        Raises:
            InputError: There is no such component.
        """
        if not 0 <= number < len(space.components):
            raise InputError(f"pca:{number} is out of range: there are {len(space.components)}")
        vector = space.components[number] * space.deviations[number]
        return cls(f"pca:{number}", layer, torch.from_numpy(vector).float())


@dataclass(frozen=True)
class Push:
    """A vector added at a layer's output at some positions of the text."""

    layer: int
    vector: Float[Tensor, " d"]
    at: str | tuple[int, ...] = "all"


@dataclass(frozen=True)
class Written:
    """What a model wrote.

    Attributes:
        tokens: The new tokens, the one that ends the text included.
        logprobs: Log-probability of each under the steered model.
    """

    tokens: Int64[np.ndarray, " new"]
    logprobs: Float[np.ndarray, " new"]


def steer(
    pair: ModelPair,
    prompts: Sequence[str],
    direction: Direction,
    strengths: Sequence[int | float],
    *,
    into: Side = "base",
    at: str | tuple[int, ...] = "all",
    new_tokens: int = 60,
    temperature: int | float = 0.0,
    seed: int = 0,
    progress: Progress = silent,
) -> pl.DataFrame:
    """Let base, tuned and the steered model answer the same prompts; one row an answer.

    Columns: prompt, model ("base", "tuned", "steered"), direction and strength (null where nothing
    is added), reply, tokens, logprob (mean a token, nats, under the model that wrote it).

    Args:
        pair: Both models.
        prompts: One user turn each.
        direction: What is added.
        strengths: How often, each its own answer.
        into: The model that is steered.
        at: A name of `WHERE`, or positions counted from the beginning of the text.
        new_tokens: Most tokens of an answer.
        temperature: 0 for the likeliest token, else that of the sampling.
        seed: Of the sampling.
        progress: Called after each prompt.

    Raises:
        InputError: There are no prompts, or an argument is out of range.
    """
    if not prompts:
        raise InputError("there are no prompts")
    pushes = [
        Push(direction.layer, direction.vector * float(strength), at) for strength in strengths
    ]
    other: Side = "tuned" if into == "base" else "base"
    rows: list[dict[str, Any]] = []
    for number, prompt in enumerate(prompts):
        ids = prompt_ids(pair.tokenizer, prompt)
        options: dict[str, Any] = {"new_tokens": new_tokens, "temperature": temperature}
        steered = write(pair, into, ids, [None, *pushes], seed=seed, **options)
        plain = {into: steered[0], other: write(pair, other, ids, [None], seed=seed, **options)[0]}
        rows += [_row(pair, prompt, side, None, None, plain[side]) for side in ("base", "tuned")]
        rows += [
            _row(pair, prompt, "steered", direction.name, float(strength), written)
            for strength, written in zip(strengths, steered[1:], strict=True)
        ]
        progress("steer", number + 1, len(prompts))
    return pl.DataFrame(rows, schema_overrides={"strength": pl.Float64, "direction": pl.String})


@torch.no_grad()
def write(
    pair: ModelPair,
    side: Side,
    prompt: Int64[np.ndarray, " length"],
    pushes: Sequence[Push | None],
    *,
    new_tokens: int = 60,
    temperature: int | float = 0.0,
    seed: int = 0,
    cache: bool = True,
) -> list[Written]:
    """Continue one prompt once for each push, all in one batch; None pushes nowhere.

    ``cache`` False computes the whole text anew at every step: slow, and the same.

    Raises:
        InputError: An argument is out of range.
    """
    if new_tokens < 1 or temperature < 0:
        raise InputError(f"new_tokens={new_tokens} and temperature={temperature} must be positive")
    for push in pushes:
        _check(pair, push)
    generator = torch.Generator().manual_seed(seed)
    ids = torch.from_numpy(prompt)[None].repeat(len(pushes), 1)
    logprobs = torch.zeros(len(pushes), 0)
    length = len(prompt)
    with pair.side(side) as model, _pushed(pair, model, pushes, length) as place:
        ends = torch.tensor(sorted(_ends(pair, model)))
        past, done = None, torch.zeros(len(pushes), dtype=torch.bool)
        for _ in range(new_tokens):
            seen = 0 if past is None else ids.shape[1] - 1
            place["start"] = seen
            out = model(
                input_ids=ids[:, seen:].to(model.device), past_key_values=past, use_cache=cache
            )
            past = out.past_key_values if cache else None
            likely = out.logits[:, -1].float().cpu().log_softmax(-1)
            chosen = likely.argmax(-1)
            if temperature > 0:
                shares = (likely / temperature).softmax(-1)
                chosen = torch.multinomial(shares, 1, generator=generator)[:, 0]
            ids = torch.cat([ids, chosen[:, None]], dim=1)
            logprobs = torch.cat([logprobs, likely.gather(1, chosen[:, None])], dim=1)
            done |= torch.isin(chosen, ends)
            if done.all():
                break
    new = ids[:, length:]
    found = []
    for row, values in zip(new, logprobs, strict=True):
        stops = torch.isin(row, ends).nonzero()[:, 0]
        last = int(stops[0]) + 1 if len(stops) else len(row)
        found.append(Written(row[:last].numpy(), values[:last].numpy()))
    return found


@contextmanager
def _pushed(
    pair: ModelPair, model: Any, pushes: Sequence[Push | None], length: int
) -> Iterator[dict[str, int]]:
    """Hook the blocks; the caller says in ``start`` where the first token of a step stands."""
    place = {"start": 0}
    blocks = find_blocks(model.get_decoder(), pair.n_layers)
    with ExitStack() as stack:
        for layer in {push.layer for push in pushes if push is not None}:
            here = [p if p is not None and p.layer == layer else None for p in pushes]

            def add(_block: Any, _inputs: Any, output: Any, here: list[Push | None] = here) -> Any:
                hidden = output[0] if isinstance(output, tuple) else output
                moved = hidden.clone()
                positions = torch.arange(hidden.shape[1]) + place["start"]
                for row, push in enumerate(here):
                    if push is not None:
                        chosen = _where(push.at, positions, length)
                        moved[row, chosen] += push.vector.to(hidden)
                return (moved, *output[1:]) if isinstance(output, tuple) else moved

            stack.callback(blocks[layer].register_forward_hook(add).remove)
        yield place


def _where(
    at: str | tuple[int, ...], positions: Int64[Tensor, " tokens"], length: int
) -> Int64[Tensor, " chosen"]:
    if at == "prompt":
        mask = positions < length
    elif at == "reply":
        mask = positions >= length - 1
    elif isinstance(at, tuple):
        mask = torch.isin(positions, torch.tensor(at, dtype=torch.long))
    else:
        mask = torch.ones_like(positions, dtype=torch.bool)
    return mask.nonzero()[:, 0]


def _check(pair: ModelPair, push: Push | None) -> None:
    if push is None:
        return
    pair.resolve_layer(push.layer)
    if len(push.vector) != pair.d_base or not push.vector.isfinite().all():
        raise InputError(
            f"the direction has {len(push.vector)} entries; it needs {pair.d_base}, all finite"
        )
    if isinstance(push.at, str) and push.at not in WHERE:
        raise InputError(f"at={push.at!r} is unknown: use one of {', '.join(WHERE)}")


def _ends(pair: ModelPair, model: Any) -> set[int]:
    """Return the tokens that end a text, by the tokenizer and the model's own settings."""
    settings = getattr(model, "generation_config", None)
    named = getattr(settings, "eos_token_id", None)
    several = named if isinstance(named, list) else [named]
    return {int(end) for end in [pair.tokenizer.eos_token_id, *several] if end is not None}


def _row(
    pair: ModelPair,
    prompt: str,
    model: str,
    direction: str | None,
    strength: float | None,
    written: Written,
) -> dict[str, Any]:
    return {
        "prompt": prompt,
        "model": model,
        "direction": direction,
        "strength": strength,
        "reply": reply_text(pair, written),
        "tokens": len(written.tokens),
        "logprob": float(written.logprobs.mean()),
    }


def reply_text(pair: ModelPair, written: Written) -> str:
    """Return what was written as a person reads it."""
    return str(pair.tokenizer.decode(written.tokens.tolist(), skip_special_tokens=True)).strip()
