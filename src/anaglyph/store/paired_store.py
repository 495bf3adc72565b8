"""PairedStore: the activations of both models on the same tokens, read from disk as needed.

Base and tuned always come together and in the same order. Nothing here loads the whole store. Rows
are copied from memory maps, and the arguments of a call bound its memory.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int32, Int64, UInt8
from torch import Tensor

from anaglyph.core.arrays import Array, integers
from anaglyph.core.errors import InputError
from anaglyph.core.files import as_path
from anaglyph.core.progress import Progress, silent
from anaglyph.corpus import split_mask
from anaglyph.store.arrays import check_sides, tokens_of, write_arrays
from anaglyph.store.format import SHARD_TOKENS, DType, check_dtype
from anaglyph.store.moments import Statistics
from anaglyph.store.order import BLOCK_TOKENS, Subset, shuffled_buffers
from anaglyph.store.reader import ShardReader
from anaglyph.store.repeats import first_readings

Split = Literal["all", "train", "heldout"]
BUFFER_TOKENS = 262_144
BUFFER_BYTES = 256 * 2**20


@dataclass(frozen=True)
class Block:
    """Some tokens of the store with both models' activations.

    Attributes:
        base: Activations of the base.
        tuned: Activations of the tuned model.
        tokens: Index of each token within the store.
    """

    base: Float32[Tensor, "tokens d_base"]
    tuned: Float32[Tensor, "tokens d_tuned"]
    tokens: Int64[np.ndarray, " tokens"]


class PairedStore:
    """A view of one layer of a store on disk; made by ``open``, ``from_arrays`` and ``collect``.

    Attributes:
        layer: The layer of the activations and statistics.
    """

    def __init__(self, reader: ShardReader, layer: int) -> None:
        if layer not in reader.manifest.layers:
            held = ", ".join(map(str, reader.manifest.layers))
            raise InputError(f"the store at {reader.folder} holds layers {held}, not {layer}")
        self._reader, self.layer = reader, layer

    @classmethod
    def open(cls, path: str | Path) -> "PairedStore":
        """Open a finished store at its first layer.

        Raises:
            StoreError: There is none, or it is unfinished or damaged.
        """
        reader = ShardReader(as_path(path))
        return cls(reader, reader.manifest.layers[0])

    @classmethod
    def from_arrays(
        cls,
        base: Array,
        tuned: Array,
        out: str | Path,
        token_ids: Array | None = None,
        sequence_ids: Array | None = None,
        roles: Array | None = None,
        dtype: str = "float32",
        *,
        layer: int = 0,
        shard_tokens: int = SHARD_TOKENS,
        progress: Progress = silent,
    ) -> "PairedStore":
        """Make a store from your own activations.

        The same contents in the same folder are written once; a call that was stopped resumes.

        Args:
            base: [tokens, d_base], any floating-point type.
            tuned: [tokens, d_tuned] of the same tokens.
            out: Folder of the store.
            token_ids: [tokens], at least 0; all 0 if not given.
            sequence_ids: [tokens], equal within a sequence and different between sequences; each
                sequence is contiguous. If not given, every token is its own sequence.
            roles: [tokens], codes into ``anaglyph.corpus.ROLES``; all "text" if not given.
            dtype: Number type to store activations in.
            layer: The layer that they are of, at least 0.
            shard_tokens: Maximum tokens per shard; sequences are never split.
            progress: Told of tokens written.

        Raises:
            InputError: The arrays do not fit together, or an activation is NaN, infinite or too
                large for ``dtype``.
            StoreError: The folder holds other contents.
        """
        folder, kind = as_path(out), check_dtype(dtype)
        check_sides(base, tuned)
        write_arrays(
            (base, tuned),
            tokens_of(len(base), token_ids, sequence_ids, roles),
            folder,
            dtype=kind,
            layer=layer,
            shard_tokens=shard_tokens,
            progress=progress,
        )
        return cls.open(folder)

    def at(self, layer: int) -> "PairedStore":
        """Return the view of another layer of the same store.

        Raises:
            InputError: The store does not hold that layer.
        """
        return PairedStore(self._reader, layer)

    @property
    def path(self) -> Path:
        """Folder of the store."""
        return self._reader.folder

    @property
    def key(self) -> str:
        """Digest of all that determines the store's contents."""
        return self._reader.manifest.key

    @property
    def layers(self) -> tuple[int, ...]:
        """Layers held, ascending."""
        return self._reader.manifest.layers

    @property
    def dtype(self) -> DType:
        """Number type of the stored activations."""
        return self._reader.manifest.dtype

    @property
    def d_base(self) -> int:
        """Width of the base's activations."""
        return self._reader.manifest.widths[0]

    @property
    def d_tuned(self) -> int:
        """Width of the tuned model's activations."""
        return self._reader.manifest.widths[1]

    @property
    def related(self) -> bool:
        """Whether the two sides have common coordinates; False for two architectures."""
        return self._reader.manifest.related

    @property
    def n_tokens(self) -> int:
        """Number of tokens."""
        return self._reader.manifest.tokens

    @property
    def n_sequences(self) -> int:
        """Number of sequences."""
        return self._reader.manifest.sequences

    @property
    def token_ids(self) -> Int32[np.ndarray, " tokens"]:
        """Vocabulary index of every token."""
        return self._reader.token_ids

    @property
    def roles(self) -> UInt8[np.ndarray, " tokens"]:
        """Role of every token, a code into ``anaglyph.corpus.ROLES``."""
        return self._reader.roles

    @property
    def sequence_offsets(self) -> Int64[np.ndarray, " sequences_plus_one"]:
        """First token of every sequence, and the number of tokens at the end."""
        return self._reader.sequence_offsets

    @cached_property
    def heldout(self) -> Bool[np.ndarray, " sequences"]:
        """Which sequences no dictionary is trained on."""
        return split_mask(self.n_sequences)

    def sequence_of_tokens(self) -> Int64[np.ndarray, " tokens"]:
        """Return the sequence that each token belongs to."""
        return np.repeat(np.arange(self.n_sequences), np.diff(self.sequence_offsets))

    def first_readings(self) -> Bool[np.ndarray, " tokens"]:
        """Return which tokens are the first reading of their beginning.

        Chats that begin with the same system prompt have the same activations there. Read a hundred
        times, they are still one measurement. Counted a hundred times, they would pass for evidence
        from a hundred sequences, and held-out copies would test what was fitted to them. Arrays
        without token ids have no repeats.
        """
        return first_readings(self.token_ids, self.sequence_offsets)

    @cached_property
    def statistics(self) -> Statistics:
        """Moments over all tokens, held-out ones included; no activation is read."""
        same = self.d_base == self.d_tuned and self.related
        return Statistics(
            self._reader.moments("base", self.layer),
            self._reader.moments("tuned", self.layer),
            self._reader.moments("difference", self.layer) if same else None,
        )

    def gather(
        self, token_index: Array
    ) -> tuple[Float32[Tensor, "picked d_base"], Float32[Tensor, "picked d_tuned"]]:
        """Return the activations of any tokens, in the given order.

        Raises:
            InputError: An index is outside this store.
        """
        tokens = integers("token_index", token_index, "[picked]").cpu().numpy()
        if tokens.size and not 0 <= tokens.min() <= tokens.max() < self.n_tokens:
            wrong = tokens[(tokens < 0) | (tokens >= self.n_tokens)][0]
            raise InputError(f"token index {wrong} is not within 0 to {self.n_tokens - 1}")
        base, tuned = self._reader.rows(self.layer, tokens)
        return base.float(), tuned.float()

    def blocks(self, subset: Split = "all", tokens: int = 8192) -> Iterator[Block]:
        """Walk a subset once, in the order of the corpus.

        Args:
            subset: Which sequences.
            tokens: Tokens per block; the last may be shorter.

        Raises:
            InputError: Unknown subset, or less than one token per block.
        """
        if tokens < 1:
            raise InputError(f"tokens is {tokens}: a block needs at least 1")
        return self._blocks(self._subset(subset), tokens)

    def _blocks(self, chosen: Subset, tokens: int) -> Iterator[Block]:
        for first in range(0, chosen.n_tokens, tokens):
            last = min(first + tokens, chosen.n_tokens)
            index = chosen.tokens(np.arange(first, last))
            block = Block(*self.gather(index), index)
            self._reader.release()
            yield block

    def batches(
        self,
        batch: int,
        seed: int,
        subset: Split = "train",
        skip: int = 0,
        *,
        buffer: int = BUFFER_TOKENS,
    ) -> Iterator[tuple[Float32[Tensor, "batch d_base"], Float32[Tensor, "batch d_tuned"]]]:
        """Yield shuffled batches endlessly: every token once per epoch, each epoch in a new order.

        All batches have the same size: one may take its last rows from the next epoch.

        Args:
            batch: Tokens per batch.
            seed: Seed of the order.
            subset: Which sequences.
            skip: Skip this many batches without reading them; the next ones are the same as after
                consuming them.
            buffer: Maximum tokens shuffled together in memory, at most 512 MiB as stored. Another
                buffer gives another order.

        Raises:
            InputError: A setting is out of range, or the subset has no token.
        """
        if batch < 1 or seed < 0 or skip < 0 or buffer < 1:
            raise InputError(
                "batch and buffer must be at least 1, seed and skip at least 0; got "
                f"batch={batch}, buffer={buffer}, seed={seed}, skip={skip}"
            )
        chosen = self._subset(subset)
        if chosen.n_tokens == 0:
            raise InputError(f"the subset {subset!r} of the store at {self.path} has no tokens")
        row_bytes = self._reader.manifest.token_bytes // len(self.layers)
        held = max(BLOCK_TOKENS, min(buffer, BUFFER_BYTES // row_bytes))
        return self._batches(chosen, batch, seed, skip, held)

    def _batches(
        self, chosen: Subset, batch: int, seed: int, skip: int, buffer: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        room = self._reader.room(min(buffer, chosen.n_tokens))
        out, filled = self._empty_batch(batch), 0
        for positions, order in shuffled_buffers(chosen.n_tokens, seed, buffer, skip * batch):
            held = self._reader.rows(self.layer, chosen.tokens(positions), room)
            self._reader.release()
            shuffled, done = torch.from_numpy(order), 0
            while done < len(order):
                rows = shuffled[done : done + batch - filled]
                for target, side in zip(out, held, strict=True):
                    target[filled : filled + len(rows)] = side.index_select(0, rows)
                done += len(rows)
                filled += len(rows)
                if filled == batch:
                    yield out
                    out, filled = self._empty_batch(batch), 0

    def _empty_batch(self, batch: int) -> tuple[Tensor, Tensor]:
        return torch.empty(batch, self.d_base), torch.empty(batch, self.d_tuned)

    def _subset(self, name: str) -> Subset:
        match name:
            case "all":
                chosen = np.ones(self.n_sequences, bool)
            case "train":
                chosen = ~self.heldout
            case "heldout":
                chosen = self.heldout
            case _:
                raise InputError(f"subset {name!r} is unknown: use all, train or heldout")
        return Subset(chosen, self.sequence_offsets)

    def verify(self, progress: Progress = silent) -> None:
        """Compare every shard with its checksum from when it was written.

        Raises:
            StoreError: A shard is damaged; the message names it.
        """
        self._reader.verify(progress)
