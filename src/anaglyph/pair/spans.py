"""Two tokenizers read as one: ids of spans of text at whose end both have the end of a token.

A token of one model is often several of the other, so token ids cannot be shared. Spans can: the
text is cut at every character at which a token of either model ends, and both models are compared
at the last token of each span (aligned token ends, arXiv 2602.11729). Each span with its tokens in
either model gets an id, so that the rest of the house reads spans as it reads tokens: sequences of
ids with roles. Ids are given in the order in which spans are first met.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor
from transformers import PreTrainedTokenizerBase

Side = Literal["base", "tuned"]


class Span(NamedTuple):
    """A piece of text, with the tokens that each model reads for it."""

    base: tuple[int, ...]
    tuned: tuple[int, ...]
    text: str


class _Read(NamedTuple):
    """What one tokenizer makes of a text."""

    ids: list[int]
    ends: list[int]
    added: list[bool]


class SpanTokenizer:
    """Reads texts as spans; stands in for a tokenizer wherever a corpus is read.

    Attributes:
        base: Tokenizer of the base.
        tuned: Tokenizer of the tuned model.
        chat_template: The template that both models are given.
        bos_token_id: Id of the span that opens a text; None unless both models open one.
        spans: All spans so far, by id.
    """

    is_fast = True
    eos_token_id = None
    all_special_tokens: tuple[str, ...] = ()

    def __init__(self, base: Any, tuned: Any, owner: Any) -> None:
        """Join two fast tokenizers; the chat template and its special tokens are the owner's."""
        self.base, self.tuned, self._owner = base, tuned, owner
        self.chat_template = owner.chat_template
        self.special_tokens_map = owner.special_tokens_map
        self.spans: list[Span] = []
        self._ids: dict[tuple[tuple[int, ...], tuple[int, ...]], int] = {}
        opens = [_opening(tokenizer) for tokenizer in (base, tuned)]
        self._opens = (opens[0], opens[1])
        self.bos_token_id = None
        if opens[0] and opens[1]:
            self.bos_token_id = self._id_of(Span(opens[0], opens[1], str(owner.bos_token or "")))

    def __call__(
        self, texts: Sequence[str], *, add_special_tokens: bool = True, **_options: Any
    ) -> dict[str, list[list[Any]]]:
        """Read texts; returns ids, character spans, and which spans the tokenizers added."""
        found: dict[str, list[list[Any]]] = {
            "input_ids": [], "offset_mapping": [], "special_tokens_mask": []
        }  # fmt: skip
        for text in texts:
            ids, places = self._spans_of(text, special=add_special_tokens)
            found["input_ids"].append(ids)
            found["offset_mapping"].append(places)
            found["special_tokens_mask"].append([int(start == end) for start, end in places])
        return found

    def side(self, side: Side) -> Any:
        """Return one model's own tokenizer."""
        return self.base if side == "base" else self.tuned

    def texts(self, ids: Sequence[int]) -> list[str]:
        """Return the text of each span."""
        return [self.spans[i].text if 0 <= i < len(self.spans) else f"<span {i}>" for i in ids]

    def decode(self, ids: Sequence[int], **_options: Any) -> str:
        """Return the text of spans that follow each other."""
        return "".join(self.texts(ids))

    def expanded(
        self,
        side: Side,
        ids: Int64[Tensor, "batch length"],
        mask: Int64[Tensor, "batch length"],
    ) -> tuple[
        Int64[Tensor, "batch tokens"],
        Int64[Tensor, "batch tokens"],
        Int64[Tensor, "batch length"],
    ]:
        """Return one model's tokens of sequences of spans, their mask, and each span's last token.

        Padding has its last token at 0.
        """
        rows, ends = [], torch.zeros_like(ids)
        for row, (own, real) in enumerate(zip(ids.tolist(), mask.sum(1).tolist(), strict=True)):
            parts = [getattr(self.spans[i], side) for i in own[:real]]
            ends[row, :real] = torch.tensor([len(part) for part in parts]).cumsum(0) - 1
            rows.append([token for part in parts for token in part])
        width = max(map(len, rows))
        tokens = torch.zeros(len(rows), width, dtype=torch.int64)
        real_tokens = torch.zeros_like(tokens)
        for row, own in enumerate(rows):
            tokens[row, : len(own)] = torch.tensor(own)
            real_tokens[row, : len(own)] = 1
        return tokens, real_tokens, ends

    def _spans_of(self, text: str, *, special: bool) -> tuple[list[int], list[tuple[int, int]]]:
        read = [
            self._read(tokenizer, text, opening, special)
            for tokenizer, opening in zip((self.base, self.tuned), self._opens, strict=True)
        ]
        ids, places = [], []
        start, done = 0, [0, 0]
        if self.bos_token_id is not None and all(
            tuple(each.ids[: len(opening)]) == opening
            for each, opening in zip(read, self._opens, strict=True)
        ):
            start = max(each.ends[len(o) - 1] for each, o in zip(read, self._opens, strict=True))
            done = [len(opening) for opening in self._opens]
            ids.append(self.bos_token_id)
            places.append((0, start))
        last = [{end: place for place, end in enumerate(each.ends)} for each in read]
        for end in sorted(last[0].keys() & last[1].keys()):
            stops = [last[0][end] + 1, last[1][end] + 1]
            own = [
                tuple(each.ids[begin:stop])
                for each, begin, stop in zip(read, done, stops, strict=True)
            ]
            # A span needs a token of either model; what only one has so far goes into the next.
            if end > start and own[0] and own[1]:
                ids.append(self._id_of(Span(own[0], own[1], text[start:end])))
                places.append((start, end))
                start, done = end, stops
        return ids, places

    def _read(self, tokenizer: Any, text: str, opening: tuple[int, ...], special: bool) -> _Read:
        """Return the tokens of a text and where each ends, in an order that never goes back.

        A template writes the bos of the model that it came with; the other model gets its own.
        """
        bos, skipped = str(self._owner.bos_token or ""), 0
        if not special and bos and text.startswith(bos) and opening:
            skipped = len(bos)
        output = tokenizer(
            text[skipped:],
            add_special_tokens=special,
            return_offsets_mapping=True,
            return_special_tokens_mask=True,
            verbose=False,
        )
        ends = np.maximum.accumulate([skipped + end for _, end in output["offset_mapping"]] or [0])
        ids = list(output["input_ids"])
        ends = ends.tolist()[: len(ids)]
        added = [bool(each) for each in output["special_tokens_mask"]]
        if special:
            # What a tokenizer puts after a text has no place in it.
            while ids and added[-1]:
                if len(ids) <= len(opening):
                    break
                ids, ends, added = ids[:-1], ends[:-1], added[:-1]
        if skipped:
            ids, ends = [*opening, *ids], [*[skipped] * len(opening), *ends]
            added = [*[True] * len(opening), *added]
        return _Read(ids, ends, added)

    def _id_of(self, span: Span) -> int:
        key = (span.base, span.tuned)
        if key not in self._ids:
            self._ids[key] = len(self.spans)
            self.spans.append(span)
        return self._ids[key]


AnyTokenizer = PreTrainedTokenizerBase | SpanTokenizer
"""What a corpus can be read with."""


def _opening(tokenizer: Any) -> tuple[int, ...]:
    """Return what a tokenizer puts before every text."""
    with_special = tokenizer("a", return_special_tokens_mask=True)
    found = []
    for token, added in zip(
        with_special["input_ids"], with_special["special_tokens_mask"], strict=True
    ):
        if not added:
            break
        found.append(int(token))
    return tuple(found)
