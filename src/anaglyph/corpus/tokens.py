"""TokenCorpus: the corpus as both models read it, one flat array of tokens cut into sequences."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Int32, Int64, UInt8
from torch import Tensor

from anaglyph.core.errors import InputError
from anaglyph.core.rng import rng
from anaglyph.corpus.account import Reading
from anaglyph.corpus.roles import ROLES
from anaglyph.corpus.split import split_mask

LEAST_FULL = 0.75
"""Of a batch's longest sequence: shorter ones begin the next batch,"""
LEAST_BATCH = 0.25
"""if this share of the tokens that a batch may have is reached."""


@dataclass(frozen=True, eq=False)
class TokenCorpus:
    """Sequences of token ids with a role for every token.

    Attributes:
        token_ids: All tokens, one sequence after the other.
        roles: Role code of each token, an index into `ROLES`; as many as there are tokens.
        offsets: Where each sequence begins, and last the number of tokens.
        context: The longest a sequence may be, in tokens.
        cut_tokens: Tokens of chats that lay beyond the context and were left out.
        reading: The account of what was read, where the corpus was read from documents.

    Raises:
        InputError: The arrays do not fit together, or a sequence is empty or too long.
    """

    token_ids: Int32[np.ndarray, " tokens"]
    roles: UInt8[np.ndarray, " roles"]
    offsets: Int64[np.ndarray, " sequences_plus_one"]
    context: int
    cut_tokens: int = 0
    reading: Reading | None = None

    def __post_init__(self) -> None:
        lengths = np.diff(self.offsets)
        if len(self.token_ids) == 0 or len(lengths) == 0:
            raise InputError("the corpus is empty: it holds no token")
        if len(self.roles) != len(self.token_ids):
            raise InputError(f"{len(self.roles)} roles for {len(self.token_ids)} tokens")
        if self.roles.max() >= len(ROLES):
            raise InputError(f"role code {self.roles.max()} is not one of 0 to {len(ROLES) - 1}")
        if self.offsets[0] != 0 or self.offsets[-1] != len(self.token_ids):
            raise InputError("sequence offsets must run from 0 to the number of tokens")
        if lengths.min() < 1 or lengths.max() > self.context:
            raise InputError(f"a sequence must have 1 to {self.context} tokens (the context)")

    @property
    def n_tokens(self) -> int:
        """Number of tokens."""
        return len(self.token_ids)

    @property
    def n_sequences(self) -> int:
        """Number of sequences."""
        return len(self.offsets) - 1

    @property
    def lengths(self) -> Int64[np.ndarray, " sequences"]:
        """Number of tokens of each sequence."""
        return np.diff(self.offsets)

    @cached_property
    def heldout(self) -> Bool[np.ndarray, " sequences"]:
        """True for the sequences that no dictionary is trained on (`split_mask`, defaults).

        A corpus made by `select` is split anew: the split belongs to the corpus that is collected.
        """
        return split_mask(self.n_sequences)

    @cached_property
    def fingerprint(self) -> str:
        """32 hex digits over token ids, roles, offsets and context.

        The documents, the tokenizer and the chat template all show in these, so two corpora with
        one fingerprint are read alike.
        """
        state = hashlib.blake2b(digest_size=16)
        state.update(f"{self.context} {self.n_tokens} {self.n_sequences}".encode())
        for array, kind in ((self.token_ids, "<i4"), (self.roles, "u1"), (self.offsets, "<i8")):
            state.update(np.ascontiguousarray(array, dtype=kind).tobytes())
        return state.hexdigest()

    @cached_property
    def following(self) -> Int64[np.ndarray, " tokens"]:
        """The token that follows each one in its sequence, -1 at the sequence's end."""
        following = np.append(self.token_ids[1:], -1).astype(np.int64)
        following[self.offsets[1:] - 1] = -1
        return following

    def draw(
        self, mask: Bool[np.ndarray, " sequences"], max_tokens: int, seed: int
    ) -> Int64[np.ndarray, " chosen"]:
        """Draw whole sequences where ``mask`` holds, up to ``max_tokens`` tokens but at least one.

        They are drawn in random order because a corpus is often sorted by kind of text.

        Raises:
            InputError: ``max_tokens`` is below 1.
        """
        if max_tokens < 1:
            raise InputError(f"max_tokens is {max_tokens}: it must be at least 1")
        order = rng(seed, "causal text").permutation(np.flatnonzero(mask))
        room = np.cumsum(self.lengths[order]) <= max_tokens
        return np.sort(order[: max(1, int(room.sum()))])

    def draw_heldout(self, max_tokens: int, seed: int) -> Int64[np.ndarray, " chosen"]:
        """Draw held-out sequences to measure on, as `draw` does.

        Raises:
            InputError: There are none, or ``max_tokens`` is below 1.
        """
        if not self.heldout.any():
            raise InputError(
                "the corpus has no held-out sequence to measure on: give it more texts"
            )
        return self.draw(self.heldout, max_tokens, seed)

    def sequence(
        self, index: int
    ) -> tuple[Int32[np.ndarray, " length"], UInt8[np.ndarray, " length"]]:
        """Return token ids and roles of one sequence."""
        here = slice(self.offsets[index], self.offsets[index + 1])
        return self.token_ids[here], self.roles[here]

    def select(self, mask: Bool[np.ndarray, " sequences"]) -> "TokenCorpus":
        """Keep the sequences where ``mask`` is True, in their order.

        Raises:
            InputError: The mask has another length, or keeps nothing.
        """
        if len(mask) != self.n_sequences:
            raise InputError(f"the mask has {len(mask)} entries for {self.n_sequences} sequences")
        lengths = self.lengths
        tokens = np.repeat(mask, lengths)
        return TokenCorpus(
            token_ids=self.token_ids[tokens],
            roles=self.roles[tokens],
            offsets=offsets_of(lengths[mask]),
            context=self.context,
            cut_tokens=self.cut_tokens,
            reading=self.reading,
        )

    def limited(self, max_tokens: int) -> "TokenCorpus":
        """Keep whole sequences of at most ``max_tokens`` tokens together, in their order.

        Which ones is drawn at random with a fixed seed, so that a budget shrinks every kind of
        document alike instead of cutting off the end of the corpus. A larger budget keeps all that
        a smaller one kept.

        Raises:
            InputError: Not even the first sequence drawn fits.
        """
        if max_tokens >= self.n_tokens:
            return self
        generator = rng(0, "limited text")
        order = generator.permutation(self.n_sequences)
        kept = order[np.cumsum(self.lengths[order]) <= max_tokens]
        if len(kept) == 0:
            raise InputError(
                f"max_tokens={max_tokens} is too small for a whole sequence; "
                f"the longest has {self.lengths.max()} tokens"
            )
        mask = np.zeros(self.n_sequences, bool)
        mask[kept] = True
        return self.select(mask)


def offsets_of(
    lengths: Int64[np.ndarray, " sequences"],
) -> Int64[np.ndarray, " sequences_plus_one"]:
    """Return where sequences of these lengths begin, and last where they end."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])


def padded_batches(
    corpus: TokenCorpus, sequence_indices: Int64[np.ndarray, " chosen"], token_budget: int
) -> Iterator[
    tuple[Int64[np.ndarray, " batch"], Int64[Tensor, "batch length"], Int64[Tensor, "batch length"]]
]:
    """Batch sequences of like length, so that little is computed on padding.

    Args:
        corpus: The corpus.
        sequence_indices: The sequences to visit, each once.
        token_budget: Most tokens of a batch, padding included. A sequence that is longer makes a
            batch of its own.

    Yields:
        Indices of the batch's sequences, their token ids padded with 0 on the right, and the
        attention mask (1 for a token, 0 for padding). Much shorter sequences begin the next batch,
        unless this one would be small. Long sequences come first, so that a run
        that does not fit in memory fails at once; ties follow the order of ``sequence_indices``.

    Raises:
        InputError: The budget is not positive, or an index is out of range.
    """
    if token_budget < 1:
        raise InputError(f"token_budget must be positive, got {token_budget}")
    indices = np.asarray(sequence_indices, np.int64)
    if len(indices) and not 0 <= indices.min() <= indices.max() < corpus.n_sequences:
        raise InputError(f"a sequence index is not within 0 to {corpus.n_sequences - 1}")
    lengths = corpus.lengths[indices]
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        width = int(lengths[order[start]])
        some = order[start : start + max(1, token_budget // width)]
        alike = some[lengths[some] >= LEAST_FULL * width]
        rows = indices[alike if len(alike) * width >= LEAST_BATCH * token_budget else some]
        input_ids = np.zeros((len(rows), width), np.int64)
        attention_mask = np.zeros((len(rows), width), np.int64)
        for row, index in enumerate(rows):
            ids, _ = corpus.sequence(int(index))
            input_ids[row, : len(ids)] = ids
            attention_mask[row, : len(ids)] = 1
        yield rows, torch.from_numpy(input_ids), torch.from_numpy(attention_mask)
        start += len(rows)
