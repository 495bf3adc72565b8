"""Replies to prompts, token by token, with whatever makes the next token's logits.

One loop serves every reply of the project. A `Stepper` reads the tokens that are new and returns
the logits after the last of them; it keeps its own key-value cache. One model is a stepper, and so
is the sum of two models' logits. `steering.Steering` adds vectors to the residual stream meanwhile.

Prompts of one batch are padded on the left, as positions and masks tell the model; a reply does not
depend on its neighbours beyond rounding. Three things make the loop fast: the tokens with which all
prompts of a batch begin (a chat template's system turn) are read once, rows that have ended leave
the batch, and an adapter is switched on once a batch instead of once a token.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor
from transformers import DynamicCache

from anaglyph.behaviour.steering import Steering, hooked
from anaglyph.core.devices import Fitting
from anaglyph.core.errors import InputError
from anaglyph.core.progress import Progress, silent
from anaglyph.core.rng import rng
from anaglyph.pair import ModelPair, Side
from anaglyph.pair.blocks import LastBlockReached
from anaglyph.pair.rough import rough_products
from anaglyph.pair.vocabulary import ABSENT

_BATCH_TOKENS = 8192
"""Tokens of a batch, prompts and longest replies together: bounds the key-value cache."""
_MOST_ROWS = 64
_LEAST_SHARED = 4
"""Tokens that all prompts of a batch must have in common before they are read apart."""


@dataclass
class Stepper:
    """Makes next-token logits of a batch, step by step.

    Attributes:
        step: (new token ids [batch, new], mask of all tokens so far [batch, so far], positions of
            the new ones [batch, new]) to the logits after the last token [batch, vocabulary].
        select: Replaces the rows of what was read by the given ones, which may repeat.
        during: Entered around the steps of a batch; what it holds need not be set up in each.
        reach: Most tokens of a text for which padding may be put between its tokens; None: any.
    """

    step: Callable[[Tensor, Tensor, Tensor], Tensor]
    select: Callable[[Tensor], None]
    during: Callable[[], AbstractContextManager[Any]] = nullcontext
    reach: int | None = None

    def __call__(self, ids: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
        """Read the new tokens and return the logits after the last."""
        return self.step(ids, mask, positions)


@dataclass(frozen=True)
class Sampling:
    """How replies are written.

    Attributes:
        new_tokens: Longest reply, the token that closes it included.
        ends: Tokens that close a reply.
        temperature: 0 always takes the likeliest token; above it tokens are sampled.
        seed: Of the sampling. A prompt's place among the prompts decides its random numbers, not
            its batch.
        batch: Prompts at once, at most; chosen by their lengths if None.

    Raises:
        InputError: A number is out of range.
    """

    new_tokens: int
    ends: Sequence[int]
    temperature: int | float = 0.0
    seed: int = 0
    batch: int | None = None

    def __post_init__(self) -> None:
        if self.new_tokens < 1 or self.temperature < 0 or (self.batch or 1) < 1:
            raise InputError(
                f"new_tokens={self.new_tokens}, batch={self.batch} and "
                f"temperature={self.temperature}: at least 1, 1 and 0 are needed"
            )


@dataclass
class Written:
    """What a model wrote.

    Attributes:
        tokens: The new tokens, the one that closes the reply included.
        logprobs: Log-probability of each, in nats, under what wrote it (at temperature 1).
        closed: Whether the last token is one that closes a reply.
    """

    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    closed: bool = False

    @property
    def reply(self) -> list[int]:
        """The tokens without the closing one."""
        return self.tokens[:-1] if self.closed else self.tokens


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

    def select(rows: Tensor) -> None:
        # The cast: transformers annotates a LongTensor, which no function returns.
        cast(Any, cache).reorder_cache(rows.to(model.device))

    return Stepper(step, select, reach=_reach(model.config))


def side_stepper(pair: ModelPair, side: Side) -> Stepper:
    """Return a stepper over one side of a pair; the other side may step in between."""
    with pair.side(side) as model:
        inner = model_stepper(model)

    lacked = None if pair.tokens is None else pair.tokens.lacked(side)

    def step(ids: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
        with pair.side(side):
            logits = inner(ids, mask, positions)
        # A model cannot write a token of the other.
        return logits if lacked is None else logits.masked_fill(lacked, ABSENT)

    return Stepper(step, inner.select, lambda: pair.side(side), inner.reach)


@contextmanager
def writing(pair: ModelPair, side: Side) -> Iterator[None]:
    """Let one side write faster meanwhile (`rough_products`); the other may step in between."""
    with pair.side(side) as model, rough_products(model):
        yield


def layer_stepper(pair: ModelPair, side: Side, layer: int) -> Stepper:
    """Return a stepper that gives a block's output at the new tokens instead of logits.

    No later block is computed.
    """
    inner = side_stepper(pair, side)

    def step(ids: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
        reached: list[Tensor] = []

        def stop(hidden: Tensor) -> None:
            reached.append(hidden)
            raise LastBlockReached

        with suppress(LastBlockReached), hooked(pair, side, layer, stop):
            inner(ids, mask, positions)
        return reached[0]

    return Stepper(step, inner.select, reach=inner.reach)


def replaced_stepper(
    pair: ModelPair, side: Side, layer: int, along: Float[Tensor, "d directions"]
) -> Stepper:
    """Return a stepper over one side whose residual stream has a part of the other's at a layer.

    Args:
        pair: Both models, of one width. The other reads the same tokens up to the layer.
        side: Whose logits are made.
        layer: After which block.
        along: Orthonormal directions Q: h becomes h + Q Q^T (h_other - h).
    """
    own = side_stepper(pair, side)
    other = layer_stepper(pair, "base" if side == "tuned" else "tuned", layer)

    def step(ids: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
        theirs = other(ids, mask, positions)

        def change(hidden: Tensor) -> Tensor:
            directions = along.to(hidden)
            return hidden + ((theirs.to(hidden) - hidden) @ directions) @ directions.T

        with hooked(pair, side, layer, change):
            return own(ids, mask, positions)

    def select(rows: Tensor) -> None:
        own.select(rows)
        other.select(rows)

    return Stepper(step, select, reach=own.reach)


def contrast_stepper(pair: ModelPair, alpha: int | float) -> Stepper:
    """Return the stepper of logit amplification, ``l_tuned + alpha (l_tuned - l_base)``.

    docs/maths.md, section 7. ``alpha`` 0 is the tuned model, -1 the base model.
    """
    if pair.spans is not None:
        pair.check_related("the difference of two models' logits")
    tuned, base = side_stepper(pair, "tuned"), side_stepper(pair, "base")

    def step(ids: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
        after, before = tuned(ids, mask, positions), base(ids, mask, positions)
        amplified = after + alpha * (after - before)
        if pair.tokens is None:
            return amplified
        return amplified.masked_fill(~pair.tokens.shared, ABSENT)

    return together(step, tuned, base)


def together(step: Callable[[Tensor, Tensor, Tensor], Tensor], *parts: Stepper) -> Stepper:
    """Return a stepper that is made of others, which read the same tokens."""

    def select(rows: Tensor) -> None:
        for part in parts:
            part.select(rows)

    reaches = [part.reach for part in parts if part.reach is not None]
    return Stepper(step, select, reach=min(reaches, default=None))


@torch.no_grad()
def write(
    make_stepper: Callable[[], Stepper],
    prompts: Sequence[Int64[np.ndarray, " _"]],
    sampling: Sampling,
    *,
    steering: Steering | None = None,
    progress: Progress = silent,
) -> list[Written]:
    """Return what follows each prompt, in the order of the prompts.

    Args:
        make_stepper: Gives a fresh stepper for each batch.
        prompts: Token ids of each prompt.
        sampling: How replies are written.
        steering: What is added to the residual stream meanwhile: one push for each prompt.
        progress: Told of prompts answered.

    Raises:
        InputError: A prompt is empty, or there is not one push for each prompt.
    """
    if any(len(prompt) == 0 for prompt in prompts):
        raise InputError("a prompt is empty: it holds no token")
    if steering is not None and len(steering) != len(prompts):
        raise InputError(f"{len(steering)} pushes for {len(prompts)} prompts: give one for each")
    generator = rng(sampling.seed, "sampled replies")
    chances = torch.from_numpy(generator.random((len(prompts), sampling.new_tokens)))
    written, done = [Written() for _ in prompts], 0
    fitting = Fitting()
    for rows in _batches([len(prompt) for prompt in prompts], sampling):

        def run(part: slice, rows: list[int] = rows) -> None:
            for row in rows[part]:
                written[row] = Written()
            step = make_stepper()
            with step.during():
                _write_batch(step, prompts, rows[part], sampling, steering, chances, written)

        fitting.run(run, len(rows), max(len(prompts[row]) for row in rows) + sampling.new_tokens)
        done += len(rows)
        progress("write", done, len(prompts), "replies")
    return written


@torch.no_grad()
def next_logits(
    make_stepper: Callable[[], Stepper], prompts: Sequence[Int64[np.ndarray, " _"]]
) -> Iterator[tuple[list[int], Float[Tensor, "batch vocab"]]]:
    """Yield the logits after each prompt, some prompts at a time, and which prompts they are.

    Nothing is written: this is how hundreds of prompts are compared for the price of reading them.
    """
    for rows in _batches([len(prompt) for prompt in prompts], Sampling(1, ())):
        step, some = make_stepper(), [prompts[row] for row in rows]
        with step.during():
            logits = step(*_begin(step, some, _shared(some, 1, step.reach)))
        yield rows, logits


def continue_prompts(
    make_stepper: Callable[[], Stepper],
    prompts: Sequence[Int64[np.ndarray, " _"]],
    *,
    new_tokens: int,
    ends: Sequence[int],
    temperature: int | float = 0.0,
    seed: int = 0,
    batch: int | None = None,
) -> list[list[int]]:
    """Return the tokens that follow each prompt, the closing one left out; see `write`.

    Raises:
        InputError: A setting is out of range, or a prompt is empty.
    """
    sampling = Sampling(new_tokens, ends, temperature, seed, batch)
    return [each.reply for each in write(make_stepper, prompts, sampling)]


def end_tokens(pair: ModelPair, side: Side = "tuned") -> list[int]:
    """Return the tokens that close a reply: the tokenizer's, and those of the models' settings.

    Models of one tokenizer stop alike; others each at their own.
    """
    ends = {pair.reader(side).eos_token_id}
    sides: tuple[Side, ...] = ("base", "tuned") if pair.spans is None else (side,)
    for each in sides:
        with pair.side(each) as model:
            own = getattr(model.generation_config, "eos_token_id", None)
        ends |= set(own) if isinstance(own, list) else {own}
    return sorted(ends - {None})


def reply_texts(
    pair: ModelPair, replies: Sequence[Sequence[int]], side: Side = "tuned"
) -> list[str]:
    """Return one model's replies as people read them."""
    return [pair.decoded(ids, side) for ids in replies]


def _write_batch(
    step: Stepper,
    prompts: Sequence[np.ndarray],
    rows: Sequence[int],
    sampling: Sampling,
    steering: Steering | None,
    chances: Float[Tensor, "prompts new"],
    written: list[Written],
) -> None:
    """Write the replies of one batch into ``written``."""
    lengths = [len(prompts[row]) for row in rows]
    shared = 0
    if steering is None or steering.spares_prompts:
        shared = _shared([prompts[row] for row in rows], sampling.new_tokens, step.reach)
    ids, mask, positions = _begin(step, [prompts[row] for row in rows], shared)
    ends = torch.tensor(list(sampling.ends), dtype=torch.int64)
    is_open = torch.ones(len(rows), dtype=torch.bool)
    for number in range(sampling.new_tokens):
        pushed = nullcontext() if steering is None else steering.acting(rows, positions, lengths)
        with pushed:
            logits = step(ids, mask, positions)
        chosen = _choose(logits, chances[list(rows), number], sampling.temperature)
        values = logits.gather(1, chosen[:, None])[:, 0] - logits.logsumexp(-1)
        closes = torch.isin(chosen, ends)
        for place in is_open.nonzero()[:, 0].tolist():
            one = written[rows[place]]
            one.tokens.append(int(chosen[place]))
            one.logprobs.append(float(values[place]))
            one.closed = bool(closes[place])
        is_open &= ~closes
        if not is_open.any():
            return
        ids, positions = chosen[:, None], positions[:, -1:] + 1
        mask = torch.cat([mask, torch.ones_like(ids)], dim=1)
        # The cache is copied to leave rows out: worth it where several have ended.
        if 4 * int(is_open.sum()) <= 3 * len(rows):
            kept = is_open.nonzero()[:, 0]
            step.select(kept)
            ids, positions, mask, is_open = ids[kept], positions[kept], mask[kept], is_open[kept]
            rows = [rows[place] for place in kept.tolist()]
            lengths = [lengths[place] for place in kept.tolist()]


def _begin(
    step: Stepper, prompts: Sequence[np.ndarray], shared: int
) -> tuple[Int64[Tensor, "batch new"], Int64[Tensor, "batch length"], Int64[Tensor, "batch new"]]:
    """Read what all prompts begin with; return the tokens to read, the mask and the positions."""
    if shared:
        first = torch.from_numpy(np.asarray(prompts[0][:shared], np.int64))[None]
        step(first, torch.ones_like(first), torch.arange(shared)[None])
        step.select(torch.zeros(len(prompts), dtype=torch.int64))
    ids, mask = _padded([prompt[shared:] for prompt in prompts])
    mask = torch.cat([torch.ones(len(prompts), shared, dtype=torch.int64), mask], dim=1)
    return ids, mask, (mask.cumsum(1) - 1).clamp_min(0)[:, shared:]


def _batches(lengths: Sequence[int], sampling: Sampling) -> Iterator[list[int]]:
    """Yield the prompts of each batch, short ones first."""
    rows: list[int] = []
    most = sampling.batch or _MOST_ROWS
    for row in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        tokens = (len(rows) + 1) * (lengths[row] + sampling.new_tokens)
        is_full = len(rows) == most or (sampling.batch is None and tokens > _BATCH_TOKENS)
        if rows and is_full:
            yield rows
            rows = []
        rows.append(row)
    if rows:
        yield rows


def _shared(prompts: Sequence[np.ndarray], new_tokens: int, reach: int | None) -> int:
    """Return how many tokens all prompts begin with, but their last; 0 where it does not pay."""
    longest = max(map(len, prompts)) + new_tokens
    if len(prompts) == 1 or (reach is not None and longest > reach):
        return 0
    most = min(map(len, prompts)) - 1
    first = np.stack([prompt[:most] for prompt in prompts])
    alike = (first == first[0]).all(0)
    shared = most if alike.all() else int(alike.argmin())
    return shared if shared >= _LEAST_SHARED else 0


def _reach(config: Any) -> int | None:
    """Return the length up to which padding between tokens changes nothing.

    Attention over all tokens reads positions from the model's inputs. A window of attention counts
    places in the cache, padding included, and other kinds of layers read every place.
    """
    text = config.get_text_config()
    kinds = set(getattr(text, "layer_types", None) or ())
    if kinds - {"full_attention", "sliding_attention"}:
        return 0
    if kinds == {"full_attention"}:
        return None
    return getattr(text, "sliding_window", None)


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
