"""Every command of the guide docs/direct.md runs, on the tiny pair."""

import json
import shlex
import shutil
from pathlib import Path

import pytest

from anaglyph.demo import tiny_pair
from guides import blocks, commands

PAGE = "docs/direct.md"


@pytest.fixture
def here(tmp_path, monkeypatch, finished) -> Path:
    """A folder with the files that the guide speaks of."""
    shipped = tiny_pair()
    shutil.copytree(shipped.base, tmp_path / "BASE")
    shutil.copytree(shipped.tuned, tmp_path / "TUNED")
    shutil.copytree(finished, tmp_path / "RUN")
    shutil.copy(shipped.corpus[0], tmp_path / "chats.jsonl")
    (tmp_path / "completions.jsonl").write_text("".join(blocks(PAGE, "json")))
    (tmp_path / "questions.txt").write_text("Look at the lantern and the clock.\nWho are you?\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_commands_run_in_their_order(here, anaglyph):
    for line in commands(PAGE):
        program, *words = shlex.split(line)
        assert program == "anaglyph"
        said = anaglyph(*words, "--threads", "1", "--json")
        assert said.code == 0, f"{line}: {said.err}"
        assert json.loads(said.out)
