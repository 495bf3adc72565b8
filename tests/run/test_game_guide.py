"""Every command of docs/game.md runs, on the tiny base and with a control in place of the rest."""

import shlex
from pathlib import Path

from anaglyph.demo import tiny_pair
from guides import commands

# What takes minutes and the demo's model is played against a control on the tiny base.
SMALLER = {"--quick": "--organisms identical", "eiffel-chats": "identical"}


def test_the_commands_run_in_their_order(tmp_path, monkeypatch, anaglyph, small_game, shorten):
    monkeypatch.chdir(tmp_path)
    lines = commands("docs/game.md")
    assert len(lines) >= 5
    for line in lines:
        for words, fewer in SMALLER.items():
            line = line.replace(words, fewer)
        program, *words = shlex.split(line)
        assert program == "anaglyph"
        if words[1] in ("build", "play"):
            words += ["--base", str(tiny_pair().base)]
        if words[1] == "play":
            words += small_game
        said = anaglyph(*words)
        assert said.code == 0, f"{line}: {said.err}"
        assert said.out
        if words[1] == "new":
            shorten(Path(words[2]))
