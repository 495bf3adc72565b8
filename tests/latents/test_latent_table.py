import numpy as np
import polars as pl
import pytest
import torch
from dense import assert_beta
from hypothesis import given, settings
from hypothesis import strategies as st
from small import arrays, axis_dictionary, dense_codes, random_dictionary, random_store

from anaglyph.core.errors import InputError
from anaglyph.corpus import ROLES
from anaglyph.latents import score
from anaglyph.store import PairedStore

METHODS = ("crosscoder", "diff-sae", "tuned-sae", "base-sae")
SIDES = ("base", "tuned")
ORDERED = [
    *("latent", "alive", "frequency", "mean_activation", "max_activation"),
    *("norm_base", "norm_tuned", "delta_norm", "cosine"),
    *("beta_error_base", "beta_error_tuned", "beta_recon_base", "beta_recon_tuned"),
    *("beta_act_base", "beta_act_tuned"),
    *("nu_error", "nu_error_low", "nu_error_high"),
    *("nu_recon", "nu_recon_low", "nu_recon_high"),
    *("nu_act", "nu_act_low", "nu_act_high"),
    *("active_tokens", "difference_share", "twin", "twin_cosine", "twin_divergence"),
    "template_share",
    *("share_bos", "share_template", "share_system", "share_user", "share_assistant"),
    *("share_text", "share_reasoning", "share_tool"),
    *("class", "complete_shrinkage", "latent_decoupling", "angle"),
    *("nu_error_mirror", "nu_error_mirror_low", "nu_error_mirror_high"),
    *("nu_recon_mirror", "nu_recon_mirror_low", "nu_recon_mirror_high"),
]


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=6)
@given(seed=st.integers(0, 2**32 - 1), mean=st.sampled_from([0.0, 5.0]))
def test_table_equals_dense_float64(method, seed, mean, tmp_path_factory):
    rng = np.random.default_rng(seed)
    dic = random_dictionary(method, 9, (5, 5), rng)
    store = random_store(tmp_path_factory.mktemp("s") / "store", rng, mean=mean)
    h = arrays(store)
    table = score(dic, store, bootstrap=0)
    codes = dense_codes(dic, h)
    direction = dic.decoder[-1].double().numpy()
    for j, row in enumerate(table.iter_rows(named=True)):
        f = codes[:, j]
        assert row["active_tokens"] == np.count_nonzero(f)
        assert row["alive"] == f.any()
        assert row["frequency"] == pytest.approx(np.mean(f > 0))
        if f.any():
            assert row["mean_activation"] == pytest.approx(f[f > 0].mean(), rel=1e-4)
            assert row["max_activation"] == pytest.approx(f.max(), rel=1e-4)
        for m, side in enumerate(SIDES):
            assert_beta(row[f"beta_act_{side}"], h[side], f, direction[j])
            if method != "crosscoder":
                assert row[f"beta_error_{side}"] is None
                assert row[f"beta_recon_{side}"] is None
                continue
            decoder, bias = dic.decoder[m].double().numpy(), dic.decoder_bias[m].double().numpy()
            without = codes.copy()
            without[:, j] = 0
            target = h[side] - (without @ decoder + bias)
            assert_beta(row[f"beta_error_{side}"], target, f, direction[j])
            assert_beta(row[f"beta_recon_{side}"], codes @ decoder + bias, f, direction[j])
        for target in ("error", "recon", "act"):
            base, tuned = row[f"beta_{target}_base"], row[f"beta_{target}_tuned"]
            if tuned is None or abs(tuned) < 0.01:
                assert row[f"nu_{target}"] is None
            else:
                assert row[f"nu_{target}"] == pytest.approx(base / tuned)


@pytest.mark.parametrize("method", METHODS)
def test_columns_and_types(method, tmp_path):
    rng = np.random.default_rng(0)
    store = random_store(tmp_path / "store", rng)
    table = score(random_dictionary(method, 9, (5, 5), rng), store)
    assert table.columns[: len(ORDERED)] == ORDERED
    assert set(table.columns[len(ORDERED) :]) == {
        f"beta_{target}_{side}_{end}"
        for target in ("error", "recon", "act")
        for side in SIDES
        for end in ("low", "high")
    }
    types = dict.fromkeys(table.columns, pl.Float64) | {
        "latent": pl.Int64,
        "alive": pl.Boolean,
        "active_tokens": pl.Int64,
        "twin": pl.Int64,
        "class": pl.String,
        "complete_shrinkage": pl.Boolean,
        "latent_decoupling": pl.Boolean,
    }
    assert dict(table.schema) == types
    for name, kind in types.items():
        if kind == pl.Float64:
            assert table[name].is_finite().all(), name  # nulls are left out
    assert table["latent"].to_list() == list(range(9))
    # Latent 0 never fires: only what its decoders say and its emptiness are defined.
    dead = table.row(0, named=True)
    geometry = {"norm_base", "norm_tuned", "delta_norm", "cosine", "class"}
    geometry |= {"complete_shrinkage", "latent_decoupling"}  # False: of class "other"
    defined = {name for name, value in dead.items() if value is not None} - geometry
    assert defined == {"latent", "alive", "frequency", "active_tokens", "difference_share"}
    assert (dead["alive"], dead["frequency"], dead["difference_share"]) == (False, 0, 0)


def test_all_zero_codes(tmp_path):
    rng = np.random.default_rng(0)
    store = random_store(tmp_path / "store", rng)
    for method in METHODS:
        table = score(random_dictionary(method, 4, (5, 5), rng, threshold=1e9), store)
        assert not table["alive"].any()
        assert table["nu_act"].null_count() == table["beta_act_tuned"].null_count() == 4


def test_roles_and_template_share(tmp_path):
    # Two latents along the axes of d=2; roles by token: bos, template, user, assistant.
    base = np.zeros((4, 2), dtype=np.float32)
    tuned = np.array([[2, 0], [1, 0], [3, 0], [0, 1]], dtype=np.float32)
    roles = np.array([ROLES.index(r) for r in ("bos", "template", "user", "assistant")], np.uint8)
    store = PairedStore.from_arrays(
        base, tuned, tmp_path / "store", sequence_ids=np.zeros(4, dtype=np.int64), roles=roles
    )
    table = score(axis_dictionary("diff-sae", 2), store)
    first, second = table.iter_rows(named=True)
    assert first["active_tokens"] == 3
    assert first["frequency"] == 0.75
    assert first["mean_activation"] == 2
    assert first["max_activation"] == 3
    third = pytest.approx(1 / 3)
    assert (first["share_bos"], first["share_template"], first["share_user"]) == (third,) * 3
    assert first["template_share"] == pytest.approx(2 / 3)
    assert (second["share_assistant"], second["template_share"]) == (1, 0)


def test_difference_share_of_a_diff_sae(tmp_path):
    # Disjoint latents that rebuild the difference exactly: their shares are those of its energy
    # about the mean, and the always-on third one, which is that mean's, has none.
    rng = np.random.default_rng(0)
    difference = np.zeros((40, 3), dtype=np.float32)
    difference[::2, 0] = 3
    difference[1::4, 1] = rng.random(10) + 1
    difference[:, 2] = 5
    base = rng.standard_normal((40, 3)).astype(np.float32)
    store = PairedStore.from_arrays(base, base + difference, tmp_path / "store")
    table = score(axis_dictionary("diff-sae", 3), store)
    about_mean = difference.astype(np.float64) - difference.mean(axis=0)
    energy = (about_mean**2).sum(axis=0)
    assert table["difference_share"].to_numpy() == pytest.approx(energy / energy.sum(), abs=1e-5)


def test_difference_shares_leave_massive_tokens_out(tmp_path):
    # One token, such as the first of a sequence, holds nearly all the energy along the first axis;
    # among the others the second latent carries four times what the first does.
    difference = np.zeros((41, 2), dtype=np.float32)
    difference[0, 0] = 1000
    difference[1::4, 0] = 1
    difference[2::4, 1] = 2
    base = np.random.default_rng(0).standard_normal((41, 2)).astype(np.float32)
    store = PairedStore.from_arrays(base, base + difference, tmp_path / "store")
    dictionary = axis_dictionary("diff-sae", 2)
    swamped = score(dictionary, store)["difference_share"].to_list()
    assert swamped[0] > 0.99
    dictionary.radii = (50.0,)
    shares = score(dictionary, store)["difference_share"].to_list()
    assert shares == pytest.approx([0.2, 0.8], abs=1e-4)


def test_difference_share_of_the_others(tmp_path):
    # h^tuned = f1 e1 + f2 e2; the base has all of the first and half of the second.
    rng = np.random.default_rng(0)
    tuned = np.zeros((60, 2), dtype=np.float32)
    tuned[::2, 0] = rng.random(30) + 1
    tuned[1::2, 1] = rng.random(30) + 1
    base = tuned * np.array([1, 0.5], dtype=np.float32)
    store = PairedStore.from_arrays(base, tuned, tmp_path / "store")
    decoders = (torch.diag(torch.tensor([1.0, 0.5])), torch.eye(2))
    for dic in (axis_dictionary("crosscoder", 2, decoders), axis_dictionary("tuned-sae", 2)):
        table = score(dic, store)
        assert table["difference_share"].to_list() == pytest.approx([0, 1], abs=1e-6)
        assert table["nu_act"].to_list() == pytest.approx([1, 0.5])


def test_no_difference_at_all(tmp_path):
    rng = np.random.default_rng(0)
    base = rng.standard_normal((30, 5)).astype(np.float32)
    store = PairedStore.from_arrays(base, base, tmp_path / "store")
    table = score(random_dictionary("crosscoder", 6, (5, 5), rng), store)
    assert table["difference_share"].null_count() == 6


def test_what_both_models_always_have_hides_a_latent_from_plain_targets_only(tmp_path):
    """The latent is the tuned model's alone; a constant that both models share lies along it."""
    rng = np.random.default_rng(0)
    tuned = rng.standard_normal((400, 2)).astype(np.float32) * np.float32(0.1)
    base = tuned.copy()
    tuned[::10, 0] += 4
    mean = np.array([20, 0], dtype=np.float32)
    store = PairedStore.from_arrays(
        base + mean, tuned + mean, tmp_path / "store", sequence_ids=np.arange(400) // 10
    )
    dic = axis_dictionary("tuned-sae", 2, bias=torch.tensor([21.0, 0.0]))
    plain = score(dic, store, target_centre="none").row(0, named=True)
    centred = score(dic, store, target_centre="median").row(0, named=True)
    assert plain["nu_act"] > 0.8
    assert abs(centred["nu_act"]) < 0.05
    assert centred["nu_act_low"] <= 0 <= centred["nu_act_high"]


def test_widths_may_differ_for_a_crosscoder(tmp_path):
    rng = np.random.default_rng(0)
    store = random_store(tmp_path / "store", rng, widths=(4, 6))
    table = score(random_dictionary("crosscoder", 5, (4, 6), rng), store)
    row = table.row(1, named=True)
    for name in ("beta_error_tuned", "beta_recon_tuned", "beta_act_tuned", "delta_norm"):
        assert row[name] is not None
    for name in ("beta_error_base", "nu_error", "nu_act", "cosine", "twin", "difference_share"):
        assert row[name] is None


def test_sae_norms_stand_with_their_model(tmp_path):
    rng = np.random.default_rng(0)
    store = random_store(tmp_path / "store", rng)
    expected = {"diff-sae": (False, False), "tuned-sae": (False, True), "base-sae": (True, False)}
    for method, present in expected.items():
        row = score(random_dictionary(method, 3, (5, 5), rng), store).row(1, named=True)
        assert tuple(row[f"norm_{side}"] is not None for side in SIDES) == present
        assert row["delta_norm"] is row["class"] is row["cosine"] is row["twin"] is None


def test_same_seed_same_table_and_progress_reaches_the_end(tmp_path):
    rng = np.random.default_rng(0)
    store = random_store(tmp_path / "store", rng)
    dic = random_dictionary("crosscoder", 6, (5, 5), rng)
    seen = []

    def note(task: str, done: int, total: int, unit: str = "tokens") -> None:
        seen.append((task, done, total))

    first = score(dic, store, progress=note, seed=3)
    assert first.equals(score(dic, store, seed=3))
    assert not first.equals(score(dic, store, seed=4))
    assert seen[-1] == ("score", store.n_tokens, store.n_tokens)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"bootstrap": -1}, "bootstrap=-1"),
        ({"seed": -2}, "seed=-2"),
        ({"target_centre": "mean"}, "mean"),
    ],
)
def test_refuses_bad_arguments(arguments, named, tmp_path):
    rng = np.random.default_rng(0)
    store = random_store(tmp_path / "store", rng)
    with pytest.raises(InputError, match=named):
        score(random_dictionary("diff-sae", 3, (5, 5), rng), store, **arguments)


def test_refuses_a_dictionary_of_other_widths(tmp_path):
    rng = np.random.default_rng(0)
    store = random_store(tmp_path / "store", rng)
    dic = random_dictionary("crosscoder", 3, (4, 5), rng)
    with pytest.raises(InputError, match=r"\(4, 5\).*\(5, 5\)"):
        score(dic, store)
