"""Which weight of the tuned model is which of the base, and which rows of two vocabularies.

One of the two may wrap the other (a text model inside a multimodal one), tie its output embedding
to the input embedding where the other has both, or have rows for tokens that the other lacks.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from anaglyph.core.errors import ModelError
from anaglyph.direct.weight_files import ModelFiles, block_of
from anaglyph.pair.names import by_plain_name, plain_name
from anaglyph.pair.sources import Source
from anaglyph.pair.tokens import load_tokenizer
from anaglyph.pair.vocabulary import match_rows

_MOST_NAMED = 5


@dataclass(frozen=True)
class Match:
    """The weights that two whole models have in common.

    Attributes:
        pairs: Name in the tuned model to report, name of its tensor there, and in the base.
        notes: What only one of the two has, a line each.
    """

    pairs: tuple[tuple[str, str, str], ...]
    notes: tuple[str, ...]


def match_weights(before: ModelFiles, after: ModelFiles) -> Match:
    """Pair the weights of two models by name.

    Parts that only one model has as a whole (a vision tower, blocks for predicting further tokens)
    are left out and noted.

    Raises:
        ModelError: One model lacks a single weight of a part that both have.
    """
    own, theirs = by_plain_name(before.names), by_plain_name(after.names)
    pairs = [(name, name, own[plain]) for plain, name in theirs.items() if plain in own]
    shared = {_part(plain) for plain in own.keys() & theirs.keys()}
    notes, handled = [], set()
    embeddings = before.embedding, after.embedding
    if embeddings[0] and embeddings[1]:
        # A head that is tied in one of the two is stored there under the embedding's name alone.
        if after.head and not before.head:
            handled.add(plain_name(after.head))
            pairs.append((after.head, after.head, embeddings[0]))
        elif before.head and not after.head:
            handled.add(plain_name(before.head))
            pairs.append((before.head, embeddings[1], before.head))
        elif before.head and after.head and _both_tied(before, after):
            pairs = [pair for pair in pairs if pair[0] != after.head]
    for files, other, names, others in ((after, before, theirs, own), (before, after, own, theirs)):
        alone: dict[str, list[str]] = {}
        for plain, name in names.items():
            if plain in others or plain in handled:
                continue
            block = block_of(name)
            beyond = block is not None and files.depth is not None and block >= files.depth
            if _part(plain) in shared and not beyond:
                raise ModelError(f"{files.name} has a weight {name}, which {other.name} lacks")
            alone.setdefault(f"block {block}" if beyond else _part(plain), []).append(name)
        notes += [
            f"only {files.name} has {part} ({len(found)} weights): left out"
            for part, found in alone.items()
        ]
    if not pairs:
        raise ModelError(f"{after.name} and {before.name} have no weight of the same name")
    places = {name: place for place, name in enumerate(after.names)}
    pairs.sort(key=lambda pair: places.get(pair[0], len(places)))
    return Match(tuple(pairs), tuple(notes))


@dataclass
class Rows:
    """Which rows of two vocabulary matrices belong to the same tokens.

    Attributes:
        base: Rows of the base's matrix.
        tuned: Rows of the tuned model's matrix, in the same order.
        added: Rows of the tuned model's matrix that have no partner.
        notes: What only one of the two has, a line each.
    """

    base: Int64[Tensor, " rows"]
    tuned: Int64[Tensor, " rows"]
    added: Int64[Tensor, " more"]
    notes: list[str] = field(default_factory=list)


class Vocabularies:
    """Aligns the rows of embeddings by token (`pair.vocabulary`); reads tokenizers when asked."""

    def __init__(self, base: Source, tuned: Source) -> None:
        self._sources = base, tuned
        self._tokens: tuple[dict[str, int] | None, dict[str, int] | None] | None = None

    def differ(self) -> bool:
        """Whether the two models have tokenizers of their own that are not the same."""
        base, tuned = (source.tokenizer_fingerprint for source in self._sources)
        return base is not None and tuned is not None and base != tuned

    def rows(self, name: str, base: int, tuned: int) -> Rows:
        """Return the rows that two matrices of ``base`` and ``tuned`` rows share.

        Where a model has no tokenizer, rows of the same number go together.
        """
        own, theirs = self._vocabularies()
        if own is None or theirs is None:
            ids, larger = torch.arange(min(base, tuned)), self._sources[tuned > base].name
            note = (
                f"{name} has {abs(base - tuned)} rows more in {larger}: the first {len(ids)} are"
                " compared, one by one, because there are not two tokenizers to align them by"
            )
            return Rows(ids, ids, torch.arange(len(ids), tuned), [note])
        found = match_rows(own, own, theirs, (base, tuned))
        shared, rows = found.shared.numpy(), (found.base, found.tuned)
        order = np.flatnonzero(shared)[np.argsort(found.tuned[shared])]
        alone = [own[other < 0] for own, other in (rows, rows[::-1])]
        alone = [only[only >= 0] for only in alone]
        notes = []
        for side, tokens, word in ((1, found.added, "added"), (0, found.dropped, "dropped")):
            if tokens:
                shown = ", ".join(map(repr, tokens[:_MOST_NAMED]))
                more = f" and {len(tokens) - _MOST_NAMED} more" * (len(tokens) > _MOST_NAMED)
                notes.append(f"{name}: {len(tokens)} tokens {word}, not compared: {shown}{more}")
            if padding := len(alone[side]) - len(tokens):
                notes.append(
                    f"{name}: {padding} rows without a token only in {self._sources[side].name},"
                    " not compared"
                )
        if found.renamed:
            notes.append(
                f"{name}: {len(found.renamed)} rows have another token in"
                f" {self._sources[1].name} and are compared as they are"
            )
        base_rows, tuned_rows = (torch.from_numpy(side[order]) for side in rows)
        return Rows(base_rows, tuned_rows, torch.from_numpy(alone[1]), notes)

    def _vocabularies(self) -> tuple[dict[str, int] | None, dict[str, int] | None]:
        if self._tokens is None:
            base, tuned = (
                None if source.tokenizer_fingerprint is None else load_tokenizer(source).get_vocab()
                for source in self._sources
            )
            self._tokens = base, tuned
        return self._tokens


def _part(plain: str) -> str:
    return plain.split(".", 1)[0]


def _both_tied(before: ModelFiles, after: ModelFiles) -> bool:
    """Say whether both heads, though stored, are the embedding once more."""
    return all(
        files.head is not None
        and files.embedding is not None
        and files.shape(files.head) == files.shape(files.embedding)
        and torch.equal(files.read(files.head), files.read(files.embedding))
        for files in (before, after)
    )
