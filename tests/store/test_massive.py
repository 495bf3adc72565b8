"""Which tokens are massive: by hand, and each side by its own distances."""

import numpy as np

from anaglyph.store.massive import is_massive, usual_distance


def test_beyond_fifteen_times_the_95th_percentile():
    distances = np.array([1.0] * 98 + [14.9, 15.1])
    assert usual_distance(distances) == 1.0
    assert np.flatnonzero(is_massive(distances)).tolist() == [99]


def test_sides_are_judged_apart():
    distances = np.stack([np.ones(100), np.full(100, 50.0)])
    distances[0, 3] = 40.0
    assert np.argwhere(is_massive(distances)).tolist() == [[0, 3]]


def test_tokens_that_all_sit_on_the_centre_are_ordinary():
    assert not is_massive(np.zeros(10)).any()
