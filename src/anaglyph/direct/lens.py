"""The activation difference lens: what a fine-tune left behind at the start of any text.

docs/maths.md, section 7; Minder et al., "Narrow finetuning leaves clearly readable traces in
activation differences" (2025). A narrow fine-tune often shifts the activations of the first few
tokens of texts that have nothing to do with it. The mean shift at each of these positions is read
three ways: through the final norm and the output embedding (logit lens), by patching it into the
last token of a prompt that repeats words (patchscope, Ghandeharioun et al., 2024), and by adding it
while the tuned model writes (steering). The same is done with a null pair whose shift is of the
same size: what both show is no finding.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import torch
from jaxtyping import Float
from torch import Tensor

from anaglyph.behaviour.generate import (
    continue_prompts,
    end_tokens,
    reply_texts,
    side_stepper,
)
from anaglyph.behaviour.null_pair import matched_null_pair
from anaglyph.behaviour.predictions import head_logits
from anaglyph.behaviour.prompts import all_prompt_ids
from anaglyph.behaviour.steering import added
from anaglyph.core.errors import InputError
from anaglyph.core.settings import LensSettings
from anaglyph.corpus import TokenCorpus
from anaglyph.pair import ModelPair, Side
from anaglyph.subject import Subject

PROMPTS = ("Tell me a story.", "What is on your mind?", "Write about anything you like.")
# Each word comes twice; after the patched "?" the model should name what it sees there.
_IDENTITY = "cat -> cat\n1135 -> 1135\nhello -> hello\n?"
_BATCH = 32


@dataclass(frozen=True)
class Shift:
    """Mean differences at the first positions of texts.

    Attributes:
        mean: Mean of h - h_base over the texts, at each position.
        token_norm: Mean of ||h - h_base||.
        base_norm: Mean of ||h_base||.
        agreement: Cosine of the mean shifts of every other text and of the rest.
    """

    mean: Float[Tensor, "positions d"]
    token_norm: Float[Tensor, " positions"]
    base_norm: Float[Tensor, " positions"]
    agreement: Float[Tensor, " positions"]


@dataclass(frozen=True)
class Lens:
    """What `difference_lens` reads, for the pair ("tuned") and for the null pair ("null").

    Attributes:
        shift: One row a position: pair, position, shift_norm (||mean Delta||), token_norm (mean
            ||Delta||), alike (shift_norm / token_norm: 1 where every text is shifted alike),
            relative (shift_norm over the mean ||h_base||), agreement (cosine between two halves of
            the texts), entropy (of the logit lens, nats: low where it is sure of itself). Null
            where a shift is zero.
        tokens: Most likely tokens: pair, position, method ("logit lens" or "patchscope"), strength
            (of the patch, in mean norms of h_base; null for the logit lens), rank, token_id,
            probability.
        replies: The tuned model's replies: pair ("none" where nothing is added), prompt, strength
            (length of what is added, in mean norms of h_base), reply.
    """

    shift: pl.DataFrame
    tokens: pl.DataFrame
    replies: pl.DataFrame


@torch.no_grad()
def difference_lens(
    subject: Subject, settings: LensSettings | None = None, prompts: Sequence[str] = PROMPTS
) -> Lens:
    """Read the mean difference at the first positions of unrelated texts.

    Args:
        subject: Both models, the layer, and texts that the fine-tune was not about; texts that are
            too short are left out. The seed draws the null pair's noise.
        settings: What is read. Strengths are lengths of the shift in mean norms of h_base.
        prompts: What the tuned model answers with the shift added (the mean over the positions but
            the first, whose activation is mostly the attention's sink).

    Raises:
        InputError: The layer is out of range, or fewer than two texts are long enough.
    """
    settings = settings or LensSettings()
    pair, layer = subject.pair, subject.layer
    pair.check_related("the activation difference lens")
    ids = _starts(subject.corpus, settings.positions, settings.texts)
    base = _hidden(pair, "base", ids, layer)
    shifts = {"tuned": _shift(base, _hidden(pair, "tuned", ids, layer))}
    shifts["null"] = _null_shift(pair, ids, layer, base, shifts["tuned"], subject.seed)
    subject.progress("difference lens", 1, 3, "readings")
    tokens = [
        row for name, shift in shifts.items()
        for row in _read(pair, layer, name, shift, settings)
    ]  # fmt: skip
    subject.progress("difference lens", 2, 3, "readings")
    replies = _steer(pair, layer, shifts, settings, prompts)
    subject.progress("difference lens", 3, 3, "readings")
    rows = [row for name, shift in shifts.items() for row in _shift_rows(pair, name, shift)]
    return Lens(pl.DataFrame(rows), pl.DataFrame(tokens, schema=_TOKENS), pl.DataFrame(replies))


_TOKENS = {
    "pair": pl.String,
    "position": pl.Int64,
    "method": pl.String,
    "strength": pl.Float64,
    "rank": pl.Int64,
    "token_id": pl.Int64,
    "probability": pl.Float64,
}


def _starts(corpus: TokenCorpus, positions: int, texts: int) -> Tensor:
    long_enough = np.flatnonzero(corpus.lengths >= positions)[:texts]
    if len(long_enough) < 2:
        raise InputError(f"fewer than 2 texts have {positions} tokens: give more text")
    where = corpus.offsets[long_enough][:, None] + np.arange(positions)
    return torch.from_numpy(corpus.token_ids[where].astype(np.int64))


def _hidden(pair: ModelPair, side: Side, ids: Tensor, layer: int) -> Float[Tensor, "texts p d"]:
    parts = [
        pair.run_to(side, part, torch.ones_like(part), [layer])[layer].float().cpu()
        for part in ids.split(_BATCH)
    ]
    return torch.cat(parts)


def _shift(base: Float[Tensor, "texts p d"], other: Float[Tensor, "texts p d"]) -> Shift:
    delta = (other.double() - base.double()).float()
    halves = delta[::2].mean(0), delta[1::2].mean(0)
    return Shift(
        delta.mean(0),
        delta.norm(dim=2).mean(0),
        base.norm(dim=2).mean(0),
        torch.cosine_similarity(*halves, dim=1),
    )


def _null_shift(
    pair: ModelPair, ids: Tensor, layer: int, base: Tensor, real: Shift, seed: int
) -> Shift:
    """Return the shift of a null pair whose tokens move as far, over all positions, as the real."""

    def shift(null: ModelPair) -> Shift:
        return _shift(base, _hidden(null, "tuned", ids, layer))

    wanted = float(real.token_norm.mean())
    return shift(
        matched_null_pair(pair, lambda null: float(shift(null).token_norm.mean()), wanted, seed)[0]
    )


def _shift_rows(pair: ModelPair, name: str, shift: Shift) -> list[dict[str, Any]]:
    norms = shift.mean.norm(dim=1)
    logits = head_logits(pair, "tuned", _unit(shift.mean) * shift.base_norm.mean()).float().cpu()
    entropy = torch.special.entr(logits.softmax(-1)).sum(-1)
    rows = []
    for position, norm in enumerate(norms.tolist()):
        moved = norm > 0
        rows.append(
            {
                "pair": name,
                "position": position,
                "shift_norm": norm,
                "token_norm": float(shift.token_norm[position]),
                "alike": norm / float(shift.token_norm[position]) if moved else None,
                "relative": norm / float(shift.base_norm[position]),
                "agreement": float(shift.agreement[position]) if moved else None,
                "entropy": float(entropy[position]) if moved else None,
            }
        )
    return rows


def _read(
    pair: ModelPair, layer: int, name: str, shift: Shift, settings: LensSettings
) -> list[dict[str, Any]]:
    rows = []
    typical = shift.base_norm[1:].mean()
    for position, vector in enumerate(_unit(shift.mean)):
        if not vector.any():
            continue
        place = {"pair": name, "position": position}
        logits = head_logits(pair, "tuned", (typical * vector)[None])[0]
        rows += _top(logits, settings.top, place | {"method": "logit lens", "strength": None})
        for strength in settings.strengths:
            logits = patchscope(pair, layer, strength * typical * vector)
            how = {"method": "patchscope", "strength": float(strength)}
            rows += _top(logits, settings.top, place | how)
    return rows


@torch.no_grad()
def patchscope(pair: ModelPair, layer: int, vector: Float[Tensor, " d"]) -> Float[Tensor, " vocab"]:
    """Return the tuned model's next-token logits where a vector stands for the last word.

    The vector takes the place of the residual stream after block ``layer`` at the last token of a
    prompt in which every word is repeated.
    """
    ids = torch.tensor([pair.tokenizer(_IDENTITY)["input_ids"]])
    mask = torch.ones_like(ids)
    hidden = pair.run_to("tuned", ids, mask, [layer])[layer].clone()
    hidden[0, -1] = vector.to(hidden)
    return pair.run_from("tuned", layer, hidden, ids, mask)[0, -1]


def _steer(
    pair: ModelPair,
    layer: int,
    shifts: dict[str, Shift],
    settings: LensSettings,
    prompts: Sequence[str],
) -> list[dict[str, Any]]:
    ids, ends = all_prompt_ids(pair.tokenizer, prompts), end_tokens(pair)

    def answer(name: str, strength: float, vector: Tensor) -> list[dict[str, Any]]:
        with added(pair, "tuned", layer, vector):
            replies = continue_prompts(
                lambda: side_stepper(pair, "tuned"), ids, new_tokens=settings.new_tokens, ends=ends
            )
        return [
            {"prompt": prompt, "pair": name, "strength": strength, "reply": text}
            for prompt, text in zip(prompts, reply_texts(pair, replies), strict=True)
        ]

    rows = answer("none", 0.0, torch.zeros(pair.d_tuned))
    for name, shift in shifts.items():
        vector = _unit(shift.mean[1:].mean(0)[None])[0] * shift.base_norm[1:].mean()
        for strength in settings.strengths:
            rows += answer(name, float(strength), strength * vector)
    return rows


def _top(logits: Tensor, top: int, place: dict[str, Any]) -> list[dict[str, Any]]:
    found = logits.float().softmax(-1).topk(min(top, len(logits)))
    pairs = zip(found.indices.tolist(), found.values.tolist(), strict=True)
    return [
        place | {"rank": rank, "token_id": token, "probability": probability}
        for rank, (token, probability) in enumerate(pairs, 1)
    ]


def _unit(vectors: Float[Tensor, "rows d"]) -> Float[Tensor, "rows d"]:
    norms = vectors.norm(dim=1, keepdim=True)
    return torch.where(norms > 0, vectors / norms.clamp_min(1e-30), torch.zeros_like(vectors))
