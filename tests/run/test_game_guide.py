"""Every command of docs/game.md runs, on the tiny base and with a control in place of the rest."""

import re
import shlex
from pathlib import Path

from anaglyph.demo import tiny_pair

GUIDE = (Path(__file__).parents[2] / "docs" / "game.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```\n(.*?)^```", GUIDE, re.MULTILINE | re.DOTALL)
# What takes minutes and the demo's model is played against a control on the tiny base.
SMALLER = {"--quick": "--organisms identical", "eiffel-chats": "identical"}


def test_the_commands_run_in_their_order(tmp_path, monkeypatch, anaglyph, small_game, shorten):
    monkeypatch.chdir(tmp_path)
    lines = [line for block in BLOCKS for line in block.splitlines()]
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
