"""Make a store from arrays: checked before anything is written, keyed by their contents."""

import hashlib
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from anaglyph.core.errors import InputError
from anaglyph.core.files import digest
from anaglyph.core.progress import Progress
from anaglyph.corpus import ROLES
from anaglyph.store.format import FORMAT, DType, Manifest, check_dtype, to_stored
from anaglyph.store.writer import StoreWriter, Tokens, is_finished

# Shapes are checked in the code, so that the error names the wrong array.
Activations = np.ndarray | Tensor
_CHUNK = 8192
_LAYER = 0


def write_arrays(
    base: Activations,
    tuned: Activations,
    folder: Path,
    *,
    token_ids: np.ndarray | Tensor | None,
    sequence_ids: np.ndarray | Tensor | None,
    roles: np.ndarray | Tensor | None,
    dtype: str,
    shard_tokens: int,
    progress: Progress,
) -> None:
    """Write a store of one layer, numbered 0; see ``PairedStore.from_arrays``."""
    kind = check_dtype(dtype)
    sides = {"base": base, "tuned": tuned}
    for name, array in sides.items():
        _check_shape(name, array)
    if len(base) != len(tuned):
        raise InputError(f"base has {len(base)} tokens, tuned has {len(tuned)}")
    tokens = Tokens(
        _per_token("token_ids", token_ids, len(base), 0, 2**31 - 1).astype(np.int32),
        _per_token("roles", roles, len(base), ROLES.index("text"), len(ROLES) - 1).astype(np.uint8),
        _sequence_offsets(sequence_ids, len(base)),
    )
    contents = {name: _hash_activations(name, array, kind) for name, array in sides.items()}
    contents |= {name: _hash(array) for name, array in tokens._asdict().items()}
    manifest = Manifest(
        key=digest({**contents, "dtype": kind, "format": FORMAT}),
        dtype=kind,
        layers=(_LAYER,),
        widths=(int(base.shape[1]), int(tuned.shape[1])),
        tokens=len(base),
        sequences=len(tokens.offsets) - 1,
    )
    if is_finished(folder, manifest.key):
        return
    with StoreWriter(folder, manifest, tokens, shard_tokens) as writer:
        for part in writer.missing():
            progress("write activations", part.tokens.start, len(base))
            before, after = (to_stored(_rows(array, part.tokens), kind) for array in sides.values())
            writer.write(part, {_LAYER: before}, {_LAYER: after})
    progress("write activations", len(base), len(base))


def _check_shape(name: str, array: Activations) -> None:
    floating = (
        array.is_floating_point()
        if isinstance(array, Tensor)
        else np.issubdtype(array.dtype, np.floating)
    )
    if not floating:
        raise InputError(f"{name} must hold floating-point numbers, not {array.dtype}")
    if array.ndim != 2:
        raise InputError(f"{name} must be [tokens, d], but has shape {list(array.shape)}")
    if 0 in array.shape:
        raise InputError(f"{name} is empty: its shape is {list(array.shape)}")


def _rows(array: Activations, rows: slice) -> Tensor:
    part = array[rows]
    # a copy, because torch warns of arrays that it may not write to, such as memory maps
    return part if isinstance(part, Tensor) else torch.from_numpy(np.array(part))


def _hash_activations(name: str, array: Activations, dtype: DType) -> str:
    """Digest the activations as they will be stored, refusing what cannot be used."""
    hasher = hashlib.blake2b(digest_size=16)
    hasher.update(str(list(array.shape)).encode())
    for start in range(0, len(array), _CHUNK):
        chunk = to_stored(_rows(array, slice(start, start + _CHUNK)), dtype).contiguous()
        finite = torch.isfinite(chunk).all(dim=1)
        if not finite.all():
            row = start + int((~finite).nonzero()[0])
            raise InputError(f"{name} has NaN, inf or a number too large for {dtype} in row {row}")
        hasher.update(chunk.view(torch.uint8).numpy().data)
    return hasher.hexdigest()


def _hash(array: np.ndarray) -> str:
    return hashlib.blake2b(np.ascontiguousarray(array).data, digest_size=16).hexdigest()


def _per_token(
    name: str, given: np.ndarray | Tensor | None, tokens: int, default: int, highest: int
) -> np.ndarray:
    if given is None:
        return np.full(tokens, default)
    array = _integers(name, given, tokens)
    if array.min() < 0 or array.max() > highest:
        row = int(np.flatnonzero((array < 0) | (array > highest))[0])
        raise InputError(f"{name} must be 0 to {highest}, but row {row} has {array[row]}")
    return array


def _sequence_offsets(
    given: np.ndarray | Tensor | None, tokens: int
) -> Int64[np.ndarray, " sequences_plus_one"]:
    if given is None:
        return np.arange(tokens + 1)
    ids = _integers("sequence_ids", given, tokens)
    starts = np.concatenate(([0], np.flatnonzero(ids[1:] != ids[:-1]) + 1))
    _, first, run = np.unique(ids[starts], return_index=True, return_inverse=True)
    again = np.flatnonzero(first[run] != np.arange(len(starts)))
    if again.size:
        row = starts[again[0]]
        raise InputError(
            f"sequence_ids must be contiguous, but sequence {ids[row]} comes again in row {row}"
        )
    return np.append(starts, tokens).astype(np.int64)


def _integers(name: str, given: np.ndarray | Tensor, tokens: int) -> np.ndarray:
    array = given.cpu().numpy() if isinstance(given, Tensor) else given
    if array.shape != (tokens,):
        raise InputError(f"{name} must have shape [{tokens}], not {list(array.shape)}")
    if not np.issubdtype(array.dtype, np.integer):
        raise InputError(f"{name} must hold integers, not {array.dtype}")
    return array
