"""Every command and every piece of Python in the README runs, on the tiny pair."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from anaglyph.demo import tiny_pair
from guides import ROOT, blocks, commands, text_of

README = text_of("README.md")


def lines(program: str) -> list[str]:
    found = [line for line in commands("README.md") if line.startswith(program)]
    assert found, f"the README has no {program} command"
    return found


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """A folder with the files that the README speaks of."""
    pair = tiny_pair()
    shutil.copytree(pair.base, tmp_path / "BASE")
    shutil.copytree(pair.tuned, tmp_path / "TUNED")
    shutil.copy(pair.corpus[0], tmp_path / "chats.jsonl")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_make_knows_every_target():
    for line in lines("make "):
        done = subprocess.run(["make", "-n", *shlex.split(line)[1:]], cwd=ROOT, capture_output=True)
        assert done.returncode == 0, line


def test_the_commands_run_in_their_order(here, anaglyph, small_game):
    pairs = ["--seeds", "1", "--tokens", "50000"]
    (here / "few.json").write_text(
        '{"counts": [1, 16], "nu": [0.3], "candidates": 2, "causal_tokens": 512, "budget": 2800,'
        ' "find_tokens": 512, "trials": 1, "replant_below": 0.0}'
    )
    small = ["--latents", "128", "--tokens", "20000", "--threads", "1"]
    few = ["--config", "few.json"]
    sized = {"diff": [*small, *few], "collect": few, "train": small, "planted": pairs}
    for line in lines(".venv/bin/anaglyph "):
        _, command, *rest = shlex.split(line)
        # `diff` and `collect` start a run of their own.
        if command in ("diff", "collect"):
            shutil.rmtree(here / "run", ignore_errors=True)
        if command == "game":  # on the tiny base, against the control alone
            rest.remove("--quick")
            rest += ["--organisms", "identical", "--base", "BASE", *small_game]
        said = anaglyph(command, *rest, *sized.get(command, []))
        assert said.code == 0, f"{line}: {said.err}"
    assert (here / "run" / "report" / "index.html").is_file()


def test_the_python_runs(here):
    (source,) = blocks("README.md", "python")
    # Sizes for seconds; everything else as a reader types it.
    source = source.replace("layers=[13]", "layers=[1]")
    source = source.replace("latents=4096, k=8", "latents=128, tokens=50_000, k=8")
    scope: dict[str, object] = {}
    exec(compile(source, "README.md", "exec"), scope)
    assert scope["found"]


def test_every_linked_file_is_there():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).is_file(), target
