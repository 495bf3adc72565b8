"""Read a store's shards through memory maps: only the requested rows are read.

A store can have more shards than a process may open files, so only the most recent maps are kept.
"""

from collections.abc import Iterator
from functools import cached_property, lru_cache, reduce
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int32, Int64, Shaped, UInt8
from torch import Tensor

from anaglyph.core.errors import StoreError
from anaglyph.core.progress import Progress
from anaglyph.store.format import (
    MANIFEST,
    Side,
    from_stored,
    map_tensors,
    read_manifest,
)
from anaglyph.store.moments import Moments

_OPEN_MAPS = 256
_RESTORE = "run collect (or from_arrays) again with the same arguments to restore it"

# Activations of base and of tuned as stored: float32, or the bits of bfloat16.
Room = tuple[Shaped[np.ndarray, "rows d_base"], Shaped[np.ndarray, "rows d_tuned"]]


class ShardReader:
    """The shards of one complete store as one table of tokens.

    Args:
        folder: The store's folder.

    Raises:
        StoreError: There is no store, it is unfinished, or the size of a shard has changed.
    """

    def __init__(self, folder: Path) -> None:
        if not (folder / MANIFEST).exists():
            raise StoreError(f"there is no paired store at {folder}")
        self.folder, self.manifest = folder, read_manifest(folder)
        if not self.manifest.complete:
            raise StoreError(
                f"the store at {folder} is unfinished: run collect (or from_arrays) again "
                "with the same arguments to finish it"
            )
        for shard in self.manifest.shards:
            problem = shard.problem(folder)
            if problem is not None:
                raise StoreError(f"shard {problem}: {_RESTORE}")
        self._ends = np.cumsum([shard.tokens for shard in self.manifest.shards])
        self._map = lru_cache(_OPEN_MAPS)(self._open)

    def _open(self, index: int) -> dict[str, Shaped[np.ndarray, "..."]]:
        shard, manifest = self.manifest.shards[index], self.manifest
        tensors = map_tensors(self.folder / shard.name)
        expected: dict[str, tuple[int, ...]] = {
            "token_ids": (shard.tokens,),
            "roles": (shard.tokens,),
            "sequence_offsets": (shard.sequences + 1,),
        }
        for layer in manifest.layers:
            for side, width in zip(("base", "tuned"), manifest.widths, strict=True):
                expected[f"{side}.{layer}"] = (shard.tokens, width)
        for name, shape in expected.items():
            if name not in tensors or tensors[name].shape != shape:
                raise StoreError(f"shard {self.folder / shard.name} is damaged: {name}")
        return tensors

    def _column(self, name: str) -> Iterator[Shaped[np.ndarray, "..."]]:
        return (self._map(index)[name] for index in range(len(self.manifest.shards)))

    @cached_property
    def token_ids(self) -> Int32[np.ndarray, " tokens"]:
        """Vocabulary index of every token."""
        return np.concatenate(list(self._column("token_ids")))

    @cached_property
    def roles(self) -> UInt8[np.ndarray, " tokens"]:
        """Code of every token's role."""
        return np.concatenate(list(self._column("roles")))

    @cached_property
    def sequence_offsets(self) -> Int64[np.ndarray, " sequences_plus_one"]:
        """First token of every sequence, and the number of tokens at the end."""
        starts = [0, *self._ends]
        parts = [
            part[:-1] + start
            for part, start in zip(self._column("sequence_offsets"), starts, strict=False)
        ]
        return np.concatenate([*parts, np.array([self.manifest.tokens])])

    def moments(self, name: str, layer: int) -> Moments:
        """Merge the shards' moments of ``base``, ``tuned`` or ``difference``."""
        parts = (
            Moments(
                shard.tokens,
                np.array(tensors[f"moments.{name}.{layer}.mean"]),
                np.array(tensors[f"moments.{name}.{layer}.m2"]),
            )
            for index, shard in enumerate(self.manifest.shards)
            for tensors in (self._map(index),)
        )
        return reduce(Moments.merge, parts)

    def room(self, tokens: int) -> Room:
        """Make room for the activations of this many tokens."""
        kind = np.uint16 if self.manifest.dtype == "bfloat16" else np.float32
        base, tuned = (np.empty((tokens, width), kind) for width in self.manifest.widths)
        return base, tuned

    def rows(
        self, layer: int, tokens: Int64[np.ndarray, " picked"], room: Room | None = None
    ) -> tuple[Float[Tensor, "picked d_base"], Float[Tensor, "picked d_tuned"]]:
        """Copy the activations of these tokens, in their order and in their stored type.

        Args:
            layer: One of the manifest's layers.
            tokens: Indexes within the store; not checked.
            room: Memory to copy into, because new memory costs as much as the copy itself. The
                result is a view of it.
        """
        sides: tuple[Side, Side] = ("base", "tuned")
        found = [side[: len(tokens)] for side in room or self.room(len(tokens))]
        shards = np.searchsorted(self._ends, tokens, side="right")
        order = None
        if np.any(shards[1:] < shards[:-1]):
            order = np.argsort(shards, kind="stable")
            shards = shards[order]
        cuts = np.flatnonzero(np.diff(shards)) + 1
        for first, last in zip([0, *cuts], [*cuts, len(tokens)], strict=True):
            if first == last:
                continue
            index = int(shards[first])
            target = slice(first, last) if order is None else order[first:last]
            start = self._ends[index] - self.manifest.shards[index].tokens
            local, tensors = tokens[target] - start, self._map(index)
            for side, rows in zip(sides, found, strict=True):
                source = tensors[f"{side}.{layer}"]
                if isinstance(target, slice):
                    # "clip" lets NumPy write straight into place; the indexes are within bounds
                    np.take(source, local, axis=0, out=rows[target], mode="clip")
                else:
                    rows[target] = source[local]
        return from_stored(found[0]), from_stored(found[1])

    def release(self) -> None:
        """Unmap the shards; the next read maps them again.

        Pages that were read stay in the system's cache, which frees them when memory is short. But
        they no longer count as memory of this process.
        """
        self._map.cache_clear()

    def verify(self, progress: Progress) -> None:
        """Compare every shard's bytes with the manifest's checksum.

        Raises:
            StoreError: A shard differs; the message names it.
        """
        total = sum(shard.bytes for shard in self.manifest.shards)
        done = 0
        for shard in self.manifest.shards:
            progress("verify", done, total, "bytes")
            problem = shard.problem(self.folder, whole=True)
            if problem is not None:
                raise StoreError(f"shard {problem}: {_RESTORE}")
            done += shard.bytes
        progress("verify", done, total, "bytes")
