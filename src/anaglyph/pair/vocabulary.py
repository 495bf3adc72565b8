"""Two vocabularies that are nearly one: which rows of the two embeddings are the same token.

Fine-tunes add tokens, name spare rows, rename tokens and pad the matrices to a round number of
rows. Rows go together if their tokens have the same text; then, if both are still alone, if they
are in the same place. At loading both models get one row for each token of either (`arrange`), in
the same order: a row that a model lacks is borrowed from the other, so that the weights do not
differ there. What a model predicts is compared over the rows that both have (`shared_logits`,
docs/maths.md, section 4).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from tokenizers import Tokenizer
from torch import Tensor, nn

ABSENT = -1e30
"""Logit of a token that is not compared: finite, and its probability is exactly 0."""
REST = "(other tokens)"
"""The tokens that only one of the two models has, taken as one."""

_ALIKE, _LONGEST = 0.95, 2
"""Two vocabularies are one with differences if this share of the shorter one's tokens is in the
longer one, and that one is at most so many times as long."""
_MOST_NAMED = 5

Tokens = Mapping[str, int]


@dataclass(frozen=True)
class Vocabulary:
    """Which row of either model belongs to each token id that the pair reads.

    Attributes:
        base: Row of the base's embeddings for each id, -1 where it has none.
        tuned: The same of the tuned model.
        texts: The tokens that the tokenizer of the pair does not know, by id.
        renamed: Text in the base and in the tuned model of rows that are in the same place and have
            different texts; None where a model has no token there.
    """

    base: Int64[np.ndarray, " ids"]
    tuned: Int64[np.ndarray, " ids"]
    texts: dict[int, str] = field(default_factory=dict)
    added: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    renamed: tuple[tuple[str | None, str | None], ...] = ()

    @property
    def size(self) -> int:
        """Number of ids."""
        return len(self.base)

    @cached_property
    def shared(self) -> Bool[Tensor, " ids"]:
        """Which ids both models have."""
        return torch.from_numpy((self.base >= 0) & (self.tuned >= 0))

    @property
    def is_plain(self) -> bool:
        """Whether both models have every id, at the same row."""
        return bool(self.shared.all()) and np.array_equal(self.base, self.tuned)

    @cached_property
    def has_rest(self) -> bool:
        """Whether each of the models has tokens that the other lacks."""
        return bool(
            (self.base[self.tuned < 0] >= 0).any() and (self.tuned[self.base < 0] >= 0).any()
        )

    def rows(self, side: Literal["base", "tuned"]) -> Int64[np.ndarray, " ids"]:
        """Return one model's rows."""
        return self.base if side == "base" else self.tuned

    def lacked(self, side: Literal["base", "tuned"]) -> Bool[Tensor, " ids"]:
        """Return which ids a model has no row for."""
        return torch.from_numpy(self.rows(side) < 0)

    def shared_logits(
        self, side: Literal["base", "tuned"], logits: Float[Tensor, "*batch ids"]
    ) -> Float[Tensor, "*batch compared"]:
        """Return logits with the tokens that only one model has out of the way.

        Where each model has tokens of its own, they are one more column: their mass together. Where
        only one has, no divergence from the other would be finite, and the probabilities are those
        given that the token is a shared one.
        """
        kept = logits.masked_fill(~self.shared.to(logits.device), ABSENT)
        if not self.has_rest:
            return kept
        own = torch.from_numpy(self.rows(side) >= 0) & ~self.shared
        rest = logits[..., own.to(logits.device)].logsumexp(-1, keepdim=True)
        return torch.cat([kept, rest], dim=-1)

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What differs, as plain data."""
        return {
            "shared": int(self.shared.sum()),
            "rows_base": int((self.base >= 0).sum()),
            "rows_tuned": int((self.tuned >= 0).sum()),
            "added": list(self.added),
            "dropped": list(self.dropped),
            "renamed": [list(pair) for pair in self.renamed],
            "moved": int((self.base != self.tuned)[self.shared.numpy()].sum()),
        }

    def notes(self, names: tuple[str, str]) -> list[str]:
        """Return what a reader of the results should know, a line each."""
        said, facts = [], self.facts
        for tokens, name, side in (
            (self.added, names[1], "tuned"),
            (self.dropped, names[0], "base"),
        ):
            if tokens:
                said.append(
                    f"{len(tokens)} tokens only in {name}: {_some(tokens)}; --tokenizer {side}"
                    " reads them, with that model's rows in both models"
                )
        if self.renamed:
            pairs = [f"{old!r} is now {new!r}" for old, new in self.renamed]
            said.append(
                f"{len(pairs)} rows have another token in {names[1]}: {_some(pairs, str)};"
                " they are compared as the same rows"
            )
        if facts["moved"]:
            said.append(
                f"{facts['moved']} tokens have another id in {names[1]}: they are compared by text"
            )
        spare = [
            int((own >= 0)[other < 0].sum()) - len(tokens)
            for own, other, tokens in (
                (self.tuned, self.base, self.added),
                (self.base, self.tuned, self.dropped),
            )
        ]
        said += [
            f"{count} rows without a token only in {name}"
            for count, name in zip(spare, reversed(names), strict=True)
            if count > 0
        ]
        if not self.shared.all():
            how = (
                "the others count as one token"
                if self.has_rest
                else "the others, which only one model has, are left out of its probabilities"
            )
            said.append(f"predictions are compared over the {facts['shared']} shared rows; {how}")
        return said


def are_alike(base: Tokens | None, tuned: Tokens | None) -> bool:
    """Say whether two vocabularies are one with differences, so that both can read the same ids.

    A model without a tokenizer is taken at its word.
    """
    if base is None or tuned is None:
        return True
    shorter, longer = sorted((base, tuned), key=len)
    common = len(base.keys() & tuned.keys())
    return common >= _ALIKE * len(shorter) and len(longer) <= _LONGEST * len(shorter)


def match_rows(
    reader: Tokens, base: Tokens | None, tuned: Tokens | None, sizes: tuple[int, int]
) -> Vocabulary:
    """Find the row of either model for each id, and give further ids to the rows that are over.

    Args:
        reader: Tokens of the tokenizer that both models read with, to their ids.
        base: Tokens of the base; None takes the reader's.
        tuned: Tokens of the tuned model; None takes the reader's.
        sizes: Rows of both models' embeddings.
    """
    own = [
        {token: row for token, row in (reader if tokens is None else tokens).items() if row < size}
        for tokens, size in zip((base, tuned), sizes, strict=True)
    ]
    named = [{row: token for token, row in tokens.items()} for tokens in own]
    texts = {id_: token for token, id_ in reader.items()}
    count = max(texts, default=-1) + 1
    rows = [_rows_of(texts, count, tokens, size) for tokens, size in zip(own, sizes, strict=True)]
    over = _left_over(rows, own, named, sizes)
    rows = [
        np.concatenate([found, np.array([pair[side] for pair in over], np.int64)])
        for side, found in enumerate(rows)
    ]
    # A tokenizer may know more tokens than either model has rows.
    while len(rows[0]) and rows[0][-1] < 0 and rows[1][-1] < 0:
        rows = [found[:-1] for found in rows]
    pairs = list(enumerate(zip(*(found.tolist() for found in rows), strict=True)))
    names = {i: (named[0].get(b), named[1].get(t)) for i, (b, t) in pairs}
    return Vocabulary(
        rows[0],
        rows[1],
        {i: names[i][0] or names[i][1] or "" for i, _ in pairs[count:] if any(names[i])},
        tuple(str(names[i][1]) for i, (b, t) in pairs if b < 0 <= t and names[i][1]),
        tuple(str(names[i][0]) for i, (b, t) in pairs if t < 0 <= b and names[i][0]),
        tuple(names[i] for i, (b, t) in pairs if min(b, t) >= 0 and names[i][0] != names[i][1]),
    )


def _rows_of(
    texts: Mapping[int, str], count: int, own: Tokens, size: int
) -> Int64[np.ndarray, " ids"]:
    rows = np.full(count, -1, np.int64)
    for id_, token in texts.items():
        rows[id_] = own.get(token, -1)
    place = np.arange(count)
    free = (rows < 0) & (place < size) & ~np.isin(place, rows)
    rows[free] = place[free]
    return rows


def _left_over(
    rows: list[Int64[np.ndarray, " ids"]],
    own: list[dict[str, int]],
    named: list[dict[int, str]],
    sizes: tuple[int, int],
) -> list[tuple[int, int]]:
    """Pair the rows that no id of the reader stands for, by text and then by place."""
    left = [
        dict.fromkeys(np.setdiff1d(np.arange(size), found).tolist())
        for found, size in zip(rows, sizes, strict=True)
    ]
    pairs = []
    for row in left[1]:
        text = named[1].get(row)
        partner = own[0].get(text, -1) if text is not None else -1
        if partner not in left[0]:
            partner = row if row in left[0] and named[0].get(row) not in own[1] else -1
        left[0].pop(partner, None)
        pairs.append((partner, row))
    pairs += [(row, -1) for row in left[0]]
    return sorted(pairs, key=max)


def arrange(base: Any, tuned: Any, vocabulary: Vocabulary) -> None:
    """Give the embeddings of both models the vocabulary's rows, in its order.

    A row that a model lacks is borrowed from the other one.
    """
    parts = _matrices(base), _matrices(tuned)
    new: dict[int, tuple[nn.Parameter, Tensor]] = {}
    for mine, theirs, rows, lent in (
        (*parts, vocabulary.base, vocabulary.tuned),
        (*reversed(parts), vocabulary.tuned, vocabulary.base),
    ):
        for name, parameter in mine.items():
            moved = _rearranged(parameter.data, rows, theirs.get(name), lent)
            new.setdefault(id(parameter), (parameter, moved))  # a tied one moves once
    for parameter, moved in new.values():
        parameter.data = moved
    for model, rows in ((base, vocabulary.base), (tuned, vocabulary.tuned)):
        _told(model, rows)


def lengthen(model: Any, rows: int) -> None:
    """Give a model's embeddings more rows, of zeros."""
    size = int(model.config.get_text_config().vocab_size)
    own = np.append(np.arange(size), np.full(rows - size, -1))
    new: dict[int, tuple[nn.Parameter, Tensor]] = {}
    for parameter in _matrices(model).values():
        new.setdefault(id(parameter), (parameter, _rearranged(parameter.data, own, None, own)))
    for parameter, longer in new.values():
        parameter.data = longer
    _told(model, own)


def without_tokens(tokenizer: Any, unwanted: set[str]) -> None:
    """Let a fast tokenizer forget added tokens, so that it reads their text as plain text."""
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    kept = [token for token in state["added_tokens"] if token["content"] not in unwanted]
    if len(kept) < len(state["added_tokens"]):
        state["added_tokens"] = kept
        tokenizer._tokenizer = Tokenizer.from_str(json.dumps(state))


def _matrices(model: Any) -> dict[str, nn.Parameter]:
    """Return the parameters of a model that have one row for each token."""
    read, written = model.get_input_embeddings(), model.get_output_embeddings()
    found = {
        "input": getattr(read, "weight", None),
        "output": getattr(written, "weight", None),
        "bias": getattr(written, "bias", None),
    }
    return {name: matrix for name, matrix in found.items() if matrix is not None}


def _rearranged(
    own: Float[Tensor, "rows *width"],
    rows: Int64[np.ndarray, " ids"],
    other: Tensor | None,
    lent: Int64[np.ndarray, " ids"],
) -> Float[Tensor, "ids *width"]:
    moved = own[torch.from_numpy(rows.clip(0)).to(own.device)]
    lacked = torch.from_numpy(rows < 0).to(own.device)
    if lacked.any():
        moved[lacked] = 0
        if other is not None and other.shape[1:] == own.shape[1:]:
            places = torch.from_numpy(lent.clip(0)).to(other.device)[lacked.to(other.device)]
            moved[lacked] = other.data[places].to(own)
    return moved


def _told(model: Any, rows: Int64[np.ndarray, " ids"]) -> None:
    """Bring what a model knows of its vocabulary up to date: its size, and its special tokens."""
    read, written = model.get_input_embeddings(), model.get_output_embeddings()
    read.num_embeddings = len(rows)
    if written is not None:
        written.out_features = len(rows)
    ids = {int(row): number for number, row in enumerate(rows) if row >= 0}
    configs = [model.config, model.config.get_text_config(), model.generation_config]
    for config in {id(config): config for config in configs if config is not None}.values():
        if getattr(config, "vocab_size", None) is not None:
            config.vocab_size = len(rows)
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            special = getattr(config, name, None)
            if isinstance(special, int):
                setattr(config, name, ids.get(special, special))
            elif isinstance(special, list):
                setattr(config, name, [ids.get(each, each) for each in special])


def _some(items: Any, shown: Any = repr) -> str:
    some = ", ".join(map(shown, items[:_MOST_NAMED]))
    return some + ", ..." * (len(items) > _MOST_NAMED)
