"""The change made larger than it is, so that what a fine-tune hints at the model says aloud.

docs/maths.md, section 7: weight amplification W_base + alpha (W_tuned - W_base), of the whole model
or of one block; activation amplification h + strength * direction; logit amplification
l_tuned + alpha (l_tuned - l_base). And a search for rare behaviour: most prompts are answered alike
whatever the amplification; those whose reply it changes most are looked at first.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import polars as pl
import torch
from jaxtyping import Float
from torch import Tensor

from anaglyph.behaviour.generate import (
    Stepper,
    added,
    continue_prompts,
    contrast_stepper,
    end_tokens,
    model_stepper,
    reply_texts,
    side_stepper,
)
from anaglyph.behaviour.kl import token_kl
from anaglyph.behaviour.mixture import Mixer, Shares
from anaglyph.behaviour.prompts import all_prompt_ids
from anaglyph.core.errors import InputError
from anaglyph.core.progress import Progress, silent
from anaglyph.pair import ModelPair

KINDS = ("weights", "logits")
_BATCH = 16


def amplified_replies(
    pair: ModelPair,
    prompts: Sequence[str],
    *,
    kind: str = "weights",
    alphas: Sequence[int | float] = (0.0, 1.0, 2.0),
    layer: int | None = None,
    new_tokens: int = 40,
    temperature: int | float = 0.0,
    seed: int = 0,
    progress: Progress = silent,
) -> pl.DataFrame:
    """Answer prompts with the change scaled by each alpha: 0 is base, 1 the tuned model.

    Columns: prompt, kind, alpha, layer (null for the whole model), reply. Scaling the logits by
    alpha means l_base + alpha (l_tuned - l_base), so that 0 and 1 mean the same for both kinds.

    Args:
        pair: Both models.
        prompts: What is answered.
        kind: "weights" or "logits".
        alphas: Any numbers; below 0 the change is reversed, above 1 amplified.
        layer: Scale the change of this block alone, the rest staying tuned; weights only.
        new_tokens: Longest reply.
        temperature: 0 takes the likeliest token each time.
        seed: Of the sampling.
        progress: Told of alphas done.

    Raises:
        InputError: A setting is out of range, or the adapter's change cannot be scaled.
        ModelError: The models cannot be mixed.
    """
    if kind not in KINDS:
        raise InputError(f"kind {kind!r} is unknown: use {' or '.join(KINDS)}")
    if layer is not None and kind == "logits":
        raise InputError("a layer can be amplified in the weights, not in the logits")
    if not alphas or not all(np.isfinite(alphas)):
        raise InputError(f"alphas must be finite numbers, at least one; got {list(alphas)}")
    at = None if layer is None else pair.resolve_layer(layer)
    mixer = Mixer(pair) if kind == "weights" else None
    ids, ends = all_prompt_ids(pair.tokenizer, prompts), end_tokens(pair)
    records = []
    for number, alpha in enumerate(alphas, 1):
        with _scaled(pair, mixer, alpha, at) as make_stepper:
            replies = continue_prompts(
                make_stepper,
                ids,
                new_tokens=new_tokens,
                ends=ends,
                temperature=temperature,
                seed=seed,
            )
        records += [
            {"prompt": prompt, "kind": kind, "alpha": float(alpha), "layer": at, "reply": text}
            for prompt, text in zip(prompts, reply_texts(pair, replies), strict=True)
        ]
        progress("amplify", number, len(alphas), "alphas")
    return pl.DataFrame(records, schema_overrides={"layer": pl.Int64})


def steered_replies(
    pair: ModelPair,
    prompts: Sequence[str],
    layer: int | float,
    direction: Float[Tensor, " d"],
    *,
    strengths: Sequence[int | float],
    new_tokens: int = 40,
    progress: Progress = silent,
) -> pl.DataFrame:
    """Answer prompts with the tuned model, a direction added to its residual stream at all tokens.

    Columns: prompt, layer, strength (in units of the direction's own length), reply.

    Raises:
        InputError: A setting is out of range, or the direction has another width.
    """
    layer = pair.resolve_layer(layer)
    ids, ends = all_prompt_ids(pair.tokenizer, prompts), end_tokens(pair)
    records = []
    for number, strength in enumerate(strengths, 1):
        with added(pair, "tuned", layer, float(strength) * direction):
            replies = continue_prompts(
                lambda: side_stepper(pair, "tuned"), ids, new_tokens=new_tokens, ends=ends
            )
        records += [
            {"prompt": prompt, "layer": layer, "strength": float(strength), "reply": text}
            for prompt, text in zip(prompts, reply_texts(pair, replies), strict=True)
        ]
        progress("steer", number, len(strengths), "strengths")
    return pl.DataFrame(records)


@torch.no_grad()
def rank_prompts(
    pair: ModelPair,
    prompts: Sequence[str],
    *,
    alpha: int | float = 2.0,
    depth: int = 1,
    progress: Progress = silent,
) -> pl.DataFrame:
    """Rank prompts by how much the amplified change alters the beginning of the reply.

    Each prompt is read once by the base and once by the amplified model (whole, by weights). Its
    score is KL(p_amplified || p_base) of the reply's next token, summed over the first ``depth``
    tokens of the tuned model's greedy reply. The base, and not the tuned model, is what the
    amplified one is held against: behaviour that the tuned model has learned in full cannot grow
    any further, and would not show. Columns: rank, prompt, index (its place in ``prompts``), score
    (nats).

    Args:
        pair: Both models.
        prompts: Where the behaviour is looked for.
        alpha: Of the amplification: 1 is the tuned model itself, which misses what it only hints
            at; much above 2 the model breaks down and every prompt looks changed.
        depth: Tokens of the reply that are scored. 1 costs no generation at all; behaviour that
            shows only later in a reply needs more, and ``depth`` - 1 tokens are then written for
            each prompt.
        progress: Told of prompts read.

    Raises:
        InputError: A setting is out of range, there is no prompt, or the change cannot be scaled.
        ModelError: The models cannot be mixed.
    """
    if depth < 1 or alpha == 0 or not np.isfinite(alpha):
        raise InputError(
            f"depth must be at least 1 and alpha a number other than 0; got {depth} and {alpha}"
        )
    ids, mixer = all_prompt_ids(pair.tokenizer, prompts), Mixer(pair)
    starts = [len(prompt) for prompt in ids]
    if depth > 1:
        replies = continue_prompts(
            lambda: side_stepper(pair, "tuned"), ids, new_tokens=depth - 1, ends=end_tokens(pair)
        )
        ids = [np.concatenate([p, r]).astype(np.int64) for p, r in zip(ids, replies, strict=True)]
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    scores = np.zeros(len(ids))
    base, amplified = (Shares.everywhere(pair.n_layers, share) for share in (0.0, alpha))
    for start in range(0, len(order), _BATCH):
        rows = order[start : start + _BATCH]
        batch = [(ids[row], starts[row]) for row in rows]
        # Both are given the same padded batch, so that equal weights give equal logits.
        before, after = (_reply_logits(mixer, shares, batch) for shares in (base, amplified))
        scores[rows] = [
            float(token_kl(new, old).sum()) for old, new in zip(before, after, strict=True)
        ]
        progress("rank prompts", min(start + _BATCH, len(order)), len(order), "prompts")
    frame = pl.DataFrame({"prompt": list(prompts), "index": range(len(ids)), "score": scores})
    ranked = frame.sort("score", descending=True, maintain_order=True)
    return ranked.with_row_index("rank", offset=1)


def search(
    pair: ModelPair,
    prompts: Sequence[str],
    *,
    generations: int = 10,
    alpha: int | float = 2.0,
    depth: int = 1,
    new_tokens: int = 40,
    progress: Progress = silent,
) -> pl.DataFrame:
    """Answer only those prompts whose reply amplification changes most.

    Columns: those of `rank_prompts`, reply (the tuned model's, greedy) and amplified (the same at
    ``alpha``) for the first ``generations`` prompts; null for the others.

    Raises:
        InputError: As `rank_prompts`, or ``generations`` is not positive.
        ModelError: The models cannot be mixed.
    """
    if generations < 1:
        raise InputError(f"generations is {generations}: it must be at least 1")
    ranked = rank_prompts(pair, prompts, alpha=alpha, depth=depth, progress=progress)
    chosen = ranked["prompt"].head(generations).to_list()
    replies = amplified_replies(
        pair, chosen, alphas=(1.0, alpha), new_tokens=new_tokens, progress=progress
    )["reply"].to_list()
    padding = [None] * (len(ranked) - len(chosen))
    return ranked.with_columns(
        pl.Series("reply", replies[: len(chosen)] + padding, dtype=pl.String),
        pl.Series("amplified", replies[len(chosen) :] + padding, dtype=pl.String),
    )


@contextmanager
def _scaled(
    pair: ModelPair, mixer: Mixer | None, alpha: int | float, layer: int | None
) -> Iterator[Callable[[], Stepper]]:
    """Give steppers of the model whose change is scaled; without a mixer its logits are."""
    if mixer is None:
        yield lambda: contrast_stepper(pair, alpha - 1)
        return
    if layer is None:
        shares = Shares.everywhere(pair.n_layers, alpha)
    else:
        shares = Shares.one_block(pair.n_layers, layer, alpha)
    with mixer.model(shares) as model:
        yield lambda: model_stepper(model)


def _reply_logits(
    mixer: Mixer, shares: Shares, batch: Sequence[tuple[np.ndarray, int]]
) -> list[Float[Tensor, "tokens vocab"]]:
    """Return the logits of each sequence from its prompt's last token on."""
    longest = max(len(ids) for ids, _ in batch)
    kept = longest - min(start for _, start in batch) + 1
    tokens = torch.zeros(len(batch), longest, dtype=torch.int64)
    mask = torch.zeros_like(tokens)
    for row, (ids, _) in enumerate(batch):
        tokens[row, : len(ids)] = torch.from_numpy(ids)
        mask[row, : len(ids)] = 1
    with mixer.model(shares) as model:
        logits = model(
            input_ids=tokens.to(model.device),
            attention_mask=mask.to(model.device),
            use_cache=False,
            logits_to_keep=kept,
        ).logits
    skipped = longest - kept
    return [
        logits[row, start - 1 - skipped : len(ids) - skipped].clone()
        for row, (ids, start) in enumerate(batch)
    ]
