"""Column medians are numpy's, over all rows or evenly spaced ones."""

import numpy as np
import pytest

from anaglyph.findings.sample import MEDIAN_ROWS, column_medians


@pytest.mark.parametrize("count", [1, 2, 5, 6, 400])
def test_medians_are_those_of_numpy(count: int):
    values = np.random.default_rng(count).standard_normal((count, 7), np.float32)
    assert np.array_equal(column_medians(values), np.median(values, axis=0))


def test_of_very_many_rows_some_are_read():
    values = np.random.default_rng(0).standard_normal((3 * MEDIAN_ROWS, 2), np.float32)
    assert np.array_equal(column_medians(values), np.median(values[::3], axis=0))


def test_without_rows_it_is_zero():
    assert np.array_equal(column_medians(np.zeros((0, 3), np.float32)), np.zeros(3))
