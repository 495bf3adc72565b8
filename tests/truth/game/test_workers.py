"""Matches side by side: the same plays, one thread each, and nothing left behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest
import torch
from game_cases import SETTINGS, identical, lantern
from polars.testing import assert_frame_equal

from anaglyph.core.errors import InputError, ModelError
from anaglyph.demo import tiny_pair
from anaglyph.truth.game import matches, play
from anaglyph.truth.game.workers import side_by_side

MEASURED = ["seconds", "peak_mib"]


def fail(model: str, seconds: float) -> None:
    time.sleep(seconds)
    raise ModelError(f"{model} is damaged")


def threads(place: int) -> tuple[int, int, str | None, str | None]:
    asked = os.environ.get("OMP_NUM_THREADS"), os.environ.get("MKL_NUM_THREADS")
    return place, torch.get_num_threads(), asked[0], asked[1]


def note_and_wait(folder: Path) -> None:
    (folder / str(os.getpid())).touch()
    time.sleep(300)


@pytest.mark.slow
def test_results_have_their_places_and_processes_one_thread(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    found = dict(side_by_side(threads, [(5,), (6,), (7,)], 2))
    assert found == {place: (5 + place, 1, "1", "1") for place in range(3)}
    assert os.environ["OMP_NUM_THREADS"] == "7"
    assert "MKL_NUM_THREADS" not in os.environ


@pytest.mark.slow
def test_an_error_is_the_same_as_without_processes_and_ends_the_others():
    start = time.monotonic()
    with pytest.raises(ModelError, match=r"^BASE is damaged$"):
        list(side_by_side(fail, [("TUNED", 300), ("BASE", 0)], 2))
    assert time.monotonic() - start < 200


@pytest.mark.slow
def test_a_worker_that_is_killed_is_told_of():
    with pytest.raises(InputError, match="one of 2 workers was killed, perhaps for want of memory"):
        list(side_by_side(os._exit, [(9,), (9,)], 2))


@pytest.mark.slow
def test_nobody_outlives_a_game_that_is_killed(tmp_path: Path):
    script = (
        f"import sys; sys.path[:0] = {sys.path!r}\n"
        "from pathlib import Path\n"
        "from test_workers import note_and_wait\n"
        "from anaglyph.truth.game.workers import side_by_side\n"
        "if __name__ == '__main__':\n"
        f"    list(side_by_side(note_and_wait, [(Path({str(tmp_path)!r}),)], 1))\n"
    )
    file = tmp_path / "main.py"
    file.write_text(script)
    started = subprocess.Popen([sys.executable, file])
    noted: list[int] = []
    until = time.monotonic() + 200
    while not noted and time.monotonic() < until:
        noted = [int(path.name) for path in tmp_path.iterdir() if path.name.isdigit()]
        time.sleep(0.1)
    assert noted
    started.send_signal(signal.SIGKILL)
    started.wait()
    while Path(f"/proc/{noted[0]}").exists() and time.monotonic() < until:
        time.sleep(0.1)
    assert not Path(f"/proc/{noted[0]}").exists()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_signal_ends_a_game_side_by_side_with_one_line(tmp_path: Path, number: signal.Signals):
    script = (
        f"import sys; sys.path[:0] = {sys.path!r}\n"
        "from pathlib import Path\n"
        "from test_workers import note_and_wait\n"
        "from anaglyph.cli.signals import ending_at_once\n"
        "from anaglyph.truth.game.workers import side_by_side\n"
        "if __name__ == '__main__':\n"
        f"    with ending_at_once():\n"
        f"        list(side_by_side(note_and_wait, [(Path({str(tmp_path)!r}),)] * 2, 2))\n"
    )
    file = tmp_path / "main.py"
    file.write_text(script)
    started = subprocess.Popen([sys.executable, file], stderr=subprocess.PIPE, text=True)
    noted: list[int] = []
    until = time.monotonic() + 200
    while len(noted) < 2 and time.monotonic() < until:
        noted = [int(path.name) for path in tmp_path.iterdir() if path.name.isdigit()]
        time.sleep(0.1)
    start = time.monotonic()
    started.send_signal(number)
    _, err = started.communicate(timeout=60)  # ends with the last process that has its end
    assert time.monotonic() - start < 2
    assert started.returncode == 128 + number
    assert err.count("\n") == 1, err


def test_a_game_side_by_side_is_the_same_game(plays: pl.DataFrame, game_folder: Path, tmp_path):
    players, games = ("token-kl", "random"), matches([lantern(), identical(), lantern()], [0])
    there = {"settings": SETTINGS, "organisms": game_folder / "organisms"}
    heard: list[tuple[int, int]] = []

    def progress(task: str, done: int, total: int, unit: str = "tokens") -> None:
        if task == "game":
            heard.append((done, total))

    side = play(games, players, tiny_pair().base, tmp_path, workers=2, progress=progress, **there)
    one = plays.filter(pl.col("player").is_in(players))
    assert_frame_equal(side.drop(MEASURED)[:4], one.drop(MEASURED))
    # Named twice, it is played once.
    assert_frame_equal(side[4:], side[:2])
    assert heard[:3] == [(0, 6), (2, 6), (4, 6)]
    with pytest.raises(InputError, match="workers is 0"):
        play(games, players, tiny_pair().base, tmp_path, workers=0, **there)
