"""The post's settings in miniature: random-weight Gemma-2 models at a fraction of the size."""

import json
import shutil
from pathlib import Path

import polars as pl
import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma2Config

from anaglyph import Dictionary
from anaglyph.core.settings import load_settings
from anaglyph.demo import tiny_pair

SETTINGS = Path(__file__).parents[2] / "examples/gemma2_2b_base_chat/settings.json"
# As deep as Gemma-2-2B and with its kinds of layers; 1/36 of its width.
SHAPE = {
    **{"vocab_size": 2048, "hidden_size": 64, "num_hidden_layers": 26, "head_dim": 16},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 128},
    **{"max_position_embeddings": 1024, "sliding_window": 512, "query_pre_attn_scalar": 16},
}


@pytest.fixture
def models(tmp_path) -> list[Path]:
    """A random model, and the same with its weights moved a little."""
    folders = []
    for moved in (0.0, 0.1):
        folder = tmp_path / f"moved-{moved}"
        shutil.copytree(tiny_pair().base, folder)
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(Gemma2Config(**SHAPE))
        torch.manual_seed(1)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(moved * torch.randn_like(parameter) * parameter.std().nan_to_num())
        model.save_pretrained(folder)
        folders.append(folder)
    return folders


def test_the_settings_are_those_of_the_post():
    settings = load_settings(SETTINGS)
    assert (settings.collect.layer, settings.collect.context) == (13, 1024)
    assert settings.train.latents == 32 * 2304 == 73_728
    assert (settings.train.k, settings.train.tokens) == (100, 100_000_000)
    assert (settings.train.batch, settings.train.lr) == (2048, 1e-4)


@pytest.mark.slow
def test_the_run_in_miniature(models, tmp_path, anaglyph):
    small = ["--latents", "2048", "--k", "3", "--tokens", "8192", "--batch", "512", "--lr", "0.01"]
    small += ["--sample-tokens", "4000", "--window", "4096", "--max-tokens", "12000"]
    small += ["--causal-tokens", "512", "--find-tokens", "256", "--trials", "0", "--no-behaviour"]
    options = ["--config", SETTINGS, "--data", tiny_pair().corpus[0], "--threads", "1"]
    said = anaglyph("diff", *models, *options, *small, "--out", tmp_path / "run")
    assert said.code == 0, said.err
    stages = json.loads((tmp_path / "run/run.json").read_text())["stages"]
    for name in ("crosscoder", "tuned-sae", "diff-sae"):
        assert {f"train/{name}", f"score/{name}", f"causal/{name}"} <= set(stages)
        dictionary = Dictionary.load(tmp_path / "run/dictionaries" / name)
        assert dictionary.stats["tokens"] == 8192
        assert dictionary.n_latents == 32 * 64
    table = pl.read_parquet(tmp_path / "run/causal/diff-sae.parquet")
    assert table.filter(intervention="exact")["recovered"][0] == pytest.approx(1, abs=0.05)
