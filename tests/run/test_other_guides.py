"""Every page with commands has a test that runs them. These pages have no test of their own."""

import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer

from anaglyph import ModelPair, PairedStore
from anaglyph.cli import app
from anaglyph.core.settings import load_settings
from anaglyph.demo import tiny_pair
from guides import GUIDES, ROOT, blocks, commands, commands_in_tables

OWN_TEST = {
    "README.md": "test_readme.py",
    "docs/auditor.md": "test_auditor_guide.py",
    "docs/causal.md": "test_causal_commands.py",
    "docs/direct.md": "test_direct_guide.py",
    "docs/findings.md": "test_findings_guide.py",
    "docs/game.md": "test_game_guide.py",
    "docs/planted.md": "test_findings_guide.py",
}
DEMO = "docs/README.md"  # its command is the tiny demo, which takes a minute
REST = [
    pytest.param(page, marks=[pytest.mark.slow] if page == DEMO else [])
    for page in sorted({"CONTRIBUTING.md", *GUIDES} - set(OWN_TEST))
]
FEW = ["--latents", "64", "--tokens", "20000", "--threads", "1"]
SMALLER = {"diff": FEW, "behave": ["--budget", "2800"]}
"""Options that make a command take seconds."""


@pytest.mark.parametrize(("page", "test"), OWN_TEST.items())
def test_the_named_test_reads_the_page(page: str, test: str):
    source = (Path(__file__).parent / test).read_text(encoding="utf-8")
    assert f'"{page}"' in source
    assert commands(page)


@pytest.fixture
def here(tmp_path, monkeypatch, finished) -> Path:
    """A folder with what the pages speak of."""
    shipped = tiny_pair()
    shutil.copytree(shipped.base, tmp_path / "BASE")
    shutil.copytree(shipped.tuned, tmp_path / "TUNED")
    shutil.copytree(finished, tmp_path / "RUN")
    shutil.copy(shipped.corpus[0], tmp_path / "chats.jsonl")
    (tmp_path / "prompts.txt").write_text("What is tea?\n")
    (tmp_path / "policy.json").write_text('{"allowed_claims": 100}')
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", REST)
def test_the_commands_run(page: str, here: Path, anaglyph):
    for line in commands(page):
        program, *words = shlex.split(line, comments=True)
        if f".venv/bin/{line}" in commands("README.md"):  # test_readme.py runs it
            continue
        if program == "anaglyph":
            said = anaglyph(*words, *SMALLER.get(words[0], []))
            assert said.code == 0, f"{line}: {said.err}"
            assert said.out
        elif program == "make":
            done = subprocess.run(["make", "-n", *words], cwd=ROOT, capture_output=True)
            assert done.returncode == 0, line
        elif program == "python":  # minutes to an hour; tests/benchmarks runs it smaller
            assert (ROOT / words[0]).is_file(), line
        else:
            assert any(tool in line for tool in ("pre-commit", "pip", "pytest")), line


PUBLISHED = [
    line
    for page in GUIDES
    for line in [*commands_in_tables(page), *"\n".join(blocks(page, "sh")).splitlines()]
    if line.startswith("anaglyph ") and "--help" not in line
]


@pytest.mark.parametrize("line", PUBLISHED, ids=lambda line: line[:60])
def test_what_made_a_published_table_is_a_command_of_today(line: str):
    """These take minutes to hours. We check that each is understood, with all of its options."""
    command: Any = typer.main.get_command(app)
    words = shlex.split(line)[1:]
    while hasattr(command, "commands"):
        command, *words = (command.commands[words[0]], *words[1:])
    command.make_context(command.name, words)


@pytest.mark.parametrize("page", ["docs/data.md", "docs/findings.md"])
def test_the_python_runs(page: str, here: Path, capsys):
    pair = ModelPair.load("BASE", "TUNED")
    given = {"tokenizer": pair.tokenizer, "store": PairedStore.open("RUN/activations")}
    for source in blocks(page, "python"):
        exec(compile(source, page, "exec"), given)
    assert "found" in given or "assistant" in capsys.readouterr().out


def test_the_settings_file_of_the_guide_is_read(tmp_path):
    (source,) = blocks("docs/settings.md", "json")
    (tmp_path / "settings.json").write_text(source)
    assert load_settings(tmp_path / "settings.json").changed()
