"""Write a paired store shard by shard, so that a killed run loses at most the unfinished shard.

A shard appears under its name only when it is complete, and counts only once the manifest lists it.
So there is always a manifest, the shards it lists, and leftovers that the next run deletes. The
bytes depend only on the contents: a resumed store equals one written without interruption.
"""

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int32, Int64, UInt8
from torch import Tensor

from anaglyph.core.errors import InputError, StoreError
from anaglyph.core.files import atomic_path
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

if sys.platform != "win32":
    import fcntl

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
        if shard_tokens < 1:
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
        with _told(self.folder), ExitStack() as stack:
            self.folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(_locked(self.folder))
            self._adopt()
            self._open = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._open.close()

    def _adopt(self) -> None:
        """Keep complete shards of an earlier run of the same store; delete the rest."""
        for name in (_SHARDS, MANIFEST):
            for leftover in self.folder.glob(f".{name}.*.tmp"):
                leftover.unlink()
        if (self.folder / MANIFEST).exists():
            found = _read_own(self.folder, self._manifest.key)
            planned = {part.entry: part.index for part in self.parts}
            for shard in found.shards:
                entry = (shard.name, shard.first_sequence, shard.sequences, shard.tokens)
                if entry in planned and shard.whole(self.folder):
                    self._done[planned[entry]] = shard
        elif any(self.folder.glob(_SHARDS)):
            raise StoreError(f"{self.folder} holds shards without a manifest: not touched")
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

    def write(
        self,
        part: Part,
        base: Mapping[int, Float[Tensor, "tokens d_base"]],
        tuned: Mapping[int, Float[Tensor, "tokens d_tuned"]],
    ) -> None:
        """Write one shard and list it in the manifest.

        Args:
            part: One of ``missing()``.
            base: Activations of the base by layer, already of the stored number type.
            tuned: Those of the tuned model.

        Raises:
            StoreError: The file cannot be written, for example because the disk is full.
        """
        starts = self.tokens.offsets[part.sequences.start : part.sequences.stop + 1]
        tensors = {
            "token_ids": torch.from_numpy(np.array(self.tokens.token_ids[part.tokens])),
            "roles": torch.from_numpy(np.array(self.tokens.roles[part.tokens])),
            "sequence_offsets": torch.from_numpy(starts - starts[0]),
        }
        for layer in self._manifest.layers:
            tensors[f"base.{layer}"] = base[layer]
            tensors[f"tuned.{layer}"] = tuned[layer]
            for name, moments in _moments(base[layer], tuned[layer]).items():
                tensors[f"moments.{name}.{layer}.mean"] = torch.from_numpy(moments.mean)
                tensors[f"moments.{name}.{layer}.m2"] = torch.from_numpy(moments.m2)
        path = self.folder / part.name
        with _told(path):
            with atomic_path(path) as temporary:
                size, checksum = write_tensors(temporary, tensors)
            name, first, sequences, count = part.entry
            self._done[part.index] = Shard(
                name=name,
                first_sequence=first,
                sequences=sequences,
                tokens=count,
                bytes=size,
                checksum=checksum,
            )
            self._save()


def is_finished(folder: Path, key: str) -> bool:
    """Return whether the folder has the complete store of this key.

    Raises:
        StoreError: It has another store.
    """
    if not (folder / MANIFEST).exists():
        return False
    found = _read_own(folder, key)
    return found.complete and all(shard.whole(folder) for shard in found.shards)


def _read_own(folder: Path, key: str) -> Manifest:
    found = read_manifest(folder)
    if found.key != key:
        raise StoreError(
            f"{folder} holds a store of other models, data or settings; "
            "choose another folder, or delete it"
        )
    return found


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep other processes from writing here; the lock ends with the process and leaves no file."""
    if sys.platform == "win32":
        yield
        return
    opened = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise StoreError(f"another process is writing to {folder}") from error
    finally:
        os.close(opened)


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Turn an error of the file system into one clear line."""
    try:
        yield
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror or error}") from error


def _moments(base: Tensor, tuned: Tensor) -> dict[str, Moments]:
    found = {"base": Moments.of(base), "tuned": Moments.of(tuned)}
    if base.shape == tuned.shape:
        found["difference"] = Moments.of_difference(base, tuned)
    return found
