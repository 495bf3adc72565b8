"""Identical models: no method shows a latent of one model alone, and none leads to a finding."""

import numpy as np
import polars as pl
import pytest
import torch

from anaglyph.dictionaries import Dictionary, get_method, list_methods, train
from anaglyph.findings import find
from anaglyph.latents import candidates, score
from anaglyph.store import PairedStore
from anaglyph.truth.planted import generate, planted_settings


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> PairedStore:
    settings = planted_settings("null", null="identical", tokens=8_000)
    pair = generate(settings, 0)
    assert np.array_equal(pair.base, pair.tuned)
    folder = tmp_path_factory.mktemp("identical") / "store"
    return PairedStore.from_arrays(pair.base, pair.tuned, folder, sequence_ids=pair.sequence_ids)


@pytest.fixture(scope="module", params=list_methods())
def scored(request, store: PairedStore) -> tuple[str, Dictionary, pl.DataFrame]:
    """One dictionary of each registered method and its latent table."""
    method = request.param
    dictionary = train(store, method, latents=120, k=2, tokens=80_000, batch=500, threads=1)
    return method, dictionary, score(dictionary, store, bootstrap=0)


def test_no_method_gets_a_finding(store: PairedStore, scored) -> None:
    method, dictionary, table = scored
    assert find(store, dictionaries={method: dictionary}) == []
    assert candidates(table, 10) == []


def test_no_latent_is_of_one_model_alone(store: PairedStore, scored) -> None:
    method, dictionary, table = scored
    alive = table["alive"].to_numpy()
    if all(source.endswith("difference") for source in get_method(method).sources):
        assert not alive.any()
        return
    assert alive.any()
    # Both models are read alike, so whatever a latent explains in one it explains in the other.
    nu = table["nu_act"].to_numpy()[alive].astype(float)
    assert nu[np.isfinite(nu)] == pytest.approx(1, abs=1e-3)
    codes = dictionary.encode(*store.gather(np.arange(2_000)))
    rebuilt = dictionary.difference(codes)
    if rebuilt is not None and method != "dfc":
        size = torch.linalg.vector_norm(store.gather(np.arange(2_000))[0], dim=1).mean()
        assert float(torch.linalg.vector_norm(rebuilt, dim=1).mean()) < 0.01 * float(size)
    if method != "dfc":
        # Its dedicated latents are of one model by construction.
        assert not np.isin(table["class"].to_numpy()[alive], ["tuned-only", "base-only"]).any()
