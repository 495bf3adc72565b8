"""Reading: any rows in any order, subsets, shuffled batches, statistics, and damage that shows."""

import re
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from store_cases import numbered, numbered_store

from anaglyph.core.errors import InputError, StoreError
from anaglyph.core.seals import Seal
from anaglyph.corpus import split_mask
from anaglyph.store import PairedStore, reader

TOKENS = 700


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> PairedStore:
    """700 tokens in 70 sequences and 12 shards."""
    return numbered_store(tmp_path_factory.mktemp("reading") / "s", TOKENS)


def counted(batch: tuple[torch.Tensor, torch.Tensor]) -> list[int]:
    """Which tokens a batch has; checks that the two sides have the same."""
    base, tuned = batch
    assert base.dtype == tuned.dtype == torch.float32
    assert torch.equal(tuned[:, 0] - 100_000, base[:, 0])
    return base[:, 0].int().tolist()


@given(st.lists(st.integers(0, TOKENS - 1), max_size=50))
def test_gather_keeps_any_order(store: PairedStore, index: list[int]):
    base, tuned = store.gather(np.array(index, np.int64))
    assert torch.equal(base, torch.from_numpy(numbered(TOKENS)[index]))
    assert torch.equal(tuned, torch.from_numpy(numbered(TOKENS, start=100_000)[index]))


def test_gather_takes_tensors(store: PairedStore):
    assert counted(store.gather(torch.tensor([650, 3, 3, 70]))) == [650, 3, 3, 70]


@pytest.mark.parametrize("wrong", [-1, TOKENS])
def test_gather_names_an_index_that_is_not_there(store: PairedStore, wrong: int):
    with pytest.raises(InputError, match=f"token index {wrong} is not within 0 to 699"):
        store.gather(np.array([5, wrong]))


def test_the_split_is_that_of_the_corpus(store: PairedStore):
    assert np.array_equal(store.heldout, split_mask(70))


@pytest.mark.parametrize("size", [1, 7, 64, 700, 5000])
def test_blocks_are_the_subset_in_order(store: PairedStore, size: int):
    heldout = store.heldout[store.sequence_of_tokens()]
    expected = {"all": np.ones(TOKENS, bool), "train": ~heldout, "heldout": heldout}
    for subset, mask in expected.items():
        blocks = list(store.blocks(subset, tokens=size))  # pyright: ignore[reportArgumentType]
        assert all(len(block.tokens) == size for block in blocks[:-1])
        tokens = np.concatenate([block.tokens for block in blocks])
        assert tokens.tolist() == np.flatnonzero(mask).tolist()
        for block in blocks:
            assert counted((block.base, block.tuned)) == block.tokens.tolist()


def test_sequences_of_tokens(store: PairedStore):
    assert store.sequence_of_tokens().tolist() == (np.arange(TOKENS) // 10).tolist()


@given(batch=st.integers(1, 900), buffer=st.integers(1, 800), seed=st.integers(0, 9))
def test_an_epoch_of_batches_has_every_training_token_once(
    store: PairedStore, batch: int, buffer: int, seed: int
):
    train = np.flatnonzero(~store.heldout[store.sequence_of_tokens()]).tolist()
    taken: list[int] = []
    for one in store.batches(batch, seed, buffer=buffer):
        assert len(one[0]) == batch
        taken += counted(one)
        if len(taken) >= 2 * len(train):
            break
    assert sorted(taken[: len(train)]) == train
    assert sorted(taken[len(train) : 2 * len(train)]) == train


@given(
    batch=st.integers(1, 900),
    skip=st.integers(0, 12),
    buffer=st.integers(1, 800),
    seed=st.integers(0, 9),
)
def test_skipping_is_the_same_as_consuming(
    store: PairedStore, batch: int, skip: int, buffer: int, seed: int
):
    consumed = islice(store.batches(batch, seed, buffer=buffer), skip, skip + 3)
    skipped = islice(store.batches(batch, seed, skip=skip, buffer=buffer), 3)
    for one, other in zip(consumed, skipped, strict=True):
        assert torch.equal(one[0], other[0])
        assert torch.equal(one[1], other[1])


def test_skipping_reads_nothing(store: PairedStore, monkeypatch: pytest.MonkeyPatch):
    read: list[int] = []
    rows = reader.ShardReader.rows

    def count(self, layer, tokens, room=None):
        read.append(len(tokens))
        return rows(self, layer, tokens, room)

    monkeypatch.setattr(reader.ShardReader, "rows", count)
    next(store.batches(10, 0, skip=10**6, buffer=256))
    assert sum(read) <= 512


def test_a_batch_is_not_overwritten_by_the_next(store: PairedStore):
    batches = list(islice(store.batches(100, 0, buffer=256), 20))
    again = islice(store.batches(100, 0, buffer=256), 20)
    for one, other in zip(batches, again, strict=True):
        assert torch.equal(one[0], other[0])


def test_batches_of_other_seeds_and_subsets_differ(store: PairedStore):
    assert counted(next(store.batches(50, 0))) != counted(next(store.batches(50, 1)))
    heldout = set(np.flatnonzero(store.heldout[store.sequence_of_tokens()]).tolist())
    assert set(counted(next(store.batches(50, 0, "heldout")))) <= heldout
    assert not set(counted(next(store.batches(500, 0)))) & heldout


@pytest.mark.parametrize("setting", ["batch", "seed", "skip", "buffer"])
def test_batches_refuse_at_once(store: PairedStore, setting: str):
    settings = {"batch": 8, "seed": 0, "skip": 0, "buffer": 9, setting: -1}
    with pytest.raises(InputError, match=f"{setting}=-1"):
        store.batches(
            settings["batch"], settings["seed"], skip=settings["skip"], buffer=settings["buffer"]
        )


def test_an_unknown_subset_is_named(store: PairedStore):
    with pytest.raises(InputError, match="subset 'most' is unknown: use all, train or heldout"):
        store._subset("most")


def test_an_empty_subset_has_no_batches(tmp_path: Path):
    one = numbered_store(tmp_path / "s", 5)
    assert list(one.blocks("heldout")) == []
    with pytest.raises(InputError, match=r"subset 'heldout' .* has no token"):
        one.batches(2, 0, "heldout")
    assert sorted(counted(next(one.batches(5, 0)))) == [0, 1, 2, 3, 4]


def test_statistics_are_those_of_all_tokens(store: PairedStore):
    base = numbered(TOKENS).astype(np.float64)
    tuned = numbered(TOKENS, start=100_000).astype(np.float64)
    cases = zip(store.statistics, (base, tuned, tuned - base), strict=True)
    for moments, values in cases:
        assert moments is not None
        assert moments.count == TOKENS
        np.testing.assert_allclose(moments.mean, values.mean(axis=0), rtol=1e-12)
        np.testing.assert_allclose(moments.m2, values.var(axis=0) * TOKENS, rtol=1e-9, atol=1e-9)
        assert moments.rms == pytest.approx(np.sqrt((values**2).mean()), rel=1e-12)


def test_statistics_read_no_activation(store: PairedStore, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(reader.ShardReader, "rows", None)
    assert PairedStore.open(store.path).statistics.base.count == TOKENS


def test_more_shards_than_open_maps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(reader, "_OPEN_MAPS", 2)
    many = numbered_store(tmp_path / "s", 100, length=1, shard_tokens=3)
    index = np.random.default_rng(0).permutation(100)
    assert counted(many.gather(index)) == index.tolist()


def test_an_absent_layer_is_named(store: PairedStore):
    assert store.at(0).layer == 0
    with pytest.raises(InputError, match="holds layers 0, not 3"):
        store.at(3)


def test_nothing_there(tmp_path: Path):
    with pytest.raises(StoreError, match="there is no paired store at"):
        PairedStore.open(tmp_path / "absent")


@pytest.fixture
def damaged(tmp_path: Path) -> PairedStore:
    return numbered_store(tmp_path / "s", 200)


def test_a_truncated_shard_is_named_and_can_be_made_anew(damaged: PairedStore):
    shard = damaged.path / "shard-00001.safetensors"
    whole = shard.read_bytes()
    for left in (None, whole[:-1], whole + b"x"):
        shard.unlink() if left is None else shard.write_bytes(left)
        with pytest.raises(StoreError, match=re.escape(str(shard)) + " (is missing|has .* bytes)"):
            PairedStore.open(damaged.path)
        numbered_store(damaged.path, 200)
        assert shard.read_bytes() == whole


def test_a_changed_byte_is_found(damaged: PairedStore, monkeypatch: pytest.MonkeyPatch):
    shard = damaged.path / "shard-00002.safetensors"
    data = bytearray(shard.read_bytes())
    data[-5] ^= 1
    shard.write_bytes(data)
    seen: list[str] = []

    def progress(task: str, done: int, total: int, unit: str = "tokens") -> None:
        seen.append(f"{task} {unit}")

    with pytest.raises(StoreError, match=r"shard-00002\.safetensors is damaged: its bytes"):
        PairedStore.open(damaged.path)
    # A byte outside the sample of a large shard is found by verify alone.
    monkeypatch.setattr(Seal, "_sample", lambda seal, _: seal.sample)
    with pytest.raises(StoreError, match=r"shard-00002\.safetensors is damaged: its bytes"):
        PairedStore.open(damaged.path).verify(progress)
    assert seen == ["verify bytes"] * 3


def test_a_shard_of_another_store_is_found(damaged: PairedStore, monkeypatch: pytest.MonkeyPatch):
    # the same size to the byte, with another tensor in it, and of a version without samples
    monkeypatch.setattr(Seal, "_sample", lambda seal, _: seal.sample)
    shard = damaged.path / "shard-00000.safetensors"
    shard.write_bytes(shard.read_bytes().replace(b'"base.0"', b'"base.7"'))
    with pytest.raises(StoreError, match=r"shard-00000\.safetensors is damaged: base\.0"):
        PairedStore.open(damaged.path).gather(np.array([0]))
