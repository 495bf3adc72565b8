"""Atoms of a difference: pursuit by hand and by brute force, fits from bad starting points."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from anaglyph.findings.atoms import Atoms, fit_atoms, support
from anaglyph.findings.kernels import pursue, squares_left, weighted_sums


def planted(
    count: int = 6, width: int = 24, tokens: int = 6000, noise: float = 0.03
) -> tuple[np.ndarray, np.ndarray]:
    """Return differences and the unit directions they are made of."""
    rng = np.random.default_rng(count)
    directions = rng.standard_normal((count, width))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    codes = (rng.random((tokens, count)) < 0.03) * rng.uniform(0.5, 1.5, (tokens, count))
    delta = codes @ directions + 0.2 + noise * rng.standard_normal((tokens, width))
    return delta.astype(np.float32), directions.astype(np.float32)


def test_pursuit_by_hand():
    # Atoms along x and along the diagonal; the target is 2 x + 1 diagonal, then too small a one.
    diagonal = np.array([1.0, 1.0]) / np.sqrt(2)
    atoms = np.stack([[1.0, 0.0], diagonal])
    targets = np.stack([2 * atoms[0] + diagonal, 0.05 * diagonal, -atoms[0]])
    products = (targets @ atoms.T).astype(np.float32)
    indices, values = pursue(products, atoms @ atoms.T, 0.1, 4)
    assert sorted(indices[0, :2]) == [0, 1]
    assert values[0, list(indices[0]).index(0)] == pytest.approx(2, abs=1e-4)
    assert values[0, list(indices[0]).index(1)] == pytest.approx(1, abs=1e-4)
    assert (indices[1:] == -1).all()
    assert (values[1:] == 0).all()


@given(st.integers(0, 2**31), st.integers(1, 4))
def test_pursuit_solves_least_squares_on_what_it_chose(seed: int, most: int):
    rng = np.random.default_rng(seed)
    atoms = rng.standard_normal((10, 6))
    atoms /= np.linalg.norm(atoms, axis=1, keepdims=True)
    targets = rng.standard_normal((5, 6))
    indices, values = pursue((targets @ atoms.T).astype(np.float32), atoms @ atoms.T, 0.2, most)
    for target, chosen, found in zip(targets, indices, values, strict=True):
        used = chosen[chosen >= 0]
        assert len(set(used)) == len(used) <= most
        exact = np.linalg.lstsq(atoms[used].T, target, rcond=None)[0]
        assert found[: len(used)] == pytest.approx(exact, abs=1e-3)
        assert (found[: len(used)] >= 0.5 * 0.2).all()


@given(st.integers(0, 2**31), st.integers(0, 4))
def test_sums_and_what_is_left_are_those_of_dense_codes(seed: int, atoms: int):
    rng = np.random.default_rng(seed)
    delta, offset = (rng.standard_normal(shape, np.float32) for shape in ((7, 3), 3))
    directions = rng.standard_normal((atoms, 3), np.float32)
    dense = rng.standard_normal((7, atoms)) * (rng.random((7, atoms)) < 0.4)
    codes = csr_matrix(dense)
    parts = (codes.indptr, codes.indices, codes.data, delta, offset)
    centred = delta.astype(np.float64) - offset
    assert weighted_sums(*parts, atoms) == pytest.approx(dense.T @ centred, abs=1e-5)
    left = np.square(centred - dense @ directions).sum(1)
    assert squares_left(*parts, directions) == pytest.approx(left, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("start", ["noise", "mixtures", "nothing"])
def test_atoms_are_found_from_bad_starts(start: str):
    delta, truth = planted()
    rng = np.random.default_rng(5)
    starts = {
        "noise": rng.standard_normal((40, 24)),
        "mixtures": rng.random((40, 6)) @ truth,
        "nothing": np.zeros((3, 24)),
    }[start]
    atoms = fit_atoms(delta, starts, 1e-6)
    similarity = atoms.directions @ truth.T
    assert (similarity.max(0) > 0.995).all()
    assert len(atoms.directions) == len(truth)
    assert atoms.noise == pytest.approx(0.03, rel=0.05)
    assert atoms.offset == pytest.approx(np.full(24, 0.2), abs=0.01)
    assert np.linalg.norm(atoms.directions, axis=1) == pytest.approx(np.ones(len(truth)), abs=1e-5)


def test_an_atom_that_only_corrects_another_is_set_free():
    # One atom between two alike features, the second only ever beside it: a trap of alternation.
    delta, _ = planted(count=2)
    rng = np.random.default_rng(0)
    first = np.zeros(24)
    first[0] = 1
    second = np.zeros(24)
    second[:2] = 0.6, 0.8
    fires = rng.random((6000, 2)) < 0.04
    delta = fires[:, :1] * first + fires[:, 1:] * second + 0.02 * rng.standard_normal((6000, 24))
    between = first + 0.9 * second
    across = second - (second @ between) / (between @ between) * between
    atoms = fit_atoms(delta.astype(np.float32), np.stack([between, across]), 1e-6)
    similarity = atoms.directions @ np.stack([first, second]).T
    assert similarity.max(0) == pytest.approx([1, 1], abs=0.01)
    assert len(atoms.directions) == 2


def test_combinations_of_atoms_are_no_atoms():
    delta, truth = planted(tokens=20_000)
    mixtures = np.concatenate([truth, truth[[0, 1, 2]] + truth[[3, 4, 5]]])
    assert len(fit_atoms(delta, mixtures, 1e-6).directions) == len(truth)


def test_noise_alone_has_no_atoms():
    rng = np.random.default_rng(2)
    delta = rng.standard_normal((5000, 16)).astype(np.float32)
    assert len(fit_atoms(delta, rng.standard_normal((64, 16)), 1e-6).directions) == 0


def test_support_says_where_and_how_often():
    atoms = Atoms(np.eye(3, dtype=np.float32), np.zeros(3, np.float32), 0.01)
    codes = atoms.codes(np.array([[1, 0, 0], [1, 2, 0], [0, 0, 0]], np.float32))
    fires, counts = support(codes)
    assert fires.toarray().tolist() == [[1, 0, 0], [1, 1, 0], [0, 0, 0]]
    assert counts.tolist() == [2, 1, 0]
    assert codes.toarray() == pytest.approx(np.array([[1, 0, 0], [1, 2, 0], [0, 0, 0]]), abs=1e-5)
