"""Pairs of whole models: what loads, what is shared, what is refused and in which words."""

import json
import logging
import re
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub.utils import (
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
)
from safetensors.torch import load_file, save_file
from tiny_models import FAMILIES, make_model, make_tokenizer, save
from torch import Tensor
from transformers.utils import logging as transformers_logging

from anaglyph.core.errors import InputError, ModelError
from anaglyph.pair import ModelPair
from anaglyph.pair.quiet import quiet

Batch = tuple[Tensor, Tensor]


def test_two_models_run_on_the_same_tokens(base_folder: Path, tuned_folder: Path, batch: Batch):
    pair = ModelPair.load(base_folder, str(tuned_folder))
    assert pair.names == (str(base_folder), str(tuned_folder))
    assert (pair.n_layers, pair.d_base, pair.d_tuned, pair.vocabulary) == (4, 16, 16, 96)
    assert not pair.same_weights
    assert pair.adapted_from is None
    for side, seed in (("base", 0), ("tuned", 1)):
        with torch.no_grad():
            expected = make_model(seed=seed)(batch[0], attention_mask=batch[1]).logits
        torch.testing.assert_close(pair.logits(side, *batch), expected, rtol=1e-5, atol=1e-5)  # type: ignore[arg-type]
        hidden = pair.run_to(side, *batch, [1, 3])  # type: ignore[arg-type]
        resumed = pair.run_from(side, 3, hidden[3], *batch)  # type: ignore[arg-type]
        torch.testing.assert_close(resumed, expected, rtol=1e-5, atol=1e-5)
        with pair.side(side) as model:  # type: ignore[arg-type]
            assert torch.equal(model(*batch).logits, pair.logits(side, *batch))  # type: ignore[arg-type]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_loads_from_its_folder(family: str, tmp_path: Path, batch: Batch):
    # Gemma 3 can cap attention scores as Gemma 2 does, which the default kernel cannot.
    changes: dict[str, Any] = {"attn_logit_softcapping": 0.05} if family == "gemma3" else {}
    model = make_model(family, **changes)
    folder = save(tmp_path, model, make_tokenizer())
    pair = ModelPair.load(folder, folder)
    assert (pair.n_layers, pair.d_base, pair.d_tuned, pair.vocabulary) == (4, 16, 16, 96)
    with torch.no_grad():
        expected = model(batch[0], attention_mask=batch[1]).logits
    torch.testing.assert_close(pair.logits("base", *batch), expected, rtol=1e-4, atol=1e-4)


def test_the_same_files_are_one_object(base_folder: Path, tmp_path: Path, batch: Batch):
    copy = save(tmp_path / "copy", make_model(), make_tokenizer())
    pair = ModelPair.load(base_folder, copy)
    assert pair.same_weights
    with pair.side("base") as base, pair.side("tuned") as tuned:
        assert base is tuned
    assert torch.equal(pair.logits("base", *batch), pair.logits("tuned", *batch))


def test_fingerprints_follow_the_contents(base_folder: Path, tuned_folder: Path, tmp_path: Path):
    first = ModelPair.load(base_folder, tuned_folder).fingerprints
    assert first == ModelPair.load(base_folder, tuned_folder).fingerprints
    assert set(first) == {"base", "tuned", "tokenizer", "template"}
    swapped = ModelPair.load(tuned_folder, base_folder).fingerprints
    assert (swapped["base"], swapped["tuned"]) == (first["tuned"], first["base"])

    folder = save(tmp_path / "changing", make_model(seed=1), make_tokenizer())
    assert ModelPair.load(base_folder, folder).fingerprints == first
    # Another fine-tune under the same path and of the same size must not pass for the first.
    file = folder / "model.safetensors"
    weights = load_file(file)
    weights["model.norm.weight"] = weights["model.norm.weight"] * 2
    save_file(weights, file, metadata={"format": "pt"})
    assert ModelPair.load(base_folder, folder).fingerprints["tuned"] != first["tuned"]

    templated = save(tmp_path / "templated", make_model(), make_tokenizer(template="{{ 1 }}"))
    changed = ModelPair.load(templated, tuned_folder).fingerprints
    assert changed["template"] != first["template"]
    assert changed["base"] == first["base"]


def test_dtype_and_device(base_folder: Path, batch: Batch):
    pair = ModelPair.load(base_folder, base_folder, dtype="bfloat16")
    assert pair.logits("base", *batch).dtype == torch.bfloat16
    hidden = pair.run_to("base", *batch, [2])[2]
    assert hidden.dtype == torch.bfloat16
    # Edits are computed in float32 and put back in the model's own precision.
    resumed = pair.run_from("base", 2, hidden.float(), *batch)
    assert torch.equal(resumed, pair.logits("base", *batch))
    with pytest.raises(InputError, match="dtype 'float16' is unknown: use float32 or bfloat16"):
        ModelPair.load(base_folder, base_folder, dtype="float16")
    with pytest.raises(InputError, match="device 'tpu' is unknown"):
        ModelPair.load(base_folder, base_folder, device="tpu")


def test_an_absent_gpu_is_named(base_folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="device cuda is not here"):
        ModelPair.load(base_folder, base_folder, device="cuda")


def test_whose_template_and_tokenizer_are_used(base_folder: Path, tmp_path: Path):
    def folder(name: str, tokenizer: Any) -> Path:
        return save(tmp_path / name, make_model(), tokenizer)

    first = folder("first", make_tokenizer(template="{{ 1 }}"))
    second = folder("second", make_tokenizer(template="{{ 2 }}"))
    plain, bare = folder("plain", make_tokenizer()), folder("bare", None)

    def load(base: Path, tuned: Path) -> tuple[str | None, tuple[str, ...]]:
        pair = ModelPair.load(base, tuned)
        return pair.tokenizer.chat_template, pair.notes

    assert load(first, first) == ("{{ 1 }}", ())
    assert load(first, plain) == ("{{ 1 }}", ())
    assert load(first, bare) == ("{{ 1 }}", ())
    assert load(plain, plain) == (None, ())
    template, notes = load(plain, second)
    assert template == "{{ 2 }}"
    assert re.search("template of .*second used for both models .base has none", notes[0])
    template, notes = load(first, second)
    assert template == "{{ 2 }}"
    assert re.search("template of .*second used for both models .differs from base", notes[0])
    template, notes = load(bare, second)
    assert template == "{{ 2 }}"
    assert re.search("tokenizer of .*second used for both models", notes[0])
    with pytest.raises(ModelError, match=r"neither .*bare nor .*bare has a tokenizer: name one"):
        ModelPair.load(bare, bare)


def test_missing_files_are_named(base_folder: Path, tmp_path: Path):
    with pytest.raises(ModelError, match="nowhere does not exist"):
        ModelPair.load(base_folder, tmp_path / "nowhere")
    with pytest.raises(ModelError, match=r"\./nowhere does not exist"):
        ModelPair.load(base_folder, "./nowhere")
    with pytest.raises(ModelError, match=r"model\.gguf does not exist"):
        ModelPair.load(base_folder, "model.gguf")
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(ModelError, match=r"neither a model folder nor a .gguf file"):
        ModelPair.load(base_folder, tmp_path / "notes.txt")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ModelError, match=r"empty holds no model: config.json is missing$"):
        ModelPair.load(empty, base_folder)
    (empty / "small.gguf").write_bytes(b"")
    with pytest.raises(ModelError, match=r"name the file itself to use small.gguf"):
        ModelPair.load(empty, base_folder)
    (empty / "config.json").write_text(json.dumps(make_model().config.to_dict()))
    with pytest.raises(ModelError, match="no safetensors weights"):
        ModelPair.load(empty, base_folder)


def test_weights_that_would_stay_random_are_refused(base_folder: Path, tmp_path: Path):
    folder = save(tmp_path, make_model(seed=1), make_tokenizer())
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.2.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks 1 of .* first is model.layers.2.mlp.up_proj"):
        ModelPair.load(base_folder, folder)


def test_damaged_and_unknown_models_are_one_line(base_folder: Path, tmp_path: Path):
    folder = save(tmp_path / "damaged", make_model(seed=1), make_tokenizer())
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ModelError, match=r"cannot load .*damaged") as caught:
        ModelPair.load(base_folder, folder)
    assert "\n" not in str(caught.value)

    unknown = save(tmp_path / "unknown", make_model(seed=1), make_tokenizer())
    (unknown / "config.json").write_text('{"model_type": "never-heard-of"}')
    with pytest.raises(ModelError, match=r"cannot load .*unknown: .*never-heard-of"):
        ModelPair.load(base_folder, unknown)


def test_a_hub_id_is_found_in_the_local_cache(
    base_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    repository = tmp_path / "models--someone--tiny-llama"
    save(repository / "snapshots" / "0123abcd", make_model(), make_tokenizer())
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0123abcd")

    pair = ModelPair.load("someone/tiny-llama", base_folder)
    assert pair.names[0] == "someone/tiny-llama"
    assert pair.same_weights
    with pytest.raises(ModelError, match="someone/else is neither a folder here nor in the local"):
        ModelPair.load("someone/else", base_folder)
    with pytest.raises(ModelError, match=r"some--one is no folder here and cannot be had from"):
        ModelPair.load("some--one", base_folder)


def test_a_revision_of_a_hub_model(
    base_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--someone--tiny-llama"
    (repository / "refs" / "pr").mkdir(parents=True)
    for seed, name in enumerate(("main", "v2", "pr/1")):
        save(repository / "snapshots" / (str(seed) * 40), make_model(seed=seed), make_tokenizer())
        (repository / "refs" / name).write_text(str(seed) * 40)

    def prints(name: str) -> dict[str, str]:
        return ModelPair.load(base_folder, name, local_files_only=True).fingerprints

    main = prints("someone/tiny-llama")
    assert prints("someone/tiny-llama@main") == main
    assert prints("someone/tiny-llama@v2")["tuned"] != main["tuned"]
    assert prints("someone/tiny-llama@pr/1")["tuned"] != prints("someone/tiny-llama@v2")["tuned"]
    assert prints(f"someone/tiny-llama@{'2' * 40}") == prints("someone/tiny-llama@pr/1")
    with pytest.raises(ModelError, match="someone/tiny-llama@v3 is neither a folder here nor in"):
        prints("someone/tiny-llama@v3")


def test_loading_is_silent(
    base_folder: Path,
    tuned_folder: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
):
    with caplog.at_level(logging.WARNING):
        ModelPair.load(base_folder, tuned_folder)
    assert capfd.readouterr() == ("", "")
    assert not caplog.records


Settings = tuple[int, bool, bool]


def get_settings() -> Settings:
    bars = transformers_logging.is_progress_bar_enabled()
    return transformers_logging.get_verbosity(), bars, not are_progress_bars_disabled()


def set_settings(settings: Settings) -> None:
    verbosity, bars, hub_bars = settings
    transformers_logging.set_verbosity(verbosity)
    if bars:
        transformers_logging.enable_progress_bar()
    else:
        transformers_logging.disable_progress_bar()
    if hub_bars:
        enable_progress_bars()
    else:
        disable_progress_bars()


@pytest.mark.parametrize("hub_bars", [True, False])
@pytest.mark.parametrize("bars", [True, False])
@pytest.mark.parametrize("verbosity", [logging.INFO, logging.ERROR])
def test_silence_leaves_no_setting_behind(verbosity: int, bars: bool, hub_bars: bool):
    before = get_settings()
    try:
        set_settings((verbosity, bars, hub_bars))
        with quiet():
            assert get_settings() == (logging.ERROR, False, False)
        assert get_settings() == (verbosity, bars, hub_bars)
    finally:
        set_settings(before)
