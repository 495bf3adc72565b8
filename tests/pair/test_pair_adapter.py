"""Adapter pairs: one copy of the base in memory, switched, and never passed off as the base."""

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, PromptTuningConfig, TaskType, get_peft_model
from safetensors.torch import load_file, save_file
from tiny_models import make_model, make_tokenizer, save_adapter
from torch import Tensor

from anaglyph.core.errors import ModelError
from anaglyph.pair import ModelPair
from anaglyph.pair.blocks import find_blocks
from anaglyph.pair.model_pair import Side
from anaglyph.pair.quiet import quiet

Batch = tuple[Tensor, Tensor]
SIDES: tuple[Side, Side] = ("base", "tuned")


@pytest.fixture
def pair(base_folder: Path, adapter_folder: Path) -> ModelPair:
    return ModelPair.load(base_folder, adapter_folder)


def test_each_side_is_the_model_it_says(
    pair: ModelPair, base_folder: Path, adapter_folder: Path, batch: Batch
):
    plain = ModelPair.load(base_folder, base_folder)
    assert torch.equal(pair.logits("base", *batch), plain.logits("base", *batch))
    with quiet():
        merged: Any = PeftModel.from_pretrained(
            make_model(), str(adapter_folder)
        ).merge_and_unload()  # type: ignore[operator]
    with torch.no_grad():
        expected = merged(*batch).logits
    torch.testing.assert_close(pair.logits("tuned", *batch), expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(pair.logits("tuned", *batch), pair.logits("base", *batch), atol=0.1)


def test_run_to_and_from_switch_the_adapter(pair: ModelPair, batch: Batch):
    hidden = {side: pair.run_to(side, *batch, [2])[2] for side in ("base", "tuned")}  # type: ignore[arg-type]
    assert not torch.allclose(hidden["base"], hidden["tuned"], atol=0.1)
    for side in ("base", "tuned"):
        resumed = pair.run_from(side, 2, hidden[side], *batch)  # type: ignore[arg-type]
        torch.testing.assert_close(resumed, pair.logits(side, *batch))  # type: ignore[arg-type]


def test_weights_are_shared(pair: ModelPair):
    with pair.side("base") as base:
        addresses = {name: p.data_ptr() for name, p in base.named_parameters()}
    with pair.side("tuned") as tuned:
        assert tuned is base
        assert {name: p.data_ptr() for name, p in tuned.named_parameters()} == addresses
    whole = sum(p.numel() for name, p in tuned.named_parameters() if "lora_" not in name)
    assert whole == sum(p.numel() for p in make_model().parameters())


def test_the_adapter_is_off_again_after_every_run(pair: ModelPair, batch: Batch):
    with pair.side("base") as model:
        pass
    with torch.no_grad():
        base = model(*batch).logits
        pair.run_to("tuned", *batch, [1])
        assert torch.equal(model(*batch).logits, base)
        with pytest.raises(IndexError), pair.side("tuned"):
            raise IndexError
        assert torch.equal(model(*batch).logits, base)
        with pair.side("tuned"):
            tuned = model(*batch).logits
            assert torch.equal(pair.logits("base", *batch), base)
            # The inner run on the other side puts back what it found.
            assert torch.equal(model(*batch).logits, tuned)
        assert not torch.equal(tuned, base)
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_gradients_pass_through_the_adapter_without_staying_in_it(pair: ModelPair, batch: Batch):
    edited = pair.run_to("tuned", *batch, [1])[1].requires_grad_()
    with pair.side("tuned") as model:
        pair.run_from("tuned", 1, edited, *batch).sum().backward()
        assert all(parameter.grad is None for parameter in model.parameters())
    assert edited.grad is not None
    assert edited.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("options", "first"),
    [
        ({}, 0),
        ({"layers_to_transform": [2, 3]}, 2),
        ({"layers_to_transform": [3]}, 3),
        ({"target_modules": ["lm_head"]}, 4),
        ({"layers_to_transform": [2], "modules_to_save": ["lm_head"]}, 2),
        ({"target_modules": ["embed_tokens"]}, 0),
        # A whole block of the adapter's own, which stands where the base's block stood.
        ({"layers_to_transform": [3], "modules_to_save": ["layers.1"]}, 1),
        ({"target_modules": [f"layers.{i}.mlp.up_proj" for i in (1, 3)]}, 1),
    ],
)
def test_adapted_from_is_the_first_layer_that_differs(
    base_folder: Path, tmp_path: Path, batch: Batch, options: dict[str, Any], first: int
):
    pair = ModelPair.load(base_folder, save_adapter(tmp_path, make_model(), **options))
    assert pair.adapted_from == first
    base, tuned = (pair.run_to(side, *batch, range(4)) for side in ("base", "tuned"))  # type: ignore[arg-type]
    same = [torch.equal(base[layer], tuned[layer]) for layer in range(4)]
    assert same == [layer < first for layer in range(4)]
    assert not torch.equal(pair.logits("base", *batch), pair.logits("tuned", *batch))


def test_fingerprint_holds_base_and_adapter(
    pair: ModelPair, base_folder: Path, tuned_folder: Path, adapter_folder: Path, tmp_path: Path
):
    prints = pair.fingerprints
    assert prints["base"] != prints["tuned"]
    assert not pair.same_weights
    other_base = ModelPair.load(tuned_folder, adapter_folder).fingerprints
    assert other_base["tuned"] != prints["tuned"]
    other_weights = save_adapter(tmp_path / "weights", make_model(), seed=8)
    assert ModelPair.load(base_folder, other_weights).fingerprints["tuned"] != prints["tuned"]
    # The same weights under another scale are another adapter.
    other_scale = save_adapter(tmp_path / "scale", make_model(), lora_alpha=2)
    assert ModelPair.load(base_folder, other_scale).fingerprints["tuned"] != prints["tuned"]


def drop_a_weight(folder: Path) -> None:
    file = folder / "adapter_model.safetensors"
    weights = load_file(file)
    del weights[sorted(weights)[0]]
    save_file(weights, file)


def wider(folder: Path) -> None:
    save_adapter(folder, make_model(hidden_size=32))


def deeper(folder: Path) -> None:
    save_adapter(folder, make_model(num_hidden_layers=6))


def shallower(folder: Path) -> None:
    save_adapter(folder, make_model(num_hidden_layers=3))


def another_family(folder: Path) -> None:
    save_adapter(folder, make_model("gpt2"), target_modules=["c_attn"], fan_in_fan_out=True)


def incomplete(folder: Path) -> None:
    save_adapter(folder, make_model())
    drop_a_weight(folder)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (wider, "size mismatch for .*layers.0"),
        (deeper, "weights do not match, the first is .*layers.4"),
        (shallower, "weights do not match, the first is .*layers.3"),
        (another_family, "[Tt]arget modules .*c_attn"),
        (incomplete, "1 weights do not match, the first is model.layers.0"),
    ],
)
def test_an_adapter_of_another_base_is_one_clear_line(
    base_folder: Path, tmp_path: Path, make: Callable[[Path], None], message: str
):
    make(tmp_path / "wrong")
    with pytest.raises(ModelError) as caught:
        ModelPair.load(base_folder, tmp_path / "wrong")
    text = str(caught.value)
    assert re.match(f"adapter {tmp_path}/wrong does not fit {base_folder}: ", text)
    assert re.search(message, text)
    assert "\n" not in text


@pytest.mark.parametrize(
    "options", [{"bias": "lora_only"}, {"init_lora_weights": "pissa"}], ids=["bias", "pissa"]
)
def test_an_adapter_that_rewrites_its_base_is_merged_into_a_copy(
    base_folder: Path, tmp_path: Path, batch: Batch, options: dict[str, Any]
):
    """Switched off, it would leave a changed model behind and call it the base."""
    plain = make_model(attention_bias="bias" in options)
    model = make_model(attention_bias=True)
    save_adapter(tmp_path / "adapter", model, **options)
    if "bias" in options:
        file = tmp_path / "adapter" / "adapter_model.safetensors"
        weights = load_file(file)
        assert any(name.endswith("bias") for name in weights)
        save_file({k: v + 1 if k.endswith("bias") else v for k, v in weights.items()}, file)
        base_folder = tmp_path / "base"
        make_model(attention_bias=True).save_pretrained(base_folder)
        make_tokenizer().save_pretrained(base_folder)
    pair = ModelPair.load(base_folder, tmp_path / "adapter")
    assert any("merged into a second copy of the base" in note for note in pair.notes)
    assert pair.adapted_from is None
    with quiet():
        wrapped: Any = PeftModel.from_pretrained(copy.deepcopy(plain), str(tmp_path / "adapter"))
    with torch.no_grad():
        base, tuned = plain(*batch).logits, wrapped(*batch).logits
    torch.testing.assert_close(pair.logits("base", *batch), base, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(pair.logits("tuned", *batch), tuned, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(tuned, base, atol=0.1)


def test_prompt_adapters_are_refused(base_folder: Path, tmp_path: Path):
    config = PromptTuningConfig(task_type=TaskType.CAUSAL_LM, num_virtual_tokens=2)
    with quiet():
        get_peft_model(make_model(), config).save_pretrained(str(tmp_path))
    with pytest.raises(ModelError, match="kind PROMPT_TUNING, which acts on the prompt"):
        ModelPair.load(base_folder, tmp_path)


def test_adapter_folders_that_cannot_be_used(
    base_folder: Path, adapter_folder: Path, tmp_path: Path
):
    with pytest.raises(ModelError, match="is an adapter; base must be a whole model"):
        ModelPair.load(adapter_folder, base_folder)
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match="no safetensors weights"):
        ModelPair.load(base_folder, tmp_path)
    save_file({}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(ModelError, match="does not fit"):
        ModelPair.load(base_folder, tmp_path)


def test_template_that_came_with_the_adapter(base_folder: Path, tmp_path: Path):
    save_adapter(tmp_path, make_model())
    (tmp_path / "chat_template.jinja").write_text("{{ 3 }}")
    pair = ModelPair.load(base_folder, tmp_path)
    assert pair.tokenizer.chat_template == "{{ 3 }}"
    make_tokenizer(template="{{ 4 }}").save_pretrained(tmp_path)
    assert ModelPair.load(base_folder, tmp_path).tokenizer.chat_template == "{{ 4 }}"
    # A pad token that is saved with the adapter.
    make_tokenizer(extra=1).save_pretrained(tmp_path)
    notes = ModelPair.load(base_folder, tmp_path).notes
    assert "1 tokens of the tuned model have no row in its embeddings" in notes


@pytest.mark.parametrize("layers", [[0], [1, 2], [3], [0, 1, 2, 3]])
def test_the_shared_blocks_run_once_and_give_the_same_bits(
    base_folder: Path, tmp_path: Path, batch: Batch, layers: list[int]
):
    folder = save_adapter(tmp_path / "late", make_model(), layers_to_transform=[2, 3])
    pair = ModelPair.load(base_folder, folder)
    assert pair.adapted_from == 2
    with pair.side("base") as model:
        blocks = find_blocks(model, pair.n_layers)
        inner = [block.get_submodule("mlp") for block in blocks]  # not entered when one is skipped
    runs = [0] * len(blocks)
    expected = {side: pair.run_to(side, *batch, layers) for side in SIDES}

    def count(index: int) -> Callable[..., None]:
        def add(*_: Any) -> None:
            runs[index] += 1

        return add

    handles = [part.register_forward_hook(count(index)) for index, part in enumerate(inner)]
    found = pair.run_both_to(*batch, layers)
    for handle in handles:
        handle.remove()
    assert runs == [(1 if index < 2 else 2) * (index <= max(layers)) for index in range(4)]
    for side in SIDES:
        assert set(found[side]) == set(layers)
        for layer in layers:
            assert torch.equal(found[side][layer], expected[side][layer])


def test_an_adapter_from_the_first_block_on_shares_nothing(pair: ModelPair, batch: Batch):
    assert pair.adapted_from == 0
    found = pair.run_both_to(*batch, [1])
    for side in SIDES:
        assert torch.equal(found[side][1], pair.run_to(side, *batch, [1])[1])
