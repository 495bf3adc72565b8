"""Architectures: a few of different families on every run, all of them when asked."""

import re
from pathlib import Path

import models
import pytest

# Plain, other names of sizes, experts, windows and caps, a projected embedding.
FEW = ["llama", "gpt2", "qwen3_moe", "gemma2", "opt"]


@pytest.mark.parametrize("name", FEW)
def test_a_few_architectures_work(name: str, tmp_path: Path):
    assert models.attempt(name, tmp_path) == models.WORKS


def test_what_fails_says_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def broken(name: str, **_: object) -> None:
        raise ValueError(f"{name} has no size\nsecond line")

    monkeypatch.setattr(models, "tiny", broken)
    assert models.attempt("llama", tmp_path) == f"{models.NOT_BUILT}: llama has no size"


def listed() -> dict[str, str]:
    rows = re.findall(r"^\| `(.+)` \| (.+) \|$", models.PAGE.read_text(encoding="utf-8"), re.M)
    return dict(rows)


def test_the_page_lists_enough():
    found = listed()
    assert len(found) >= 60
    assert sum(result == models.WORKS for result in found.values()) >= 50
    assert all(found[name] == models.WORKS for name in FEW)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_page_is_right(tmp_path: Path):
    wrong = {}
    for name, result in listed().items():
        if result == models.WORKS and name in models.names():
            now = models.attempt(name, tmp_path / name)
            if now != result:
                wrong[name] = now
    assert wrong == {}
