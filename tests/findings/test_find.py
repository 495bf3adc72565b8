"""Is there a difference at all, which latents carry it, and what kind is it?"""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from anaglyph.dictionaries import Dictionary, Weights, get_method
from anaglyph.errors import InputError
from anaglyph.findings import candidates, difference_is_nil, find, judge
from anaglyph.findings.find import NOISE, _kind, relative_difference
from anaglyph.store import PairedStore

WIDTH, LENGTH, SEQUENCES = 8, 10, 60
TOKENS = LENGTH * SEQUENCES


def make_store(folder: Path, base: np.ndarray, tuned: np.ndarray, **options: Any) -> PairedStore:
    sequences = np.repeat(np.arange(len(base) // LENGTH), LENGTH)
    return PairedStore.from_arrays(base, tuned, folder, sequence_ids=sequences, **options)


def noise(seed: int, scale: float = 1.0, tokens: int = TOKENS, width: int = WIDTH) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return (scale * generator.standard_normal((tokens, width))).astype(np.float32)


def planted() -> tuple[np.ndarray, np.ndarray]:
    """Plant along the axes: 0 new in the tuned model, 1 removed from it, 2 doubled."""
    base = noise(0, 0.1)
    generator = np.random.default_rng(1)
    fires = [generator.random(TOKENS) < share for share in (0.2, 0.1, 0.1)]
    tuned = base.copy()
    tuned[fires[0], 0] += 6
    base[fires[1], 1] += 5
    base[fires[2], 2] += 4
    tuned[fires[2], 2] += 8
    return base, tuned


def axis_dictionary() -> Dictionary:
    """A difference-SAE whose latents are the axes, 1 pointing down, and one that never fires."""
    directions = torch.eye(WIDTH)
    directions[1, 1] = -1
    bias = torch.full((WIDTH,), -1.0)
    bias[7] = -1000
    weights = Weights((directions,), bias, (3 * directions,), (torch.zeros(WIDTH),))
    return Dictionary(get_method("diff-sae"), weights, k=3, threshold=0.0)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> PairedStore:
    return make_store(tmp_path_factory.mktemp("planted") / "store", *planted())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_same_activations_show_no_difference(tmp_path: Path, dtype: str):
    base = noise(0, 50, tokens=10_000)
    # What another order of summation would give; a few of the values round to another bfloat16.
    tuned = base * (1 + noise(1, 2.0**-22, tokens=10_000))
    same = make_store(tmp_path / "store", base, tuned, dtype=dtype)
    assert same.statistics.difference is not None
    assert same.statistics.difference.rms > 0
    assert difference_is_nil(same)
    verdict = judge(same, rate=0.2, seed=3)
    assert verdict.verdict == "no difference found"
    assert verdict.findings == ()
    assert "numerical noise" in verdict.reason
    assert (verdict.rate, verdict.seed) == (0.2, 3)
    assert find(same) == []


def test_zero_activations_show_no_difference(tmp_path: Path):
    nothing = np.zeros((20, WIDTH), dtype=np.float32)
    assert find(make_store(tmp_path / "store", nothing, nothing)) == []


@pytest.mark.parametrize(("dtype", "size"), [("float32", 3e-6), ("bfloat16", 3e-3)])
def test_a_small_difference_is_one(tmp_path: Path, dtype: str, size: float):
    base = noise(0)
    small = make_store(tmp_path / "store", base, base + noise(1, size), dtype=dtype)
    assert not difference_is_nil(small)


def test_relative_difference_is_that_of_the_rule(tmp_path: Path):
    base, tuned = noise(0) + 3, noise(1) - 1
    store = make_store(tmp_path / "store", base, tuned)
    total = np.square(tuned.astype(float) - base).sum() / np.square(base.astype(float)).sum()
    assert relative_difference(store) == pytest.approx(np.sqrt(total))
    assert NOISE["float32"] == pytest.approx(9.54e-7, rel=1e-3)


def test_planted_changes_come_out_typed_and_ranked(store: PairedStore):
    found = find(store, dictionaries={"d": axis_dictionary()}, limit=3)
    by_latent = {finding.latents: finding for finding in found}
    assert set(by_latent) == {(("d", 0),), (("d", 1),), (("d", 2),)}
    assert found[0].latents == (("d", 0),)  # the largest share of the difference
    new, removed, scaled = (by_latent[("d", j),] for j in range(3))
    axes = np.eye(WIDTH)

    assert new.kind == "new"
    assert new.direction_base is None
    assert new.direction_tuned == pytest.approx(axes[0])
    assert new.effect == pytest.approx(1, abs=0.05)
    assert new.low is not None
    assert new.high is not None
    assert new.low <= new.effect <= new.high
    assert new.frequency_base is None
    assert new.frequency_tuned == pytest.approx(0.2, abs=0.05)

    assert removed.kind == "removed"
    assert removed.direction_base == pytest.approx(axes[1])
    assert removed.direction_tuned is None
    assert removed.effect == pytest.approx(1, abs=0.05)
    assert removed.low is None
    assert removed.frequency_tuned is None

    assert scaled.kind == "scaled"
    assert scaled.direction_base == scaled.direction_tuned == pytest.approx(axes[2])
    assert scaled.effect == pytest.approx(0.5, abs=0.05)  # base has half
    for finding in found:
        assert finding.q_value is None
        assert finding.kl_recovered is None
        assert finding.examples
        assert finding.evidence["difference_share"] > 0.05
    strongest = new.examples[0]
    peak = strongest["position"]
    assert strongest["tuned"][peak] - strongest["base"][peak] == pytest.approx(6, abs=2)


def test_the_strongest_cause_comes_first(store: PairedStore):
    causal = pl.DataFrame({"latent": [0, 1, 2], "recovered": [0.2, 0.5, -0.1]})
    dictionaries = {"d": axis_dictionary()}
    found = find(store, dictionaries=dictionaries, causal={"d": causal})
    assert [finding.latents[0][1] for finding in found[:3]] == [1, 0, 2]
    assert [finding.kl_recovered for finding in found[:3]] == [0.5, 0.2, -0.1]
    # As strong a cause that base has half of is less of the tuned model's own.
    equal = pl.DataFrame({"latent": [2, 0], "recovered": [0.4, 0.3]})
    found = find(store, dictionaries=dictionaries, causal={"d": equal}, limit=2)
    assert [finding.latents[0][1] for finding in found] == [0, 2]
    assert found == find(store, dictionaries=dictionaries, causal={"d": equal}, limit=2)


def test_candidates_are_alive_and_specific():
    table = pl.DataFrame(
        {
            "latent": range(5),
            "alive": [True, True, False, True, True],
            "beta_act_base": [0.9, 0.0, 0.0, -1.0, None],
            "beta_act_tuned": [1.0, 1.0, 1.0, 0.0, None],
            "difference_share": [0.5, 0.2, 0.9, 0.3, None],
        }
    )
    # Latent 0 carries most but base has nearly as much of it: 0.5 * 0.1 / 1.9.
    assert candidates(table, 9) == [3, 1, 0]
    assert candidates(table, 1) == [3]


def test_it_works_alone_on_a_store(store: PairedStore):
    found = find(store, seed=1, limit=3)
    assert found[0].latents[0][0] == "diff-sae"
    assert found[0].kind == "new"
    # Eight latents a token share what is planted, so none of them is the axis itself.
    assert found[0].direction_tuned is not None
    assert found[0].direction_tuned[0] > 0.7
    assert find(store, seed=1, limit=3) == found
    assert find(store, seed=1, limit=0) == []


@given(st.floats(-2, 2), st.floats(-2, 2))
def test_kinds_mirror(base: float, tuned: float):
    """Swapping the models and the direction's sign swaps new and removed and keeps scaled."""
    if abs(base) == abs(tuned):
        return
    swapped = {"new": "removed", "removed": "new", "scaled": "scaled"}
    assert _kind(-tuned, -base) == swapped[_kind(base, tuned)]


@pytest.mark.parametrize(
    ("base", "tuned", "kind"),
    [
        (0.3, 1.0, "new"),
        (0.31, 1.0, "scaled"),
        (-0.5, 1.0, "new"),
        (-1.0, 0.1, "removed"),
        (2.0, 1.0, "scaled"),
    ],
)
def test_kind_by_hand(base: float, tuned: float, kind: str):
    assert _kind(base, tuned) == kind


def test_bad_input_is_refused(store: PairedStore, tmp_path: Path):
    for rate in (0.0, 1.0, float("nan")):
        with pytest.raises(InputError, match="rate"):
            find(store, rate)
    with pytest.raises(InputError, match="limit is -1"):
        find(store, limit=-1)
    wide = make_store(tmp_path / "store", noise(0), noise(1, width=WIDTH + 1))
    with pytest.raises(InputError, match="d_base=8, d_tuned=9"):
        find(wide)
