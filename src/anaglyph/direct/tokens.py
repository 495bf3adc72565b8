"""Where in a text the two models differ, and which next tokens the fine-tune favours.

docs/maths.md, section 7: per token KL(p_tuned || p_base), ||Delta||, the cosine of the two residual
streams, and the difference of the log-probabilities (the logit difference without the constant
that a softmax does not see). Every token counts, the template's own included.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor
from torch.nn.functional import cosine_similarity

from anaglyph.behaviour.kl import token_kl
from anaglyph.behaviour.predictions import TOKEN_BUDGET, Chunk, both_models
from anaglyph.core.settings import TokensSettings
from anaglyph.corpus import ROLES, TokenCorpus, padded_batches
from anaglyph.subject import Subject

POSITIONS = (0, 1, 2, 3, 8, 16, 32, 64, 128)
"""First position of each bucket in which favoured tokens are counted."""


@dataclass(frozen=True)
class TokenDifferences:
    """What `token_differences` measures.

    Attributes:
        tokens: One row a token, in the corpus's order: sequence, position, token_id, role, kl
            (nats), base_norm, tuned_norm, difference_norm and cosine of the residual stream at the
            layer, next_logprob_base and next_logprob_tuned (nats; null at a sequence's end),
            top_base and top_tuned (the token that each model finds most likely next).
        favoured: The next tokens that the fine-tune raises and lowers most, for all tokens and by
            position and role: by, group, tokens, favoured_by ("tuned" or "base"), measure, rank,
            token_id, probability_base, probability_tuned (means), log_ratio (mean of
            log p_tuned - log p_base, nats). Measure "probability" ranks by the difference of the
            mean probabilities, "log ratio" by the mean log ratio, which sees rare tokens as well.
    """

    tokens: pl.DataFrame
    favoured: pl.DataFrame


def token_differences(
    subject: Subject,
    settings: TokensSettings | None = None,
    *,
    token_budget: int = TOKEN_BUDGET,
) -> TokenDifferences:
    """Compare both models at every token of a corpus.

    Of two tokenizers the tokens are spans of text. Then kl, the likeliest tokens and what is
    favoured are left out, and next_logprob is that of the whole next span. Of two architectures
    difference_norm and cosine are null.

    Args:
        subject: Both models and what they read. Norms and cosine are of the output of its layer.
        settings: How many tokens to list for each group, measure and direction.
        token_budget: Tokens in a batch.

    Raises:
        InputError: The layer is out of range, or logits are not finite.

    Example:
        >>> subject = Subject.of(pair=pair, corpus=corpus, layer=0.5)
        >>> token_differences(subject).tokens["kl"].mean()
    """
    settings = settings or TokensSettings()
    pair, corpus, layer = subject.pair, subject.corpus, subject.layer
    following = pair.foreseen(corpus.following)
    columns = {
        name: np.full(corpus.n_tokens, np.nan)
        for name in (
            *("kl", "base_norm", "tuned_norm", "difference_norm", "cosine"),
            *("next_logprob_base", "next_logprob_tuned", "top_base", "top_tuned"),
        )
    }
    if pair.spans is not None:
        return TokenDifferences(_frame(corpus, _of_spans(subject, columns)), _NO_FAVOURED)
    groups = _Groups(corpus, pair.vocabulary)
    done = 0
    for batch in both_models(pair, corpus, [layer], token_budget=token_budget):
        base, tuned = batch.base[layer].float(), batch.tuned[layer].float()
        for name, values in (
            ("base_norm", base.norm(dim=1)),
            ("tuned_norm", tuned.norm(dim=1)),
            *_compared(base, tuned, pair.related),
        ):
            columns[name][batch.tokens] = values.cpu().numpy()
        for chunk in batch.chunks():
            here = chunk.tokens
            columns["kl"][here] = token_kl(chunk.tuned, chunk.base).cpu().numpy()
            log_base, log_tuned = (x.float().log_softmax(-1) for x in (chunk.base, chunk.tuned))
            for name, values in (("base", log_base), ("tuned", log_tuned)):
                columns[f"next_logprob_{name}"][here] = _at(values, following[here])
                columns[f"top_{name}"][here] = values.argmax(-1).cpu().numpy()
            groups.add(here, log_base.cpu(), log_tuned.cpu())
        done += len(batch.tokens)
        subject.progress("compare predictions", done, corpus.n_tokens)
    return TokenDifferences(_frame(corpus, columns), groups.favoured(settings.top))


def _compared(
    base: Float[Tensor, "tokens d_base"], tuned: Float[Tensor, "tokens d_tuned"], related: bool
) -> list[tuple[str, Tensor]]:
    if not related:
        return []
    return [
        ("difference_norm", (tuned - base).norm(dim=1)),
        ("cosine", cosine_similarity(base, tuned, dim=1).clamp(-1, 1)),
    ]


@torch.no_grad()
def _of_spans(subject: Subject, columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Fill in what two models of different tokenizers have: norms, and how likely the text is."""
    pair, corpus, layer = subject.pair, subject.corpus, subject.layer
    done = 0
    for rows, ids, mask in padded_batches(corpus, np.arange(corpus.n_sequences), TOKEN_BUDGET):
        real = mask.bool()
        ends = corpus.offsets.tolist()
        tokens = np.concatenate([np.arange(ends[row], ends[row + 1]) for row in rows.tolist()])
        for side, hidden in pair.run_both_to(ids, mask, [layer]).items():
            norms = hidden[layer].float().norm(dim=2).cpu()
            columns[f"{side}_norm"][tokens] = norms[real].numpy()
            own = pair.span_logprobs(side, ids, mask)
            following = torch.nn.functional.pad(own[:, 1:], (0, 1))
            columns[f"next_logprob_{side}"][tokens] = following[real].numpy()
        done += len(tokens)
        subject.progress("compare predictions", done, corpus.n_tokens)
    for side in ("base", "tuned"):
        columns[f"next_logprob_{side}"][corpus.offsets[1:] - 1] = np.nan
    return columns


def next_logprobs(
    chunk: Chunk, following: Int64[np.ndarray, " tokens"]
) -> tuple[Float64[np.ndarray, " tokens"], Float64[np.ndarray, " tokens"]]:
    """Return log p(next token), nats, of base and tuned; NaN where nothing follows (-1)."""
    base, tuned = (
        _at(logits.float().log_softmax(-1), following) for logits in (chunk.base, chunk.tuned)
    )
    return base, tuned


def _at(
    logprobs: Float[Tensor, "tokens vocab"], wanted: Int64[np.ndarray, " tokens"]
) -> Float64[np.ndarray, " tokens"]:
    index = torch.from_numpy(wanted).clamp_min(0)[:, None].to(logprobs.device)
    values = logprobs.gather(1, index)[:, 0].double().cpu().numpy()
    return np.where(wanted < 0, np.nan, values)


class _Groups:
    """Sums over the tokens of each group of both models' predictions, [groups, vocabulary]."""

    def __init__(self, corpus: TokenCorpus, vocabulary: int) -> None:
        positions = np.arange(corpus.n_tokens) - np.repeat(corpus.offsets[:-1], corpus.lengths)
        buckets = np.searchsorted(POSITIONS, positions, side="right") - 1
        self._names = [("all", "all")]
        self._names += [("position", _bucket_name(i)) for i in range(len(POSITIONS))]
        self._names += [("role", role) for role in ROLES]
        roles = corpus.roles.astype(np.int64)
        self._member = np.stack(
            [np.zeros_like(buckets), 1 + buckets, 1 + len(POSITIONS) + roles], axis=1
        )
        self._count = np.bincount(self._member.ravel(), minlength=len(self._names))
        sums = (torch.zeros(len(self._names), vocabulary, dtype=torch.float64) for _ in range(3))
        self._base, self._tuned, self._ratio = sums

    def add(
        self,
        tokens: Int64[np.ndarray, " tokens"],
        log_base: Float[Tensor, "tokens vocab"],
        log_tuned: Float[Tensor, "tokens vocab"],
    ) -> None:
        """Count some tokens in their groups."""
        belongs = torch.zeros(len(self._names), len(tokens))
        belongs.scatter_(0, torch.from_numpy(self._member[tokens].T.copy()), 1.0)
        self._ratio += belongs @ (log_tuned - log_base)
        self._base += belongs @ log_base.exp()
        self._tuned += belongs @ log_tuned.exp()

    def favoured(self, top: int) -> pl.DataFrame:
        """Return the first and last tokens of each group in both orders."""
        rows = []
        for group, (by, name) in enumerate(self._names):
            if self._count[group] == 0:
                continue
            base, tuned, ratio = (
                sums[group] / self._count[group] for sums in (self._base, self._tuned, self._ratio)
            )
            for measure, order in (("probability", tuned - base), ("log ratio", ratio)):
                for side, sign in (("tuned", 1), ("base", -1)):
                    found = (sign * order).topk(min(top, len(order)))
                    # A token that does not move in that direction is not favoured there.
                    chosen = found.indices[found.values > 0].tolist()
                    rows += [
                        {
                            "by": by,
                            "group": name,
                            "tokens": int(self._count[group]),
                            "favoured_by": side,
                            "measure": measure,
                            "rank": rank,
                            "token_id": token,
                            "probability_base": float(base[token]),
                            "probability_tuned": float(tuned[token]),
                            "log_ratio": float(ratio[token]),
                        }
                        for rank, token in enumerate(chosen, 1)
                    ]
        return pl.DataFrame(rows, schema=_FAVOURED)


_FAVOURED = {
    "by": pl.String,
    "group": pl.String,
    "tokens": pl.Int64,
    "favoured_by": pl.String,
    "measure": pl.String,
    "rank": pl.Int64,
    "token_id": pl.Int64,
    "probability_base": pl.Float64,
    "probability_tuned": pl.Float64,
    "log_ratio": pl.Float64,
}


_NO_FAVOURED = pl.DataFrame(schema=_FAVOURED)


def _bucket_name(bucket: int) -> str:
    first = POSITIONS[bucket]
    if bucket + 1 == len(POSITIONS):
        return f"{first} and later"
    last = POSITIONS[bucket + 1] - 1
    return str(first) if first == last else f"{first} to {last}"


def _frame(corpus: TokenCorpus, columns: dict[str, np.ndarray]) -> pl.DataFrame:
    sequences = np.repeat(np.arange(corpus.n_sequences), corpus.lengths)
    frame = pl.DataFrame(
        {
            "sequence": sequences,
            "position": np.arange(corpus.n_tokens) - corpus.offsets[:-1][sequences],
            "token_id": corpus.token_ids,
            "role": np.array(ROLES)[corpus.roles],
            **columns,
        }
    )
    return frame.with_columns(
        pl.col(*columns).fill_nan(None),
    ).with_columns(
        pl.col("top_base", "top_tuned").cast(pl.Int64),
    )
