"""Which weight of one model is which of the other: ties, wrappers, vocabularies, families."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tiny_models import COMMON, GROUPED, VOCABULARY, make_model, make_tokenizer, save
from transformers import AutoModelForCausalLM

from anaglyph.core.errors import ModelError
from anaglyph.direct.token_reading import read_as_tokens
from anaglyph.direct.weights import directions, weight_changes, weights_table


def changed(base: Path, tuned: Path, notes: list[str] | None = None) -> dict[str, float]:
    changes = weight_changes(base, tuned, notes=notes)
    return {change.name: change.norm for change in changes if change.norm > 0}


def rename(folder: Path, rule: Any, extra: dict[str, Any] | None = None) -> Path:
    """Give the weights of a folder other names, and add some."""
    file = folder / "model.safetensors"
    weights = {rule(name): tensor for name, tensor in load_file(file).items()}
    save_file({**weights, **(extra or {})}, file, {"format": "pt"})
    return folder


def configure(folder: Path, **fields: Any) -> Path:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))
    return folder


@pytest.mark.parametrize("tied_side", ["base", "tuned"])
def test_a_head_that_only_one_of_the_two_ties(tmp_path: Path, tied_side: str):
    """The tied model's head is its embedding: that is what the other's head is compared with."""
    tied, own = make_model(tie_word_embeddings=True), make_model()
    own.load_state_dict({**own.state_dict(), **tied.state_dict()})
    with torch.no_grad():
        own.lm_head.weight += 1.0
    folders = {}
    for side in ("base", "tuned"):
        folders[side] = save(tmp_path / side, tied if side == tied_side else own, make_tokenizer())
    assert "lm_head.weight" not in load_file(folders[tied_side] / "model.safetensors")
    found = changed(folders["base"], folders["tuned"])
    assert found == {"lm_head": pytest.approx(math.sqrt(VOCABULARY * 16), rel=1e-5)}


def test_a_tied_head_that_is_stored_is_counted_once(tmp_path: Path):
    folders = []
    for side, size in (("base", 0.0), ("tuned", 1.0)):
        model = make_model(tie_word_embeddings=True)
        with torch.no_grad():
            model.model.embed_tokens.weight += size
        folder = save(tmp_path / side, model, make_tokenizer())
        head = model.model.embed_tokens.weight.detach().clone()
        folders.append(rename(folder, str, {"lm_head.weight": head}))
    found = changed(*folders)
    assert found == {"model.embed_tokens": pytest.approx(math.sqrt(VOCABULARY * 16), rel=1e-5)}


@pytest.mark.parametrize("prefix", ["language_model.", "model.language_model."])
@pytest.mark.parametrize("wrapped", ["base", "tuned"])
def test_a_text_model_and_the_same_inside_a_wrapper(tmp_path: Path, prefix: str, wrapped: str):
    plain = save(tmp_path / "plain", make_model("gemma3"), make_tokenizer())
    model = make_model("gemma3")
    with torch.no_grad():
        model.model.layers[2].mlp.down_proj.weight[0, 0] += 2.0
    other = save(tmp_path / "wrapped", model, make_tokenizer())
    towers = {
        "vision_tower.vision_model.encoder.layers.0.self_attn.q_proj.weight": torch.ones(16, 16),
        "multi_modal_projector.mm_input_projection_weight": torch.ones(4, 16),
    }
    config = json.loads((other / "config.json").read_text())
    inner = "model." if prefix.startswith("model.") else ""
    rename(other, lambda name: prefix + name.removeprefix(inner), towers)
    (other / "config.json").write_text(json.dumps({"model_type": "gemma3", "text_config": config}))
    notes: list[str] = []
    folders = (other, plain) if wrapped == "base" else (plain, other)
    found = changed(*folders, notes)
    assert list(found.values()) == [pytest.approx(2.0, rel=1e-5)]
    assert next(iter(found)).endswith("layers.2.mlp.down_proj")
    assert len(notes) == 2
    assert all(f"only {other} has" in note for note in notes)
    assert "vision_tower (1 weights): left out" in " ".join(notes)


def test_a_weight_that_one_model_lacks_is_an_error(tmp_path: Path):
    base = save(tmp_path / "base", make_model(), make_tokenizer())
    tuned = save(tmp_path / "tuned", make_model(seed=1), make_tokenizer())
    weights = load_file(tuned / "model.safetensors")
    del weights["model.layers.2.mlp.up_proj.weight"]
    save_file(weights, tuned / "model.safetensors", {"format": "pt"})
    for folders in ((base, tuned), (tuned, base)):
        with pytest.raises(ModelError, match=rf"{base} has a weight .*2.mlp.up_proj.*lacks"):
            changed(*folders)
    deeper = save(tmp_path / "deeper", make_model(num_hidden_layers=5), make_tokenizer())
    with pytest.raises(ModelError, match=r"layers.4.*lacks"):
        changed(base, deeper)


def test_blocks_beyond_the_depth_and_buffers_are_not_weights(tmp_path: Path):
    """Blocks that predict further tokens, frequencies and masks, as older files have them."""
    base = save(tmp_path / "base", make_model(), make_tokenizer())
    tuned = save(tmp_path / "tuned", make_model(), make_tokenizer())
    rename(
        tuned,
        str,
        {
            "model.layers.4.eh_proj.weight": torch.ones(16, 32),
            "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4),
            "model.layers.0.attn.bias": torch.ones(1, 1, 4, 4, dtype=torch.bool),
            "model.layers.0.ffn.gate.tid2eid": torch.ones(96, 2, dtype=torch.int64),
        },
    )
    notes: list[str] = []
    assert changed(base, tuned, notes) == {}
    assert notes == [f"only {tuned} has block 4 (1 weights): left out"]


def resized(folder: Path, rows: int, tokenizer: Any, move: dict[int, int] | None = None) -> Path:
    """Save the model with other rows of its vocabulary; ``move`` puts row j of the old at i."""
    model = make_model()
    old = [m.weight.detach().clone() for m in (model.model.embed_tokens, model.lm_head)]
    model.resize_token_embeddings(rows, mean_resizing=False)
    with torch.no_grad():
        for matrix, before in zip((model.model.embed_tokens, model.lm_head), old, strict=True):
            for new, row in (move or {}).items():
                matrix.weight[new] = before[row]
        model.model.embed_tokens.weight[10] += 1.0
    return save(folder, model, tokenizer)


@pytest.mark.parametrize(
    ("rows", "extra", "says"),
    [
        (VOCABULARY + 2, 2, ["2 tokens added, not compared: '<0>', '<1>'"]),
        (128, 2, ["2 tokens added", "30 rows without a token only in"]),
        (128, 0, ["32 rows without a token only in"]),
        (VOCABULARY + 8, 8, ["8 tokens added", "'<4>' and 3 more"]),
    ],
)
def test_rows_are_compared_by_token(tmp_path: Path, rows: int, extra: int, says: list[str]):
    base = save(tmp_path / "base", make_model(), make_tokenizer())
    tuned = resized(tmp_path / "tuned", rows, make_tokenizer(extra=extra))
    notes: list[str] = []
    changes = list(weight_changes(base, tuned, notes=notes))
    found = {change.name: change.norm for change in changes if change.norm > 0}
    assert found == {"model.embed_tokens": pytest.approx(4.0, rel=1e-5)}
    assert all(any(text in note for note in notes) for text in says)
    assert {c.shape for c in changes if c.name == "lm_head"} == {(VOCABULARY, 16)}
    # The other way round the same rows are compared.
    assert changed(tuned, base) == pytest.approx(found)
    assert read_as_tokens(base, tuned, directions(changes))


def test_rows_whose_tokens_moved_are_compared_by_token(tmp_path: Path):
    base = save(tmp_path / "base", make_model(), make_tokenizer())
    tuned = resized(tmp_path / "tuned", 97, make_tokenizer(extra=1, swap=True), {5: 6, 6: 5})
    assert changed(base, tuned) == {"model.embed_tokens": pytest.approx(4.0, rel=1e-5)}


def test_no_tokenizer_is_needed(tmp_path: Path):
    base, tuned = save(tmp_path / "base", make_model()), save(tmp_path / "same", make_model())
    assert changed(base, tuned) == {}
    longer, notes = resized(tmp_path / "longer", 100, None), []
    assert changed(base, longer, notes) == {"model.embed_tokens": pytest.approx(4.0, rel=1e-5)}
    assert "the first 96 are compared, one by one" in notes[0]


OTHERS: dict[str, Any] = {
    "mamba": lambda: transformers.MambaConfig(
        vocab_size=96, hidden_size=16, state_size=4, num_hidden_layers=3
    ),
    "rwkv": lambda: transformers.RwkvConfig(
        vocab_size=96, hidden_size=16, num_hidden_layers=3, attention_hidden_size=16
    ),
    "mpt": lambda: transformers.MptConfig(vocab_size=96, d_model=16, n_layers=3, n_heads=2),
    "opt": lambda: transformers.OPTConfig(**COMMON, ffn_dim=32, word_embed_proj_dim=8),
    "bloom": lambda: transformers.BloomConfig(vocab_size=96, hidden_size=16, n_layer=3, n_head=2),
    "mixtral": lambda: transformers.MixtralConfig(**GROUPED, num_local_experts=2),
    "phi": lambda: transformers.PhiConfig(**COMMON),
    "falcon": lambda: transformers.FalconConfig(**COMMON),
}


@pytest.mark.parametrize("family", OTHERS)
def test_other_families(tmp_path: Path, family: str):
    """Every stored weight is compared once, each with its own norm."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(OTHERS[family]())
    save(tmp_path / "base", model, make_tokenizer())
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    save(tmp_path / "tuned", model, make_tokenizer())
    base, tuned = (load_file(tmp_path / side / "model.safetensors") for side in ("base", "tuned"))
    changes = list(weight_changes(tmp_path / "base", tmp_path / "tuned"))
    assert {change.name: change.norm for change in changes} == {
        name.removesuffix(".weight"): pytest.approx(float((tuned[name] - base[name]).norm()), 1e-4)
        for name in tuned
    }
    blocks = {change.layer for change in changes} - {None}
    assert blocks == set(range(len(blocks)))
    assert len(blocks) >= 3
    table = weights_table(changes)
    assert table["share"].sum() == pytest.approx(1, rel=1e-6)
    found = directions(changes)
    assert {direction.side for direction in found} == {"reads", "writes"}
    assert len(read_as_tokens(tmp_path / "base", tmp_path / "tuned", found[:4])) == 4
