"""Write a paired store shard by shard, so that a killed run loses at most the unfinished shard.

A shard appears under its name only when it is complete, and counts only once the manifest lists it.
So there is always a manifest, the shards it lists, and leftovers that the next run deletes. The
bytes depend only on the contents: a resumed store equals one written without interruption.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int32, Int64, UInt8
from torch import Tensor

from anaglyph.core.errors import InputError, StoreError
from anaglyph.core.files import atomic_path, remove_temporaries, told
from anaglyph.core.lock import locked
from anaglyph.core.seals import sample_digest
from anaglyph.store.format import (
    MANIFEST,
    SHARD_BYTES,
    Manifest,
    Shard,
    plan_shards,
    read_manifest,
    write_manifest,
    write_tensors,
)
from anaglyph.store.moments import Moments

_SHARDS = "shard-*.safetensors"


class Tokens(NamedTuple):
    """The tokens of a store: what is known before any activation."""

    token_ids: Int32[np.ndarray, " tokens"]
    roles: UInt8[np.ndarray, " tokens"]
    offsets: Int64[np.ndarray, " sequences_plus_one"]


@dataclass(frozen=True)
class Part:
    """One planned shard: its place in the plan, and its sequences and tokens in the store."""

    index: int
    sequences: slice
    tokens: slice

    @property
    def name(self) -> str:
        """The shard's file name."""
        return f"shard-{self.index:05d}.safetensors"

    @property
    def n_tokens(self) -> int:
        """Tokens that the shard holds."""
        return self.tokens.stop - self.tokens.start

    @property
    def plan(self) -> list[int]:
        """It as numbers, for another process; ``Part.of`` reads them."""
        ends = (self.sequences.start, self.sequences.stop, self.tokens.start, self.tokens.stop)
        return [self.index, *map(int, ends)]

    @classmethod
    def of(cls, plan: list[int]) -> "Part":
        """Return the part that ``plan`` wrote."""
        index, *ends = plan
        return cls(index, slice(*ends[:2]), slice(*ends[2:]))

    @property
    def entry(self) -> tuple[str, int, int, int]:
        """Its entry in the manifest: name, first sequence, sequences, tokens."""
        first, last = self.sequences.start, self.sequences.stop
        return self.name, first, last - first, self.n_tokens


class StoreWriter(AbstractContextManager["StoreWriter"]):
    """Fill the folder of one store; the folder is locked while open.

    Args:
        folder: The store's folder; created if missing.
        manifest: What the store will contain, without shards.
        tokens: Its tokens.
        shard_tokens: Maximum tokens per shard (fewer if that would exceed ``SHARD_BYTES``).

    Raises:
        StoreError: The folder has other contents, or another process is writing to it.
    """

    def __init__(self, folder: Path, manifest: Manifest, tokens: Tokens, shard_tokens: int) -> None:
        if not isinstance(shard_tokens, int | float) or shard_tokens < 1:
            raise InputError(f"shard_tokens is {shard_tokens}: a shard needs at least 1 token")
        self.folder, self.tokens = folder, tokens
        self._manifest = manifest
        limit = max(1, min(shard_tokens, SHARD_BYTES // manifest.token_bytes))
        self.parts = [
            Part(index, slice(*ends), slice(*(int(tokens.offsets[end]) for end in ends)))
            for index, ends in enumerate(plan_shards(tokens.offsets, limit))
        ]
        self._done: dict[int, Shard] = {}

    def __enter__(self) -> "StoreWriter":
        with told(self.folder), ExitStack() as stack:
            stack.enter_context(locked(self.folder))
            self._adopt()
            self._open = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._open.close()

    def _adopt(self) -> None:
        """Keep complete shards of an earlier run of the same store; delete the rest."""
        remove_temporaries(self.folder)
        if (self.folder / MANIFEST).exists():
            found = _read_own(self.folder, self._manifest.key)
            planned = {part.entry: part.index for part in self.parts}
            for shard in found.shards:
                entry = (shard.name, shard.first_sequence, shard.sequences, shard.tokens)
                if entry in planned and shard.problem(self.folder) is None:
                    self._done[planned[entry]] = shard
        elif any(self.folder.glob(_SHARDS)):
            raise StoreError(
                f"{self.folder} holds shards without a {MANIFEST}, which says what they are: put "
                "it back, or delete the folder and run the same command again"
            )
        self._save()
        kept = {shard.name for shard in self._done.values()}
        for path in self.folder.glob(_SHARDS):
            if path.name not in kept:
                path.unlink()

    def _save(self) -> None:
        shards = tuple(self._done[index] for index in sorted(self._done))
        complete = len(shards) == len(self.parts)
        write_manifest(
            self.folder, self._manifest.model_copy(update={"shards": shards, "complete": complete})
        )

    def missing(self) -> list[Part]:
        """List the planned shards that are missing, in order."""
        return [part for part in self.parts if part.index not in self._done]

    def add(self, part: Part, shard: Shard) -> None:
        """List a finished shard in the manifest."""
        self._done[part.index] = shard
        self._save()

    def write(
        self,
        part: Part,
        base: Mapping[int, Float[Tensor, "tokens d_base"]],
        tuned: Mapping[int, Float[Tensor, "tokens d_tuned"]],
    ) -> None:
        """Write one shard and list it in the manifest; arguments and errors as `write_shard`."""
        self.add(part, write_shard(self.folder, self.tokens, part, base, tuned))


def write_shard(
    folder: Path,
    tokens: Tokens,
    part: Part,
    base: Mapping[int, Float[Tensor, "tokens d_base"]],
    tuned: Mapping[int, Float[Tensor, "tokens d_tuned"]],
) -> Shard:
    """Write one shard; return its entry for the manifest.

    Args:
        folder: The store's folder.
        tokens: Tokens of the whole store.
        part: One of ``missing()``.
        base: Activations of the base by layer, already of the stored number type.
        tuned: Those of the tuned model.

    Raises:
        StoreError: The file cannot be written, for example because the disk is full.
    """
    starts = tokens.offsets[part.sequences.start : part.sequences.stop + 1]
    tensors = {
        "token_ids": torch.from_numpy(np.array(tokens.token_ids[part.tokens])),
        "roles": torch.from_numpy(np.array(tokens.roles[part.tokens])),
        "sequence_offsets": torch.from_numpy(starts - starts[0]),
    }
    for layer in sorted(base):
        tensors[f"base.{layer}"] = base[layer]
        tensors[f"tuned.{layer}"] = tuned[layer]
        for name, moments in _moments(base[layer], tuned[layer]).items():
            tensors[f"moments.{name}.{layer}.mean"] = torch.from_numpy(moments.mean)
            tensors[f"moments.{name}.{layer}.m2"] = torch.from_numpy(moments.m2)
    path = folder / part.name
    with atomic_path(path) as temporary:
        size, checksum = write_tensors(temporary, tensors)
    with told(path):
        sample = sample_digest(path, checksum)
    name, first, sequences, count = part.entry
    return Shard(
        name=name,
        first_sequence=first,
        sequences=sequences,
        tokens=count,
        bytes=size,
        checksum=checksum,
        sample=sample,
    )


def is_finished(folder: Path, key: str) -> bool:
    """Return whether the folder has the complete store of this key.

    Raises:
        StoreError: It has another store.
    """
    if not (folder / MANIFEST).exists():
        return False
    found = _read_own(folder, key)
    return found.complete and all(shard.problem(folder) is None for shard in found.shards)


def _read_own(folder: Path, key: str) -> Manifest:
    found = read_manifest(folder)
    if found.key != key:
        raise StoreError(
            f"{folder} holds a store of other models, data or settings; "
            "choose another folder, or delete it"
        )
    return found


def discard(folder: Path) -> None:
    """Delete a store whose manifest is damaged or lost, so that it can be made again."""
    with locked(folder):
        for path in (folder / MANIFEST, *folder.glob(_SHARDS)):
            with told(path):
                path.unlink(missing_ok=True)


def drop_damaged(folder: Path) -> None:
    """Compare every byte of a store with its checksums, and delete the damaged shards."""
    if (folder / MANIFEST).exists():
        with locked(folder):
            for shard in read_manifest(folder).shards:
                if shard.problem(folder, whole=True) is not None:
                    with told(folder):
                        (folder / shard.name).unlink(missing_ok=True)


def _moments(base: Tensor, tuned: Tensor) -> dict[str, Moments]:
    found = {"base": Moments.of(base), "tuned": Moments.of(tuned)}
    if base.shape == tuned.shape:
        found["difference"] = Moments.of_difference(base, tuned)
    return found
