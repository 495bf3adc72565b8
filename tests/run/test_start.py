"""The command line answers at once where no model is needed: nothing heavy is imported."""

import subprocess
import sys

import pytest
import typer

from anaglyph.cli import app
from anaglyph.cli.truth import our_methods
from anaglyph.dictionaries import METHODS, describe_methods

HEAVY = {"torch", "transformers", "numba", "scipy", "polars"}

_IMPORTED = """
import sys
from anaglyph.cli import main
for arguments in {commands!r}:
    sys.argv = ["anaglyph", *arguments]
    try:
        main()
    except SystemExit as end:
        assert not end.code, arguments
    heavy = {heavy!r} & set(sys.modules)
    assert not heavy, f"anaglyph {{' '.join(arguments)}} imports {{sorted(heavy)}}"
"""


def commands(command: object, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Return the path of every command and group of commands."""
    children = getattr(command, "commands", {})
    return [path, *(each for name in children for each in commands(children[name], (*path, name)))]


def test_help_and_methods_import_nothing_heavy():
    asked = [[*path, "--help"] for path in commands(typer.main.get_command(app))]
    assert len(asked) > 20
    script = _IMPORTED.format(commands=[["methods"], ["methods", "--json"], *asked], heavy=HEAVY)
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "diff-sae" in done.stdout


def test_the_methods_listed_are_those_that_are_registered():
    own = [
        row
        for row in describe_methods()
        if METHODS.get(row["name"]).__module__.startswith("anaglyph.")
    ]
    assert our_methods() == own


@pytest.mark.parametrize("module", ["anaglyph.core.settings", "anaglyph.cli.options"])
def test_settings_load_nothing_heavy(module: str):
    script = f"import sys, {module}; assert not {HEAVY!r} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)
