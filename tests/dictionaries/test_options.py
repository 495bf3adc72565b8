"""Options of methods and settings of sparsities: validated, saved, and refused in one line."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from anaglyph.core.errors import InputError
from anaglyph.core.settings import DictionarySettings
from anaglyph.dictionaries import Dictionary, Selection, get_method, train
from anaglyph.dictionaries.config import TrainConfig
from anaglyph.dictionaries.kernels import choose_kernels
from anaglyph.dictionaries.sparsity import L1, BatchTopK, TopK, default_mu
from anaglyph.dictionaries.training import train_with
from anaglyph.store import PairedStore

SMALL: dict[str, Any] = {"latents": 48, "k": 4, "tokens": 3200, "batch": 320, "threads": 1}


def test_options_go_to_the_method_and_into_the_file(store: PairedStore, tmp_path: Path) -> None:
    dictionary = train(store, "lambda-bridge", options={"lambda": -1}, **SMALL)
    dictionary.save(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["options"] == {"norm": "squared", "lambda": -1}
    assert saved["config"]["options"] == {"lambda": -1}
    assert Dictionary.load(tmp_path).spec == get_method("lambda-bridge", {"lambda": -1})


def test_dictionaries_from_before_options_are_read(store: PairedStore, tmp_path: Path) -> None:
    train(store, "crosscoder", **SMALL).save(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    del config["options"], config["digest"]
    path.write_text(json.dumps(config))
    assert Dictionary.load(tmp_path).spec.options == {"norm": "squared"}


def test_jumprelu_without_thresholds_is_refused(store: PairedStore) -> None:
    dictionary = train(store, "diff-sae", sparsity="jumprelu", **SMALL)
    dictionary.weights.threshold = None
    with pytest.raises(InputError, match="jumprelu needs a threshold for each latent"):
        Dictionary(dictionary.spec, dictionary.weights, Selection(k=4, sparsity="jumprelu"))


@pytest.mark.parametrize(
    ("method", "settings", "message"),
    [
        (
            "crosscoder",
            {"options": {"lamda": 0}},
            "unknown option 'lamda' of crosscoder; known: norm",
        ),
        ("dfc", {"options": {"x": 0}}, "known: base_share, norm, tuned_share"),
        ("crosscoder", {"options": {"norm": "cubed"}}, "norm='cubed' must be squared or unsquared"),
        ("crosscoder", {"options": {"norm": 2}}, "norm=2 must be a word"),
        ("lambda-bridge", {"options": {"lambda": True}}, "lambda=True must be a number"),
        ("lambda-bridge", {"options": {"lambda": -1.1}}, "lambda=-1.1 must lie between -1 and 0"),
        ("lambda-bridge", {"options": {"lambda": float("nan")}}, "lambda=nan must lie between"),
        ("lambda-bridge", {"options": {"norm": "unsquared"}}, "norm=unsquared is not defined"),
        ("dfc", {"options": {"base_share": 0.0}}, "base_share=0.0 must lie between 0 and 1"),
        ("dfc", {"options": {"base_share": 0.5, "tuned_share": 0.5}}, "must leave shared"),
        ("dfc", {"options": {"base_share": 0.001}}, "dfc: 48 latents leave a block empty"),
        ("designated-crosscoder", {"options": {"price": 0.0}}, "price=0.0 must be above 0"),
        ("designated-crosscoder", {"options": {"share": 0.999}}, "48 of 48 latents"),
        (
            "delta-crosscoder",
            {"k": 40, "options": {"share": 0.5}},
            "gives 30 to 24 shared latents",
        ),
        ("crosscoder", {"mu": 0.1}, "mu=0.1: batchtopk takes no mu"),
        ("crosscoder", {"mu": -0.1, "sparsity": "l1"}, "mu: .* greater than or equal to 0"),
        ("crosscoder", {"mu": float("inf"), "sparsity": "l1"}, "mu: .* finite number"),
        ("crosscoder", {"mu": float("nan"), "sparsity": "l1"}, "mu: .* finite number"),
        ("crosscoder", {"anneal": 0.6}, "anneal: .* less than or equal to 0.5"),
        ("crosscoder", {"anneal": -0.1}, "anneal: .* greater than or equal to 0"),
        ("crosscoder", {"anneal": 0.2, "sparsity": "l1"}, "anneal=0.2: l1 does not select by k"),
    ],
)
def test_bad_options_are_refused(
    store: PairedStore, method: str, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        train(store, method, **{**SMALL, **settings})


def test_a_config_without_what_its_sparsity_needs_is_refused() -> None:
    made = {"method": "crosscoder", "latents": 48, "tokens": 100, "lr": 1e-3}
    with pytest.raises(InputError, match="mu=None: l1 needs a mu"):
        TrainConfig.of(**made, k=None, sparsity="l1")
    with pytest.raises(InputError, match="k=None: topk needs a k"):
        TrainConfig.of(**made, k=None, sparsity="topk")
    with pytest.raises(InputError, match="k=3: l1 takes no k"):
        TrainConfig.of(**made, k=3, sparsity="l1", mu=0.1)


@pytest.mark.parametrize("method", ["lambda-bridge", "designated-crosscoder", "delta-crosscoder"])
def test_methods_that_compare_models_need_one_width(method: str) -> None:
    with pytest.raises(InputError, match=r"one width: d_base=8, d_tuned=6"):
        get_method(method).widths(8, 6)


def test_without_lambda_widths_may_differ() -> None:
    assert get_method("lambda-bridge", {"lambda": 0}).widths(8, 6) == (8, 6)
    assert get_method("dfc").widths(8, 6) == (8, 6)


def test_tied_decoders_are_tied_in_raw_units_too(store: PairedStore) -> None:
    base, tuned = train(store, "designated-crosscoder", **SMALL).decoder
    assert base[:5].equal(tuned[:5])
    assert not base[5:].equal(tuned[5:])


class StopError(Exception):
    """Ends a training early."""


@pytest.mark.parametrize(
    ("method", "sparsity", "more"),
    [
        ("crosscoder", "jumprelu", {}),
        ("crosscoder", "matryoshka", {"anneal": 0.5}),
        ("dfc", "l1", {"k": None, "mu": 0.5}),
        ("delta-crosscoder", "batchtopk", {"options": {"lambda": -0.2}}),
    ],
)
def test_a_stopped_training_goes_on_to_the_same_bits(
    store: PairedStore, tmp_path: Path, method: str, sparsity: str, more: dict[str, Any]
) -> None:
    settings = {"latents": 48, "k": 4, "tokens": 6400, "seed": 5, "lr": 1e-2, "batch": 320}
    config = TrainConfig.of(method=method, sparsity=sparsity, **{**settings, **more})
    whole = train_with(store, config)

    def stop(task: str, done: int, total: int, unit: str = "tokens") -> None:
        if done >= 7 * 320:
            raise StopError

    checkpoint = tmp_path / "state"
    with pytest.raises(StopError):
        train_with(store, config, checkpoint=checkpoint, checkpoint_seconds=0.0, progress=stop)
    assert checkpoint.exists()
    resumed = train_with(store, config, checkpoint=checkpoint)
    pairs = zip(whole.weights.named().items(), resumed.weights.named().values(), strict=True)
    for (name, first), second in pairs:
        assert torch.equal(first, second), name
    assert whole.threshold == resumed.threshold


@pytest.mark.parametrize("kind", [BatchTopK, TopK])
def test_annealing_ends_at_k(kind: type) -> None:
    sparsity = kind(3, choose_kernels(), 100, DictionarySettings(anneal=0.2))
    seen = []
    for step in range(100):
        sparsity.begin(step)
        seen.append(sparsity.k_now)
    assert seen[0] == 24
    assert seen[10] == pytest.approx(13.5)  # 3 * (1 + 7 / 2)
    assert seen == sorted(seen, reverse=True)
    assert set(seen[20:]) == {3}


@pytest.mark.parametrize("k", [0.25, 1.5])
def test_a_batch_shares_a_fraction_of_k(k: float) -> None:
    sparsity = BatchTopK(k, choose_kernels(), 100)
    sparsity.begin(0)
    pre = torch.rand(64, 32, generator=torch.Generator().manual_seed(0)) + 0.1
    active = sparsity.select(pre, torch.zeros(32), torch.ones(32))
    assert len(active.values) == 64 * k
    kept = pre.flatten().topk(round(64 * k)).values
    assert torch.equal(active.values.sort().values, kept.sort().values)


def test_annealed_training_selects_k_in_the_end(store: PairedStore) -> None:
    settings = {**SMALL, "tokens": 32_000}
    annealed = train(store, "tuned-sae", anneal=0.3, **settings)
    assert 0.5 * 4 < annealed.stats["l0"] < 2 * 4
    assert train(store, "tuned-sae", sparsity="topk", anneal=0.3, **settings).stats["l0"] <= 4


def test_mu_rises_over_the_first_fifth_and_stays() -> None:
    sparsity = L1(None, choose_kernels(), 100, DictionarySettings(mu=2.0))
    seen = []
    for step in range(100):
        sparsity.begin(step)
        seen.append(sparsity.mu_now)
    assert seen[0] == pytest.approx(0.1)
    assert seen[9] == pytest.approx(1.0)
    assert set(seen[19:]) == {2.0}


def test_a_larger_mu_leaves_fewer_active(store: PairedStore) -> None:
    settings = {**SMALL, "tokens": 32_000, "sparsity": "l1"}
    l0 = [train(store, "tuned-sae", mu=mu, **settings).stats["l0"] for mu in (0.0, 0.3, 3.0)]
    assert l0[0] > l0[1] > l0[2]


def test_default_mu_of_both_norms_agrees_with_the_paper() -> None:
    assert default_mu("unsquared", (2304, 2304)) == pytest.approx(0.041, rel=1e-2)
    assert default_mu("unsquared", (576,)) == pytest.approx(0.082, rel=1e-2)
    assert default_mu("squared", (576,)) == default_mu("squared", (64, 32)) == 1.76
