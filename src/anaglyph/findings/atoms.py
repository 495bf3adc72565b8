"""What the difference is made of: its atoms, directions that each add themselves at some tokens.

    Delta(x) = offset + sum_j a_j(x) u_j + noise,   a_j(x) >= 0, few of them above 0.

A difference-SAE gives starting points: it finds the right neighbourhoods, yet splits, shrinks and
blends directions. From there the atoms are fitted as a sparse code (orthogonal matching pursuit
with a threshold from the noise, least-squares update of all atoms: K-SVD's alternation, Aharon et
al. 2006), atoms that are the same are merged, those that others can replace are dropped, and what
stays unexplained starts new ones. Neither the dictionary's k nor its size has to be right.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Float64, Int64
from numpy import ndarray
from scipy.sparse import csr_matrix

from anaglyph.findings.kernels import pursue, squares_left, weighted_sums
from anaglyph.findings.sample import MEDIAN_ROWS, column_medians

MOST_ATOMS = 256
MOST_ACTIVE = 16
LEAST_TOKENS = 20
"""An atom that fires on fewer tokens of the sample is not believed."""
SAME = 0.9
"""Cosine above which two atoms are one."""
ALWAYS_TOGETHER = 0.95
OWN = 0.3
"""Share of its energy that the other atoms must not be able to carry."""
ROUNDS = 8
HARDLY = 0.997
"""Cosine between an atom and itself a round earlier that counts as hardly turned."""
_SPAWNED = 64
_CHUNK = 8192


@dataclass(frozen=True)
class Atoms:
    """Unit directions, the difference where none fires, and the noise that they were told from."""

    directions: Float32[ndarray, "atoms d"]
    offset: Float32[ndarray, " d"]
    noise: float
    """Standard deviation a dimension of what the atoms do not explain."""

    @property
    def threshold(self) -> float:
        """Smallest activation that is told from noise."""
        return told_apart(self.noise, len(self.directions))

    def codes(self, delta: Float[ndarray, "tokens d"]) -> csr_matrix:
        """Return a_j(x) as a sparse float64 matrix [tokens, atoms]."""
        count = len(self.directions)
        if count == 0:
            return csr_matrix((len(delta), 0))
        gram = _gram(self.directions)
        shift = self.directions @ self.offset
        counts, columns, values = [], [], []
        for start in range(0, len(delta), _CHUNK):
            products = inner(delta[start : start + _CHUNK], self.directions)
            products -= shift
            indices, found = pursue(products, gram, self.threshold, MOST_ACTIVE)
            used = indices >= 0
            counts.append(used.sum(1))
            columns.append(indices[used])
            values.append(found[used].astype(np.float64))
        starts = np.concatenate([[0], *counts]).cumsum()
        parts = (np.concatenate(values), np.concatenate(columns), starts)
        codes = csr_matrix(parts, shape=(len(delta), count))
        codes.sort_indices()
        return codes


def told_apart(noise: float, count: int) -> float:
    """Return the smallest activation of one of so many atoms that is told from noise.

    The largest of K projections of noise is near noise * sqrt(2 ln K); two more deviations keep a
    token's chance of a false firing below one in a thousand.
    """
    return noise * (np.sqrt(2 * np.log(max(count, 2))) + 2)


def fit_atoms(
    delta: Float[ndarray, "tokens d"],
    starts: Float[ndarray, "starts d"],
    floor: float,
    *,
    roughly: bool = False,
) -> Atoms:
    """Fit atoms to differences.

    Args:
        delta: Differences of activations.
        starts: Directions to start from, of any length; rows of zeros are left out.
        floor: Least noise to assume, a dimension: below it differences are rounding.
        roughly: Stop once nine of ten atoms hardly turn any more.
    """
    offset, width = column_medians(delta), delta.shape[1]
    none = csr_matrix((len(delta), 0))
    squares = _squares_left(none, delta, offset, np.zeros((0, width), np.float32))
    atoms = Atoms(_unit(starts), offset, max(_noise(squares, width), floor))
    for spawn in (False, True):
        if spawn:
            atoms = _spawn(delta, atoms)
        for _ in range(ROUNDS):
            before = atoms.directions
            atoms = _update(delta, atoms, floor)
            if _settled(before, atoms.directions, roughly):
                break
    return _without_replaceable(delta, atoms)


def _settled(before: ndarray, after: ndarray, roughly: bool) -> bool:
    if before.shape != after.shape:
        return False
    if not roughly:
        return np.allclose(before, after, atol=1e-3)
    turned = (before * after).sum(1)
    return len(after) == 0 or float(np.quantile(turned, 0.1)) >= HARDLY


def _update(delta: ndarray, atoms: Atoms, floor: float) -> Atoms:
    """Code, fit all directions to the codes, and tidy up."""
    codes = atoms.codes(delta)
    energy, fires = energies(codes), codes.getnnz(0)
    order = np.argsort(-energy, kind="stable")[:MOST_ATOMS]
    kept = np.sort(order[fires[order] >= LEAST_TOKENS])
    codes, energy = codes[:, kept].tocsr(), energy[kept]
    fitted = _least_squares(codes, delta, atoms.offset)
    rough = fitted.astype(np.float32)
    squares = _squares_left(codes, delta, atoms.offset, rough)
    some = slice(None, None, max(len(delta) // MEDIAN_ROWS, 1))
    left = delta[some] - atoms.offset - codes[some].astype(np.float32) @ rough
    offset = atoms.offset + column_medians(left)
    return Atoms(
        _merged(_unit(_apart(codes, fitted)), energy),
        offset.astype(np.float32),
        max(_noise(squares, delta.shape[1]), floor),
    )


def _least_squares(
    codes: csr_matrix, delta: ndarray, offset: ndarray
) -> Float64[ndarray, "atoms d"]:
    gram = (codes.T @ codes).toarray()
    scale = gram.diagonal().max(initial=0.0)
    sums = weighted_sums(codes.indptr, codes.indices, codes.data, delta, offset, len(gram))
    return np.linalg.solve(gram + 1e-9 * max(scale, 1e-30) * np.eye(len(gram)), sums)


def _squares_left(
    codes: csr_matrix, delta: ndarray, offset: ndarray, directions: ndarray
) -> Float64[ndarray, " tokens"]:
    return squares_left(codes.indptr, codes.indices, codes.data, delta, offset, directions)


def _apart(codes: csr_matrix, fitted: ndarray) -> Float64[ndarray, "atoms d"]:
    """Free the atoms that only correct another one.

    Where one atom stands for two alike directions, a second one fires with it, always, to make up
    for the error. The second then becomes the sum of the two, which is the direction itself.
    """
    fires, _ = support(codes)
    together = (fires.T @ fires).toarray()
    count = together.diagonal().copy()
    np.fill_diagonal(together, 0.0)
    fitted = fitted.copy()
    for j in np.argsort(count, kind="stable"):
        host = int(together[j].argmax()) if len(together) > 1 else j
        if host == j or together[j, host] < ALWAYS_TOGETHER * count[j] or count[host] <= count[j]:
            continue
        rows = codes[:, [j, host]]
        active = np.bincount(rows.nonzero()[0], minlength=codes.indptr.size - 1)
        strengths = rows[active == 2].toarray().mean(0)
        fitted[j] = strengths @ fitted[[j, host]]
    return fitted


def _merged(directions: ndarray, energy: ndarray) -> Float32[ndarray, "atoms d"]:
    """Keep the strongest of atoms that are the same, in the order given."""
    kept: list[int] = []
    similarity = inner(directions, directions)
    for j in np.argsort(-energy, kind="stable"):
        if not kept or similarity[j, kept].max() < SAME:
            kept.append(int(j))
    return directions[np.sort(np.array(kept, np.int64))]


def _spawn(delta: ndarray, atoms: Atoms) -> Atoms:
    """Add directions that tokens of large unexplained difference have in common."""
    codes = atoms.codes(delta)
    lengths = np.sqrt(_squares_left(codes, delta, atoms.offset, atoms.directions))
    expected = atoms.noise * np.sqrt(delta.shape[1])
    order = np.argsort(-lengths, kind="stable")
    order = order[lengths[order] > 2 * expected][: 8 * _SPAWNED]
    left = delta[order] - atoms.offset - codes[order].astype(np.float32) @ atoms.directions
    found: list[ndarray] = []
    for row in _unit(left):
        if len(found) == _SPAWNED:
            break
        if not found or (np.stack(found) @ row).max() < SAME:
            found.append(row)
    if not found:
        return atoms
    return Atoms(np.concatenate([atoms.directions, np.stack(found)]), atoms.offset, atoms.noise)


def _without_replaceable(delta: ndarray, atoms: Atoms) -> Atoms:
    """Drop atoms whose tokens the others explain nearly as well, the weakest first."""
    codes = atoms.codes(delta)
    energy = energies(codes)
    columns = codes.tocsc()
    products = inner(delta, atoms.directions)
    products -= atoms.directions @ atoms.offset
    gram = _gram(atoms.directions)
    kept = np.ones(len(energy), bool)
    for j in np.argsort(energy, kind="stable"):
        rows = columns.indices[columns.indptr[j] : columns.indptr[j + 1]]
        if len(rows) < LEAST_TOKENS:
            kept[j] = False
            continue
        with_it = _explained(products[rows], gram, atoms.noise, kept)
        kept[j] = False
        without = _explained(products[rows], gram, atoms.noise, kept)
        kept[j] = with_it - without >= OWN * energy[j]
    return Atoms(atoms.directions[kept], atoms.offset, atoms.noise)


def _explained(
    products: Float[ndarray, "tokens atoms"],
    gram: Float64[ndarray, "atoms atoms"],
    noise: float,
    kept: Bool[ndarray, " atoms"],
) -> float:
    """Return the energy that some of the atoms explain: c . p for least-squares codes c."""
    count = int(kept.sum())
    if count == 0:
        return 0.0
    some = np.ascontiguousarray(products[:, kept], np.float32)
    indices, values = pursue(some, gram[np.ix_(kept, kept)], told_apart(noise, count), MOST_ACTIVE)
    used = indices >= 0
    rows = np.nonzero(used)[0]
    return float((values[used].astype(np.float64) * some[rows, indices[used]]).sum())


def _gram(directions: ndarray) -> Float64[ndarray, "atoms atoms"]:
    exact = directions.astype(np.float64)
    return inner(exact, exact)


def _noise(squares: Float64[ndarray, " tokens"], width: int) -> float:
    """Return the deviation a dimension of tokens that nothing happens at: a median over tokens."""
    return float(np.sqrt(np.median(squares) / width)) if len(squares) else 0.0


def _unit(rows: Float[ndarray, "rows d"]) -> Float32[ndarray, "kept d"]:
    """Return the rows at length one, those of no length left out."""
    lengths = np.linalg.norm(rows, axis=1)
    kept = lengths > 0
    return (rows[kept] / lengths[kept, None]).astype(np.float32)


def inner(
    values: Float[ndarray, "tokens d"], directions: Float[ndarray, "n d"]
) -> Float[ndarray, "tokens n"]:
    """Return inner products of many tokens and directions, in the precision of both.

    By torch, because compiled code shares its threads: numpy's own, which wait for more to do by
    spinning, take the processor from what comes next.
    """
    precision = np.result_type(values, directions)
    tokens, others = (
        torch.from_numpy(np.ascontiguousarray(each, precision)) for each in (values, directions)
    )
    return (tokens @ others.T).numpy()


def energies(codes: csr_matrix) -> Float64[ndarray, " atoms"]:
    """Return each atom's activations squared and summed."""
    return np.asarray(codes.power(2).sum(0)).ravel()


def support(codes: csr_matrix) -> tuple[csr_matrix, Int64[ndarray, " atoms"]]:
    """Return where each atom fires, 1.0 or nothing, and on how many tokens."""
    fires = csr_matrix((np.ones_like(codes.data), codes.indices, codes.indptr), shape=codes.shape)
    return fires, np.asarray(fires.sum(0)).ravel().astype(np.int64)
