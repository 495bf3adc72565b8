"""Every command of docs/findings.md and docs/planted.md runs; each kind has its picture."""

import re
import shlex
import shutil
from pathlib import Path
from typing import get_args

import pytest

from anaglyph.core.schemas import Kind

DOCS = Path(__file__).parents[2] / "docs"
SMALLER = {
    "calibrate": ["--preset", "null", "--seeds", "1"],
    "train": ["--latents", "64", "--tokens", "40000"],
}


def commands(name: str) -> list[str]:
    text = (DOCS / name).read_text(encoding="utf-8")
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [line for kind, block in blocks if kind == "" for line in block.splitlines()]


@pytest.mark.parametrize(
    "line", [*commands("findings.md"), *commands("planted.md")], ids=lambda line: line[:40]
)
def test_the_commands_run(line: str, tmp_path, monkeypatch, finished, anaglyph):
    shutil.copytree(finished, tmp_path / "RUN")
    monkeypatch.chdir(tmp_path)
    program, command, *words = shlex.split(line)
    assert program == "anaglyph"
    if command == "calibrate":
        # One small preset and seed in place of twenty of each.
        words = [word for word in words if word not in ("--preset", "--seeds", "easy", "20")]
        words = [word for word in words if word != "all" or "--null" in words]
    said = anaglyph(command, *words, *SMALLER.get(command, []))
    assert said.code == 0, f"{line}: {said.err}"
    assert said.out


def test_every_kind_has_a_picture_and_a_row():
    guide = (DOCS / "findings.md").read_text(encoding="utf-8")
    picture = (DOCS / "kinds.svg").read_text(encoding="utf-8")
    # A twin is a property of a dictionary; no finding of this pipeline has that kind.
    for kind in set(get_args(Kind)) - {"twin"}:
        assert f"| {kind} |" in guide
        assert f">{kind}<" in picture
