"""How sure an atom is: sign flips over sequences, and a false-discovery rate.

If an atom is only noise, the difference left to it is as likely to point one way as the other, so
the sign of each sequence may be flipped. The statistic is the energy of its projections above the
threshold minus that below the negative threshold, summed over a sequence. For sums of independently
signed numbers e_s Hoeffding's inequality gives

    P(sum_s +-|e_s| >= t) <= exp(-t^2 / (2 sum_s e_s^2)),

valid at any sample size and never too small. An atom's direction is a weighted mean of the tokens
at which it fires, which makes those tokens look better than they are; so each sequence is projected
on the mean over all other sequences. Benjamini and Hochberg (1995) turn p-values into q-values.
"""

import numpy as np
from jaxtyping import Float, Float64, Int64
from numpy import ndarray
from scipy.sparse import csr_matrix

from anaglyph.findings.atoms import Atoms, inner

_CHUNK = 32_768


def p_values(
    delta: Float[ndarray, "tokens d"],
    sequences: Int64[ndarray, " tokens"],
    atoms: Atoms,
    codes: csr_matrix,
) -> Float64[ndarray, " atoms"]:
    """Return each atom's p-value; 1 where no sequence shows what the others show.

    Args:
        delta: Differences of activations.
        sequences: Number of each token's sequence.
        atoms: The atoms.
        codes: Their activations, [tokens, atoms].
    """
    count = len(atoms.directions)
    blocks = int(sequences.max(initial=-1)) + 1
    sums = np.zeros((count, blocks))
    left = np.empty(delta.shape, np.float32)
    for start in range(0, len(delta), _CHUNK):
        rows = slice(start, start + _CHUNK)
        part = codes[rows]
        left[rows] = delta[rows] - atoms.offset - part @ atoms.directions
        # What the other atoms leave to this one, where it points the other way.
        own = inner(left[rows], atoms.directions) + part.toarray()
        against, atom = np.nonzero(own < -atoms.threshold)
        np.add.at(sums, (atom, sequences[rows][against]), -np.square(own[against, atom]))
    columns = codes.tocsc()
    for atom in range(count):
        where = slice(columns.indptr[atom], columns.indptr[atom + 1])
        rows, strength = columns.indices[where], columns.data[where]
        tokens = left[rows] + strength[:, None] * atoms.directions[atom]
        numbers, of = np.unique(sequences[rows], return_inverse=True)
        weighted = strength[:, None] * tokens
        by_sequence = np.zeros((len(numbers), delta.shape[1]))
        np.add.at(by_sequence, of, weighted)
        others = weighted.sum(0) - by_sequence
        others /= np.maximum(np.linalg.norm(others, axis=1, keepdims=True), 1e-30)
        projected = (tokens * others[of]).sum(1)
        seen = np.where(projected > atoms.threshold, np.square(projected), 0.0)
        sums[atom] += np.bincount(sequences[rows], seen, blocks)
    return sign_flip_bound(sums.T)


def sign_flip_bound(sums: Float64[ndarray, "sequences tests"]) -> Float64[ndarray, " tests"]:
    """Return Hoeffding's bound on the chance that random signs give as large a total."""
    total, squares = sums.sum(0), np.square(sums).sum(0)
    bound = np.ones(sums.shape[1])
    some = (total > 0) & (squares > 0)
    bound[some] = np.exp(-np.square(total[some]) / (2 * squares[some]))
    return bound
