"""Which files are a folder's weights: as transformers and peft choose them, or refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import make_model, make_tokenizer, save, save_adapter

from anaglyph.core.errors import ModelError
from anaglyph.direct.weights import weight_changes
from anaglyph.pair import ModelPair, sources
from anaglyph.pair.loading import load_model
from anaglyph.pair.patterns import check_patterns
from anaglyph.pair.quiet import quiet
from anaglyph.pair.sources import locate

Batch = tuple[torch.Tensor, torch.Tensor]


def shard(folder: Path, model: Any) -> None:
    """Write a model's weights in two files and an index."""
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    names, place = sorted(weights), {}
    for number, part in enumerate((names[::2], names[1::2])):
        save_file({n: weights[n] for n in part}, folder / f"part{number}.safetensors")
        place |= dict.fromkeys(part, f"part{number}.safetensors")
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": place})
    )


@pytest.mark.parametrize("files", ["single", "index", "both"])
def test_the_loader_and_weights_read_the_same_files(base_folder: Path, tmp_path: Path, files: str):
    folder = save(tmp_path / "tuned", make_model(seed=1), make_tokenizer())
    if files != "single":
        shard(folder, make_model(seed=2))
    if files == "index":
        (folder / "model.safetensors").unlink()
    seed = 2 if files == "index" else 1
    source = locate(folder)
    loaded = load_model(source, torch.device("cpu"), torch.float32)
    expected = make_model(seed=seed).state_dict()
    assert all(torch.equal(tensor, expected[n]) for n, tensor in loaded.state_dict().items())
    before = make_model().state_dict()
    for change in weight_changes(base_folder, folder):
        name = f"{change.name}.weight"
        assert change.norm == pytest.approx(float((expected[name] - before[name]).norm()), rel=1e-4)
    ignored = ("model.safetensors.index.json",) if files == "both" else ()
    assert len(source.weights.ignored) == len(ignored)
    assert all(file in note for file, note in zip(ignored, source.weights.ignored, strict=True))
    assert ModelPair.load(base_folder, folder).notes == source.weights.ignored


def test_the_fingerprint_is_that_of_the_files_that_are_read(tmp_path: Path):
    folder = save(tmp_path, make_model(seed=1), make_tokenizer())
    before = locate(folder).fingerprint
    save_file(make_model(seed=2).state_dict(), folder / "consolidated.safetensors")
    shard(folder, make_model(seed=3))
    assert locate(folder).fingerprint == before


def test_a_stale_adapter_configuration_is_left_aside(base_folder: Path, tmp_path: Path):
    folder = save(tmp_path / "tuned", make_model(seed=1), make_tokenizer())
    save_adapter(tmp_path / "adapter", make_model())
    shutil.copy(tmp_path / "adapter" / "adapter_config.json", folder)
    pair = ModelPair.load(base_folder, folder)
    assert any("adapter_config.json" in note and "ignored" in note for note in pair.notes)
    with pair.side("tuned") as tuned:
        weights = make_model(seed=1).state_dict()
        assert all(torch.equal(p, weights[name]) for name, p in tuned.state_dict().items())
    notes: list[str] = []
    assert len(list(weight_changes(base_folder, folder, notes=notes))) == len(weights)
    assert list(pair.notes) == notes


def test_a_model_and_an_adapter_in_one_folder_are_refused(base_folder: Path, tmp_path: Path):
    folder = save(tmp_path, make_model(seed=1), make_tokenizer())
    save_adapter(folder, make_model())
    with pytest.raises(ModelError, match="holds a whole model and an adapter: move"):
        ModelPair.load(base_folder, folder)


@pytest.mark.parametrize("place", ["../outside.safetensors", "/etc/x.safetensors", "a/../../x"])
def test_an_index_that_points_out_of_its_folder_is_refused(tmp_path: Path, place: str):
    folder = tmp_path / "model"
    save(folder, make_model(), make_tokenizer())
    (folder / "model.safetensors").rename(tmp_path / "outside.safetensors")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"lm_head.weight": place}}))
    with pytest.raises(ModelError, match="points out of its folder"):
        locate(folder)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"weight_map": {"a": 3}}'])
def test_a_damaged_index_is_one_line(tmp_path: Path, text: str):
    folder = save(tmp_path, make_model())
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(text)
    with pytest.raises(ModelError, match=r"index\.json"):
        locate(folder)


def test_a_shard_that_is_missing_is_named(tmp_path: Path):
    folder = save(tmp_path, make_model())
    shard(folder, make_model())
    (folder / "model.safetensors").unlink()
    (folder / "part1.safetensors").unlink()
    with pytest.raises(ModelError, match=r"lacks part1.safetensors"):
        locate(folder)


def pickle(folder: Path, parts: int = 1) -> Path:
    """Write a folder's weights as pickles, as older versions did."""
    single = next(folder.glob("*model.safetensors"))
    weights = load_file(single)
    single.unlink()
    if parts == 1:
        stem = "adapter_model" if single.name.startswith("adapter") else "pytorch_model"
        torch.save(weights, folder / f"{stem}.bin")
        return folder
    place = {name: f"pytorch_model-{i % parts}.bin" for i, name in enumerate(weights)}
    for file in set(place.values()):
        torch.save({n: w for n, w in weights.items() if place[n] == file}, folder / file)
    index = folder / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": place}))
    return folder


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("tied", [False, True])
def test_pickled_weights_are_converted_when_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: Batch, parts: int, tied: bool
):
    monkeypatch.setenv("ANAGLYPH_CACHE", str(tmp_path / "cache"))
    model, tokenizer = make_model(tie_word_embeddings=tied), make_tokenizer()
    plain = save(tmp_path / "plain", model, tokenizer)
    folder = pickle(save(tmp_path / "model", model, tokenizer), parts)
    adapter = pickle(save_adapter(tmp_path / "adapter", make_model()))
    for place in (folder, adapter):
        with pytest.raises(ModelError, match=r"pickled .*--convert \(convert=True\)"):
            locate(place)
    before = sorted(file.name for file in folder.iterdir())
    pair = ModelPair.load(folder, adapter, convert=True)
    assert torch.equal(pair.logits("base", *batch), ModelPair.load(plain, plain).logits(
        "base", *batch))  # fmt: skip
    assert not torch.equal(pair.logits("tuned", *batch), pair.logits("base", *batch))
    assert sorted(file.name for file in folder.iterdir()) == before
    monkeypatch.setattr(sources, "_ASKED", {"convert"})
    changes = list(weight_changes(plain, folder))
    assert len(changes) > 8
    assert all(change.norm == 0 for change in changes)
    assert {c.name for c in weight_changes(folder, adapter) if c.norm > 0}
    # A tied head is stored twice in some pickles.
    assert len(list((tmp_path / "cache" / "pickled").iterdir())) == 2


class Evil:
    def __reduce__(self):
        return (print, ("run",))


@pytest.mark.parametrize("content", [{"w": Evil()}, [torch.ones(2)], {"state": {"w": 1}}])
def test_pickles_of_anything_else_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, content: object
):
    monkeypatch.setenv("ANAGLYPH_CACHE", str(tmp_path / "cache"))
    folder = pickle(save(tmp_path / "model", make_model(), make_tokenizer()))
    torch.save(content, folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"pytorch_model.bin (cannot be read as weights|is not a)"):
        locate(folder, convert=True)
    assert "run" not in capsys.readouterr().out
    assert list((tmp_path / "cache" / "pickled").iterdir()) == []


def test_folders_of_several_adapters(base_folder: Path, tmp_path: Path):
    """PEFT saves all adapters but the one called default in folders of their own."""
    from peft import LoraConfig, PeftModel, get_peft_model

    with quiet():
        config = LoraConfig(r=2, target_modules=["q_proj"])
        wrapped = get_peft_model(make_model(), config, adapter_name="first")
        assert isinstance(wrapped, PeftModel)
        wrapped.add_adapter("second", config)
        wrapped.save_pretrained(str(tmp_path / "both"))
    message = r"folder of adapters: name the one that you mean: .*/both/first, .*/both/second"
    with pytest.raises(ModelError, match=message):
        locate(tmp_path / "both")
    assert locate(tmp_path / "both" / "second").is_adapter
    with quiet():
        wrapped.add_adapter("default", config)
        wrapped.save_pretrained(str(tmp_path / "three"))
    notes: list[str] = []
    list(weight_changes(base_folder, tmp_path / "three", notes=notes))
    assert any("further adapters in first, second" in note for note in notes)


@pytest.mark.parametrize("row", [3, 95])
def test_weights_that_are_not_finite_are_named(base_folder: Path, tmp_path: Path, row: int):
    folder = save(tmp_path, make_model(seed=1), make_tokenizer())
    weights = load_file(folder / "model.safetensors")
    weights["model.embed_tokens.weight"][row, 2:4] = float("nan")
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    message = r"damaged: 2 of .* values .*model.embed_tokens.weight are NaN"
    with pytest.raises(ModelError, match=message):
        ModelPair.load(base_folder, folder)
    with pytest.raises(ModelError, match=message):
        list(weight_changes(base_folder, folder))


@pytest.mark.parametrize(
    "pattern",
    [r"(a+)+b", r"(a|aa)+b", r"(\w*)*", r"((a)+)*", r"(?:a+)+x", r"(a+){2,}", r"((x|y)z)*",
     r"(?P<n>a+)+", r"(a?a?)+b", r".*.*x", r"\w+\w+x", "a*" * 20, "("],
)  # fmt: skip
def test_patterns_that_may_never_end_are_refused(pattern: str):
    with pytest.raises(ModelError, match="alpha_pattern of it has the pattern"):
        check_patterns({"alpha_pattern": {pattern: 1}}, "it")


@pytest.mark.parametrize(
    "pattern",
    [
        "q_proj",
        "layers.1.mlp.down_proj",
        r".*\.(q|v)_proj",
        r"(.*\.)?x",
        r"layers\.(\d+)\.mlp",
        r"[(]+a+",
        r"\(a+\)+",
        "(ab)+",
        r"^(?!.*visual).*(?:q_proj|k_proj).*",
        r"^(?:.*?(?:language|text).*?(?:attn|mlp).*?(?:k_proj|v_proj).*?)|(?:\bmodel\.layers\.[\d]{1,}"
        r"\.(?:attn|mlp)\.(?:(?:k_proj|v_proj)))$",
    ],
)
def test_patterns_in_use_are_accepted(pattern: str):
    check_patterns({"target_modules": pattern, "rank_pattern": {pattern: 2}}, "it")
