"""The writer's care for what is on disk: locks, leftovers, other people's files."""

import fcntl
import os
from pathlib import Path

import numpy as np
import pytest
from store_cases import contents, numbered_store

from anaglyph.core.errors import StoreError
from anaglyph.store import PairedStore, writer
from anaglyph.store.format import read_manifest


def test_two_processes_never_write_to_one_store(tmp_path: Path):
    (tmp_path / "s").mkdir()
    lock = os.open(tmp_path / "s" / ".lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_EX)
    with pytest.raises(StoreError, match="another process is writing to"):
        numbered_store(tmp_path / "s", 20)
    os.close(lock)
    assert numbered_store(tmp_path / "s", 20).n_tokens == 20


def test_what_a_killed_run_left_is_swept_away(tmp_path: Path):
    unbroken = numbered_store(tmp_path / "unbroken", 200)
    broken = numbered_store(tmp_path / "s", 200).path
    (broken / "shard-00001.safetensors").unlink()
    for name in (
        ".manifest.json.77.tmp",
        ".shard-00001.safetensors.77.tmp",
        "shard-00009.safetensors",
    ):
        (broken / name).write_bytes(b"half")
    numbered_store(broken, 200)
    assert contents(broken) == contents(unbroken.path)


def test_other_files_in_the_folder_are_left_alone(tmp_path: Path):
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "notes.txt").write_text("mine")
    numbered_store(tmp_path / "s", 20)
    assert (tmp_path / "s" / "notes.txt").read_text() == "mine"


def test_shards_without_a_manifest_are_not_touched(tmp_path: Path):
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "shard-00000.safetensors").write_bytes(b"whose?")
    with pytest.raises(
        StoreError, match=r"shards without a manifest\.json.*: put it back, or delete"
    ):
        numbered_store(tmp_path / "s", 20)
    assert contents(tmp_path / "s")["shard-00000.safetensors"] == b"whose?"


def test_another_manifest_is_not_overwritten(tmp_path: Path):
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "manifest.json").write_text('{"name": "someone else\'s"}')
    with pytest.raises(StoreError, match="is not a manifest of a paired store"):
        numbered_store(tmp_path / "s", 20)
    assert "someone" in (tmp_path / "s" / "manifest.json").read_text()


def test_resuming_with_other_shard_sizes_starts_over(tmp_path: Path):
    unbroken = numbered_store(tmp_path / "unbroken", 200, shard_tokens=90)
    broken = numbered_store(tmp_path / "s", 200, shard_tokens=40).path
    (broken / "shard-00002.safetensors").unlink()
    numbered_store(broken, 200, shard_tokens=90)
    assert contents(broken) == contents(unbroken.path)


def test_only_what_is_missing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    broken = numbered_store(tmp_path / "s", 200, shard_tokens=40).path
    (broken / "shard-00002.safetensors").unlink()
    written, write = [], writer.write_tensors

    def note(path, tensors):
        written.append(path.name.split(".")[1])
        return write(path, tensors)

    monkeypatch.setattr(writer, "write_tensors", note)
    numbered_store(broken, 200, shard_tokens=40)
    assert written == ["shard-00002"]


def test_shards_of_wide_activations_stay_small_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(writer, "SHARD_BYTES", 24 * 30)  # 24 bytes a token: 2 sides of 3 float32
    store = numbered_store(tmp_path / "s", 200, shard_tokens=1000)
    manifest = read_manifest(store.path)
    assert [shard.tokens for shard in manifest.shards] == [30] * 6 + [20]


def test_a_place_that_cannot_be_written_is_one_clear_line(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot write"):
        numbered_store(tmp_path / "file" / "s", 20)


def test_a_finished_store_on_a_read_only_disk_can_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    numbered_store(tmp_path / "s", 20)
    monkeypatch.setattr(writer, "StoreWriter", None)
    store = numbered_store(tmp_path / "s", 20)
    assert isinstance(store, PairedStore)
    assert len(store.gather(np.arange(20))[0]) == 20
