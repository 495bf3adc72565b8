"""Texts in which findings fire: all of a rare one's, and totals that are right on average."""

import numpy as np
import pytest

from anaglyph.core.errors import InputError
from anaglyph.findings.texts import Firings, drawn_where_they_fire

TEXTS, RARE = 200, 3
LENGTHS = np.full(TEXTS, 10)


def firings() -> Firings:
    """Return those of one latent that fires in all texts and one that fires in three."""
    counts = np.zeros((TEXTS, 2), np.int64)
    counts[:, 0] = 1
    counts[[5, 50, 150], 1] = 2
    return Firings(np.arange(1000, 1000 + TEXTS), counts)


def test_a_rare_finding_s_texts_are_drawn_first():
    drawn = drawn_where_they_fire(firings(), LENGTHS, 400, 0)
    assert {1005, 1050, 1150} <= set(drawn.sequences.tolist())
    rare = np.isin(drawn.sequences, [1005, 1050, 1150])
    assert drawn.weights[rare] == pytest.approx(1)
    # By hand: 37 of the other 197.
    assert drawn.weights[~rare] == pytest.approx(197 / 37, rel=1e-6)
    assert len(drawn.sequences) == 40


def test_totals_are_right_on_average():
    values = np.random.default_rng(1).exponential(size=TEXTS)
    values[[5, 50, 150]] *= 40
    totals = []
    for seed in range(600):
        drawn = drawn_where_they_fire(firings(), LENGTHS, 300, seed)
        totals.append(drawn.weights @ values[drawn.sequences - 1000])
    error = np.std(totals) / np.sqrt(len(totals))
    assert abs(np.mean(totals) - values.sum()) < 4 * error


def test_with_room_every_text_is_drawn_and_counts_once():
    drawn = drawn_where_they_fire(firings(), LENGTHS, 10_000, 3)
    assert len(drawn.sequences) == TEXTS
    assert drawn.weights == pytest.approx(1)


def test_at_least_one_text_is_drawn():
    for seed in range(20):
        drawn = drawn_where_they_fire(firings(), LENGTHS, 1, seed)
        assert len(drawn.sequences) == 1
        assert drawn.weights[0] >= 1


def test_no_tokens_are_refused():
    with pytest.raises(InputError, match="max_tokens"):
        drawn_where_they_fire(firings(), LENGTHS, 0, 0)
