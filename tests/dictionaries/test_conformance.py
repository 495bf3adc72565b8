"""What every registered method must do with every sparsity, whoever wrote it."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from anaglyph.core.errors import InputError
from anaglyph.core.threads import use_threads
from anaglyph.dictionaries import Dictionary, get_method, list_methods, train
from anaglyph.dictionaries.sparsity import SPARSITIES
from anaglyph.store import PairedStore

FITTED: dict[tuple[str, str], Dictionary] = {}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small cases lose more by waiting for a second thread than they gain."""
    with use_threads(1):
        yield


# Two budgets need a sparsity that selects by k.
REFUSED = {("delta-crosscoder", "l1"), ("delta-crosscoder", "jumprelu")}
COMBINATIONS = [(method, kind) for method in list_methods() for kind in SPARSITIES.names()]


@pytest.fixture(params=[pair for pair in COMBINATIONS if pair not in REFUSED], ids="-".join)
def fitted(request: pytest.FixtureRequest, store: PairedStore) -> Dictionary:
    method, sparsity = request.param
    return fit(method, sparsity, store)


def fit(method: str, sparsity: str, store: PairedStore) -> Dictionary:
    """Train once for all tests of a combination."""
    if (method, sparsity) not in FITTED:
        FITTED[method, sparsity] = train(
            store,
            method,
            latents=96,
            k=4,
            tokens=60_000,
            batch=500,
            sparsity=sparsity,
            threads=1,
        )
    return FITTED[method, sparsity]


def activations(store: PairedStore) -> tuple[torch.Tensor, torch.Tensor]:
    return store.gather(np.arange(200))


def test_it_explains_heldout_variance(fitted: Dictionary) -> None:
    stats = fitted.stats
    assert stats["fve"] > 0.5
    if SPARSITIES.get(fitted.sparsity).takes_k:
        assert 0.5 * 4 < stats["l0"] < 2 * 4
    assert 0 < stats["l0"] < 48
    assert 0 <= stats["dead_share"] < 1
    assert stats["steps"] == 120
    assert stats["tokens"] == 60_000
    assert stats["tokens_per_second"] > 0
    per_latent = fitted.weights.threshold
    if fitted.sparsity in ("batchtopk", "matryoshka") and per_latent is None:
        assert stats["threshold"] > 0
    else:
        assert stats["threshold"] is None
    for source in get_method(fitted.method).sources:
        assert stats[f"fve_{source}"] > 0.3


def test_statistics_are_those_of_the_heldout_tokens(fitted: Dictionary, store: PairedStore) -> None:
    heldout = np.flatnonzero(store.heldout[store.sequence_of_tokens()])
    base, tuned = store.gather(heldout)
    codes = fitted.encode(base, tuned)
    assert fitted.stats["l0"] == pytest.approx(len(codes.indices) / len(heldout))
    assert fitted.stats["heldout_tokens"] == len(heldout)
    total = left = 0.0
    rebuilt = fitted.reconstruct(codes)
    for target, estimate in zip(fitted.spec.inputs(base, tuned), rebuilt, strict=True):
        total += float(target.double().var(0, correction=0).sum())
        left += float((target - estimate).double().var(0, correction=0).sum())
    assert fitted.stats["fve"] == pytest.approx(1 - left / total, rel=1e-5)
    difference = fitted.difference(codes)
    if difference is not None:
        truth = (tuned - base).double()
        left = float((truth - difference).var(0, correction=0).sum())
        expected = 1 - left / float(truth.var(0, correction=0).sum())
        assert fitted.stats["fve_difference"] == pytest.approx(expected, rel=1e-5)


def test_codes_are_what_the_formula_says(fitted: Dictionary, store: PairedStore) -> None:
    """f = act(sum_m x_m E_m + b_enc), kept where f_j s_j / price, or f_j, is above a threshold."""
    base, tuned = activations(store)
    pre = fitted.encoder_bias.double()
    norms = torch.zeros(fitted.n_latents, dtype=torch.float64)
    for m, values in enumerate(fitted.spec.inputs(base, tuned)):
        centre = fitted.decoder_bias[m].double() if fitted.spec.centred else 0.0
        pre = pre + (values.double() - centre) @ fitted.encoder[m].double().T
        norms += fitted.source_weights[m] * fitted.decoder[m].double().norm(dim=1)
    scores = pre.relu() * norms
    prices = fitted.spec.prices(96)
    scores = scores if prices is None else scores / prices
    if fitted.weights.threshold is not None:
        kept = pre > fitted.weights.threshold
    elif fitted.sparsity == "topk":
        kept = torch.zeros_like(scores)
        budgets = fitted.spec.budgets(4, 96) or ((96, 4),)
        for (start, _), (end, k) in zip(((0, 0), *budgets), budgets, strict=False):
            largest = scores[:, start:end].topk(round(k), dim=1)
            kept[:, start:end].scatter_(1, largest.indices, (largest.values > 0).double())
    else:
        kept = scores > (fitted.threshold or 0.0)
    expected = pre * kept
    found = torch.from_numpy(fitted.encode(base, tuned).dense(fitted.n_latents)).double()
    assert ((found > 0) != (expected > 0)).sum() <= 1
    torch.testing.assert_close(found, expected.where(found > 0, found), rtol=1e-4, atol=1e-4)


def test_decoding_adds_active_decoders_to_the_bias(fitted: Dictionary, store: PairedStore) -> None:
    codes = fitted.encode(*activations(store))
    dense = torch.from_numpy(codes.dense(fitted.n_latents))
    rebuilt = fitted.reconstruct(codes)
    assert len(rebuilt) == len(fitted.spec.sources)
    for m, values in enumerate(rebuilt):
        expected = dense @ fitted.decoder[m] + fitted.decoder_bias[m]
        torch.testing.assert_close(values, expected, rtol=1e-4, atol=1e-5)
    decoded = fitted.decode(codes)
    first = decoded if isinstance(decoded, torch.Tensor) else decoded[0]
    assert torch.equal(first, rebuilt[0])
    assert fitted.decoders.shape == (len(rebuilt), 96, 64)


def test_saved_and_loaded_it_encodes_alike(
    fitted: Dictionary, store: PairedStore, tmp_path: Path
) -> None:
    fitted.save(tmp_path)
    loaded = Dictionary.load(tmp_path)
    before, after = (dictionary.encode(*activations(store)) for dictionary in (fitted, loaded))
    np.testing.assert_array_equal(before.indices, after.indices)
    np.testing.assert_array_equal(before.values, after.values)
    np.testing.assert_array_equal(before.offsets, after.offsets)
    assert loaded.stats == fitted.stats
    assert loaded.spec == fitted.spec
    assert loaded.config == fitted.config


def test_tokens_are_judged_alone(fitted: Dictionary, store: PairedStore) -> None:
    base, tuned = activations(store)
    whole = fitted.encode(base, tuned).dense(96)
    alone = np.concatenate(
        [fitted.encode(base[t : t + 1], tuned[t : t + 1]).dense(96) for t in range(10)]
    )
    np.testing.assert_allclose(whole[:10], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", list_methods())
def test_topk_never_exceeds_k(method: str, store: PairedStore) -> None:
    codes = fit(method, "topk", store).encode(*activations(store))
    assert np.diff(codes.offsets).max() == 4


@pytest.mark.parametrize(("method", "sparsity"), sorted(REFUSED))
def test_two_budgets_need_a_sparsity_that_selects_by_k(
    method: str, sparsity: str, store: PairedStore
) -> None:
    with pytest.raises(InputError, match=f"{method} gives blocks of latents a k each, {sparsity}"):
        fit(method, sparsity, store)


def test_bad_input_is_refused(fitted: Dictionary, store: PairedStore) -> None:
    base, tuned = activations(store)
    with pytest.raises(InputError, match=r"must be \[tokens, 64\], but has shape \[200, 63\]"):
        fitted.encode(base[:, :63], tuned[:, :63])
    with pytest.raises(InputError, match="base is empty"):
        fitted.encode(base[:0], tuned[:0])
    with pytest.raises(InputError, match="base has 200 tokens, tuned has 199"):
        fitted.encode(base, tuned[:199])
    for wrong in (float("nan"), float("inf")):
        broken = base.clone(), tuned.clone()
        broken[0][3, 4] = broken[1][3, 4] = wrong
        with pytest.raises(InputError, match="NaN or inf"):
            fitted.encode(*broken)


def test_codes_of_another_dictionary_are_refused(fitted: Dictionary, store: PairedStore) -> None:
    codes = fitted.encode(*activations(store))
    codes.indices[0] = 96
    with pytest.raises(InputError, match=r"outside 0\.\.95"):
        fitted.reconstruct(codes)
