import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anaglyph.latents.norms import decoder_cosine, delta_norm, norm_classes, row_norms
from anaglyph.latents.twins import find_twins


def test_delta_norm_by_hand():
    base = np.array([1.0, 0.0, 2.0, 1.0, 4.0, 0.0])
    tuned = np.array([1.0, 3.0, 0.0, 2.0, 3.0, 0.0])
    expected = [0.5, 1.0, 0.0, 0.75, 0.375]
    assert delta_norm(base, tuned)[:5] == pytest.approx(expected)
    assert np.isnan(delta_norm(base, tuned)[5])


@given(st.floats(0, 1e6), st.floats(0, 1e6))
def test_swapping_the_models_mirrors_delta_norm(a, b):
    first = delta_norm(np.array([a]), np.array([b]))[0]
    second = delta_norm(np.array([b]), np.array([a]))[0]
    if max(a, b) == 0:
        assert np.isnan(first)
        assert np.isnan(second)
    else:
        assert 0 <= first <= 1
        assert first + second == pytest.approx(1)


def test_classes_at_their_borders():
    delta = np.array([0.0, 0.0999, 0.1, 0.3999, 0.4, 0.5, 0.6, 0.6001, 0.9, 0.9001, 1.0, np.nan])
    expected = ["base-only", "base-only", "other", "other", "shared", "shared", "shared", "other"]
    expected += ["other", "tuned-only", "tuned-only", None]
    assert norm_classes(delta).tolist() == expected


def test_norms_and_cosine_by_hand():
    base = np.array([[3, 4], [1, 0], [0, 0], [2, 0]], dtype=np.float32)
    tuned = np.array([[3, 4], [0, 5], [1, 1], [-1, 0]], dtype=np.float32)
    assert row_norms(base).tolist() == [5, 1, 0, 2]
    cosine = decoder_cosine(base, tuned)
    assert cosine[[0, 1, 3]] == pytest.approx([1, 0, -1])
    assert np.isnan(cosine[2])


def at_angle(degrees, length=1.0):
    return length * np.array([np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))])


def test_twins_by_hand():
    # latent:            0           1            2            3            4            5
    classes = np.array(
        ["tuned-only", "base-only", "base-only", "tuned-only", "shared", "base-only"], object
    )
    tuned = np.array(
        [at_angle(0), at_angle(0), at_angle(0), at_angle(90), at_angle(0), at_angle(0)]
    ).astype(np.float32)
    base = np.array(
        [at_angle(0), at_angle(20, 3), at_angle(10), at_angle(0), at_angle(0), at_angle(0)]
    ).astype(np.float32)
    alive = np.array([True, True, True, True, True, False])
    twins = find_twins(base, tuned, classes, alive)
    # 0 takes the nearer of 1 and 2 (5 is dead, 4 of neither class); 1 and 2 have only 0 near them;
    # 3 is 70 degrees from the nearest.
    assert twins.index.tolist() == [2, 0, 0, -1, -1, -1]
    expected = [np.cos(np.deg2rad(angle)) for angle in (10, 20, 10)]
    assert twins.cosine[:3] == pytest.approx(expected, rel=1e-5)
    assert np.isnan(twins.cosine[3:]).all()


@pytest.mark.parametrize(("degrees", "found"), [(25.0, True), (26.5, False)])
def test_twins_need_a_cosine_above_nine_tenths(degrees, found):
    tuned = np.array([at_angle(0), at_angle(0, 1e-3)]).astype(np.float32)
    base = np.array([at_angle(0, 1e-3), at_angle(degrees)]).astype(np.float32)
    classes = np.array(["tuned-only", "base-only"], object)
    twins = find_twins(base, tuned, classes, np.array([True, True]))
    assert (twins.index >= 0).tolist() == [found, found]


def test_twins_of_many_equal_a_dense_search():
    rng = np.random.default_rng(0)
    latents, width = 5000, 4
    base, tuned = rng.standard_normal((2, latents, width)).astype(np.float32)
    classes = rng.choice(np.array(["tuned-only", "base-only", "shared"], object), latents)
    alive = rng.random(latents) < 0.8
    twins = find_twins(base, tuned, classes, alive)
    unit = {"base-only": base, "tuned-only": tuned}
    unit = {k: v / np.linalg.norm(v, axis=1, keepdims=True) for k, v in unit.items()}
    for own, other in (("base-only", "tuned-only"), ("tuned-only", "base-only")):
        for j in np.flatnonzero((classes == own) & alive)[::40]:
            cosines = unit[other] @ unit[own][j]
            cosines[(classes != other) | ~alive] = -2
            best = cosines.argmax()
            if cosines[best] > 0.9:
                assert twins.cosine[j] == pytest.approx(cosines[best], abs=1e-6)
                assert twins.index[j] == best
            else:
                assert twins.index[j] == -1
    assert (twins.index[(classes == "shared") | ~alive] == -1).all()
