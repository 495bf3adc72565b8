"""One door to findings: Python, the command and the game's player say the same of one store."""

from pathlib import Path
from typing import Any

import pytest

import anaglyph as ag
from anaglyph.core.settings import FindSettings, Settings
from anaglyph.findings import search
from anaglyph.run import Run
from anaglyph.subject import Subject
from anaglyph.truth.game.players import findings as player

FEW = ["--find-tokens", "600", "--candidates", "3", "--trials", "0", "--threads", "1"]


@pytest.fixture(scope="module")
def collected(tmp_path_factory: pytest.TempPathFactory, anaglyph, tiny_arguments) -> Path:
    folder = tmp_path_factory.mktemp("door") / "run"
    said = anaglyph("collect", *tiny_arguments, "--out", folder, "--layer", "1", "--threads", "1")
    assert said.code == 0, said.err
    return folder


@pytest.fixture(scope="module")
def said(collected: Path, anaglyph) -> dict[str, Any]:
    """`anaglyph find` right after `anaglyph collect`."""
    found = anaglyph("find", collected, *FEW, "--json")
    assert found.code == 0, found.err
    return found.json


def test_python_and_the_player_find_what_the_command_finds(collected: Path, said: dict[str, Any]):
    subject = Run.reopen(collected).subject
    settings = FindSettings(find_tokens=600, candidates=3, trials=0)
    again = search(
        Subject.of(
            pair=subject.pair, corpus=subject.corpus, store=subject.store, settings=Settings()
        ),
        settings,
    )
    assert [f.model_dump(mode="json") for f in again.findings] == said["findings"]
    assert [f.model_dump(mode="json") for f in again.like_noise] == said["like_noise"]
    assert player.search is search


def test_the_verdict_says_how_far_apart_the_models_are(said: dict[str, Any]):
    assert said["verdict"] == "difference found"
    assert said["apart"]["kl"] > 0.5
    assert said["apart"]["activations"] > 0.3
    assert said["reason"].startswith("predictions differ by ")
    assert sum(role["share"] for role in said["apart"]["roles"]) == pytest.approx(1)


def test_without_models_the_skipped_step_is_named(collected: Path):
    store = ag.PairedStore.open(collected / "activations")
    verdict = search(Subject.of(store=store), FindSettings(trials=0))
    assert any("models were not given" in reason for reason in verdict.skipped)
    assert verdict.apart is not None
    assert verdict.apart.kl is None


def test_a_causal_setting_leaves_the_findings_in_place(finished: Path, few: list[str]):
    run = Run.reopen(finished)
    key = run.folder.key_of("find")
    changed = Run.reopen(finished, causal_tokens=64, nu=(0.2,))
    from anaglyph.run.stages import find

    find(changed)
    assert changed.folder.key_of("find") == key
