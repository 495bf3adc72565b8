"""Sign flips and the false-discovery rate, by hand and against simulation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anaglyph.core.stats import q_values
from anaglyph.findings.atoms import Atoms
from anaglyph.findings.significance import p_values, sign_flip_bound


def test_the_bound_by_hand():
    # Total 3 of squares 3, total 0, total negative, nothing at all.
    sums = np.array([[1.0, 1.0, -1.0, 0.0], [1.0, -1.0, -1.0, 0.0], [1.0, 0.0, 0.0, 0.0]])
    assert sign_flip_bound(sums) == pytest.approx([np.exp(-9 / 6), 1.0, 1.0, 1.0])


def test_the_bound_is_never_below_the_exact_chance():
    sums = np.random.default_rng(0).exponential(size=(8, 5))
    signs = np.array(np.meshgrid(*[[-1, 1]] * 8)).reshape(8, -1)
    for observed in (sums, sums * np.array([1, 1, 1, -1, 1, 1, 1, 1])[:, None]):
        exact = (signs.T @ np.abs(observed) >= observed.sum(0) - 1e-12).mean(0)
        assert (sign_flip_bound(observed) >= exact).all()


def test_q_values_by_hand():
    # Ranked 0.01 0.02 0.03 0.5 times 4 over rank: 0.04 0.04 0.04 0.5.
    assert q_values(np.array([0.5, 0.01, 0.03, 0.02])) == pytest.approx([0.5, 0.04, 0.04, 0.04])
    assert q_values(np.zeros(0)).shape == (0,)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.sampled_from([0.05, 0.1, 0.2]))
def test_q_values_call_what_the_step_up_procedure_calls(p: list[float], rate: float):
    ranked = sorted(p)
    passed = [i for i, value in enumerate(ranked, 1) if value * len(p) / i <= rate]
    assert (q_values(np.array(p)) <= rate).sum() == (max(passed) if passed else 0)


def test_noise_is_not_significant_and_an_atom_is():
    rng = np.random.default_rng(1)
    delta = 0.1 * rng.standard_normal((4000, 16)).astype(np.float32)
    delta[rng.random(4000) < 0.02, 0] += 1.0
    directions = np.eye(16, dtype=np.float32)[[0, 1, 2]]
    directions[2] = -directions[0]
    atoms = Atoms(directions, np.zeros(16, np.float32), 0.1)
    p = p_values(delta, np.arange(4000) // 20, atoms, atoms.codes(delta))
    assert p[0] < 1e-6
    assert p[1] > 0.05
    assert p[2] > 0.3


def test_a_direction_fitted_to_noise_is_not_significant():
    # Few tokens in many dimensions: their own mean explains them well, the others' mean does not.
    rng = np.random.default_rng(3)
    delta = rng.standard_normal((12, 500)).astype(np.float32)
    mean = delta.mean(0)
    atoms = Atoms((mean / np.linalg.norm(mean))[None], np.zeros(500, np.float32), 1.0)
    codes = atoms.codes(delta)
    assert (codes.toarray() > atoms.threshold).all()
    assert p_values(delta, np.arange(12), atoms, codes)[0] > 0.3
