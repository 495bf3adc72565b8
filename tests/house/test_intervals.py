"""Means, ratios and their bootstrap intervals over sequences."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anaglyph.core.stats import DRAWS, mean_kl, recovered, sequence_draws


def test_mean_is_per_token_not_per_sequence():
    draws = sequence_draws(2, seed=0)
    interval = mean_kl(np.array([6.0, 2.0]), np.array([1, 3]), draws)
    assert interval.value == pytest.approx(2.0)  # 8 nats over 4 tokens; the means would give 3.33
    # Every draw is one of AA, AB, BB: 6, 2 or 2/3.
    assert interval.low == pytest.approx(2 / 3)
    assert interval.high == pytest.approx(6.0)


def test_recovered_by_hand():
    draws = sequence_draws(2, seed=0)
    interval = recovered(np.array([1.0, 1.0]), np.array([2.0, 10.0]), draws)
    assert interval.value == pytest.approx(1 - 2 / 12)
    assert interval.low == pytest.approx(0.5)
    assert interval.high == pytest.approx(0.9)


def test_pairing_makes_a_constant_share_exact():
    none = np.array([0.1, 5.0, 40.0, 2.0])
    interval = recovered(0.25 * none, none, sequence_draws(4, seed=3))
    assert (interval.value, interval.low, interval.high) == pytest.approx((0.75, 0.75, 0.75))


def test_undefined_is_none():
    draws = sequence_draws(2, seed=0)
    nothing = recovered(np.zeros(2), np.zeros(2), draws)
    assert (nothing.value, nothing.low, nothing.high) == (None, None, None)
    # A draw may miss the only sequence in which the models differ.
    partly = recovered(np.array([1.0, 0.0]), np.array([4.0, 0.0]), draws)
    assert (partly.value, partly.low, partly.high) == (0.75, None, None)
    single = mean_kl(np.array([3.0]), np.array([2]), sequence_draws(1, seed=0))
    assert (single.value, single.low, single.high) == (1.5, None, None)


@given(st.integers(1, 12), st.integers(0, 2**31))
def test_draws_keep_the_number_of_sequences_and_the_seed(sequences: int, seed: int):
    draws = sequence_draws(sequences, seed)
    assert draws.shape == (DRAWS, sequences)
    assert (draws.sum(axis=1) == sequences).all()
    assert np.array_equal(draws, sequence_draws(sequences, seed))


def test_coverage_of_a_known_mean():
    # 30 sequences of exponential KL with mean 1: a 95% interval should hold 1 most of the time.
    generator = np.random.default_rng(0)
    tokens = np.full(30, 10)
    held = 0
    for trial in range(200):
        sums = generator.exponential(10.0, size=30)
        interval = mean_kl(sums, tokens, sequence_draws(30, seed=trial))
        assert interval.low is not None
        assert interval.high is not None
        held += interval.low <= 1 <= interval.high
    assert 0.87 <= held / 200 <= 0.99
