"""Every command of docs/findings.md and docs/planted.md runs; each kind has its picture."""

import shlex
import shutil
from typing import get_args

import pytest

from anaglyph.core.schemas import Kind
from guides import commands, text_of

SMALLER = {
    "collect": ["--max-tokens", "2000"],
    "calibrate": ["--preset", "null", "--seeds", "1"],
    "train": ["--latents", "64", "--tokens", "40000"],
}


@pytest.mark.parametrize(
    "line",
    [*commands("docs/findings.md"), *commands("docs/planted.md")],
    ids=lambda line: line[:40],
)
def test_the_commands_run(line: str, tmp_path, monkeypatch, finished, anaglyph, tiny_arguments):
    shutil.copytree(finished, tmp_path / "RUN")
    base, tuned, _, chats = tiny_arguments[:4]
    named = {"BASE": base, "TUNED": tuned, "chats.jsonl": chats}
    monkeypatch.chdir(tmp_path)
    program, command, *words = shlex.split(line)
    assert program == "anaglyph"
    if command == "calibrate":
        # One small preset and seed in place of twenty of each.
        words = [word for word in words if word not in ("--preset", "--seeds", "easy", "20")]
        words = [word for word in words if word != "all" or "--null" in words]
    words = [named.get(word, word) for word in words]
    said = anaglyph(command, *words, *SMALLER.get(command, []))
    assert said.code == 0, f"{line}: {said.err}"
    assert said.out


def test_every_kind_has_a_picture_and_a_row():
    guide = text_of("docs/findings.md")
    picture = text_of("docs/kinds.svg")
    # A twin is a property of a dictionary; no finding of this pipeline has that kind.
    for kind in set(get_args(Kind)) - {"twin"}:
        assert f"| {kind} |" in guide
        assert f">{kind}<" in picture
