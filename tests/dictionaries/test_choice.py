"""k="auto": what comes again with another seed says how many latents are active at a token."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from anaglyph.core.errors import InputError
from anaglyph.dictionaries import Dictionary, train
from anaglyph.dictionaries.agreement import agreement
from anaglyph.dictionaries.choice import FIRST, active_latents
from anaglyph.dictionaries.evaluation import explained_by
from anaglyph.store import PairedStore

SETTINGS: dict[str, Any] = {"latents": 96, "tokens": 400_000, "batch": 500, "threads": 1}


@pytest.fixture(scope="module")
def chosen(planted, tmp_path_factory) -> Dictionary:
    store = PairedStore.from_arrays(
        planted.base,
        planted.tuned,
        tmp_path_factory.mktemp("choice") / "store",
        sequence_ids=planted.sequence_ids,
    )
    return train(store, "diff-sae", k="auto", **SETTINGS)


def test_the_planted_number_of_changes_is_chosen(chosen: Dictionary) -> None:
    # Twelve changed features, each active at a twentieth of the tokens.
    assert 0.6 * 0.75 <= chosen.stats["k"] <= 0.6 * 1.1
    assert chosen.k == chosen.stats["k"]


def test_all_changes_are_found_and_nothing_else(chosen: Dictionary, planted) -> None:
    truth = np.concatenate([planted.new, -planted.removed])
    fires = np.unique(chosen.encode(*map(torch.from_numpy, (planted.base, planted.tuned))).indices)
    rows = chosen.decoder[0].numpy()[fires]
    cosines = truth @ rows.T / np.linalg.norm(rows, axis=1)
    assert (cosines.max(1) >= 0.9).mean() >= 0.95
    assert (cosines.max(0) >= 0.9).mean() >= 0.95


def test_the_curve_is_reported_in_order_and_falls_after_its_top(chosen: Dictionary) -> None:
    curve = chosen.stats["k_curve"]
    ks = [row["k"] for row in curve]
    assert ks == sorted(set(ks))
    shares = [row["reproduced_fve"] for row in curve]
    assert shares[-1] < max(shares) / 2
    # FVE goes on rising: it could not have chosen.
    assert curve[-1]["fve"] > 0.98 * max(row["fve"] for row in curve)
    assert all(math.isfinite(value) for row in curve for value in row.values())
    assert chosen.stats["k_seconds"] > 0


def test_the_choice_and_its_curve_are_saved(chosen: Dictionary, tmp_path) -> None:
    chosen.save(tmp_path / "dic")
    assert Dictionary.load(tmp_path / "dic").stats == chosen.stats


def test_where_nothing_comes_again_k_is_the_least(planted, make_store) -> None:
    store = make_store(planted.base[:800], planted.base[:800])
    settings: dict[str, Any] = {**SETTINGS, "tokens": 2000}
    stats = train(store, "diff-sae", k="auto", **settings).stats
    assert stats["k"] == FIRST[True]


def test_topk_gets_a_whole_number(planted, make_store) -> None:
    store = make_store(planted.base[:1500], planted.tuned[:1500])
    settings: dict[str, Any] = {**SETTINGS, "tokens": 30_000}
    dictionary = train(store, "tuned-sae", k="auto", sparsity="topk", **settings)
    assert dictionary.stats["k"] == int(dictionary.stats["k"]) >= 1


def test_explained_by_equals_a_dense_computation(chosen: Dictionary, store: PairedStore) -> None:
    wanted = np.arange(chosen.n_latents) % 2 == 0
    figures = explained_by(chosen, store, wanted)
    blocks = list(store.blocks("heldout"))
    delta = torch.cat([block.tuned - block.base for block in blocks]).double()
    codes = chosen.encode_inputs((delta.float(),)).dense(chosen.n_latents).astype(float)
    codes[:, ~wanted] = 0
    rebuilt = codes @ chosen.decoder[0].double().numpy() + chosen.decoder_bias[0].numpy()
    error = delta.numpy() - rebuilt
    assert figures["reproduced_fve"] == pytest.approx(
        1 - error.var(0).sum() / delta.numpy().var(0).sum(), abs=1e-5
    )
    assert figures["reproduced_l0"] == pytest.approx((codes > 0).sum() / len(codes))
    assert figures["reproduced_latents"] == (codes > 0).any(0).sum()
    assert figures["reproduced_fve"] < figures["fve"]


def test_a_dictionary_agrees_with_itself(chosen: Dictionary) -> None:
    found = agreement(chosen, chosen)
    assert found.cosine == pytest.approx(np.ones(chosen.n_latents), abs=1e-5)
    assert found.mutual.all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"k": "auto", "sparsity": "l1"}, "k=auto: l1 takes no k, set mu"),
        ({"k": "best"}, "k: 'best' must be a number or auto"),
    ],
)
def test_what_cannot_be_chosen_is_named(store: PairedStore, settings, message) -> None:
    with pytest.raises(InputError, match=message):
        train(store, "diff-sae", **SETTINGS | settings)


def test_without_heldout_sequences_nothing_judges(planted, tmp_path) -> None:
    store = PairedStore.from_arrays(
        planted.base[:400], planted.tuned[:400], tmp_path / "one", sequence_ids=np.zeros(400, int)
    )
    with pytest.raises(InputError, match="k=auto judges by held-out sequences"):
        train(store, "diff-sae", k="auto", **SETTINGS)


def row(k: float, fve: float, share: float, number: float) -> dict[str, float]:
    return {"k": k, "fve": fve, "reproduced_fve": share, "reproduced_l0": number}


@pytest.mark.parametrize(
    ("curve", "expected"),
    [
        # The top row explains 0.4 more with one more latent: more than a quarter of 0.4.
        ([row(1, 0.4, 0.4, 1.0), row(2, 0.8, 0.8, 2.0), row(4, 0.9, 0.2, 1.0)], 2.0),
        # 0.05 with one more is too little; at a quarter of 0.4 a latent it is worth half a latent.
        ([row(1, 0.4, 0.4, 1.0), row(2, 0.8, 0.8, 2.0), row(4, 0.9, 0.85, 3.0)], 2.5),
        # Half of what is explained is not settled.
        ([row(1, 0.4, 0.2, 1.0), row(2, 0.8, 0.4, 2.0), row(4, 0.9, 0.1, 1.0)], 4.0),
        ([row(1, 0.4, 0.0, 0.0), row(2, 0.5, -0.1, 0.0)], 0.0),
    ],
)
def test_the_number_of_active_latents_is_read_off_a_curve(curve, expected: float) -> None:
    assert active_latents(curve) == pytest.approx(expected)
