"""Which weight of the tuned model is which of the base, and which rows of two vocabularies.

One of the two may wrap the other (a text model inside a multimodal one), tie its output embedding
to the input embedding where the other has both, or have rows for tokens that the other lacks.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from jaxtyping import Int64
from torch import Tensor

from anaglyph.core.errors import ModelError
from anaglyph.direct.weight_files import ModelFiles, block_of
from anaglyph.pair.sources import Source
from anaglyph.pair.tokens import load_tokenizer

# What wrappers put before the names of the text model inside them.
_WRAPPERS = {"model", "language_model", "text_model", "transformer", "gpt_neox", "backbone"}
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
    own, theirs = _by_plain_name(before), _by_plain_name(after)
    pairs = [(name, name, own[plain]) for plain, name in theirs.items() if plain in own]
    shared = {_part(plain) for plain in own.keys() & theirs.keys()}
    notes, handled = [], set()
    embeddings = before.embedding, after.embedding
    if embeddings[0] and embeddings[1]:
        # A head that is tied in one of the two is stored there under the embedding's name alone.
        if after.head and not before.head:
            handled.add(_plain(after.head))
            pairs.append((after.head, after.head, embeddings[0]))
        elif before.head and not after.head:
            handled.add(_plain(before.head))
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
        notes: What only one of the two has, a line each.
    """

    base: Int64[Tensor, " rows"]
    tuned: Int64[Tensor, " rows"]
    notes: list[str] = field(default_factory=list)


class Vocabularies:
    """Aligns the rows of embeddings of different length; reads tokenizers only when asked."""

    def __init__(self, base: Source, tuned: Source) -> None:
        self._sources = base, tuned
        self._tokens: tuple[dict[str, int], dict[str, int]] | None = None

    def rows(self, name: str, base: int, tuned: int) -> Rows:
        """Return the rows that two matrices of ``base`` and ``tuned`` rows share.

        Rows go together if their tokens have the same text, or if neither has a token and they are
        in the same place. Where a model has no tokenizer, rows of the same number go together.
        """
        vocabularies = self._vocabularies()
        if vocabularies is None:
            ids = torch.arange(min(base, tuned))
            extra = abs(base - tuned)
            side = self._sources[tuned > base].name
            note = (
                f"{name} has {extra} rows more in {side}: the first {len(ids)} are compared, one by"
                " one, because there are not two tokenizers to align them by"
            )
            return Rows(ids, ids, [note])
        ours, theirs = (
            {token: row for token, row in tokens.items() if row < size}
            for tokens, size in zip(vocabularies, (base, tuned), strict=True)
        )
        both = [(ours[token], row) for token, row in theirs.items() if token in ours]
        named = set(ours.values()), set(theirs.values())
        spare = [
            (row, row)
            for row in range(min(base, tuned))
            if row not in named[0] and row not in named[1]
        ]
        pairs = sorted(both + spare, key=lambda pair: pair[1])
        notes = list(self._alone(name, (ours, theirs), (base, tuned), (named[0], named[1])))
        index = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2)
        return Rows(index[:, 0], index[:, 1], notes)

    def _alone(
        self,
        name: str,
        tokens: tuple[dict[str, int], dict[str, int]],
        sizes: tuple[int, int],
        named: tuple[set[int], set[int]],
    ) -> Iterator[str]:
        for side, word in ((1, "added"), (0, "dropped")):
            own, other = tokens[side], tokens[1 - side]
            texts = [token for token, _ in sorted(own.items(), key=lambda p: p[1])]
            texts = [token for token in texts if token not in other]
            if texts:
                shown = ", ".join(map(repr, texts[:_MOST_NAMED]))
                more = f" and {len(texts) - _MOST_NAMED} more" if len(texts) > _MOST_NAMED else ""
                yield f"{name}: {len(texts)} tokens {word}, not compared: {shown}{more}"
            spare = sizes[side] - len(named[side])
            shared = min(sizes)
            padding = sum(
                row not in named[side] and (row >= shared or row in named[1 - side])
                for row in range(sizes[side])
            )
            if spare and padding:
                yield (
                    f"{name}: {padding} rows without a token only in"
                    f" {self._sources[side].name}, not compared"
                )

    def _vocabularies(self) -> tuple[dict[str, int], dict[str, int]] | None:
        if any(source.tokenizer_fingerprint is None for source in self._sources):
            return None
        if self._tokens is None:
            base, tuned = (load_tokenizer(source).get_vocab() for source in self._sources)
            self._tokens = base, tuned
        return self._tokens


def _by_plain_name(files: ModelFiles) -> dict[str, str]:
    plain: dict[str, str] = {}
    for name in files.names:
        if plain.setdefault(_plain(name), name) != name:
            # Two parts end alike: only whole names tell them apart.
            return {name: name for name in files.names}
    return plain


def _plain(name: str) -> str:
    parts = name.split(".")
    while len(parts) > 1 and parts[0] in _WRAPPERS:
        parts = parts[1:]
    return ".".join(parts)


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
