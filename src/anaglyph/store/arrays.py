"""Make a store from arrays: checked before anything is written, keyed by their contents."""

import hashlib
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from anaglyph.core.arrays import Array, check_floats, from_numpy, integers
from anaglyph.core.errors import InputError
from anaglyph.core.files import digest
from anaglyph.core.progress import Progress
from anaglyph.corpus import ROLES
from anaglyph.store.format import FORMAT, DType, Manifest, to_stored
from anaglyph.store.writer import StoreWriter, Tokens, is_finished

_CHUNK = 8192


def tokens_of(
    n_tokens: int,
    token_ids: Array | None = None,
    sequence_ids: Array | None = None,
    roles: Array | None = None,
) -> Tokens:
    """Return what is known of each token, checked; see ``PairedStore.from_arrays``."""
    text, last = ROLES.index("text"), len(ROLES) - 1
    return Tokens(
        _per_token("token_ids", token_ids, n_tokens, 0, 2**31 - 1).astype(np.int32),
        _per_token("roles", roles, n_tokens, text, last).astype(np.uint8),
        _sequence_offsets(sequence_ids, n_tokens),
    )


def check_sides(base: Array, tuned: Array) -> None:
    """Refuse activations that are not [tokens, d_base] and [tokens, d_tuned].

    Raises:
        InputError: The message names the array and the expected shape.
    """
    for name, array in (("base", base), ("tuned", tuned)):
        check_floats(name, array)
        if 0 in array.shape:
            raise InputError(f"{name} is empty: its shape is {list(array.shape)}")
    if len(base) != len(tuned):
        raise InputError(f"base has {len(base)} tokens, tuned has {len(tuned)}")


def write_arrays(
    base_and_tuned: tuple[Array, Array],
    tokens: Tokens,
    folder: Path,
    *,
    dtype: DType,
    layer: int,
    shard_tokens: int,
    progress: Progress,
) -> None:
    """Write a store of one layer; see ``PairedStore.from_arrays``."""
    base, tuned = base_and_tuned
    sides, kind = {"base": base, "tuned": tuned}, dtype
    if not isinstance(layer, int) or layer < 0:
        raise InputError(f"layer is {layer!r}: it must be a whole number of at least 0")
    of_layer = {"layer": layer} if layer else {}
    contents = {name: _hash_activations(name, array, kind) for name, array in sides.items()}
    contents |= {name: _hash(array) for name, array in tokens._asdict().items()}
    manifest = Manifest(
        key=digest({**contents, **of_layer, "dtype": kind, "format": FORMAT}),
        dtype=kind,
        layers=(layer,),
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
            writer.write(part, {layer: before}, {layer: after})
    progress("write activations", len(base), len(base))


def _rows(array: Array, rows: slice) -> Tensor:
    part = array[rows]
    return part if isinstance(part, Tensor) else from_numpy(part)


def _hash_activations(name: str, array: Array, dtype: DType) -> str:
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
    name: str, given: Array | None, tokens: int, default: int, highest: int
) -> np.ndarray:
    if given is None:
        return np.full(tokens, default)
    array = _integers(name, given, tokens)
    if array.min() < 0 or array.max() > highest:
        row = int(np.flatnonzero((array < 0) | (array > highest))[0])
        raise InputError(f"{name} must be 0 to {highest}, but row {row} has {array[row]}")
    return array


def _sequence_offsets(given: Array | None, tokens: int) -> Int64[np.ndarray, " sequences_plus_one"]:
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


def _integers(name: str, given: Array, tokens: int) -> np.ndarray:
    array = integers(name, given, f"[{tokens}]").cpu().numpy()
    if array.shape != (tokens,):
        raise InputError(f"{name} must be [{tokens}], but has shape {list(array.shape)}")
    return array
