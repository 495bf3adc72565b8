"""The command line in this process, and one finished tiny run that many tests look at."""

import json
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import yaml

from anaglyph import cli
from anaglyph.demo import tiny_pair

# Small enough for seconds, large enough to find the quirk.
QUICK = ["--latents", "256", "--tokens", "120000", "--threads", "1"]
FEW = {
    **{"counts": [1, 16], "nu": [0.3], "single_latents": 4, "causal_tokens": 2048},
    # One round of test features, and no more whatever comes back.
    **{"candidates": 4, "find_tokens": 2048, "trials": 1, "replant_below": 0.0},
    "budget": 2800,
}
SMALL_GAME = {
    **{"layer": 1, "latents": 64, "tokens": 4096, "prose_tokens": 200, "causal_tokens": 128},
    **{"samples": 6, "new_tokens": 12, "checked": 2},
}


@dataclass(frozen=True)
class Said:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def call(*arguments: str | Path) -> Said:
    out, err = StringIO(), StringIO()
    before = sys.argv
    sys.argv = ["anaglyph", *map(str, arguments)]
    try:
        with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as stop:
            cli.main()
    finally:
        sys.argv = before
    return Said(int(stop.value.code or 0), out.getvalue(), err.getvalue())


@pytest.fixture(scope="session")
def anaglyph() -> Callable[..., Said]:
    return call


@pytest.fixture(scope="session")
def quick() -> list[str]:
    """Options under which the tiny pair takes seconds."""
    return QUICK


@pytest.fixture(scope="session")
def few(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Options of a command that starts a run, under which little is put through the models."""
    file = tmp_path_factory.mktemp("few") / "few.json"
    file.write_text(json.dumps(FEW))
    return ["--config", str(file)]


@pytest.fixture(scope="session")
def small_game(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Options under which a game takes seconds."""
    file = tmp_path_factory.mktemp("small") / "game.json"
    file.write_text(json.dumps(SMALL_GAME))
    return ["--config", str(file), "--workers", "1"]


@pytest.fixture(scope="session")
def shorten() -> Callable[[Path], None]:
    """Let the scaffold of a recipe teach for seconds."""

    def rewrite(recipe: Path) -> None:
        fields = yaml.safe_load(recipe.read_text())
        fields["training"]["examples"] = 16
        recipe.write_text(yaml.safe_dump(fields))

    return rewrite


@pytest.fixture(scope="session")
def tiny_arguments() -> list[str | Path]:
    """Base, tuned and data of the tiny pair, as `diff` takes them."""
    pair = tiny_pair()
    return [pair.base, pair.tuned, *(part for file in pair.corpus for part in ("--data", file))]


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_arguments, few) -> Path:
    """A run folder of the tiny pair with every stage done; tests only read it."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    said = call("diff", *tiny_arguments, "--out", folder, "--layer", "1", *QUICK, *few)
    assert said.code == 0, said.err
    return folder
