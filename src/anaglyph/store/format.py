"""The paired store on disk: a folder of safetensors shards and the manifest that vouches for them.

One shard holds whole sequences, and of them everything: ``base.L`` and ``tuned.L`` for every layer
L, ``token_ids``, ``roles``, ``sequence_offsets`` (from 0 within the shard) and, in float64, the
moments of each side and of their difference (``moments.base.L.mean``, ``moments.base.L.m2``).
``manifest.json`` names the shards that are whole. It exists from the first moment with the store's
key, so that a resumed run knows what it finds, and says ``complete`` once the last shard is in.

The safetensors layout (8-byte little-endian header length, JSON header, data) is written and parsed
here, because the library's own reader copies what it reads and cannot say where a tensor lies; any
safetensors reader opens the files.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Int64, Shaped
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from anaglyph.core.errors import InputError, StoreError
from anaglyph.core.files import check_regular, os_error_text, parse_json, read_json, write_json
from anaglyph.core.seals import Seal, signed, unsigned
from anaglyph.core.validation import validate

FORMAT = 1
MANIFEST = "manifest.json"
HEADER_BYTES = 100 * 2**20  # the limit of the safetensors library
SHARD_TOKENS = 65_536
SHARD_BYTES = 512 * 2**20  # a shard is built in memory: many layers make for fewer tokens

Side = Literal["base", "tuned"]
DType = Literal["float32", "bfloat16"]
TORCH_DTYPES: dict[DType, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}

_NAMES = {
    torch.float64: "F64",
    torch.int64: "I64",
    torch.float32: "F32",
    torch.int32: "I32",
    torch.bfloat16: "BF16",
    torch.uint8: "U8",
}
# NumPy has no bfloat16: its bits travel as uint16.
_VIEWS = {"F64": "<f8", "I64": "<i8", "F32": "<f4", "I32": "<i4", "BF16": "<u2", "U8": "u1"}


_Count = Annotated[int, Field(ge=0, lt=2**62)]
_Width = Annotated[int, Field(ge=1, lt=2**31)]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=False)


class Shard(_Record):
    """One file of the store.

    Attributes:
        name: File name inside the store's folder.
        first_sequence: Index of its first sequence in the store.
        tokens: Tokens it holds.
        sequences: Sequences it holds.
        bytes: Size of the file.
        checksum: ``anaglyph.core.files.file_digest`` of the file.
        sample: Digest of its sample (``anaglyph.core.seals``); None in stores of earlier versions.
    """

    name: str = Field(pattern=r"^shard-\d{5,}\.safetensors$")
    first_sequence: _Count
    tokens: _Count
    sequences: _Count
    bytes: _Count
    checksum: str
    sample: str | None = None

    def problem(self, folder: Path, whole: bool = False) -> str | None:
        """Return what is wrong with the file; None if it is as it was written.

        Args:
            folder: The store's folder.
            whole: Compare all bytes with the checksum, instead of size and sample.
        """
        path = folder / self.name
        if self.sample is None and not whole:
            size = path.stat().st_size if path.is_file() else None
            return None if size == self.bytes else f"{path} is missing or truncated"
        seal = Seal(size=self.bytes, digest=self.checksum, sample=self.sample or "")
        return seal.problem(path, whole)


class Manifest(_Record):
    """What a store holds.

    Attributes:
        format: Version of this format.
        key: Digest of all that determines the contents.
        dtype: Number type of the stored activations.
        layers: Layers held, ascending.
        widths: Width of base and of tuned.
        tokens: Tokens of the complete store.
        sequences: Sequences of the complete store.
        related: Whether the two sides have common coordinates, so that they can be subtracted.
        shards: The shards that are written, in the order of their tokens.
        complete: Whether these are all of them.
    """

    format: int = FORMAT
    key: str
    dtype: DType
    layers: tuple[_Count, ...] = Field(min_length=1)
    widths: tuple[_Width, _Width]
    tokens: _Count
    sequences: _Count
    related: bool = True
    shards: tuple[Shard, ...] = ()
    complete: bool = False

    @property
    def token_bytes(self) -> int:
        """Bytes that one token's activations take, both sides and all layers."""
        return len(self.layers) * sum(self.widths) * TORCH_DTYPES[self.dtype].itemsize


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of a store.

    Raises:
        StoreError: There is none, or it is damaged or of another format version.
    """
    path = folder / MANIFEST
    value = read_json(path)
    if isinstance(value, dict):
        value = unsigned(value, path)
    version = value.get("format") if isinstance(value, dict) else None
    if isinstance(version, int) and version != FORMAT:
        raise StoreError(f"{path} is of format {version}; this version reads format {FORMAT}")
    where = f"{path} is not a manifest of a paired store"
    manifest = validate(Manifest, value, where, StoreError)
    held = sum(shard.tokens for shard in manifest.shards)
    if manifest.complete and held != manifest.tokens:
        raise StoreError(f"{path} is damaged: {manifest.tokens} tokens, but shards of {held}")
    return manifest


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest, whole or not at all."""
    write_json(folder / MANIFEST, signed(manifest.model_dump(mode="json")))


def plan_shards(
    offsets: Int64[np.ndarray, " sequences_plus_one"], shard_tokens: int
) -> list[tuple[int, int]]:
    """Divide sequences into shards of at most ``shard_tokens`` tokens, in order.

    A sequence is never split: one longer than ``shard_tokens`` is a shard of its own.

    Returns:
        First and past-the-last sequence of every shard.
    """
    parts, first, sequences = [], 0, len(offsets) - 1
    while first < sequences:
        fitting = int(np.searchsorted(offsets, offsets[first] + shard_tokens, side="right")) - 1
        last = min(max(fitting, first + 1), sequences)
        parts.append((first, last))
        first = last
    return parts


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> tuple[int, str]:
    """Write a safetensors file; the same tensors always give the same bytes.

    Tensors are laid widest number type first, which aligns each to its own item size.

    Returns:
        Size of the file and its digest (as ``anaglyph.core.files.file_digest``).
    """
    ordered = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header, end = {}, 0
    for name in ordered:
        tensor, start = tensors[name], end
        end += tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    hasher = hashlib.blake2b(digest_size=16)
    with path.open("wb") as file:
        for part in (len(text).to_bytes(8, "little"), text):
            file.write(part)
            hasher.update(part)
        for name in ordered:
            data = tensors[name].contiguous().reshape(-1).view(torch.uint8).numpy().data
            file.write(data)
            hasher.update(data)
    return 8 + len(text) + end, hasher.hexdigest()


class Place(NamedTuple):
    """Where in a safetensors file a tensor lies: NumPy type, shape, first byte."""

    dtype: np.dtype
    shape: tuple[int, ...]
    start: int


def read_places(path: Path) -> dict[str, Place]:
    """Parse the header of a safetensors file.

    Raises:
        StoreError: The header is damaged, or a tensor reaches past the end of the file.
    """
    check_regular(path, StoreError)
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > min(size - 8, HEADER_BYTES):
                raise ValueError(f"its header claims {length} bytes")
            header = parse_json(file.read(length))
        places = {}
        for name, entry in header.items():
            start, end = (8 + length + _number(offset) for offset in entry["data_offsets"])
            shape = tuple(map(_number, entry["shape"]))
            place = Place(np.dtype(_VIEWS[entry["dtype"]]), shape, start)
            if end > size or end - start != math.prod(place.shape) * place.dtype.itemsize:
                raise ValueError(f"tensor {name} does not fit")
            places[name] = place
    except OSError as error:
        raise StoreError(f"cannot read shard {os_error_text(error, path)}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(f"shard {path} is damaged: {error}") from error
    return places


def _number(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} is not a size")
    return value


def map_tensors(path: Path) -> dict[str, Shaped[np.ndarray, "..."]]:
    """Map every tensor of a safetensors file into memory, read-only; bfloat16 as its uint16 bits.

    Nothing is read before it is used, and the system drops what was read when memory is short.
    """
    places = read_places(path)
    data = np.memmap(path, dtype=np.uint8, mode="r")
    views = {}
    for name, (dtype, shape, start) in places.items():
        end = start + math.prod(shape) * dtype.itemsize
        # a plain view: fancy indexing of np.memmap pays for its subclass on every call
        views[name] = data[start:end].view(np.ndarray).view(dtype).reshape(shape)
    return views


def check_dtype(dtype: str) -> DType:
    """Return ``dtype`` if activations can be stored in it.

    Raises:
        InputError: They cannot.
    """
    if dtype not in TORCH_DTYPES:
        raise InputError(f"dtype {dtype!r} is unknown: use {' or '.join(TORCH_DTYPES)}")
    return dtype


def to_stored(values: Tensor, dtype: DType) -> Tensor:
    """Convert activations to the number type they are stored in (rounded to the nearest)."""
    return values.detach().to(device="cpu", dtype=TORCH_DTYPES[dtype])


def from_stored(values: Shaped[np.ndarray, "..."]) -> Tensor:
    """View mapped-and-copied activations as a tensor of their stored type."""
    tensor = torch.from_numpy(values)
    return tensor.view(torch.bfloat16) if values.dtype == np.uint16 else tensor
