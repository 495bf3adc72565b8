"""Sparse codes over a few atoms by orthogonal matching pursuit, and what they leave, compiled.

Threads split the tokens; no two write the same memory and no sum that threads share crosses tokens,
so results do not depend on the number of threads. Nothing as large as the tokens is written:
where memory is given out page by page, that takes longer than the sums.
"""

import numpy as np
from numba import njit, prange
from numpy import ndarray


@njit(cache=True, nogil=True)
def _solve(gram: ndarray, right: ndarray, factor: ndarray, out: ndarray, n: int) -> None:
    """Solve ``gram out = right`` for a symmetric positive definite [n, n] by Cholesky."""
    for i in range(n):
        for j in range(i + 1):
            total = gram[i, j]
            for p in range(j):
                total -= factor[i, p] * factor[j, p]
            factor[i, j] = np.sqrt(max(total, 1e-9)) if i == j else total / factor[j, j]
    for i in range(n):
        total = right[i]
        for p in range(i):
            total -= factor[i, p] * out[p]
        out[i] = total / factor[i, i]
    for i in range(n - 1, -1, -1):
        total = out[i]
        for p in range(i + 1, n):
            total -= factor[p, i] * out[p]
        out[i] = total / factor[i, i]


@njit(parallel=True, cache=True, nogil=True)
def pursue(products: ndarray, gram: ndarray, least: float, most: int) -> tuple[ndarray, ndarray]:
    """Code every token by at most ``most`` atoms, all coefficients positive.

    The atom that fits the residual best is taken as long as it fits by more than ``least``; all
    coefficients are then solved for again, and an atom left with less than half of ``least`` is
    given up for that token.

    Args:
        products: Inner products of tokens and unit atoms, float32 [tokens, atoms].
        gram: Inner products of the atoms, float64 [atoms, atoms].
        least: Smallest inner product worth an active atom.
        most: Active atoms a token at most.

    Returns:
        Indices, int32 [tokens, most], -1 where unused, and coefficients, float32 of that shape.
    """
    tokens, atoms = products.shape
    indices = np.full((tokens, most), -1, np.int32)
    values = np.zeros((tokens, most), np.float32)
    for token in prange(tokens):
        height = least
        for j in range(atoms):
            height = max(height, float(products[token, j]))
        if height <= least:
            continue
        left = products[token].astype(np.float64)
        tried = np.zeros(atoms, np.bool_)
        chosen = np.empty(most, np.int64)
        small, factor = np.empty((most, most)), np.empty((most, most))
        right, solved = np.empty(most), np.empty(most)
        n = 0
        while n < most:
            best, height = -1, least
            for j in range(atoms):
                if left[j] > height and not tried[j]:
                    best, height = j, left[j]
            if best < 0:
                break
            tried[best] = True
            chosen[n] = best
            n += 1
            while True:
                for i in range(n):
                    right[i] = products[token, chosen[i]]
                    for j in range(n):
                        small[i, j] = gram[chosen[i], chosen[j]]
                _solve(small, right, factor, solved, n)
                worst = 0
                for i in range(1, n):
                    if solved[i] < solved[worst]:
                        worst = i
                if n == 1 or solved[worst] > 0.5 * least:
                    break
                for i in range(worst, n - 1):
                    chosen[i] = chosen[i + 1]
                n -= 1
            for j in range(atoms):
                total = float(products[token, j])
                for i in range(n):
                    total -= gram[j, chosen[i]] * solved[i]
                left[j] = total
        for i in range(n):
            indices[token, i] = chosen[i]
            values[token, i] = solved[i]
    return indices, values


@njit(cache=True, nogil=True)
def weighted_sums(
    starts: ndarray,
    columns: ndarray,
    values: ndarray,
    delta: ndarray,
    offset: ndarray,
    count: int,
) -> ndarray:
    """Return sum over tokens of code times centred token, float64 [atoms, d].

    Args:
        starts: Where each token's codes start, [tokens + 1] (as in a CSR matrix).
        columns: Atom of each code.
        values: The codes, float64.
        delta: Tokens, float32 [tokens, d].
        offset: What to centre them by, float32 [d].
        count: Number of atoms.
    """
    width = delta.shape[1]
    sums = np.zeros((count, width))
    for token in range(len(delta)):
        for p in range(starts[token], starts[token + 1]):
            row, value = sums[columns[p]], values[p]
            for i in range(width):
                row[i] += value * float(delta[token, i] - offset[i])
    return sums


@njit(parallel=True, cache=True, nogil=True)
def squares_left(
    starts: ndarray,
    columns: ndarray,
    values: ndarray,
    delta: ndarray,
    offset: ndarray,
    directions: ndarray,
) -> ndarray:
    """Return each token's squared length less offset and codes times directions, float64 [tokens].

    Arguments as for `weighted_sums`; ``directions`` are float32 [atoms, d].
    """
    tokens, width = delta.shape
    squares = np.zeros(tokens)
    for token in prange(tokens):
        left = delta[token] - offset
        for p in range(starts[token], starts[token + 1]):
            row, value = directions[columns[p]], np.float32(values[p])
            for i in range(width):
                left[i] -= value * row[i]
        total = 0.0
        for i in range(width):
            total += float(left[i]) ** 2
        squares[token] = total
    return squares
