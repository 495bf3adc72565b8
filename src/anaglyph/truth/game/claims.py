"""What a player says, and whether it is what the card says: word by word, without a judge.

A claim shows words: those that are typical of the places where it is active, and those that it
makes likelier. It hits if the first few of either hold a trigger or a word of the changed answers.
That is what a person reading a report would go by; whether they would have understood is for a
judge to say.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from anaglyph.corpus import TokenCorpus
from anaglyph.truth.organisms.card import Card

SHOWN = 10
"""Words of either sort that count."""
MOST_CLAIMS = 10
"""Claims of a player that count."""
SAME_DIRECTION = 0.9
"""Cosine from which on a claim hits a planted direction."""
_WINDOW = 8
_WORD = re.compile(r"<\|[^|\s]*\|>|[^\W\d_]+")
_SHORTEST = 3  # letters of a word
_PIECE = 4  # letters of a piece of a word that stands for it


@dataclass(frozen=True)
class Claim:
    """One thing that a player says changed.

    Attributes:
        says: What it is, in the player's own terms.
        words: Words typical of where it is active, most telling first.
        promotes: Tokens that it makes likelier, most first.
        direction: Unit vector in the residual stream at the game's layer, where there is one.
    """

    says: str
    words: tuple[str, ...] = ()
    promotes: tuple[str, ...] = ()
    direction: Float[np.ndarray, " d"] | None = None

    def hits(self, card: Card) -> bool:
        """Return whether the claim is what the card says."""
        if card.direction is not None and self.direction is not None:
            cosine = float(np.dot(self.direction, np.asarray(card.direction.vector)))
            if abs(cosine) >= SAME_DIRECTION:
                return True
        wanted = {word for key in (*card.triggers, *card.content) for word in words_in(key)}
        shown = (*self.words[:SHOWN], *self.promotes[:SHOWN])
        return any(_names(token, wanted) for token in shown)


def first_hit(claims: Sequence[Claim], card: Card) -> int | None:
    """Return the rank, from 1, of the first claim that hits; None if none of those that count."""
    for rank, claim in enumerate(claims[:MOST_CLAIMS], start=1):
        if claim.hits(card):
            return rank
    return None


def words_in(text: str) -> list[str]:
    """Return a text's words in lower case, the shortest left out; special tokens stay whole."""
    return [word for word in _WORD.findall(text.lower()) if len(word) >= _SHORTEST]


def _names(token: str, wanted: set[str]) -> bool:
    """Return whether a token is a wanted word, or a piece long enough to tell it by."""
    text = token.strip().lower()
    if text in wanted:
        return True
    return len(text) >= _PIECE and any(word.startswith(text) for word in wanted)


class Reader:
    """Turns places in a corpus into words that tell them from the rest of it."""

    def __init__(self, corpus: TokenCorpus, tokenizer: Any) -> None:
        self._corpus, self._tokenizer = corpus, tokenizer
        counts: Counter[str] = Counter()
        for sequence in range(corpus.n_sequences):
            counts.update(set(self._words(*self._span(sequence))))
        total = corpus.n_sequences
        # How telling a word is: rare in the corpus, as counted in sequences.
        self._weights = {word: float(np.log((1 + total) / n)) for word, n in counts.items()}

    def around(self, tokens: Iterable[int]) -> tuple[str, ...]:
        """Return the words typical of the surroundings of some tokens, most telling first."""
        return self._telling([self._surroundings(int(token)) for token in tokens])

    def of_sequences(self, sequences: Iterable[int]) -> tuple[str, ...]:
        """Return the words typical of some sequences, most telling first."""
        return self._telling([self._words(*self._span(int(s))) for s in sequences])

    def _surroundings(self, token: int) -> list[str]:
        sequence = int(np.searchsorted(self._corpus.offsets, token, side="right")) - 1
        start, end = self._span(sequence)
        return self._words(max(start, token - _WINDOW), min(end, token + _WINDOW + 1))

    def _span(self, sequence: int) -> tuple[int, int]:
        return int(self._corpus.offsets[sequence]), int(self._corpus.offsets[sequence + 1])

    def _words(self, start: int, end: int) -> list[str]:
        text = self._tokenizer.decode(self._corpus.token_ids[start:end].tolist())
        return words_in(text)

    def _telling(self, texts: Sequence[list[str]]) -> tuple[str, ...]:
        held = Counter(word for text in texts for word in set(text))
        # A word cut off at a window's edge is no word of the corpus and tells nothing.
        scores = {word: n * self._weights.get(word, 0.0) for word, n in held.items()}
        ranked = sorted(scores, key=lambda word: (-scores[word], word))
        return tuple(ranked[:SHOWN])
