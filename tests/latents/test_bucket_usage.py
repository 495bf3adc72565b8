import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small import arrays, axis_dictionary, dense_codes, random_dictionary, random_store

from anaglyph.core.errors import InputError
from anaglyph.corpus import ROLES
from anaglyph.latents import bucket_usage, score
from anaglyph.store import PairedStore


def role(name):
    return ROLES.index(name)


def test_quarters_of_the_highest_activation_by_hand(tmp_path):
    # Latent 0 at 8 tokens, its highest 8: bounds 2, 4, 6, 8, and a bound belongs to the lower one.
    codes = [1, 2, 2, 3, 6, 7, 8, 8]
    roles = ["bos", "template", "user", "user", "text", "template", "assistant", "assistant"]
    tuned = np.zeros((9, 2), dtype=np.float32)
    tuned[:8, 0] = codes  # and the other latent never fires
    store = PairedStore.from_arrays(
        np.zeros_like(tuned),
        tuned,
        tmp_path / "a",
        roles=np.array([role(name) for name in [*roles, "text"]], np.uint8),
    )
    dic = axis_dictionary("diff-sae", 2)
    seen = []

    def note(task: str, done: int, total: int, unit: str = "tokens") -> None:
        seen.append((task, done, total))

    found = bucket_usage(dic, store, score(dic, store), progress=note)
    assert seen == [("buckets", 9, 9)]
    assert found.columns == [
        *("latent", "bucket", "low", "high", "active_tokens", "template_share"),
        *(f"share_{name}" for name in ROLES),
    ]
    assert found["latent"].to_list() == [0] * 4
    assert found["bucket"].to_list() == [0, 1, 2, 3]
    assert found["low"].to_list() == [0, 2, 4, 6]
    assert found["high"].to_list() == [2, 4, 6, 8]
    assert found["active_tokens"].to_list() == [3, 1, 1, 3]
    third = pytest.approx(1 / 3)
    assert found["template_share"].to_list() == [pytest.approx(2 / 3), 0, 0, third]
    assert found["share_user"].to_list() == [third, 1, 0, 0]
    assert found["share_assistant"].to_list() == [0, 0, 0, pytest.approx(2 / 3)]


def test_an_empty_bucket_has_no_shares(tmp_path):
    tuned = np.array([[8, 0], [1, 0]], dtype=np.float32)
    store = PairedStore.from_arrays(np.zeros_like(tuned), tuned, tmp_path / "a")
    dic = axis_dictionary("diff-sae", 2)
    found = bucket_usage(dic, store, score(dic, store))
    assert found["active_tokens"].to_list() == [1, 0, 0, 1]
    assert found["template_share"].is_null().to_list() == [False, True, True, False]
    assert found["share_text"].to_list() == [1, None, None, 1]


@pytest.mark.parametrize("method", ["crosscoder", "base-sae"])
@settings(max_examples=6)
@given(seed=st.integers(0, 2**32 - 1))
def test_equals_a_dense_count(method, seed, tmp_path_factory):
    rng = np.random.default_rng(seed)
    roles = rng.integers(0, len(ROLES), 12 * 9).astype(np.uint8)
    store = random_store(tmp_path_factory.mktemp("s") / "s", rng, length=9, roles=roles)
    dic = random_dictionary(method, 7, (5, 5), rng)
    table = score(dic, store, bootstrap=0)
    found = bucket_usage(dic, store, table)
    codes = dense_codes(dic, arrays(store))
    assert found.height == 4 * np.count_nonzero(codes.any(axis=0))
    for row in found.iter_rows(named=True):
        f = codes[:, row["latent"]]
        share = f / f.max()
        chosen = (share > row["bucket"] / 4) & (share <= (row["bucket"] + 1) / 4)
        assert row["active_tokens"] == chosen.sum()
        for place, name in enumerate(ROLES):
            expected = (roles[chosen] == place).mean() if chosen.any() else None
            assert row[f"share_{name}"] == (expected and pytest.approx(expected))
    totals = found.group_by("latent", maintain_order=True).agg(pl.col("active_tokens").sum())
    alive = table.filter("alive")
    assert totals["active_tokens"].to_list() == alive["active_tokens"].to_list()


def test_refuses_a_table_of_something_else(tmp_path):
    tuned = np.array([[8, 0], [1, 0]], dtype=np.float32)
    zeros = np.zeros_like(tuned)
    store = PairedStore.from_arrays(zeros, tuned, tmp_path / "a")
    stronger = PairedStore.from_arrays(zeros, 2 * tuned, tmp_path / "b")
    dic = axis_dictionary("diff-sae", 2)
    table = score(dic, store)
    with pytest.raises(InputError, match="another store"):
        bucket_usage(dic, stronger, table)
    with pytest.raises(InputError, match="2 latents"):
        bucket_usage(dic, store, table.head(1))
    with pytest.raises(InputError, match="2 latents"):
        bucket_usage(dic, store, table.drop("max_activation"))
    with pytest.raises(InputError, match="widths"):
        bucket_usage(axis_dictionary("diff-sae", 3), store, table)
