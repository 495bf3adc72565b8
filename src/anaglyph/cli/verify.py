"""The command that checks a run folder byte for byte."""

import json
from typing import TYPE_CHECKING

import typer

from anaglyph.cli.app import app
from anaglyph.cli.options import AsJson, Run
from anaglyph.cli.terminal import Bars, say

if TYPE_CHECKING:
    from anaglyph.run import Verification


@app.command("verify")
def verify_command(run: Run, as_json: AsJson = False) -> None:
    """Check every byte of a run folder; name what is damaged and the command that repairs it."""
    from anaglyph.run import verify

    with Bars() as progress:
        found = verify(run, progress)
    say(json.dumps(found.model_dump(mode="json"), indent=2) if as_json else _text(found))
    if not found.intact:
        raise typer.Exit(1)


def _text(found: "Verification") -> str:
    lines = []
    for each in found.damage:
        lines += [f"{each.file}: {each.problem}", f"  repair: {each.repair}"]
    if found.unknown:
        lines.append(f"not of a finished stage, not checked: {', '.join(found.unknown)}")
    size = f"{found.files} files, {found.bytes:,} bytes"
    lines.append(f"{size}: {'intact' if found.intact else f'{len(found.damage)} damaged'}")
    return "\n".join(lines)
