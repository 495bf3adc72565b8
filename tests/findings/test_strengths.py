"""What each model has of an atom: planted strengths, the jackknife, and what choosing does."""

import numpy as np
import pytest

from anaglyph.findings.align import align
from anaglyph.findings.atoms import Atoms
from anaglyph.findings.elsewhere import Elsewhere, Search
from anaglyph.findings.kinds import Effect, Triple, _change, ratio_of
from anaglyph.findings.sample import Sample
from anaglyph.findings.shift import measure_shift
from anaglyph.findings.strengths import (
    Estimate,
    Strengths,
    chosen_noise,
    jackknife,
    measure_strengths,
)

TOKENS, WIDTH, LENGTH = 12_000, 16, 20
SEQUENCES = np.arange(TOKENS) // LENGTH
HELDOUT = SEQUENCES % 5 == 0


def sample_of(base: np.ndarray, tuned: np.ndarray) -> Sample:
    return Sample(
        base.astype(np.float32),
        tuned.astype(np.float32),
        SEQUENCES,
        HELDOUT,
        np.arange(len(SEQUENCES)),
    )


def make(base_vector: np.ndarray, tuned_vector: np.ndarray) -> tuple[Sample, Atoms]:
    """Return a pair with one change, and its atom."""
    rng = np.random.default_rng(3)
    fires = (rng.random(TOKENS) < 0.05) * rng.uniform(0.7, 1.3, TOKENS)
    common = 0.1 * rng.standard_normal((TOKENS, WIDTH))
    noises = 0.02 * rng.standard_normal((2, TOKENS, WIDTH))
    change = tuned_vector - base_vector
    direction = (change / np.linalg.norm(change)).astype(np.float32)
    base = common + np.outer(fires, base_vector) + noises[0]
    tuned = common + np.outer(fires, tuned_vector) + noises[1]
    atoms = Atoms(direction[None], np.zeros(WIDTH, np.float32), 0.02 * np.sqrt(2))
    return sample_of(base, tuned), atoms


def axis(number: int, length: float = 1.0) -> np.ndarray:
    return length * np.eye(WIDTH)[number]


@pytest.mark.parametrize(
    ("value", "half", "kind"),
    [
        (-0.08, 0.02, "scaled"),
        (-0.08, 0.2, "removed"),
        (-0.2, 0.4, "scaled"),
        (1.08, 0.02, "scaled"),
        (1.08, 0.2, "new"),
        (1.2, 0.4, "scaled"),
    ],
)
def test_a_rest_that_may_be_none_is_none(value: float, half: float, kind: str):
    def estimate(middle: float) -> Estimate:
        return Estimate(*(np.array([middle + x]) for x in (0, -half, half)))

    share, nothing = estimate(value), Estimate(*(np.zeros(1) for _ in range(3)))
    vectors = np.ones((1, 2))
    strengths = Strengths(estimate(value - 1), share, share, nothing, vectors, vectors)
    atoms = Atoms(np.eye(2, dtype=np.float32)[:1], np.zeros(2, np.float32), 0.1)
    absent = Elsewhere(nothing, 0.0, None)
    found = _change(0, atoms, strengths, (0.1, 0.1, 0.1), lambda _side, _atom: absent)
    assert found.kind == kind


@pytest.mark.parametrize(
    ("base", "tuned", "share"),
    [
        (axis(0, 0), axis(0), 1.0),
        (axis(0), axis(0, 0), 0.0),
        (axis(0), axis(0, 2), 2.0),
        (axis(0), axis(0, 0.5), -1.0),
        (axis(0), axis(1), 0.5),
        (axis(0), 0.5 * axis(0) + 0.75**0.5 * axis(1), 0.5),
    ],
)
def test_shares_ratios_and_angles(base: np.ndarray, tuned: np.ndarray, share: float):
    sample, atoms = make(base, tuned)
    found = measure_strengths(sample, atoms, atoms.codes(sample.tuned - sample.base))
    assert found.share.value[0] == pytest.approx(share, abs=0.05)
    if 0 < share < 1:
        angle = np.degrees(np.arccos(base @ tuned))
        assert found.angle.value[0] == pytest.approx(angle, abs=1.0)
        assert found.angle.low[0] - 0.5 <= angle <= found.angle.high[0] + 0.5
    elif share not in (0, 1):
        ratio = np.linalg.norm(tuned) / np.linalg.norm(base)
        share_of = found.share
        value, low, high = ratio_of(
            (float(share_of.value[0]), float(share_of.low[0]), float(share_of.high[0]))
        )
        assert value == pytest.approx(ratio, rel=0.03)
        assert low is not None
        assert high is not None
        assert low < value < high
        assert found.base[0] == pytest.approx(base, abs=0.1)


@pytest.mark.parametrize(
    ("share", "ratio"),
    [
        ((2.0, 1.5, 3.0), (2.0, 1.5, 3.0)),
        ((-1.0, -3.0, -0.25), (0.5, 0.2, 0.75)),
        # Across 1 the base's part may be nothing, and the ratio anything above; or the reverse.
        ((1.25, 0.9, 1.5), (5.0, 3.0, None)),
        ((-1.0, -1.5, 1.2), (0.5, None, 0.6)),
    ],
)
def test_a_ratio_follows_from_the_share(share: Triple, ratio: Effect):
    assert ratio_of(share) == pytest.approx(ratio)


def test_the_jackknife_of_a_mean_is_the_textbook_interval():
    values = np.random.default_rng(0).standard_normal((10, 3))
    rows = np.concatenate([values.mean(0)[None], (values.sum(0) - values) / 9])
    found = jackknife(rows)
    error = values.std(0, ddof=1) / np.sqrt(10)
    assert found.value == pytest.approx(values.mean(0))
    assert found.high - found.value == pytest.approx(2.2621572 * error)


def test_the_jackknife_takes_the_bias_of_a_square_away():
    rng = np.random.default_rng(1)
    plain, corrected = [], []
    for _ in range(400):
        values = rng.standard_normal(12) + 1
        whole, parts = values.mean() ** 2, ((values.sum() - values) / 11) ** 2
        plain.append(whole)
        corrected.append(jackknife(np.append(whole, parts)[:, None]).value[0])
    assert np.mean(plain) - 1 == pytest.approx(1 / 12, abs=0.06)
    assert np.mean(corrected) == pytest.approx(1, abs=0.06)


@pytest.mark.parametrize("noise", [0.05, 0.1])
def test_chosen_noise_is_what_it_says(noise: float):
    rng = np.random.default_rng(4)
    strength = rng.exponential(0.5, 200_000) * (rng.random(200_000) < 0.3)
    luck = noise * rng.standard_normal(200_000)
    delta = np.zeros((200_000, 3), np.float32)
    delta[:, 0] = strength + luck
    atoms = Atoms(np.eye(3, dtype=np.float32)[:1], np.zeros(3, np.float32), noise)
    codes = atoms.codes(delta)
    chosen = codes.toarray()[:, 0] > 0
    assert chosen_noise(codes, atoms)[0] == pytest.approx(luck[chosen].mean(), rel=0.25)


def shared(rng: np.random.Generator, count: int = 40) -> np.ndarray:
    directions = rng.standard_normal((count, WIDTH))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    return (rng.random((TOKENS, count)) < 0.02).astype(float) @ directions


@pytest.mark.parametrize("there", [True, False])
def test_a_concept_is_found_elsewhere_where_it_is(there: bool):
    rng = np.random.default_rng(6)
    direction = axis(2)
    topics = (SEQUENCES % 2).astype(bool)
    fires = (rng.random(TOKENS) < 0.04) & topics
    base = shared(rng) + 0.05 * rng.standard_normal((TOKENS, WIDTH))
    if there:
        base += np.outer((rng.random(TOKENS) < 0.06) & ~topics, direction)
    search = Search(base.astype(np.float32), SEQUENCES, seed=0)
    found = search.look(direction.astype(np.float32), np.ones(int(fires.sum())), fires)
    assert found.present == there
    if there:
        assert found.relative.value[0] == pytest.approx(1.5, abs=0.25)
        assert found.overlap == pytest.approx(0, abs=0.1)


def test_a_shift_is_measured_and_tested():
    rng = np.random.default_rng(7)
    base = rng.standard_normal((TOKENS, WIDTH))
    for size in (0.0, 0.5):
        sample = sample_of(base, base + axis(3, size) + 0.1 * rng.standard_normal(base.shape))
        nothing = Atoms(np.zeros((0, WIDTH), np.float32), np.zeros(WIDTH, np.float32), 0.1)
        delta = sample.tuned - sample.base
        shift = measure_shift(sample, delta, nothing.codes(delta))
        if size == 0:
            assert shift is None
        else:
            assert shift is not None
            assert shift.direction == pytest.approx(axis(3), abs=0.02)
            assert shift.norm[1] <= size <= shift.norm[2]
            assert shift.p_value < 1e-6


@pytest.mark.parametrize("widths", [(16, 16), (16, 20), (20, 16)])
def test_a_turned_and_scaled_space_is_turned_back(widths: tuple[int, int]):
    rng = np.random.default_rng(8)
    inner = rng.standard_normal((3000, min(widths)))
    frames = [np.linalg.qr(rng.standard_normal((d, min(widths))))[0] for d in widths]
    base, tuned = inner @ frames[0].T + 2, 1.5 * inner @ frames[1].T - 1
    found = align(base.astype(np.float32), tuned.astype(np.float32), np.arange(3000) % 5 == 0)
    assert found is not None
    assert found.scale == pytest.approx(1.5, rel=1e-4)
    assert found(base.astype(np.float32)) == pytest.approx(tuned, abs=1e-3)
    there = frames[1] @ np.eye(min(widths))[0]
    assert found.back(there) == pytest.approx(frames[0] @ np.eye(min(widths))[0], abs=1e-4)


def test_sparse_changes_are_no_reason_to_turn():
    sample, _ = make(axis(0, 0), axis(0, 5))
    assert align(sample.base, sample.tuned, sample.heldout) is None
