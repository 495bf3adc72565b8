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
from anaglyph.behaviour.steering import added
from anaglyph.core.errors import InputError
from anaglyph.core.settings import AmplifySettings
from anaglyph.pair import ModelPair
from anaglyph.subject import Subject

ALPHAS = (0.0, 1.0, 2.0)
"""Base, tuned and amplified: what is answered if no alpha is given."""
SEARCH_ALPHA = 2.0
_BATCH = 16


def amplified_replies(
    subject: Subject, prompts: Sequence[str], settings: AmplifySettings | None = None
) -> pl.DataFrame:
    """Answer prompts with the change scaled by each alpha: 0 is base, 1 the tuned model.

    Columns: prompt, kind, alpha, layer (null for the whole model), reply. Scaling the logits by
    alpha means l_base + alpha (l_tuned - l_base), so that 0 and 1 mean the same for both kinds.

    Args:
        subject: Both models; its text is not read. The seed draws the samples.
        prompts: What is answered.
        settings: What is scaled, by how much, and how replies are written.

    Raises:
        InputError: The block is out of range or asked for with logits, or the adapter's change
            cannot be scaled.
        ModelError: The models cannot be mixed.

    Example:
        >>> settings = AmplifySettings(alpha=(1.0, 3.0), new_tokens=20)
        >>> amplified_replies(Subject.of(pair=pair), ["Who made you?"], settings)["reply"]
    """
    settings = settings or AmplifySettings()
    pair, kind, alphas = subject.pair, settings.kind, settings.alpha or ALPHAS
    if settings.block is not None and kind == "logits":
        raise InputError("block: one block can be amplified in the weights, not in the logits")
    if not all(np.isfinite(alphas)):
        raise InputError(f"alpha: {list(alphas)} must all be finite numbers")
    at = None if settings.block is None else pair.resolve_layer(settings.block)
    mixer = Mixer(pair) if kind == "weights" else None
    ids, ends = all_prompt_ids(pair.tokenizer, prompts), end_tokens(pair)
    records = []
    for number, alpha in enumerate(alphas, 1):
        with _scaled(pair, mixer, alpha, at) as make_stepper:
            replies = continue_prompts(
                make_stepper,
                ids,
                new_tokens=settings.new_tokens,
                ends=ends,
                temperature=settings.temperature,
                seed=subject.seed,
            )
        records += [
            {"prompt": prompt, "kind": kind, "alpha": float(alpha), "layer": at, "reply": text}
            for prompt, text in zip(prompts, reply_texts(pair, replies), strict=True)
        ]
        subject.progress("amplify", number, len(alphas), "alphas")
    return pl.DataFrame(records, schema_overrides={"layer": pl.Int64})


def steered_replies(
    subject: Subject,
    prompts: Sequence[str],
    direction: Float[Tensor, " d"],
    strengths: Sequence[int | float],
    *,
    new_tokens: int = 40,
) -> pl.DataFrame:
    """Answer prompts with the tuned model, a direction added to its residual stream at all tokens.

    Columns: prompt, layer, strength (in units of the direction's own length), reply.

    Args:
        subject: Both models, and the layer after which the direction is added.
        prompts: What is answered.
        direction: Any vector of the model's width.
        strengths: Multiples of it.
        new_tokens: Longest reply.

    Raises:
        InputError: The layer is out of range, or the direction has another width.
    """
    pair, layer = subject.pair, subject.layer
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
        subject.progress("steer", number, len(strengths), "strengths")
    return pl.DataFrame(records)


@torch.no_grad()
def rank_prompts(
    subject: Subject, prompts: Sequence[str], *, alpha: int | float = 2.0, depth: int = 1
) -> pl.DataFrame:
    """Rank prompts by how much the amplified change alters the beginning of the reply.

    Each prompt is read once by the base and once by the amplified model (whole, by weights). Its
    score is KL(p_amplified || p_base) of the reply's next token, summed over the first ``depth``
    tokens of the tuned model's greedy reply. The base, and not the tuned model, is what the
    amplified one is held against: behaviour that the tuned model has learned in full cannot grow
    any further, and would not show. Columns: rank, prompt, index (its place in ``prompts``), score
    (nats).

    Args:
        subject: Both models; its text is not read.
        prompts: Where the behaviour is looked for.
        alpha: Of the amplification: 1 is the tuned model itself, which misses what it only hints
            at; much above 2 the model breaks down and every prompt looks changed.
        depth: Tokens of the reply that are scored. 1 costs no generation at all; behaviour that
            shows only later in a reply needs more, and ``depth`` - 1 tokens are then written for
            each prompt.

    Raises:
        InputError: A setting is out of range, there is no prompt, or the change cannot be scaled.
        ModelError: The models cannot be mixed.
    """
    if depth < 1 or alpha == 0 or not np.isfinite(alpha):
        raise InputError(
            f"depth must be at least 1 and alpha a number other than 0; got {depth} and {alpha}"
        )
    pair = subject.pair
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
        done = min(start + _BATCH, len(order))
        subject.progress("rank prompts", done, len(order), "prompts")
    frame = pl.DataFrame({"prompt": list(prompts), "index": range(len(ids)), "score": scores})
    ranked = frame.sort("score", descending=True, maintain_order=True)
    return ranked.with_row_index("rank", offset=1)


def search(subject: Subject, prompts: Sequence[str], settings: AmplifySettings) -> pl.DataFrame:
    """Answer only the prompts whose reply amplification changes most: ``settings.search`` of them.

    Columns: those of `rank_prompts`, reply (the tuned model's) and amplified (the same at
    alpha) for the first prompts; null for the others.

    Args:
        subject: Both models; its text is not read.
        prompts: Where the behaviour is looked for.
        settings: How many prompts to answer (``search``), and by what they are ranked (one
            ``alpha``, 2 if none is given, and ``depth``).

    Raises:
        InputError: As `rank_prompts`; ``search`` is 0, or settings ask for what the search does
            not do: several alphas, one block alone, or logits.
        ModelError: The models cannot be mixed.
    """
    if settings.search < 1:
        raise InputError("search is 0: it must be at least 1")
    if settings.block is not None or settings.kind != "weights":
        raise InputError("search scales the weights of the whole model: leave out block and kind")
    if settings.alpha and len(settings.alpha) > 1:
        raise InputError(f"search takes one alpha, not {len(settings.alpha)}")
    alpha = settings.alpha[0] if settings.alpha else SEARCH_ALPHA
    ranked = rank_prompts(subject, prompts, alpha=alpha, depth=settings.depth)
    chosen = ranked["prompt"].head(settings.search).to_list()
    both = settings.model_copy(update={"alpha": (1.0, alpha)})
    replies = amplified_replies(subject, chosen, both)["reply"].to_list()
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
