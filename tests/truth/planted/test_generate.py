"""The generator keeps its word: each kind differs in what its name says, and in nothing else."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anaglyph.core.errors import InputError
from anaglyph.truth.planted import PRESETS, PlantedPair, generate, planted_settings

SMALL = {"width": 24, "tokens": 4000, "sequence": 20, "shared": 5}
NO_CHANGE = dict.fromkeys(
    ("new", "removed", "scaled", "rotated", "retriggered", "refrequencied"), 0
)


def lone(kind: str, **more: object) -> PlantedPair:
    """One changed feature in silence: whatever differs is that feature."""
    settings = {**SMALL, **NO_CHANGE, "shared": 0, "noise": 0.0, "frequency": (0.2, 0.2), kind: 1}
    return generate(planted_settings("easy", **(settings | more)), seed=3)


def strengths(activations: np.ndarray, direction: np.ndarray | None) -> np.ndarray:
    assert direction is not None
    return activations @ direction


def test_new_and_removed_are_in_one_model_alone():
    new, removed = lone("new"), lone("removed")
    assert not new.base.any()
    assert new.tuned.any()
    assert removed.base.any()
    assert not removed.tuned.any()
    assert new.features[0].direction_base is None
    assert removed.features[0].direction_tuned is None


@pytest.mark.parametrize("factor", [0.1, 3.0])
def test_scaled_keeps_direction_and_firing(factor):
    pair = lone("scaled", factors=(factor,))
    np.testing.assert_allclose(pair.tuned, factor * pair.base, atol=1e-6)
    assert pair.features[0].ratio == factor


def test_rotated_turns_by_the_angle_and_keeps_firing():
    pair = lone("rotated", angles=(40.0,))
    feature = pair.features[0]
    before = strengths(pair.base, feature.direction_base)
    after = strengths(pair.tuned, feature.direction_tuned)
    np.testing.assert_allclose(before, after, atol=1e-5)
    assert feature.angle == pytest.approx(40.0, abs=1e-3)


def test_retriggered_added_keeps_the_old_contexts_and_moved_does_not():
    pair = lone("retriggered", retriggered=2, topics=4)
    for i, keeps in ((0, True), (1, False)):
        feature = pair.features[i]
        assert feature.angle == pytest.approx(0.0, abs=0.1)
        base = strengths(pair.base, feature.direction_base) > 0.3
        tuned = strengths(pair.tuned, feature.direction_tuned) > 0.3
        assert (tuned & ~base).any()
        if keeps:
            assert feature.frequency_tuned > 1.5 * feature.frequency_base
        else:
            assert feature.frequency_tuned == pytest.approx(feature.frequency_base, rel=0.25)


def test_refrequencied_fires_on_a_subset_at_the_ratio():
    pair = lone("refrequencied", frequency_ratios=(0.25,))
    feature = pair.features[0]
    base = strengths(pair.base, feature.direction_base) > 0
    tuned = strengths(pair.tuned, feature.direction_tuned) > 0
    assert not (tuned & ~base).any()
    assert tuned.sum() / base.sum() == pytest.approx(0.25, rel=0.2)


@given(seed=st.integers(0, 2**32 - 1))
def test_what_is_shared_is_the_same_up_to_the_noise(seed):
    settings = planted_settings(
        "easy", **SMALL, **NO_CHANGE, noise=0.05, background=0.5, correlated=1, children=1
    )
    pair = generate(settings, seed)
    spread = (pair.tuned - pair.base).std()
    assert spread == pytest.approx(0.05 * np.sqrt(2), rel=0.05)
    assert all(feature.difference is None for feature in pair.features)


def test_a_seed_gives_the_same_pair_and_another_seed_another():
    settings = planted_settings("easy", **SMALL)
    first, again, other = generate(settings, 1), generate(settings, 1), generate(settings, 2)
    assert first.base.tobytes() == again.base.tobytes()
    assert first.tuned.tobytes() == again.tuned.tobytes()
    assert first.base.tobytes() != other.base.tobytes()


def test_frequencies_come_out_as_set():
    pair = generate(planted_settings("easy", tokens=50_000, frequency=(0.05, 0.05)), 0)
    shared = [f.frequency_base for f in pair.features if f.kind == "shared"]
    assert np.mean(shared) == pytest.approx(0.05, rel=0.05)


def test_nulls_differ_only_as_named():
    common = {**SMALL, "null": "identical", "noise": 0.1}
    identical = generate(planted_settings("null", **common), 0)
    assert identical.base.tobytes() == identical.tuned.tobytes()
    scaled = generate(planted_settings("null", **{**SMALL, "null": "scale", "noise": 0.0}), 0)
    np.testing.assert_allclose(scaled.tuned, 1.5 * scaled.base, atol=1e-6)
    turned = generate(planted_settings("null", **{**SMALL, "null": "rotation", "noise": 0.0}), 0)
    norms = [np.linalg.norm(part, axis=1) for part in (turned.base, turned.tuned)]
    np.testing.assert_allclose(*norms, atol=1e-4)
    assert np.abs(turned.base - turned.tuned).max() > 0.1


@pytest.mark.parametrize(("null", "factor"), [("rotation", 1.0), ("scale", 1.5)])
def test_a_null_of_one_map_maps_all_that_the_base_has(null: str, factor: float):
    settings = {**SMALL, "null": null, "noise": 0.0, "background": 1.0}
    pair = generate(planted_settings("null", **settings), 0)
    # A rotation keeps all inner products, a scale multiplies them.
    before, after = (each[:50].astype(float) for each in (pair.base, pair.tuned))
    assert after @ after.T == pytest.approx(factor**2 * (before @ before.T), abs=1e-4)
    assert np.abs(pair.tuned - pair.base).max() > 0.1


def test_a_child_fires_only_where_its_parent_does():
    pair = lone("shared", shared=2, children=1, background=0.0)
    # The parent stands before its child.
    directions = np.stack([f.direction_base for f in pair.features if f.direction_base is not None])
    fired = pair.base @ np.linalg.pinv(directions)
    assert (fired[:, 1] > 0.05).any()
    assert not ((fired[:, 1] > 0.05) & (fired[:, 0] < 0.05)).any()


def test_widths_may_differ():
    pair = generate(planted_settings("easy", **SMALL, tuned_width=32), 0)
    assert pair.base.shape[1] == 24
    assert pair.tuned.shape[1] == 32
    assert all(feature.difference is None for feature in pair.features)
    for feature in pair.features:
        if feature.direction_tuned is not None:
            assert np.linalg.norm(feature.direction_tuned) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_generates(preset):
    pair = generate(planted_settings(preset, tokens=2000), 0)
    assert np.isfinite(pair.base).all()
    assert np.isfinite(pair.tuned).all()


@pytest.mark.parametrize(
    ("preset", "fields", "message"),
    [
        ("hard", {}, "unknown preset 'hard'"),
        ("easy", {"width": 0}, "width: "),
        ("easy", {"breadth": 3}, "breadth: "),
        ("easy", {"null": "noise"}, "no changed features"),
        ("null", {"tuned_width": 96}, "tuned_width"),
    ],
)
def test_bad_settings_are_named(preset, fields, message):
    with pytest.raises(InputError, match=message):
        planted_settings(preset, **fields)
