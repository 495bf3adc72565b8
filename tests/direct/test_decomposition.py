"""Rank-one parts of the weight difference, against weights edited by hand."""

import itertools

import numpy as np
import pytest
import torch
from direct_cases import make_corpus, slow_logprobs
from safetensors.torch import load_file, save_file
from test_weights import rank_one
from tiny_models import make_model, make_tokenizer, save

from anaglyph.core.errors import InputError
from anaglyph.core.settings import Settings, WeightsSettings
from anaglyph.direct.decomposition import Removal, decompose, largest_parts
from anaglyph.direct.weights import weight_changes
from anaglyph.pair import ModelPair
from anaglyph.subject import Subject


@pytest.fixture(scope="module")
def parts(pair, request):
    return largest_parts(list(weight_changes(*pair.names)), most=3)


@pytest.fixture(scope="module")
def corpus():
    return make_corpus(4)


def test_parts_are_the_largest_of_all_blocks(pair, parts):
    values = sorted(
        (
            float(sigma)
            for change in weight_changes(*pair.names, rank=None)
            if change.layer is not None and change.singular is not None
            for sigma in change.singular
        ),
        reverse=True,
    )
    np.testing.assert_allclose([part.sigma for part in parts], values[:3], rtol=1e-4)


def test_removing_parts_equals_editing_the_weights(tmp_path, whole_folders, whole, corpus):
    parts = largest_parts(list(weight_changes(*whole_folders)), most=3)
    removal = Removal(whole, corpus, parts)
    weights = load_file(whole_folders[1] / "model.safetensors")
    for part in (parts[0], parts[2]):
        outer = part.sigma * torch.outer(part.left, part.right)
        weights[f"{part.matrix}.weight"] = weights[f"{part.matrix}.weight"] - outer
    folder = save(tmp_path / "edited", make_model(), make_tokenizer())
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    edited = ModelPair.load(whole_folders[1], folder)
    total, gap = 0.0, 0.0
    for index in range(corpus.n_sequences):
        ids, _ = corpus.sequence(index)
        p, q = (slow_logprobs(edited, side, ids) for side in ("base", "tuned"))
        base = slow_logprobs(whole, "base", ids)
        total += float((p.exp() * (p - q)).sum())
        gap += float((p.exp() * (p - base)).sum())
    found = removal.kl(np.array([True, False, True]))
    assert found == pytest.approx(total / corpus.n_tokens, rel=1e-3)
    assert removal.gap == pytest.approx(gap / corpus.n_tokens, rel=1e-3)
    assert removal.kl(np.zeros(3, dtype=bool)) == 0


def test_shapley_values_equal_all_orders_by_hand(pair, parts, corpus):
    """With every order of three parts drawn, the sampled values are the exact ones."""
    removal = Removal(pair, corpus, parts)
    f = {
        chosen: removal.kl(np.array([i in chosen for i in range(3)]))
        for size in range(4)
        for chosen in itertools.combinations(range(3), size)
    }
    exact = np.zeros(3)
    for order in itertools.permutations(range(3)):
        for place, part in enumerate(order):
            before = tuple(sorted(order[:place]))
            exact[part] += (f[tuple(sorted((*before, part)))] - f[before]) / 6
    subject = Subject.of(pair=pair, corpus=corpus, settings=Settings(seed=1))
    table = decompose(subject, parts, WeightsSettings(orders=40, greedy=2))
    keys = [(part.matrix, part.component) for part in parts]
    rows = {(row["matrix"], row["component"]): row for row in table.to_dicts()}
    for index, key in enumerate(keys):
        row = rows[key]
        assert row["kl_alone"] == pytest.approx(f[(index,)])
        assert abs(row["shapley"] - exact[index]) <= 4 * row["shapley_se"] + 1e-9
    # Efficiency holds for any number of orders.
    assert table["shapley"].sum() == pytest.approx(f[(0, 1, 2)], rel=1e-6)
    assert table["shapley_share"].sum() == pytest.approx(f[(0, 1, 2)] / removal.gap, rel=1e-6)
    ranked = table.filter(table["greedy_rank"].is_not_null()).sort("greedy_rank")
    first = max(range(3), key=lambda i: f[(i,)])
    second = max((i for i in range(3) if i != first), key=lambda i: f[tuple(sorted((first, i)))])
    assert [(r["matrix"], r["component"]) for r in ranked.to_dicts()] == [keys[first], keys[second]]
    gain = f[tuple(sorted((first, second)))] - f[(first,)]
    assert ranked["kl_greedy"].to_list() == pytest.approx([f[(first,)], gain])


@pytest.mark.parametrize(
    "matrix", ["model.layers.2.mlp.down_proj", "model.layers.1.self_attn.k_proj"]
)
def test_the_one_planted_part_accounts_for_all(tmp_path, corpus, matrix):
    folders, left, right = rank_one(tmp_path, matrix)
    pair = ModelPair.load(*folders)
    parts = largest_parts(list(weight_changes(*folders)), most=8)
    assert len(parts) == 1
    table = decompose(Subject.of(pair=pair, corpus=corpus), parts)
    row = table.row(0, named=True)
    assert row["matrix"] == matrix
    assert row["shapley_share"] == pytest.approx(1, rel=1e-3)
    assert row["greedy_rank"] == 1
    assert abs(float(parts[0].left @ left)) >= 0.99
    assert abs(float(parts[0].right @ right)) >= 0.99


def test_bad_input_is_named(pair, parts, corpus):
    with pytest.raises(InputError, match="no parts"):
        decompose(Subject.of(pair=pair, corpus=corpus), [])
    with pytest.raises(InputError, match="at least 1"):
        largest_parts([], most=0)
