"""Shards that any safetensors reader opens, manifests that refuse what they should."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from anaglyph.core.errors import StoreError
from anaglyph.core.files import file_digest
from anaglyph.store.format import (
    FORMAT,
    Manifest,
    Shard,
    map_tensors,
    plan_shards,
    read_manifest,
    write_manifest,
    write_tensors,
)

TENSORS = {
    "a": torch.tensor([[1.5, -2.0]], dtype=torch.bfloat16),
    "b": torch.arange(3, dtype=torch.uint8),
    "c": torch.tensor([1.25], dtype=torch.float64),
    "d": torch.tensor([7, -8, 9], dtype=torch.int32),
    "e": torch.tensor([[0.1], [0.2]]),
    "f": torch.tensor([2**40]),
}
MANIFEST = Manifest(key="k", dtype="float32", layers=(2,), widths=(3, 4), tokens=5, sequences=2)
SHARD = Shard(
    name="shard-00000.safetensors", first_sequence=0, tokens=5, sequences=2, bytes=9, checksum="c"
)


def test_the_library_reads_what_we_write(tmp_path: Path):
    size, checksum = write_tensors(tmp_path / "x", TENSORS)
    assert (tmp_path / "x").stat().st_size == size
    assert file_digest(tmp_path / "x") == checksum
    found = load_file(tmp_path / "x")
    assert found.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)


def test_maps_are_the_same_numbers_and_cannot_be_written(tmp_path: Path):
    write_tensors(tmp_path / "x", TENSORS)
    maps = map_tensors(tmp_path / "x")
    for name in "bcdef":
        assert np.array_equal(maps[name], TENSORS[name].numpy())
    assert maps["a"].tolist() == [[0x3FC0, 0xC000]]  # 1.5 and -2 in bfloat16
    for view in maps.values():
        assert view.ctypes.data % view.dtype.itemsize == 0
        with pytest.raises(ValueError, match="read-only"):
            view[...] = 0


def test_the_order_in_which_tensors_are_given_does_not_matter(tmp_path: Path):
    write_tensors(tmp_path / "x", TENSORS)
    write_tensors(tmp_path / "y", dict(reversed(TENSORS.items())))
    assert (tmp_path / "x").read_bytes() == (tmp_path / "y").read_bytes()


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:20],
        lambda data: b"\xff" * 8 + data[8:],
        lambda data: data[:8] + b"[" + data[9:],
        lambda data: data.replace(b'"F64"', b'"F16"'),
        lambda data: data.replace(b'"shape":[3]', b'"shape":[4]'),
        lambda data: data[:-1],
        lambda data: data[:8] + b"\xff" + data[9:],
    ],
)
def test_a_damaged_shard_is_named(tmp_path: Path, damage):
    path = tmp_path / "shard-00003.safetensors"
    write_tensors(path, TENSORS)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(StoreError, match=r"shard-00003\.safetensors is damaged"):
        map_tensors(path)


def test_shards_planned_by_hand():
    offsets = np.array([0, 4, 6, 16, 17, 20])
    assert plan_shards(offsets, 6) == [(0, 2), (2, 3), (3, 5)]
    assert plan_shards(offsets, 1) == [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5)]
    assert plan_shards(offsets, 100) == [(0, 5)]


@given(st.lists(st.integers(1, 9), min_size=1, max_size=40), st.integers(1, 30))
def test_shards_are_whole_sequences_and_as_full_as_they_can_be(lengths: list[int], limit: int):
    offsets = np.concatenate(([0], np.cumsum(lengths)))
    parts = plan_shards(offsets, limit)
    assert [sequence for part in parts for sequence in range(*part)] == list(range(len(lengths)))
    for first, last in parts:
        assert offsets[last] - offsets[first] <= max(limit, lengths[first])
        if last < len(lengths):
            assert offsets[last + 1] - offsets[first] > limit


def test_a_manifest_comes_back_as_it_was(tmp_path: Path):
    manifest = MANIFEST.model_copy(update={"shards": (SHARD,), "complete": True})
    write_manifest(tmp_path, manifest)
    assert read_manifest(tmp_path) == manifest
    assert manifest.token_bytes == 28


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": FORMAT + 1}, f"is of format {FORMAT + 1}; this version reads format {FORMAT}"),
        ({"tokens": "many"}, "tokens: "),
        ({"extra": 1}, "extra: "),
        ({"dtype": "float8"}, "dtype: "),
        ({"complete": True}, "5 tokens, but shards of 0"),
    ],
)
def test_a_manifest_that_cannot_be_used_is_refused(tmp_path: Path, change: dict, message: str):
    value = {**MANIFEST.model_dump(mode="json"), **change}
    (tmp_path / "manifest.json").write_text(json.dumps(value))
    with pytest.raises(StoreError, match=message):
        read_manifest(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"name": "an extension of a browser"}'])
def test_a_file_that_is_no_manifest_is_refused(tmp_path: Path, text: str):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(StoreError, match=r"manifest\.json is"):
        read_manifest(tmp_path)
