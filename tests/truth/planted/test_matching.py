"""Matching and ranking by hand."""

import numpy as np
import pytest

from anaglyph.truth.planted.matching import cosines, match
from anaglyph.truth.planted.scoring import ranking


def test_each_feature_gets_its_own_latent():
    # Both features prefer latent 0; the sum of cosines is largest if the first yields.
    similarity = np.array([[0.95, 0.94, 0.0], [0.96, 0.1, 0.0]])
    matching = match(similarity)
    assert matching.latent.tolist() == [1, 0]
    assert matching.cosine.tolist() == [0.94, 0.96]
    assert matching.best.tolist() == [1, 0, 0]


def test_more_features_than_latents_leave_some_without():
    matching = match(np.array([[0.2], [0.9]]))
    assert matching.latent.tolist() == [-1, 0]
    assert matching.cosine.tolist() == [0.0, 0.9]


def test_a_dead_row_has_cosine_zero():
    rows = np.array([[0.0, 0.0], [0.0, 2.0]], np.float32)
    directions = np.array([[0.6, 0.8]], np.float32)
    np.testing.assert_allclose(cosines(rows, directions), [[0.0, 0.8]])


def test_ranking_by_hand():
    scores = np.array([0.9, 0.8, 0.7, 0.1])
    positive = np.array([True, False, True, False])
    area, precision = ranking(scores, positive)
    assert area == pytest.approx(3 / 4)
    assert precision == pytest.approx((1 / 1 + 2 / 3) / 2)


def test_ties_count_half_and_one_class_alone_is_undefined():
    area, precision = ranking(np.ones(4), np.array([True, False, False, False]))
    assert area == pytest.approx(0.5)
    assert precision == pytest.approx(0.25)
    assert ranking(np.ones(2), np.array([True, True])) == (None, None)
