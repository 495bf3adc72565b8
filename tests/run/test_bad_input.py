"""Every mistake gives one clear line and exit code 2, and leaves what exists alone."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from anaglyph.demo import tiny_pair


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def refused(said, *words: str) -> None:
    assert said.code == 2
    assert said.out == ""
    assert said.err.startswith("error: ")
    assert said.err.count("\n") == 1, said.err
    for word in words:
        assert word in said.err


@pytest.fixture
def other_width(tmp_path) -> Path:
    """The tiny base with a wider feed-forward layer, so that its adapter does not fit."""
    from transformers import AutoConfig, AutoModelForCausalLM

    folder = tmp_path / "other"
    shutil.copytree(tiny_pair().base, folder)
    config = AutoConfig.from_pretrained(folder)
    config.intermediate_size += 8
    model = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(folder)
    return folder


def test_a_missing_model(tmp_path, anaglyph, tiny_arguments):
    out = tmp_path / "run"
    refused(anaglyph("diff", "nowhere/model", *tiny_arguments[1:], "--out", out), "nowhere/model")
    assert not out.exists()


def test_an_adapter_of_another_base(tmp_path, anaglyph, tiny_arguments, other_width):
    out = tmp_path / "run"
    refused(anaglyph("diff", other_width, *tiny_arguments[1:], "--out", out), "tuned")
    assert not out.exists()


def test_an_empty_corpus(tmp_path, anaglyph, tiny_arguments):
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    out = tmp_path / "run"
    refused(anaglyph("diff", *tiny_arguments[:2], "--data", empty, "--out", out), "empty.jsonl")
    assert not out.exists()


def test_a_broken_line_of_the_corpus_is_named(tmp_path, anaglyph, tiny_arguments):
    broken = tmp_path / "chats.jsonl"
    broken.write_text('{"text": "one"}\n{"messages": [{"role": "wizard", "content": "x"}]}\n')
    said = anaglyph("diff", *tiny_arguments[:2], "--data", broken, "--out", tmp_path / "run")
    refused(said, "chats.jsonl:2", "wizard")


@pytest.mark.parametrize("layer", ["4", "99", "-1", "1.5", "middle"])
def test_a_layer_out_of_range(tmp_path, anaglyph, tiny_arguments, layer):
    out = tmp_path / "run"
    refused(anaglyph("diff", *tiny_arguments, "--out", out, "--layer", layer), layer)
    assert not out.exists()


def test_an_unknown_method(tmp_path, anaglyph, tiny_arguments):
    out = tmp_path / "run"
    said = anaglyph("diff", *tiny_arguments, "--out", out, "--method", "magic")
    refused(said, "magic", "crosscoder", "diff-sae")
    assert not out.exists()


def test_an_unknown_option_and_a_missing_one(anaglyph, tiny_arguments):
    refused(anaglyph("diff", *tiny_arguments, "--outt", "x"), "--outt")
    refused(anaglyph("diff", *tiny_arguments), "--out")


def test_a_truncated_store(finished, tmp_path, anaglyph):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    shard = next((run / "activations").glob("*.safetensors"))
    with shard.open("r+b") as file:
        file.truncate(shard.stat().st_size - 4096)
    before = snapshot(run)
    refused(anaglyph("train", run, "--method", "base-sae"), shard.name)
    assert snapshot(run) == before


def test_a_folder_of_other_files(tmp_path, anaglyph, tiny_arguments):
    (tmp_path / "notes.txt").write_text("keep me")
    refused(anaglyph("diff", *tiny_arguments, "--out", tmp_path), "not a run's")
    assert snapshot(tmp_path) == {"notes.txt": b"keep me"}


def test_another_layer_into_a_finished_run(finished, anaglyph, tiny_arguments):
    before = snapshot(finished)
    refused(anaglyph("diff", *tiny_arguments, "--out", finished, "--layer", "2"), "activations")
    assert snapshot(finished) == before


def test_a_stage_before_its_input(tmp_path, anaglyph):
    refused(anaglyph("train", tmp_path), "run.json")
    refused(anaglyph("report", tmp_path), "run.json")


def test_a_dictionary_that_is_not_there(finished, anaglyph):
    refused(anaglyph("score", finished, "--name", "sae-9000"), "sae-9000", "diff-sae")


def test_weights_that_make_nan(tmp_path, anaglyph, tiny_arguments):
    sick = tmp_path / "sick"
    shutil.copytree(tiny_pair().base, sick)
    file = next(sick.glob("*.safetensors"))
    weights = load_file(file)
    name = next(name for name in weights if "layers.1.mlp" in name)
    weights[name] = torch.full_like(weights[name], float("nan"))
    save_file(weights, file, {"format": "pt"})
    said = anaglyph(
        "diff",
        tiny_arguments[0],
        sick,
        *tiny_arguments[2:],
        "--out",
        tmp_path / "run",
        "--layer",
        "1",
    )
    assert said.code == 2
    assert "NaN" in said.err


def test_a_setting_with_a_bad_value(tmp_path, anaglyph, tiny_arguments):
    settings = tmp_path / "settings.json"
    settings.write_text(json.dumps({"latents": 0}))
    said = anaglyph("diff", *tiny_arguments, "--out", tmp_path / "run", "--config", settings)
    refused(said, "latents")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--k", "many"], ["--k", "many", "auto"]),
        (["--k", "300", "--latents", "100"], ["k=300", "latents=100"]),
        (["--sparsity", "l1", "--mu", "-1"], ["mu"]),
        (["--option", "norm"], ["--option", "NAME=VALUE"]),
        (["--option", "colour=red"], ["colour"]),
        (["--anneal", "0.9"], ["anneal"]),
    ],
)
def test_settings_of_a_training(tmp_path, anaglyph, tiny_arguments, flags, words):
    refused(anaglyph("diff", *tiny_arguments, "--out", tmp_path / "run", *flags), *words)


def test_settings_of_the_benchmark(anaglyph):
    refused(anaglyph("planted", "--preset", "hard"), "hard", "easy")
    refused(anaglyph("planted", "--preset", "easy", "--k", "many"), "many")


def test_memory_that_there_is_not(finished, anaglyph, tmp_path):
    """On a CPU torch tells of it by a RuntimeError."""
    run = shutil.copytree(finished, tmp_path / "run")
    refused(anaglyph("train", run, "--latents", str(10**13)), "out of memory")
