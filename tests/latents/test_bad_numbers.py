"""Activations at the edge of what numbers can hold: measured, or refused with the place."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anaglyph import find
from anaglyph.core.errors import InputError
from anaglyph.corpus import ROLES
from anaglyph.dictionaries import Dictionary, train
from anaglyph.latents import score
from anaglyph.store import PairedStore

SMALL: dict[str, Any] = {"latents": 16, "k": 2, "tokens": 4096, "batch": 256, "threads": 1}


def sides(tokens: int = 1200, width: int = 8) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(0)
    base = draw.normal(size=(tokens, width)).astype(np.float32)
    return base, base + draw.normal(size=(tokens, width)).astype(np.float32) / 3


def measured(store: PairedStore, method: str = "diff-sae") -> Dictionary:
    """Train and score; every number of the table is finite or null."""
    dictionary = train(store, method, **SMALL)
    table = score(dictionary, store)
    for name, kind in table.schema.items():
        if kind.is_float():
            assert table[name].drop_nulls().is_finite().all(), name
    return dictionary


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("side", ["base", "tuned"])
def test_what_is_not_finite_is_named(tmp_path: Path, value, side):
    base, tuned = sides()
    (base if side == "base" else tuned)[7, 3] = value
    with pytest.raises(InputError, match=rf"{side}.*row 7"):
        PairedStore.from_arrays(base, tuned, tmp_path / "s")


def test_float16_takes_part_and_its_overflow_is_named(tmp_path: Path):
    base, tuned = (side.astype(np.float16) for side in sides())
    store = PairedStore.from_arrays(base, tuned, tmp_path / "s")
    measured(store)
    with np.errstate(over="ignore"):
        tuned = (tuned.astype(np.float32) * 1e6).astype(np.float16)
    with pytest.raises(InputError, match=r"tuned.*too large.* row"):
        PairedStore.from_arrays(base, tuned, tmp_path / "t")


@pytest.mark.parametrize("scale", [1e-18, 1e15])
def test_very_small_and_very_large_activations(tmp_path: Path, scale):
    base, tuned = (np.float32(scale) * side for side in sides())
    measured(PairedStore.from_arrays(base, tuned, tmp_path / "s"))


@pytest.mark.parametrize("method", ["diff-sae", "crosscoder"])
@pytest.mark.parametrize("tuned_value", [2.0, 3.0])
def test_constant_activations(tmp_path: Path, method, tuned_value):
    base = np.full((1200, 8), 2.0, np.float32)
    store = PairedStore.from_arrays(base, np.full_like(base, tuned_value), tmp_path / "s")
    measured(store, method)
    for finding in find(store, rate=0.1, seed=0):
        assert finding.kind == "mean-shift"


def test_one_dimension_is_constant(tmp_path: Path):
    base, tuned = sides()
    base[:, 2] = tuned[:, 2] = 5.0
    measured(PairedStore.from_arrays(base, tuned, tmp_path / "s"))


def test_sequences_of_one_token(tmp_path: Path):
    base, tuned = sides()
    store = PairedStore.from_arrays(base, tuned, tmp_path / "s")
    assert store.n_sequences == len(base)
    measured(store)


def test_roles_that_no_token_has(tmp_path: Path):
    base, tuned = sides()
    roles = np.full(len(base), ROLES.index("assistant"), np.uint8)
    table = score(
        train(PairedStore.from_arrays(base, tuned, tmp_path / "s", roles=roles), **SMALL),
        PairedStore.open(tmp_path / "s"),
    )
    alive = table.filter(table["alive"])
    assert (alive["share_assistant"] == 1).all()
    assert (alive["share_user"] == 0).all()


def test_a_single_token(tmp_path: Path):
    base, tuned = sides(1)
    store = PairedStore.from_arrays(base, tuned, tmp_path / "s")
    dictionary = train(store, **SMALL)
    assert all(bool(values.isfinite().all()) for values in dictionary.weights.named().values())


def test_no_token(tmp_path: Path):
    base, tuned = sides(0)
    with pytest.raises(InputError):
        PairedStore.from_arrays(base, tuned, tmp_path / "s")
