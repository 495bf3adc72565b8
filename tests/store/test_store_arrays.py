"""From arrays to a store: what goes in comes out, what cannot be used is refused before writing."""

import errno
import re
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from store_cases import contents, numbered, numbered_store

from anaglyph.core.errors import InputError, StoreError
from anaglyph.corpus import ROLES
from anaglyph.store import PairedStore, writer


@given(
    lengths=st.lists(st.integers(1, 7), min_size=1, max_size=30),
    widths=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    shard_tokens=st.integers(1, 60),
    dtype=st.sampled_from(["float32", "bfloat16"]),
    seed=st.integers(0, 99),
)
def test_what_goes_in_comes_out(lengths, widths, shard_tokens, dtype, seed):
    generator = np.random.default_rng(seed)
    tokens = sum(lengths)
    base, tuned = (generator.normal(size=(tokens, d)).astype(np.float32) for d in widths)
    token_ids = generator.integers(0, 2**31, tokens)
    roles = generator.integers(0, len(ROLES), tokens)
    with TemporaryDirectory() as out:
        store = PairedStore.from_arrays(
            base,
            tuned,
            out,
            token_ids=token_ids,
            sequence_ids=np.repeat(generator.permutation(len(lengths)), lengths),
            roles=roles,
            dtype=dtype,
            shard_tokens=shard_tokens,
        )
        kind = getattr(torch, dtype)
        found = store.gather(np.arange(tokens))
        assert torch.equal(found[0], torch.from_numpy(base).to(kind).float())
        assert torch.equal(found[1], torch.from_numpy(tuned).to(kind).float())
        assert (store.d_base, store.d_tuned) == widths
        assert (store.n_tokens, store.n_sequences) == (tokens, len(lengths))
        assert store.dtype == dtype
        assert store.layers == (0,)
        assert store.token_ids.tolist() == token_ids.tolist()
        assert store.roles.tolist() == roles.tolist()
        assert np.diff(store.sequence_offsets).tolist() == lengths
        assert (store.statistics.difference is None) == (widths[0] != widths[1])
        store.verify()


def test_bfloat16_rounds_to_the_nearest_and_ties_to_even(tmp_path: Path):
    step = 2.0**-7  # between bfloat16 numbers from 1 to 2
    given = np.array([[1 + 0.4 * step], [1 + 0.6 * step], [1 + 0.5 * step], [1 + 1.5 * step]])
    store = PairedStore.from_arrays(given, given, tmp_path / "s", dtype="bfloat16")
    assert store.gather(np.arange(4))[0].tolist() == [[1.0], [1 + step], [1.0], [1 + 2 * step]]


def test_what_is_not_given_has_a_plain_meaning(tmp_path: Path):
    store = PairedStore.from_arrays(numbered(3), numbered(3), tmp_path / "s")
    assert store.token_ids.tolist() == [0, 0, 0]
    assert [ROLES[code] for code in store.roles] == ["text"] * 3
    assert store.sequence_offsets.tolist() == [0, 1, 2, 3]


def test_tensors_and_read_only_arrays_make_the_same_store(tmp_path: Path):
    base, tuned = numbered(30), numbered(30, start=7)
    of_arrays = PairedStore.from_arrays(base, tuned, tmp_path / "arrays", shard_tokens=8)
    of_tensors = PairedStore.from_arrays(
        torch.from_numpy(base), torch.from_numpy(tuned), tmp_path / "tensors", shard_tokens=8
    )
    np.save(tmp_path / "base.npy", base)
    mapped = PairedStore.from_arrays(
        np.load(tmp_path / "base.npy", mmap_mode="r"), tuned, tmp_path / "mapped", shard_tokens=8
    )
    assert of_arrays.key == of_tensors.key == mapped.key
    assert contents(of_arrays.path) == contents(of_tensors.path) == contents(mapped.path)


def test_the_same_again_writes_nothing(tmp_path: Path):
    store = numbered_store(tmp_path / "s", 100)
    before = {path: path.stat().st_mtime_ns for path in store.path.iterdir()}
    assert numbered_store(tmp_path / "s", 100, shard_tokens=64).key == store.key
    assert numbered_store(tmp_path / "s", 100, shard_tokens=20).key == store.key
    assert {path: path.stat().st_mtime_ns for path in store.path.iterdir()} == before


@pytest.mark.parametrize(
    "changes",
    [
        {"base": numbered(6, start=1)},
        {"tuned": numbered(6, start=1)},
        {"token_ids": np.arange(6)},
        {"roles": np.zeros(6, int)},
        {"sequence_ids": np.zeros(6, int)},
        {"dtype": "bfloat16"},
    ],
)
def test_other_contents_never_replace_a_store(tmp_path: Path, changes: dict):
    arrays = {"base": numbered(6), "tuned": numbered(6), "out": tmp_path / "s"}
    PairedStore.from_arrays(**arrays)
    before = contents(tmp_path / "s")
    with pytest.raises(StoreError, match=re.escape(str(tmp_path / "s"))):
        PairedStore.from_arrays(**arrays | changes)
    assert contents(tmp_path / "s") == before


def test_the_key_tells_base_from_tuned(tmp_path: Path):
    base, tuned = numbered(6), numbered(6, start=1)
    one = PairedStore.from_arrays(base, tuned, tmp_path / "one")
    other = PairedStore.from_arrays(tuned, base, tmp_path / "other")
    assert one.key != other.key


def with_bad(row: int, value: float, dtype: type = np.float32) -> np.ndarray:
    array = numbered(6).astype(dtype)
    array[row, 1] = value
    return array


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tuned": with_bad(4, np.nan)}, "tuned has NaN, inf or a number too large .* in row 4"),
        ({"base": with_bad(2, -np.inf)}, "base has NaN.* in row 2"),
        ({"base": with_bad(1, 1e39, np.float64)}, "base has NaN.* in row 1"),
        ({"base": with_bad(1, 3.4e38), "dtype": "bfloat16"}, "too large for bfloat16 in row 1"),
        ({"base": numbered(5)}, "base has 5 tokens, tuned has 6"),
        ({"base": numbered(6)[0]}, r"base must be \[tokens, d\], but has shape \[3\]"),
        ({"tuned": np.zeros((6, 3), int)}, "tuned must hold floating-point numbers"),
        ({"tuned": torch.zeros(6, 3, dtype=torch.int32)}, "tuned must hold floating-point"),
        ({"base": numbered(0), "tuned": numbered(0)}, r"base is empty: its shape is \[0, 3\]"),
        ({"token_ids": np.arange(5)}, r"token_ids must be \[6\], but has shape \[5\]"),
        ({"token_ids": np.array([0, 1, -2, 3, 4, 5])}, "token_ids .* row 2 has -2"),
        ({"token_ids": np.arange(6) + 2**31}, "token_ids .* row 0 has 2147483648"),
        ({"token_ids": np.zeros(6)}, "token_ids must hold integers"),
        ({"roles": np.full(6, 8)}, "roles must be 0 to 7, but row 0 has 8"),
        ({"sequence_ids": np.array([3, 3, 1, 1, 3, 2])}, "sequence 3 comes again in row 4"),
        (
            {"sequence_ids": np.zeros((6, 1), int)},
            r"sequence_ids must be \[6\]",
        ),
        ({"dtype": "int8"}, "dtype 'int8' is unknown: use float32 or bfloat16"),
        ({"shard_tokens": 0}, "shard_tokens is 0"),
    ],
)
def test_bad_input_is_named_and_leaves_nothing(tmp_path: Path, changes: dict, message: str):
    arrays = {"base": numbered(6), "tuned": numbered(6, start=1), "out": tmp_path / "s"}
    with pytest.raises(InputError, match=message):
        PairedStore.from_arrays(**arrays | changes)
    assert not (tmp_path / "s").exists()


def test_a_full_disk_is_one_clear_line_and_can_be_resumed(tmp_path: Path, monkeypatch):
    unbroken = numbered_store(tmp_path / "unbroken", 100, shard_tokens=30)
    written = writer.write_tensors

    def fill(path: Path, tensors):
        if "00002" in path.name:
            path.write_bytes(b"half a shard")
            raise OSError(errno.ENOSPC, "No space left on device")
        return written(path, tensors)

    monkeypatch.setattr(writer, "write_tensors", fill)
    with pytest.raises(StoreError, match=r"shard-00002\.safetensors: No space left on device"):
        numbered_store(tmp_path / "s", 100, shard_tokens=30)
    assert sorted(contents(tmp_path / "s")) == [
        "manifest.json", "shard-00000.safetensors", "shard-00001.safetensors",
    ]  # fmt: skip
    with pytest.raises(StoreError, match="unfinished"):
        PairedStore.open(tmp_path / "s")
    monkeypatch.setattr(writer, "write_tensors", written)
    numbered_store(tmp_path / "s", 100, shard_tokens=30)
    assert contents(tmp_path / "s") == contents(unbroken.path)
