"""A disk that is full, at any byte: one line that names the file, and nothing is left behind."""

import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import polars as pl
import pytest

from anaglyph.core.errors import StoreError
from anaglyph.core.files import (
    check_writable,
    os_error_text,
    remove_unfinished,
    temporary_folder,
    write_json,
    write_parquet,
)
from anaglyph.core.lock import locked, reserved


@contextmanager
def no_file_above(size: int) -> Iterator[None]:
    """Let no file grow beyond a size, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


TABLE = pl.DataFrame({"a": list(range(5000)), "b": [str(n) for n in range(5000)]})
WRITES = {
    "x.parquet": lambda path: write_parquet(path, TABLE),
    "x.json": lambda path: write_json(path, list(range(9000))),
}


@pytest.mark.parametrize("size", [0, 3, 4, 100, 1000, 5000, 10_000])
@pytest.mark.parametrize("name", list(WRITES))
def test_a_full_disk_is_one_line_and_keeps_what_was_there(tmp_path: Path, name: str, size: int):
    WRITES[name](tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    assert len(whole) > 10_000
    with no_file_above(size), pytest.raises(StoreError, match="cannot write") as caught:
        WRITES[name](tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert [file.name for file in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_bytes() == whole


def test_long_work_finds_a_full_disk_first(tmp_path: Path):
    with no_file_above(0):
        with pytest.raises(StoreError, match="cannot write"):
            check_writable(tmp_path)
        with pytest.raises(StoreError, match="cannot write"), reserved(tmp_path / "out"):
            pytest.fail("the work began")
    assert list(tmp_path.iterdir()) == []


def test_what_is_reserved_is_locked_and_nothing_is_left(tmp_path: Path):
    with reserved(None), reserved(tmp_path / "out"), locked(tmp_path / "out") as taken:
        assert not taken
    assert list(tmp_path.iterdir()) == []


def test_errors_of_libraries_in_rust_are_told_as_the_system_does():
    said = os_error_text(OSError("No space left on device (os error 28): /x/.y.1.tmp"), "/x/y")
    assert said == "/x/y: No space left on device; free some space and run the same command again"
    assert os_error_text(OSError("odd\nthings")) == "odd"


def test_temporary_folders_go_with_the_block_and_with_the_process():
    with temporary_folder() as folder:
        (folder / "deep").mkdir()
        (folder / "deep" / "shard").write_text("x")
        assert folder.name.startswith("anaglyph-")
        remove_unfinished()
        assert not folder.exists()
        folder.mkdir()
    assert not folder.exists()
