"""Findings of a whole store: planted changes of every kind, nulls of every sort, bad input."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from anaglyph.core.errors import InputError
from anaglyph.core.schemas import Finding
from anaglyph.core.settings import FindSettings, Settings
from anaglyph.findings import difference_is_nil, find, search
from anaglyph.findings.nil import NOISE, relative_difference
from anaglyph.findings.shown_by import cheap_directions
from anaglyph.latents import candidates
from anaglyph.store import PairedStore
from anaglyph.subject import Subject
from anaglyph.truth.planted import PlantedPair, calibrate, generate, planted_settings
from anaglyph.truth.planted import summarise_findings as summarise
from anaglyph.truth.planted.calibration import at_rate, compare

WIDTH, LENGTH, SEQUENCES = 8, 10, 60
TOKENS = LENGTH * SEQUENCES
SMALL: dict[str, Any] = {
    "width": 32,
    "tokens": 16_000,
    "shared": 20,
    "new": 2,
    "removed": 2,
    "scaled": 3,
    "factors": (0.3, 2.0, 3.0),
    "rotated": 2,
    "angles": (45.0, 90.0),
    "retriggered": 2,
    "frequency": (0.03, 0.03),
    "mean_shift": 0.3,
}
NOTHING: dict[str, Any] = {"width": 32, "tokens": 8000, "shared": 20, "new": 0}


def make_store(folder: Path, base: np.ndarray, tuned: np.ndarray, **options: Any) -> PairedStore:
    sequences = np.repeat(np.arange(len(base) // LENGTH), LENGTH)
    return PairedStore.from_arrays(base, tuned, folder, sequence_ids=sequences, **options)


def noise(seed: int, scale: float = 1.0, tokens: int = TOKENS, width: int = WIDTH) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return (scale * generator.standard_normal((tokens, width))).astype(np.float32)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_same_activations_show_no_difference(tmp_path: Path, dtype: str):
    base = noise(0, 50, tokens=10_000)
    # What another order of summation would give; a few of the values round to another bfloat16.
    tuned = base * (1 + noise(1, 2.0**-22, tokens=10_000))
    same = make_store(tmp_path / "store", base, tuned, dtype=dtype)
    assert same.statistics.difference is not None
    assert same.statistics.difference.rms > 0
    assert difference_is_nil(same)
    subject = Subject.of(store=same, settings=Settings(seed=3))
    verdict = search(subject, FindSettings(rate=0.2))
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


@pytest.fixture(scope="module")
def pair() -> PlantedPair:
    return generate(planted_settings("easy", **SMALL), 1)


@pytest.fixture(scope="module")
def store(pair: PlantedPair, tmp_path_factory: pytest.TempPathFactory) -> PairedStore:
    folder = tmp_path_factory.mktemp("planted") / "store"
    return PairedStore.from_arrays(pair.base, pair.tuned, folder, sequence_ids=pair.sequence_ids)


@pytest.fixture(scope="module")
def found(store: PairedStore) -> list[Finding]:
    return find(store, seed=2)


def test_every_planted_change_is_found_once_with_its_kind(found: list[Finding], pair: PlantedPair):
    rows = compare(found, pair)
    assert len(rows) == 12
    for row in rows:
        assert row["truth"] == row["kind"]
    # 95% intervals of twelve effects: more than three misses would have a chance of 1 in 400.
    assert sum(row["covered"] for row in rows) >= 9


def test_findings_hold_what_they_promise(found: list[Finding]):
    for finding in found:
        assert finding.low is not None
        assert finding.high is not None
        assert finding.low <= finding.effect <= finding.high
        assert finding.q_value is not None
        assert finding.q_value <= 0.1
        assert (finding.direction_base is None) == (finding.kind in ("new", "mean-shift"))
        assert (finding.direction_tuned is None) == (finding.kind == "removed")
        assert (finding.frequency_base is None) == (finding.direction_base is None)
        if finding.kind != "mean-shift":
            assert finding.examples
            assert finding.latents[0][0] == "diff-sae"
            assert finding.evidence["found_again"] > 0.5
    shares = [f.evidence.get("difference_share", 0) for f in found]
    assert shares == sorted(shares, reverse=True)


def test_strengths_are_shown_along_the_findings_direction(found: list[Finding]):
    shown = {finding.kind: finding for finding in found if finding.kind != "mean-shift"}
    assert {"new", "removed", "scaled"} <= set(shown)
    for kind, finding in shown.items():
        peak = [(e["base"][e["position"]], e["tuned"][e["position"]]) for e in finding.examples]
        base, tuned = np.mean(peak, axis=0)
        if kind == "new":
            assert tuned > 3 * abs(base)
        elif kind == "removed":
            assert base > 3 * abs(tuned)
        elif kind == "scaled":
            assert (tuned > base > 0) == (finding.effect > 1)


def test_a_difference_without_any_noise_is_no_harder(tmp_path: Path):
    pair = generate(planted_settings("easy", **SMALL, noise=0.0), 4)
    store = PairedStore.from_arrays(
        pair.base, pair.tuned, tmp_path / "store", sequence_ids=pair.sequence_ids
    )
    rows = compare(find(store), pair)
    assert len(rows) == 12
    assert all(row["truth"] == row["kind"] for row in rows)


@pytest.mark.parametrize("width", [1, 3, 30])
def test_cheap_directions_are_the_mean_and_the_widest(width: int):
    delta = 0.1 * noise(8, width=width)
    delta[:, -1] *= 5
    delta[:, 0] += 2
    found = cheap_directions(delta)
    assert abs(found["mean difference"][0, 0]) > 0.99
    assert len(found["principal components"]) == min(width, 10)
    # In ascending order of variance, without a sign.
    assert abs(found["principal components"][-1, -1]) > 0.99


def test_the_same_seed_finds_the_same(store: PairedStore, found: list[Finding]):
    assert find(store, seed=2) == found


@pytest.mark.parametrize("null", ["noise", "rotation", "scale", "identical"])
def test_nulls_have_no_findings(null: str):
    none = dict.fromkeys(("removed", "scaled", "rotated", "retriggered"), 0)
    rows = calibrate("easy", [0, 1], **NOTHING, **none, null=null)
    assert rows["kind"].null_count() == rows.height
    summary = summarise(rows).row(0, named=True)
    assert (summary["pairs"], summary["findings"], summary["silent"]) == (2, 0, 1)


def test_models_of_other_widths_are_compared_in_one_space(tmp_path: Path):
    none = dict.fromkeys(("removed", "scaled", "rotated", "retriggered", "mean_shift"), 0)
    pair = generate(planted_settings("easy", **SMALL | none, tuned_width=40), 0)
    wide = PairedStore.from_arrays(
        pair.base, pair.tuned, tmp_path / "store", sequence_ids=pair.sequence_ids
    )
    found = find(wide)
    planted = [f.direction_tuned for f in pair.features if f.kind == "new"]
    new = [f for f in found if f.kind == "new"]
    for direction in planted:
        assert max(abs(np.array(f.direction_tuned) @ direction) for f in new) > 0.9


def test_a_summary_counts_by_hand():
    columns = ("seed", "truth", "kind", "covered")
    rows = [
        (0, "new", "new", True),
        (0, "new", "retriggered", None),
        (0, None, "new", None),
        (1, "scaled", None, None),
    ]
    frame = pl.DataFrame(rows, schema=columns, orient="row").with_columns(preset=pl.lit("p"))
    summary = summarise(frame).row(0, named=True)
    assert summary["false_share"] == pytest.approx((1 / 3 + 0) / 2)
    assert summary["silent"] == 0.5
    assert summary["recall"] == pytest.approx(2 / 3)
    assert summary["right_kind"] == 0.5
    assert summary["recall_new"] == 1
    assert summary["recall_scaled"] == 0
    assert summary["kind_scaled"] is None
    assert summary["covered"] == 1


def test_a_lower_rate_calls_less():
    columns = ("seed", "truth", "kind", "q_value", "covered")
    rows = [
        (0, "new", "new", 0.01, True),
        (0, "scaled", "scaled", 0.08, True),
        (0, None, "new", 0.07, None),
        (1, None, "new", 0.15, None),
    ]
    frame = pl.DataFrame(rows, schema=columns, orient="row").with_columns(preset=pl.lit("p"))
    assert at_rate(frame, 0.2).equals(frame)
    summary = summarise(at_rate(frame, 0.05)).row(0, named=True)
    assert summary["pairs"] == 2
    assert summary["findings"] == 0.5
    assert summary["silent"] == 1
    assert summary["recall"] == 0.5
    assert summary["recall_scaled"] == 0
    assert summarise(at_rate(frame, 0.1))["silent"].to_list() == [0.5]


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


def test_bad_input_is_refused(store: PairedStore):
    for rate in (0.0, 1.0, float("nan")):
        with pytest.raises(InputError, match="rate"):
            find(store, rate)
    with pytest.raises(InputError, match="seeds"):
        calibrate("easy", [])


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("preset", ["easy", "realistic", "undercomplete", "rare", "null"])
def test_presets_are_answered(preset: str):
    summary = summarise(calibrate(preset, [100, 101, 102])).row(0, named=True)
    assert summary["false_share"] <= 0.1
    if preset != "null":
        assert summary["recall"] >= 0.95
        assert summary["right_kind"] >= 0.95
