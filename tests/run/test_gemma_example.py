"""The post's settings in miniature: random-weight Gemma-2 models at a fraction of the size."""

import json
import runpy
from pathlib import Path

import polars as pl
import pytest

from anaglyph import Dictionary
from anaglyph.core.settings import load_settings
from anaglyph.demo import tiny_pair

EXAMPLE = Path(__file__).parents[2] / "examples/gemma2_2b_base_chat"
SETTINGS = EXAMPLE / "settings.json"


@pytest.fixture
def models(tmp_path) -> list[Path]:
    """As deep as Gemma-2-2B; 1/36 of its width."""
    module = runpy.run_path(str(EXAMPLE / "random_pair.py"))
    module["write_pair"](tmp_path, width=64, context=1024)
    return [tmp_path / "base", tmp_path / "tuned"]


def test_the_settings_are_those_of_the_post():
    settings = load_settings(SETTINGS)
    assert (settings.collect.layer, settings.collect.context) == (13, 1024)
    assert settings.train.latents == 32 * 2304 == 73_728
    assert (settings.train.k, settings.train.tokens) == (100, 100_000_000)
    assert (settings.train.batch, settings.train.lr) == (2048, 1e-4)


@pytest.mark.slow
def test_the_run_in_miniature(models, tmp_path, anaglyph):
    small = ["--latents", "2048", "--k", "3", "--tokens", "5120", "--batch", "512", "--lr", "0.01"]
    small += ["--sample-tokens", "4000", "--window", "4096", "--max-tokens", "12000"]
    small += ["--causal-tokens", "512", "--find-tokens", "256", "--trials", "0", "--no-behaviour"]
    options = ["--config", SETTINGS, "--data", tiny_pair().corpus[0], "--threads", "1"]
    said = anaglyph("diff", *models, *options, *small, "--out", tmp_path / "run")
    assert said.code == 0, said.err
    stages = json.loads((tmp_path / "run/run.json").read_text())["stages"]
    for name in ("crosscoder", "tuned-sae", "diff-sae"):
        assert {f"train/{name}", f"score/{name}", f"causal/{name}"} <= set(stages)
        dictionary = Dictionary.load(tmp_path / "run/dictionaries" / name)
        assert dictionary.stats["tokens"] == 5120
        assert dictionary.n_latents == 32 * 64
    table = pl.read_parquet(tmp_path / "run/causal/diff-sae.parquet")
    assert table.filter(intervention="exact")["recovered"][0] == pytest.approx(1, abs=0.05)
