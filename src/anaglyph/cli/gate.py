"""The command that a release pipeline calls: a policy held against a run."""

from pathlib import Path
from typing import Annotated

import typer

from anaglyph.cli.app import app
from anaglyph.cli.options import AsJson, Run
from anaglyph.cli.terminal import say


@app.command("gate")
def gate_command(
    run: Run,
    policy: Annotated[Path, typer.Option(help="Rules of docs/gate.md, in JSON or TOML.")],
    as_json: AsJson = False,
) -> None:
    """Check a run against a policy: exit 0 if all rules pass, 1 if one fails, 2 for bad input."""
    from anaglyph.run import gate

    said = gate(run, policy)
    say(said.model_dump_json(indent=2) if as_json else said.markdown)
    if not said.passed:
        raise typer.Exit(1)
