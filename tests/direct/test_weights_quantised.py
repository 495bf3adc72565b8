"""Quantised folders: the change is that of the weights that the loader computes with."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationScheme
from peft_kinds import save_kind
from safetensors.torch import load_file, save_file
from tiny_models import make_model, make_tokenizer, save
from torch import Tensor

from anaglyph.core.errors import ModelError
from anaglyph.direct.weights import weight_changes
from anaglyph.pair import ModelPair
from anaglyph.pair.loading import load_model
from anaglyph.pair.sources import locate

Stored = dict[str, Tensor]
Writer = Callable[[str, Tensor], Stored]
EDITED, SCALED = "model.layers.1.mlp.down_proj", "model.layers.2.mlp.down_proj"


def blocks(name: str, weight: Tensor, size: tuple[int, int] = (8, 16)) -> Stored:
    rows, columns = weight.shape
    parts = weight.reshape(rows // size[0], size[0], columns // size[1], size[1])
    scale = parts.abs().amax((1, 3)) / 448
    codes = (parts / scale[:, None, :, None]).reshape(rows, columns)
    return {name: codes.to(torch.float8_e4m3fn), f"{name}_scale_inv": scale}


def one_scale(name: str, weight: Tensor) -> Stored:
    scale = weight.abs().max() / 448
    return {name: (weight / scale).to(torch.float8_e4m3fn), f"{name}_scale_inv": scale}


FP8: dict[str, Any] = {"quant_method": "fp8", "activation_scheme": "dynamic", "fmt": "e4m3"}


def compressed(kind: str, **weights: Any) -> tuple[Writer, dict[str, Any]]:
    group = {"targets": ["Linear"], "weights": {"symmetric": True, **weights}}
    scheme = QuantizationScheme.model_validate(group)
    settings = {
        "quant_method": "compressed-tensors",
        "format": kind,
        "quantization_status": "compressed",
        "config_groups": {"group_0": group},
        "ignore": ["lm_head"],
    }
    size = weights.get("group_size")
    most = {8: 127, 4: 7}[weights["num_bits"]] if weights["type"] == "int" else 448

    def write(name: str, weight: Tensor) -> Stored:
        rows = weight.shape[0]
        scale = weight.reshape(rows, -1, size or weight.shape[1]).abs().amax(-1) / most
        compressor: Any = BaseCompressor.get_value_from_registry(kind)
        state = {"weight": weight, "weight_scale": scale, "weight_zero_point": 0 * scale.int()}
        found = compressor.compress(state, scheme)
        return {f"{name.removesuffix('weight')}{part}": value for part, value in found.items()}

    return write, settings


def packed(
    kind: str, parts: Callable[[Tensor], Stored], **weights: Any
) -> tuple[Writer, dict[str, Any]]:
    """Compressed in groups of 16, with the scales and offsets that ``parts`` makes of a matrix."""
    _, settings = compressed(kind, num_bits=4, type="int", strategy="group", group_size=16)
    group = {"targets": ["Linear"], "weights": {"num_bits": 4, "group_size": 16, **weights}}
    scheme = QuantizationScheme.model_validate(group)

    def write(name: str, weight: Tensor) -> Stored:
        compressor: Any = BaseCompressor.get_value_from_registry(kind)
        found = compressor.compress({"weight": weight, **parts(weight)}, scheme)
        return {f"{name.removesuffix('weight')}{part}": value for part, value in found.items()}

    return write, {**settings, "config_groups": {"group_0": group}}


def _with_offsets(weight: Tensor) -> Stored:
    groups = weight.reshape(weight.shape[0], -1, 16)
    low, high = groups.amin(-1), groups.amax(-1)
    scale = (high - low) / 15
    zero = (-8 - torch.round(low / scale)).clamp(-8, 7).to(torch.int8)
    return {"weight_scale": scale, "weight_zero_point": zero}


def _with_two_scales(weight: Tensor) -> Stored:
    whole = (448 * 6 / weight.abs().max()).reshape(1)
    scale = weight.reshape(weight.shape[0], -1, 16).abs().amax(-1) / 6 * whole
    return {
        "weight_scale": scale.to(torch.float8_e4m3fn).float(),
        "weight_global_scale": whole,
    }


METHODS: dict[str, tuple[Writer, dict[str, Any]]] = {
    "fp8-blocks": (blocks, {**FP8, "weight_block_size": [8, 16]}),
    "fp8-scalar": (one_scale, {**FP8, "weight_block_size": None}),
    "int8": compressed("int-quantized", num_bits=8, type="int", strategy="channel"),
    "float8": compressed("float-quantized", num_bits=8, type="float", strategy="channel"),
    "packed4": compressed(
        "pack-quantized", num_bits=4, type="int", strategy="group", group_size=16
    ),
    "packed4-offsets": packed(
        "pack-quantized", _with_offsets, type="int", symmetric=False, strategy="group"
    ),
    "nvfp4": packed(
        "nvfp4-pack-quantized",
        _with_two_scales,
        type="float",
        symmetric=True,
        strategy="tensor_group",
    ),
}


def quantise(folder: Path, model: Any, method: str) -> Path:
    """Save a model with the linear layers of its blocks quantised."""
    write, settings = METHODS[method]
    save(folder, model, make_tokenizer())
    stored: Stored = {}
    for name, weight in load_file(folder / "model.safetensors").items():
        quantised = ".layers." in name and name.endswith("proj.weight")
        stored |= write(name, weight) if quantised else {name: weight}
    stored = {name: value.contiguous() for name, value in stored.items()}
    save_file(stored, folder / "model.safetensors", {"format": "pt"})
    file = folder / "config.json"
    config = {**json.loads(file.read_text()), "quantization_config": settings}
    file.write_text(json.dumps(config))
    return folder


def edited() -> Any:
    """Return the model with one matrix changed, and another in its scale alone."""
    model = make_model()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        weight = model.get_parameter(f"{EDITED}.weight")
        weight += 0.2 * torch.randn(weight.shape, generator=generator)
        model.get_parameter(f"{SCALED}.weight").mul_(2)
    return model


def loaded(folder: Path) -> dict[str, Tensor]:
    model = load_model(locate(folder), torch.device("cpu"), torch.float32)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    return dict(model.state_dict())


@pytest.mark.parametrize("method", METHODS)
def test_norms_are_those_of_the_loaded_weights(tmp_path: Path, method: str):
    base = quantise(tmp_path / "base", make_model(), method)
    tuned = quantise(tmp_path / "tuned", edited(), method)
    before, after = loaded(base), loaded(tuned)
    changes = {change.name: change for change in weight_changes(base, tuned, rank=None)}
    assert {f"{name}.weight" for name in changes} == set(after)
    moved = {name for name, change in changes.items() if change.norm > 0}
    assert moved == {EDITED, SCALED}
    for name, change in changes.items():
        delta = after[f"{name}.weight"] - before[f"{name}.weight"]
        assert change.shape == tuple(delta.shape)
        assert change.norm == pytest.approx(float(delta.norm()), rel=1e-5, abs=1e-9)
        assert change.base_norm == pytest.approx(float(before[f"{name}.weight"].norm()), rel=1e-5)
    assert changes[SCALED].norm == pytest.approx(changes[SCALED].base_norm, rel=1e-4)
    pair = ModelPair.load(base, tuned)
    ids = torch.arange(8)[None]
    assert pair.logits("tuned", ids, torch.ones_like(ids)).dtype == torch.float32


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["lora", "dora", "ia3"])
def test_adapters_over_a_quantised_base(tmp_path: Path, method: str, kind: str):
    from peft import PeftModel

    from anaglyph.pair.quiet import quiet

    base = quantise(tmp_path / "base", make_model(), method)
    adapter = save_kind(tmp_path / "adapter", kind)
    model = load_model(locate(base), torch.device("cpu"), torch.float32)
    before = {name: weight.double() for name, weight in model.state_dict().items()}
    with quiet():
        wrapped: Any = PeftModel.from_pretrained(model, str(adapter))
        after = wrapped.merge_and_unload().state_dict()
    changes = list(weight_changes(base, adapter))
    assert len(changes) == 8
    for change in changes:
        delta = after[f"{change.name}.weight"].double() - before[f"{change.name}.weight"]
        assert change.norm == pytest.approx(float(delta.norm()), rel=1e-4)


def test_blocks_that_do_not_divide_a_matrix(tmp_path: Path):
    """The last block may be cut, as in DeepSeek's 576 rows of blocks of 128."""
    from anaglyph.pair.quantised import Quantisation

    found = Quantisation.of({"quantization_config": {**FP8, "weight_block_size": [4, 4]}}, "it")
    assert found is not None
    codes = torch.ones(6, 5).to(torch.float8_e4m3fn)
    scale = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    tensors = {"w.weight": codes, "w.weight_scale_inv": scale}
    parts, hidden = found.parts(tensors)
    assert hidden == {"w.weight_scale_inv"}
    weight = found.decode(parts["w.weight"], tensors.__getitem__, "w.weight")
    expected = torch.tensor([[1.0] * 4 + [2.0]] * 4 + [[3.0] * 4 + [4.0]] * 2)
    assert torch.equal(weight, expected)
    with pytest.raises(ModelError, match=r"w.weight, quantised by fp8, is damaged"):
        found.decode(parts["w.weight"], {**tensors, "w.weight_scale_inv": scale[:, :1].expand(
            2, 1).repeat(3, 4)}.__getitem__, "w.weight")  # fmt: skip


@pytest.mark.parametrize("method", ["gptq", "awq", "mxfp4", "quanto", "aqlm"])
def test_methods_that_are_not_read_are_refused_by_name(tmp_path: Path, method: str):
    base = save(tmp_path / "base", make_model(), make_tokenizer())
    tuned = save(tmp_path / "tuned", edited(), make_tokenizer())
    file = tuned / "config.json"
    settings = {"quant_method": method, "bits": 4, "group_size": 32}
    config = {**json.loads(file.read_text()), "quantization_config": settings}
    file.write_text(json.dumps(config))
    with pytest.raises(ModelError, match=rf"quantised by {method}, which is not read"):
        list(weight_changes(base, tuned))
    with pytest.raises(ModelError, match=rf"quantised by {method}, which is not read"):
        ModelPair.load(base, tuned)


def test_packed_codes_without_a_configuration_are_refused(tmp_path: Path):
    base = save(tmp_path / "base", make_model(), make_tokenizer())
    tuned = save(tmp_path / "tuned", edited(), make_tokenizer())
    weights = load_file(tuned / "model.safetensors")
    weights["lm_head.weight"] = weights["lm_head.weight"].to(torch.int8)
    save_file(weights, tuned / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"stores lm_head.weight as int8, packed"):
        list(weight_changes(base, tuned))


@pytest.mark.parametrize("stored", ["scale_inv", "weight_scale"])
def test_scales_that_no_configuration_names_are_refused(tmp_path: Path, stored: str):
    base = quantise(tmp_path / "base", make_model(), "fp8-blocks")
    tuned = quantise(tmp_path / "tuned", edited(), "fp8-blocks")
    for folder in (base, tuned):
        file = folder / "config.json"
        config = json.loads(file.read_text())
        del config["quantization_config"]
        file.write_text(json.dumps(config))
        if stored != "scale_inv":
            weights = load_file(folder / "model.safetensors")
            moved = {n.replace("weight_scale_inv", "weight_scale"): w for n, w in weights.items()}
            save_file(moved, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"in 8 bits and has scales .* no quantization_config"):
        list(weight_changes(base, tuned))


def test_a_wrapper_may_leave_its_quantisation_to_the_text_model():
    from anaglyph.pair.quantised import Quantisation

    found = Quantisation.of({"text_config": {"quantization_config": FP8}}, "it")
    assert found is not None
    assert found.method == "fp8"
    with pytest.raises(ModelError, match="quantised by gptq"):
        Quantisation.of({"text_config": {"quantization_config": {"quant_method": "gptq"}}}, "it")


@pytest.mark.parametrize(
    "options",
    [
        {"load_in_8bit": True},
        {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
        {"load_in_4bit": True, "bnb_4bit_quant_type": "fp4", "bnb_4bit_use_double_quant": True},
    ],
)
def test_bitsandbytes(tmp_path: Path, options: dict[str, Any]):
    pytest.importorskip("bitsandbytes")
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    from anaglyph.pair.quiet import quiet

    folders = []
    for name, model in (("base", make_model()), ("tuned", edited())):
        save(tmp_path / f"{name}-float", model, make_tokenizer())
        with quiet():
            packed: Any = AutoModelForCausalLM.from_pretrained(
                tmp_path / f"{name}-float", quantization_config=BitsAndBytesConfig(**options)
            )
        folders.append(save(tmp_path / name, packed, make_tokenizer()))
    before, after = map(loaded, folders)
    for change in weight_changes(*folders):
        delta = after[f"{change.name}.weight"] - before[f"{change.name}.weight"]
        assert change.norm == pytest.approx(float(delta.norm()), rel=1e-3, abs=1e-6)
