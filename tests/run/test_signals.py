"""Ctrl-C and SIGTERM end a command at once with one line, wherever it is, and lose nothing."""

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

# Where an exception would be swallowed, or no Python handler could run.
PLACES = {
    "python": "while True: pass",
    "compiled code": "while True: ctypes.CDLL(None).sleep(30)",
    "a callback": """
kind = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
def compare(a, b):
    time.sleep(0.01)
    return 0
array = (ctypes.c_int * 9999)()
ctypes.CDLL(None).qsort(array, 9999, 4, kind(compare))
""",
    "a swallowed exception": """
while True:
    try:
        time.sleep(0.01)
    except BaseException:
        pass
""",
    "a destructor": """
class Slow:
    def __del__(self):
        time.sleep(30)
slow = Slow()
del slow
""",
}
SCRIPT = """
import ctypes, time
from pathlib import Path
from anaglyph.cli.signals import ending_at_once
from anaglyph.core.files import atomic_path
from anaglyph.core.files import temporary_folder
with ending_at_once(), atomic_path(Path("kept")) as temporary, temporary_folder() as folder:
    temporary.write_text("half")
    (folder / "shard").write_text("x")
    print("here", flush=True)
    exec(PLACE)
"""
LINES = {
    signal.SIGINT: "Interrupted",
    signal.SIGTERM: "Terminated",
    signal.SIGHUP: "Hung up",
}


@pytest.mark.parametrize("number", list(LINES), ids=lambda number: number.name)
@pytest.mark.parametrize("place", list(PLACES))
def test_wherever_it_is(tmp_path: Path, place: str, number: signal.Signals):
    (tmp_path / "kept").write_text("whole")
    process = subprocess.Popen(
        [sys.executable, "-c", f"PLACE = {PLACES[place]!r}\n{SCRIPT}"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        # The tests themselves may run under nohup.
        preexec_fn=partial(signal.signal, signal.SIGHUP, signal.SIG_DFL),
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "here\n"
    assert len(list(tmp_path.iterdir())) == 3
    time.sleep(0.1)
    start = time.monotonic()
    process.send_signal(number)
    _, err = process.communicate(timeout=20)
    assert time.monotonic() - start < 2
    assert process.returncode == 128 + number
    assert err == f"{LINES[number]}. Run the same command again to resume.\n"
    assert [file.name for file in tmp_path.iterdir()] == ["kept"]
    assert (tmp_path / "kept").read_text() == "whole"


@pytest.mark.parametrize("number", list(LINES)[:2], ids=lambda number: number.name)
@pytest.mark.parametrize("after", [2.0, pytest.param(9.0, marks=pytest.mark.slow)])
def test_a_run_ends_and_resumes(tmp_path: Path, tiny_arguments, number, after: float):
    run = tmp_path / "run"
    command = [sys.executable, "-m", "anaglyph", "diff", *map(str, tiny_arguments)]
    process = subprocess.Popen(
        [*command, "--out", str(run), "--tokens", "99999999"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    while not run.exists() and process.poll() is None:
        time.sleep(0.05)
    time.sleep(after)
    start = time.monotonic()
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert time.monotonic() - start < 2
    assert process.returncode == 128 + number
    assert err.splitlines()[-1] == f"{LINES[number]}. Run the same command again to resume."
    assert not list(run.rglob("*.tmp"))


def test_handlers_come_back(anaglyph):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    assert anaglyph("methods").code == 0
    assert before == (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM))
    assert signal.set_wakeup_fd(-1) == -1


def test_under_nohup_a_lost_terminal_ends_nothing(tmp_path: Path):
    script = (
        "import os, signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "from anaglyph.cli.signals import ending_at_once\n"
        "with ending_at_once(): os.kill(os.getpid(), signal.SIGHUP); print('whole')"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "whole\n")
