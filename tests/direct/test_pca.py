"""Principal components of the difference and its shares by token, against the plain formulas."""

import numpy as np
import polars as pl
import pytest

from anaglyph.core.errors import InputError
from anaglyph.corpus import ROLES
from anaglyph.direct.pca import difference_by_token, difference_pca
from anaglyph.store import PairedStore

D = 6


@pytest.fixture(scope="module")
def arrays():
    generator = np.random.default_rng(0)
    base = generator.normal(size=(300, D)).astype(np.float32)
    scales = np.array([4, 2, 1, 0.5, 0.2, 0.1])
    rotation, _ = np.linalg.qr(generator.normal(size=(D, D)))
    delta = (generator.normal(size=(300, D)) * scales) @ rotation.T + generator.normal(size=D)
    return base, (base + delta).astype(np.float32)


@pytest.fixture(scope="module")
def store(arrays, tmp_path_factory):
    generator = np.random.default_rng(1)
    return PairedStore.from_arrays(
        *arrays,
        out=tmp_path_factory.mktemp("pca") / "store",
        token_ids=generator.integers(0, 9, 300),
        sequence_ids=np.arange(300) // 10,
        roles=generator.integers(0, len(ROLES), 300),
    )


def test_components_equal_those_of_the_centred_difference(arrays, store):
    found = difference_pca(store, D, block=37)
    train = ~np.repeat(store.heldout, 10)
    delta = (arrays[1] - arrays[0])[train].astype(np.float64)
    _, singular, vectors = np.linalg.svd(delta - delta.mean(0), full_matrices=False)
    assert found["component"].to_list() == list(range(D + 1))
    mean, *directions = found["direction"].to_list()
    np.testing.assert_allclose(mean, delta.mean(0) / np.linalg.norm(delta.mean(0)), rtol=1e-5)
    squares = np.array([(delta.mean(0) ** 2).sum(), *(singular**2 / len(delta))])
    np.testing.assert_allclose(found["square"], squares, rtol=1e-6)
    directions = np.array(directions)
    np.testing.assert_allclose(np.abs((directions * vectors).sum(1)), 1, atol=1e-6)
    assert (directions[np.arange(D), np.abs(directions).argmax(1)] > 0).all()
    np.testing.assert_allclose(found["share"], squares / (delta**2).sum(1).mean(), rtol=1e-6)
    assert found["cumulative"].to_list()[-1] == pytest.approx(1)
    short = difference_pca(store, 2)
    assert short["share"].to_list() == pytest.approx(found["share"].to_list()[:3])


def test_shares_by_role_and_token(arrays, store):
    table = difference_by_token(store, block=37)
    delta = np.linalg.norm((arrays[1] - arrays[0]).astype(np.float64), axis=1)
    relative = delta / np.linalg.norm(arrays[0].astype(np.float64), axis=1)
    whole = (delta**2).sum()
    roles = table.filter(pl.col("token_id").is_null())
    assert roles["difference_share"].sum() == pytest.approx(1)
    assert roles["difference_share"].is_sorted(descending=True)
    tokens = table.filter(pl.col("token_id").is_not_null())
    assert tokens["difference_share"].sum() == pytest.approx(1)
    role, token = ROLES.index("template"), 4
    mask = (store.roles == role) & (store.token_ids == token)
    row = tokens.row(
        by_predicate=(pl.col("role") == "template") & (pl.col("token_id") == token), named=True
    )
    assert row["tokens"] == mask.sum()
    assert row["difference_share"] == pytest.approx((delta[mask] ** 2).sum() / whole)
    assert row["ratio"] == pytest.approx(row["difference_share"] / mask.mean())
    assert row["mean_norm"] == pytest.approx(delta[mask].mean())
    assert row["relative_norm"] == pytest.approx(relative[mask].mean())
    frequent = difference_by_token(store, least=9).filter(pl.col("token_id").is_not_null())
    assert (frequent["tokens"] >= 9).all()


def test_no_difference_has_no_shares(arrays, tmp_path):
    same = PairedStore.from_arrays(arrays[0], arrays[0], out=tmp_path / "same")
    table = difference_pca(same, 2)
    assert table["share"].null_count() == 3
    assert table["direction"].to_list()[0] is None
    assert difference_by_token(same)["difference_share"].null_count() > 0


def test_bad_input_is_named(arrays, store, tmp_path):
    with pytest.raises(InputError, match="0 components"):
        difference_pca(store, 0)
    other = PairedStore.from_arrays(arrays[0], arrays[1][:, :4], out=tmp_path / "other")
    with pytest.raises(InputError, match="width"):
        difference_pca(other)
    with pytest.raises(InputError, match="width"):
        difference_by_token(other)
