"""The detection limit: the regression by hand, what is planted, and a limit within its range."""

import numpy as np
import pytest

from anaglyph.core.settings import FindSettings
from anaglyph.findings import limit as module
from anaglyph.findings.atoms import Atoms
from anaglyph.findings.limit import A_ROUND, SPREAD, detection_limit, logistic, of_one_size, plant
from anaglyph.findings.sample import Sample

TOKENS, WIDTH = 8000, 24

TWO_ROUNDS = FindSettings(trials=2 * A_ROUND)


def test_the_regression_finds_what_the_chances_came_from():
    rng = np.random.default_rng(0)
    columns = np.stack([np.ones(20_000), rng.standard_normal(20_000)], axis=1)
    chance = 1 / (1 + np.exp(-(columns @ np.array([-0.5, 2.0]))))
    weights = logistic(columns, rng.random(20_000) < chance)
    assert weights == pytest.approx([-0.5, 2.0], abs=0.1)


def test_the_regression_survives_a_perfect_split():
    columns = np.stack([np.ones(40), np.linspace(-1, 1, 40)], axis=1)
    weights = logistic(columns, columns[:, 1] > 0)
    assert np.isfinite(weights).all()
    assert weights[1] > 5


def test_nine_of_ten_come_back_at_the_limit_itself():
    # With half a feature more on both sides 4 of 4 are nine of ten.
    assert of_one_size(2.0, 4, 4) == pytest.approx(2.0)


def test_the_limit_is_larger_where_fewer_came_back():
    limits = [of_one_size(1.0, came, A_ROUND) for came in range(A_ROUND + 1)]
    assert limits == sorted(limits, reverse=True)
    # Even odds are a factor of nine from nine of ten, which takes a factor of 9 ** (1 / 20).
    assert of_one_size(1.0, 18, 36) == pytest.approx(9 ** (1 / module.STEEPNESS))


def test_what_is_planted_has_the_size_and_frequency_it_says():
    rng = np.random.default_rng(1)
    directions = np.eye(WIDTH)[:2]
    delta = np.zeros((200_000, WIDTH), np.float32)
    spiked = plant(delta, directions, np.array([2.0, 0.5]), np.array([0.01, 0.02]), rng)
    fires = spiked[:, :2] > 0
    assert fires.mean(0) == pytest.approx([0.01, 0.02], rel=0.1)
    for column, size in enumerate((2.0, 0.5)):
        strength = spiked[fires[:, column], column]
        assert strength.mean() == pytest.approx(size, rel=0.05)
        assert np.log(strength).std() == pytest.approx(SPREAD, rel=0.1)
    assert not spiked[:, 2:].any()
    assert not delta.any()


def test_the_limit_lies_between_what_is_lost_and_what_is_seen(monkeypatch):
    rng = np.random.default_rng(2)
    base = rng.standard_normal((TOKENS, WIDTH)).astype(np.float32)
    tuned = base + 0.1 * rng.standard_normal((TOKENS, WIDTH)).astype(np.float32)
    sequences = np.arange(TOKENS) // 20
    sample = Sample(base, tuned, sequences, sequences % 6 == 0, np.arange(len(sequences)))
    atoms = Atoms(np.zeros((0, WIDTH), np.float32), np.zeros(WIDTH, np.float32), 0.1)

    asked = []

    def start(activations: np.ndarray) -> np.ndarray:
        asked.append(activations)
        return (activations - base)[:32]

    sizes = []

    def planted(delta, directions, size, *rest):
        sizes.append(size)
        return plant(delta, directions, size, *rest)

    monkeypatch.setattr(module, "plant", planted)
    limit = detection_limit(sample, atoms, TWO_ROUNDS, 1e-6, 0, start)
    assert limit is not None
    # All sizes first, then one.
    first, second = sizes
    assert first.max() > 2 * first.min()
    assert second == pytest.approx(np.full(A_ROUND, second[0]))
    assert limit.size in [of_one_size(second[0], came, A_ROUND) for came in range(A_ROUND + 1)]
    assert limit.trials == 2 * A_ROUND
    # The first of two rounds trains nothing.
    assert len(asked) == 1
    assert 4 < limit.size / atoms.noise < 15
    again = detection_limit(sample, atoms, TWO_ROUNDS, 1e-6, 0, start)
    assert again == limit


def test_no_limit_where_hardly_any_of_one_size_came_back(monkeypatch):
    flat = np.zeros((200, WIDTH), np.float32)
    sequences = np.arange(200) // 20
    sample = Sample(flat, flat, sequences, sequences % 6 == 0, np.arange(len(sequences)))
    atoms = Atoms(np.zeros((0, WIDTH), np.float32), np.zeros(WIDTH, np.float32), 0.1)
    sizes = []

    def planted(delta, directions, size, *rest):
        sizes.append(size)
        return delta

    def come_back(*_):
        # Of all sizes the larger half, of one size nothing.
        return sizes[-1] > np.median(sizes[-1])

    monkeypatch.setattr(module, "plant", planted)
    monkeypatch.setattr(module, "_come_back", come_back)
    assert detection_limit(sample, atoms, TWO_ROUNDS, 1e-6, 0, lambda _: flat[:1]) is None
    # One round more was tried, at a larger size.
    assert len(sizes) == 3
    assert sizes[2][0] > sizes[1][0]
