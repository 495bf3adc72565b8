"""The change of the weights against the files themselves, and edits whose answer is known."""

import json

import pytest
import torch
from direct_cases import save_adapted, save_whole
from safetensors.torch import load_file, save_file
from tiny_models import make_model, make_tokenizer, save

from anaglyph.core.errors import InputError, ModelError
from anaglyph.direct import matrix_change
from anaglyph.direct.matrix_change import product_svd
from anaglyph.direct.token_reading import read_as_tokens
from anaglyph.direct.weights import directions, weight_changes, weights_table
from anaglyph.pair.loading import load_model
from anaglyph.pair.sources import locate

WIDTH = 16
TOLERANCE = 1e-5
"""Largest error of a rebuilt change, as a share of its norm."""


def rank_one(folder, matrix: str, size: float = 3.0, seed: int = 5, family: str = "llama"):
    """Save a base and a copy with one rank-one edit; return the folders and the edit's vectors."""
    model = make_model(family)
    tokenizer = make_tokenizer()
    save(folder / "base", model, tokenizer)
    generator = torch.Generator().manual_seed(seed)
    weight = model.get_parameter(f"{matrix}.weight")
    left, right = (torch.randn(size, generator=generator) for size in weight.shape)
    left, right = left / left.norm(), right / right.norm()
    with torch.no_grad():
        weight += size * torch.outer(left, right)
    save(folder / "tuned", model, tokenizer)
    return (folder / "base", folder / "tuned"), left, right


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox"])
def test_all_parts_rebuild_every_matrix(tmp_path, family):
    folders = save_whole(tmp_path, family)
    base, tuned = (load_file(folder / "model.safetensors") for folder in folders)
    changes = {change.name: change for change in weight_changes(*folders, rank=None)}
    assert {name.removesuffix(".weight") for name in tuned} == set(changes)
    for name, after in tuned.items():
        change, delta = changes[name.removesuffix(".weight")], after - base[name]
        assert change.norm == pytest.approx(float(delta.norm()), rel=1e-5)
        assert change.base_norm == pytest.approx(float(base[name].norm()), rel=1e-5)
        if delta.ndim == 2:
            is_stored_in_out = family == "gpt2" and ".h." in name
            rebuilt = change.delta.T if is_stored_in_out else change.delta
            assert (rebuilt - delta).norm() <= TOLERANCE * delta.norm()
        else:
            assert change.singular is None


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_rslora": True, "lora_alpha": 3},
        {"rank_pattern": {"q_proj": 4}, "alpha_pattern": {"layers.1.mlp.down_proj": 5}},
        {"target_modules": ["embed_tokens", "up_proj"], "modules_to_save": ["lm_head"]},
    ],
    ids=["plain", "rslora", "patterns", "embedding-and-head"],
)
def test_all_parts_rebuild_what_peft_would_merge(tmp_path, options):
    from peft import PeftModel

    from anaglyph.pair.quiet import quiet

    folders = save_adapted(tmp_path, **options)
    base = load_model(locate(folders[0]), torch.device("cpu"), torch.float32)
    before = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    with quiet():
        merged = PeftModel.from_pretrained(base, str(folders[1])).merge_and_unload()
    after = merged.state_dict()
    changes = {f"{c.name}.weight": c for c in weight_changes(*folders, rank=None)}
    moved = {name for name in after if not torch.equal(after[name], before[name])}
    assert set(changes) == moved
    for name, change in changes.items():
        delta = after[name] - before[name]
        # The merged weights themselves are rounded to float32.
        assert (change.delta - delta).norm() <= TOLERANCE * delta.norm() + 1e-6 * before[
            name
        ].norm()
        assert change.base_norm == pytest.approx(float(before[name].norm()), rel=1e-5)


def test_product_svd_is_that_of_the_product():
    generator = torch.Generator().manual_seed(0)
    b, a = torch.randn(30, 4, generator=generator), torch.randn(4, 20, generator=generator)
    left, singular, right = product_svd(b, a)
    torch.testing.assert_close(singular, torch.linalg.svdvals(b @ a)[:4])
    torch.testing.assert_close((left * singular) @ right.T, b @ a)
    torch.testing.assert_close(left.T @ left, torch.eye(4), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("matrix", "side"),
    [
        ("model.layers.2.mlp.down_proj", "writes"),
        ("model.layers.1.self_attn.o_proj", "writes"),
        ("model.layers.3.self_attn.q_proj", "reads"),
        ("model.layers.0.mlp.up_proj", "reads"),
        ("lm_head", "reads"),
        ("model.embed_tokens", "writes"),
    ],
)
def test_one_rank_one_edit_comes_first(tmp_path, matrix, side):
    folders, left, right = rank_one(tmp_path, matrix)
    changes = list(weight_changes(*folders))
    table = weights_table(changes)
    first = table.row(0, named=True)
    assert first["matrix"] == matrix
    assert first["share"] == pytest.approx(1)
    assert first["stable_rank"] == pytest.approx(1, abs=1e-4)
    assert table["norm"].to_list()[1] == 0
    assert table["stable_rank"].to_list()[1] is None
    found = directions(changes)
    assert len(found) == 1  # the other singular values are rounding
    assert (found[0].matrix, found[0].component, found[0].side) == (matrix, 0, side)
    assert found[0].sigma == pytest.approx(3, rel=1e-4)
    wanted = left if side == "writes" and matrix != "model.embed_tokens" else right
    assert abs(float(found[0].vector @ wanted)) >= 0.99
    assert float(found[0].vector.norm()) == pytest.approx(1, rel=1e-5)


def test_a_gpt2_edit_is_read_the_right_way_round(tmp_path):
    # GPT-2 stores [in, out]: what is on the right writes.
    folders, _, right = rank_one(tmp_path, "transformer.h.1.mlp.c_proj", family="gpt2")
    (found,) = directions(list(weight_changes(*folders)))
    assert (found.layer, found.side) == (1, "writes")
    assert abs(float(found.vector @ right)) >= 0.99


def test_large_matrices_are_decomposed_at_random_and_say_so(tmp_path, monkeypatch):
    monkeypatch.setattr(matrix_change, "_EXACT", 4)
    folders, left, _ = rank_one(tmp_path, "model.layers.2.mlp.down_proj")
    changes = list(weight_changes(*folders, rank=2))
    assert weights_table(changes).row(0, named=True)["svd"] == "randomised"
    (found,) = directions(changes)
    assert abs(float(found.vector @ left)) >= 0.99
    (again,) = directions(list(weight_changes(*folders, rank=2)))
    assert torch.equal(again.vector, found.vector)


def test_tokens_at_the_ends_of_a_direction(tmp_path):
    model, tokenizer = make_model(), make_tokenizer()
    save(tmp_path / "base", model, tokenizer)
    with torch.no_grad():
        unembedding = model.lm_head.weight[40] / model.lm_head.weight[40].norm()
        model.model.layers[2].mlp.down_proj.weight += torch.outer(unembedding, torch.ones(32))
        embedding = model.model.embed_tokens.weight[50]
        model.model.layers[1].mlp.up_proj.weight -= torch.outer(torch.ones(32), embedding)
    save(tmp_path / "tuned", model, tokenizer)
    found = directions(list(weight_changes(tmp_path / "base", tmp_path / "tuned")), per_matrix=1)
    texts = read_as_tokens(tmp_path / "base", tmp_path / "tuned", found, top=2)
    for direction, (high, low) in zip(found, texts, strict=True):
        written = direction.side == "writes"
        matrix = model.lm_head.weight if written else model.model.embed_tokens.weight
        scores = matrix.detach() @ direction.vector
        assert high[0] == tokenizer.convert_ids_to_tokens(int(scores.argmax())).replace("Ġ", " ")
        assert low[0] == tokenizer.convert_ids_to_tokens(int(scores.argmin())).replace("Ġ", " ")
        assert scores.abs().argmax() == (40 if written else 50)


@pytest.mark.parametrize("folders", ["whole_folders", "adapted_folders"])
def test_blocks_after_the_last_wanted_are_left_out(request, folders):
    pair = request.getfixturevalue(folders)
    everything = [(change.name, change.layer) for change in weight_changes(*pair)]
    wanted = [(name, layer) for name, layer in everything if layer is None or layer <= 1]
    assert len(wanted) < len(everything)
    assert [(c.name, c.layer) for c in weight_changes(*pair, last_block=1)] == wanted


def test_sharded_files_are_read_by_their_index(tmp_path, whole_folders):
    weights = load_file(whole_folders[1] / "model.safetensors")
    folder = save(tmp_path / "sharded", make_model(), make_tokenizer())
    (folder / "model.safetensors").unlink()
    names, place = sorted(weights), {}
    for number, part in enumerate((names[::2], names[1::2])):
        save_file({n: weights[n] for n in part}, folder / f"part{number}.safetensors")
        place |= dict.fromkeys(part, f"part{number}.safetensors")
    save_file(weights, folder / "copy.safetensors")  # not in the index, so not read
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": place}))
    wanted = weights_table(list(weight_changes(*whole_folders)))
    assert weights_table(list(weight_changes(whole_folders[0], folder))).equals(wanted)
    (folder / "part1.safetensors").unlink()
    with pytest.raises(ModelError, match="part1"):
        list(weight_changes(whole_folders[0], folder))


def test_a_model_with_itself_has_no_direction(whole_folders):
    changes = list(weight_changes(whole_folders[0], whole_folders[0]))
    assert directions(changes) == []
    table = weights_table(changes)
    assert table["norm"].sum() == 0
    assert table["share"].null_count() == len(table)


def test_what_cannot_be_read_is_refused(tmp_path, whole_folders, adapted_folders):
    with pytest.raises(InputError, match="rank is 0"):
        list(weight_changes(*whole_folders, rank=0))
    with pytest.raises(ModelError, match="base must be"):
        list(weight_changes(adapted_folders[1], whole_folders[0]))
    wide = save(tmp_path / "wide", make_model(intermediate_size=40), make_tokenizer())
    with pytest.raises(ModelError, match="does not fit"):
        list(weight_changes(whole_folders[0], wide))
    with pytest.raises(ModelError, match="the base's has"):
        list(weight_changes(wide, adapted_folders[1]))
    (change,) = [c for c in weight_changes(*whole_folders) if c.name == "model.norm"]
    with pytest.raises(InputError, match="no matrix"):
        _ = change.delta
