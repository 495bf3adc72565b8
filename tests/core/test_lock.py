"""One writer a folder: the owner is named, and a lock ends with its process however that ends."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from anaglyph.core import lock
from anaglyph.core.errors import AnaglyphError, StoreError
from anaglyph.core.lock import locked

HOLD = """
import sys, time
from pathlib import Path
from anaglyph.core.lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path: Path):
    """Another process that holds the lock of tmp_path / "run"."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    with process:
        pass


def test_a_second_writer_is_told_who_the_first_is(tmp_path: Path, holder):
    with pytest.raises(StoreError) as refused, locked(tmp_path / "run"):
        pass
    for word in (str(holder.pid), "this host", str(tmp_path / "run"), f"kill {holder.pid}"):
        assert word in str(refused.value)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_lock_of_a_dead_owner_is_taken_over(tmp_path: Path, holder, number):
    holder.send_signal(number)
    holder.wait()
    with locked(tmp_path / "run"):
        assert json.loads((tmp_path / "run" / ".lock").read_text())["pid"] == os.getpid()
    assert not (tmp_path / "run" / ".lock").exists()


def test_a_thread_may_lock_again_and_another_may_not(tmp_path: Path):
    refused: list[str] = []

    def other() -> None:
        try:
            with locked(tmp_path):
                pass
        except StoreError as error:
            refused.append(str(error))

    with locked(tmp_path) as first, locked(tmp_path) as again:
        assert first
        assert not again
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert len(refused) == 1
    with locked(tmp_path) as taken:
        assert taken


def test_a_folder_made_for_nothing_is_removed(tmp_path: Path):
    with locked(tmp_path / "a"):
        pass
    assert not (tmp_path / "a").exists()
    (tmp_path / "b").mkdir()
    with locked(tmp_path / "b"):
        pass
    assert (tmp_path / "b").exists()


@pytest.mark.parametrize("number", ["EROFS", "EACCES"])
def test_a_read_only_folder_needs_no_lock(tmp_path: Path, monkeypatch, number):
    import errno

    def refuse(path, *_):
        raise OSError(getattr(errno, number), "no", str(path))

    monkeypatch.setattr(lock.os, "open", refuse)
    with locked(tmp_path) as taken:
        assert taken


def test_where_the_system_has_no_locks_the_process_number_decides(tmp_path: Path, monkeypatch):
    import errno

    def unknown(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock.fcntl, "flock", unknown)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    owner = {"pid": ended.pid, "host": socket.gethostname()}
    (tmp_path / ".lock").write_text(json.dumps(owner))
    with locked(tmp_path):
        pass
    for other in ({"pid": os.getppid(), "host": socket.gethostname()}, {"pid": 1, "host": "far"}):
        (tmp_path / ".lock").write_text(json.dumps(other))
        with pytest.raises(StoreError, match=f"process {other['pid']} on"), locked(tmp_path):
            pass


@pytest.mark.parametrize("text", ["", "{", "[1]", "[" * 9999, '{"pid": "x"}'])
def test_a_lock_file_of_any_content_names_somebody(tmp_path: Path, text):
    import fcntl

    (tmp_path / ".lock").write_text(text)
    opened = os.open(tmp_path / ".lock", os.O_RDWR)
    fcntl.flock(opened, fcntl.LOCK_EX)
    with pytest.raises(StoreError, match=r"process .*is writing to"), locked(tmp_path):
        pass
    os.close(opened)


def test_a_link_in_place_of_the_lock_is_not_followed(tmp_path: Path):
    (tmp_path / "precious").write_text("mine")
    (tmp_path / ".lock").symlink_to(tmp_path / "precious")
    with pytest.raises(StoreError, match=r"\.lock"), locked(tmp_path):
        pass
    assert (tmp_path / "precious").read_text() == "mine"


@pytest.mark.parametrize("name", ["loop", "\udcff", "a\0b", "x" * 5000, "file", "file/below"])
def test_names_of_no_folder(tmp_path: Path, name: str):
    """Before hours of work whose results could not be written, or not be read again."""
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").write_text("keep me")
    with pytest.raises(AnaglyphError) as refused, locked(tmp_path / name):
        pass
    assert "\n" not in str(refused.value)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["file", "loop"]
