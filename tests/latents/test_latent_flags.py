import numpy as np
import polars as pl
import pytest
import torch
from dense import assert_beta
from hypothesis import given, settings
from hypothesis import strategies as st
from small import arrays, axis_dictionary, dense_codes, random_dictionary, random_store

from anaglyph.dictionaries import Dictionary, Selection, Weights
from anaglyph.latents import score
from anaglyph.latents.flags import add_flags
from anaglyph.store import PairedStore

TUNED, BASE = "tuned-only", "base-only"


def one_sided(rng, base_only=(1, 2), tuned_only=(3,), widths=(5, 5)):
    """Return a random crosscoder some of whose latents are of one model only."""
    dic = random_dictionary("crosscoder", 6, widths, rng)
    base, tuned = dic.decoder
    tuned[list(base_only)] *= 0.01
    base[list(tuned_only)] *= 0.01
    weights = Weights(dic.encoder, dic.encoder_bias, (base, tuned), dic.decoder_bias)
    return Dictionary(dic.spec, weights, Selection(k=2, threshold=0.3))


def exchanged(dic):
    """Return the crosscoder with the models exchanged."""
    weights = Weights(
        dic.encoder[::-1], dic.encoder_bias, dic.decoder[::-1], dic.decoder_bias[::-1]
    )
    return Dictionary(dic.spec, weights, Selection(k=dic.k, threshold=dic.threshold))


@pytest.mark.parametrize(
    ("name", "alive", "twin", "error", "recon", "shrunk", "decoupled"),
    [
        (TUNED, True, None, 0.1, 0.1, False, False),
        (TUNED, True, None, 0.2, 0.1, True, False),  # the paper's rule is nu_error < 0.2
        (TUNED, True, 4, 0.19, 0.49, False, False),  # a twin alone has a new trigger
        (TUNED, True, 4, 0.1, 0.5, False, True),
        (TUNED, True, None, 0.1, 0.9, False, False),  # others overlap with it
        (TUNED, True, 4, None, None, None, None),
        (TUNED, True, None, None, None, None, False),  # no twin, so no pair
        (TUNED, False, None, None, None, None, None),  # dead
        ("shared", True, None, 0.9, 0.9, False, False),
        ("other", False, None, None, None, False, False),
        (None, True, None, 0.9, 0.9, None, None),
    ],
)
@pytest.mark.parametrize("side", ["tuned", "base"])
def test_rules(name, alive, twin, error, recon, shrunk, decoupled, side):
    mirror = side == "base"
    other = None if mirror else 0.9  # the nu of the other direction must not count
    row = {
        "alive": alive,
        "class": BASE if mirror and name == TUNED else name,
        "twin": twin,
        "nu_error": other if mirror else error,
        "nu_recon": other if mirror else recon,
        "nu_error_mirror": error if mirror else other,
        "nu_recon_mirror": recon if mirror else other,
    }
    schema = dict.fromkeys(row, pl.Float64) | {"alive": pl.Boolean, "class": pl.String}
    table = pl.DataFrame([row], schema=schema)
    flags = add_flags(table, one_width=True).select("complete_shrinkage", "latent_decoupling")
    assert flags.row(0) == (shrunk, decoupled)
    assert flags.dtypes == [pl.Boolean, pl.Boolean]
    blind = add_flags(table, one_width=False)["latent_decoupling"][0]
    assert blind is (None if name == TUNED else decoupled)


@settings(max_examples=8)
@given(seed=st.integers(0, 2**32 - 1))
def test_mirrored_nu_equals_dense_float64(seed, tmp_path_factory):
    rng = np.random.default_rng(seed)
    dic = one_sided(rng)
    store = random_store(tmp_path_factory.mktemp("s") / "store", rng)
    h, codes = arrays(store), dense_codes(dic, arrays(store))
    table = score(dic, store, bootstrap=0)
    assert table["class"].to_list()[1:4] == [BASE, BASE, TUNED]
    assert table["nu_error_mirror"][3] is None
    for j in (1, 2):
        found = {"error": [], "recon": []}
        for side, decoder, bias in zip(
            ("base", "tuned"), dic.decoder, dic.decoder_bias, strict=True
        ):
            rebuilt = codes @ decoder.double().numpy() + bias.double().numpy()
            own = np.outer(codes[:, j], decoder[j].double().numpy())
            targets = {"error": h[side] - (rebuilt - own), "recon": rebuilt}
            regressor = np.outer(codes[:, j], dic.decoder[0][j].double().numpy()).ravel()
            for name, target in targets.items():
                energy = regressor @ regressor
                found[name].append(regressor @ target.ravel() / energy if energy else np.nan)
        for name, (base, tuned) in found.items():
            value = table[f"nu_{name}_mirror"][j]
            if np.isnan(base) or abs(base) < 0.01:
                assert value is None
            else:
                assert value == pytest.approx(tuned / base, rel=1e-3, abs=1e-4 / abs(base))
    # What is already there for the same latents keeps its meaning.
    target = h["tuned"] - (codes @ dic.decoder[1].double().numpy() + dic.decoder_bias[1].numpy())
    target = target + np.outer(codes[:, 1], dic.decoder[1][1].double().numpy())
    assert_beta(table["beta_error_tuned"][1], target, codes[:, 1], dic.decoder[1][1].numpy())


def test_base_only_latents_are_tuned_only_ones_with_the_models_exchanged(tmp_path):
    rng = np.random.default_rng(4)
    dic = one_sided(rng)
    store = random_store(tmp_path / "a", rng, sequences=40)
    h = arrays(store)
    swapped = PairedStore.from_arrays(
        h["tuned"], h["base"], tmp_path / "b", sequence_ids=store.sequence_of_tokens()
    )
    here, there = score(dic, store), score(exchanged(dic), swapped)
    assert here["class"].to_list().count(BASE) == there["class"].to_list().count(TUNED) == 2
    compared = 0
    for j in (1, 2):
        for name in ("nu_error", "nu_recon"):
            for end in ("", "_low", "_high"):
                mine, theirs = here[f"{name}_mirror{end}"][j], there[f"{name}{end}"][j]
                assert mine == (theirs if theirs is None else pytest.approx(theirs, rel=1e-3))
                compared += mine is not None
    assert compared >= 6
    for flag in ("complete_shrinkage", "latent_decoupling"):
        assert here[flag].to_list() == there[flag].to_list()


def test_a_shrunk_latent_is_flagged_and_a_new_one_is_not(tmp_path):
    """Axis 0: the base has 0.6 of it, its decoder none. Axis 1: the tuned model's alone."""
    rng = np.random.default_rng(0)
    tuned = np.zeros((400, 3), dtype=np.float32)
    for axis in range(3):
        tuned[axis::4, axis] = rng.random(100) + 1
    base = tuned * np.array([0.6, 0.0, 1.0], dtype=np.float32)
    noise = rng.standard_normal((2, 400, 3)).astype(np.float32) * np.float32(0.01)
    store = PairedStore.from_arrays(
        base + noise[0], tuned + noise[1], tmp_path / "a", sequence_ids=np.arange(400) // 10
    )
    dic = axis_dictionary("crosscoder", 3, (torch.diag(torch.tensor([0.0, 0, 1])), torch.eye(3)))
    table = score(dic, store)
    assert table["class"].to_list() == [TUNED, TUNED, "shared"]
    assert table["nu_error"].to_list() == pytest.approx([0.6, 0, 1], abs=0.02)
    assert table["complete_shrinkage"].to_list() == [True, False, False]
    assert table["latent_decoupling"].to_list() == [False, False, False]

    swapped = PairedStore.from_arrays(
        tuned + noise[1], base + noise[0], tmp_path / "b", sequence_ids=np.arange(400) // 10
    )
    mirrored = score(exchanged(dic), swapped)
    assert mirrored["class"].to_list() == [BASE, BASE, "shared"]
    assert mirrored["nu_error_mirror"].to_list()[:2] == pytest.approx([0.6, 0], abs=0.02)
    assert mirrored["nu_error"].to_list()[:2] == [None, None]  # no tuned decoder to regress on
    assert mirrored["complete_shrinkage"].to_list() == [True, False, False]


def test_models_of_two_widths_leave_the_flags_of_their_own_latents_open(tmp_path):
    rng = np.random.default_rng(0)
    store = random_store(tmp_path / "store", rng, widths=(4, 6))
    table = score(one_sided(rng, widths=(4, 6)), store)
    assert table["class"].to_list()[1:4] == [BASE, BASE, TUNED]
    assert table["alive"][1:4].all()
    for name in ("nu_error_mirror", "nu_recon_mirror"):
        assert table[name].null_count() == 6
    for name in ("complete_shrinkage", "latent_decoupling"):
        assert table[name][1:4].null_count() == 3
        neither = table.filter(pl.col("class").is_in(["shared", "other"]))
        assert neither.height > 0
        assert set(neither[name]) == {False}


def test_without_norm_classes_there_are_no_flags(tmp_path):
    rng = np.random.default_rng(0)
    store = random_store(tmp_path / "store", rng)
    table = score(random_dictionary("diff-sae", 4, (5, 5), rng), store)
    assert table["complete_shrinkage"].null_count() == 4
    assert table["latent_decoupling"].null_count() == 4
