"""Intervals against textbook values, and what has no interval."""

import pytest

from anaglyph.core.stats import Interval, half_width, mean_interval, wilson


def test_wilson_intervals_are_those_of_the_textbook():
    # Newcombe (1998), table I: 81 of 263 and 0 of 20.
    found = wilson(81, 263)
    assert (found.low, found.high) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert found.value == 81 / 263
    none = wilson(0, 20)
    assert (none.low, none.high) == pytest.approx((0.0, 0.1611), abs=5e-5)


def test_a_share_of_nothing_is_undefined():
    assert wilson(0, 0) == Interval(None, None, None)


@pytest.mark.parametrize(("freedom", "quantile"), [(1, 12.7062), (4, 2.7764), (30, 2.0423)])
def test_half_widths_are_those_of_the_table(freedom: int, quantile: float):
    assert half_width(2.0, freedom) == pytest.approx(2 * quantile, abs=2e-4)


def test_the_mean_of_three_by_hand():
    # Deviation 1, standard error 1 / sqrt(3), two degrees of freedom: t = 4.30265.
    found = mean_interval([1.0, None, 2.0, 3.0])
    assert found.value == 2.0
    assert found.high == pytest.approx(2 + 4.30265 / 3**0.5, abs=1e-4)
    assert found.low == pytest.approx(2 - 4.30265 / 3**0.5, abs=1e-4)


def test_one_number_has_no_interval_and_none_has_no_mean():
    assert mean_interval([5.0, None]) == Interval(5.0, None, None)
    assert mean_interval([None]) == Interval(None, None, None)
