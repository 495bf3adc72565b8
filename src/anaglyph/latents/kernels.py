"""Inner loops over sparse codes, compiled for the CPU.

The products are independent of each other, so they run in parallel and are bit-identical for any
number of threads. Adding them up touches little memory and runs in one thread, in token order.
"""

import numba
import numpy as np

# Sums may be reordered so that the inner product uses vector instructions. NaN and inf keep their
# meaning, so a damaged activation stays visible.
_REORDER = {"reassoc", "contract", "nsz"}


@numba.njit(parallel=True, cache=True, nogil=True, fastmath=_REORDER)
def project(indices, offsets, targets, directions):
    """Return ``<target[token], directions[latent]>`` for every active latent of every token.

    Args:
        indices: int32 [active], latents of the codes, CSR by token.
        offsets: int64 [tokens + 1].
        targets: Tuple of float32 [tokens, d].
        directions: float32 [latents, d].

    Returns:
        float64 [active, targets]. Each product is summed in float32, in many partial sums; its
        error is about 1e-7 of the product of the two lengths. The caller should subtract the mean
        of the targets first, because it cancels later.
    """
    n_targets = len(targets)
    width = directions.shape[1]
    products = np.empty((indices.size, n_targets), dtype=np.float64)
    for token in numba.prange(offsets.size - 1):
        for entry in range(offsets[token], offsets[token + 1]):
            direction = directions[indices[entry]]
            for which in range(n_targets):
                target = targets[which][token]
                total = np.float32(0.0)
                for c in range(width):
                    total += target[c] * direction[c]
                products[entry, which] = total
    return products


@numba.njit(cache=True, nogil=True)
def accumulate(codes, products, blocks, roles, totals):
    """Add one batch of codes to the running sums, in place.

    Args:
        codes: int32 [active] latents, float32 [active] values, int64 [tokens + 1] offsets.
        products: float64 [active, targets] from ``project``.
        blocks: int64 [tokens], the block of sequences that each token belongs to.
        roles: uint8 [tokens].
        totals: float64 [blocks, latents, 2 + targets], the sums of f, of f^2, and of f times each
            product; int64 [latents, roles], active tokens by role; float32 [latents], highest
            code so far.
    """
    indices, values, offsets = codes
    sums, firings, largest = totals
    for token in range(offsets.size - 1):
        block = sums[blocks[token]]
        role = roles[token]
        for entry in range(offsets[token], offsets[token + 1]):
            code = np.float64(values[entry])
            if code == 0.0:
                continue
            latent = indices[entry]
            row = block[latent]
            row[0] += code
            row[1] += code * code
            for which in range(products.shape[1]):
                row[2 + which] += code * products[entry, which]
            firings[latent, role] += 1
            largest[latent] = max(largest[latent], values[entry])


@numba.njit(parallel=True, cache=True, nogil=True, fastmath=_REORDER)
def add_rows(keys, starts, order, tokens, values, rows, sums):
    """Add ``f * rows[token]`` of every active entry to the row of ``sums`` that belongs to its key.

    One thread adds the entries of a key in their order, so any number of threads gives the same
    bits.

    Args:
        keys: int64 [groups], distinct rows of ``sums``.
        starts: int64 [groups + 1], where each key's entries begin in ``order``.
        order: int64 [active], entries grouped by key.
        tokens: int64 [active], token of each entry.
        values: float32 [active].
        rows: float32 [tokens, d].
        sums: float32 [keys, d], changed in place.
    """
    for group in numba.prange(keys.size):
        total = np.zeros(rows.shape[1], dtype=np.float64)
        for place in range(starts[group], starts[group + 1]):
            entry = order[place]
            row = rows[tokens[entry]]
            code = np.float64(values[entry])
            for c in range(row.size):
                total[c] += code * np.float64(row[c])
        into = sums[keys[group]]
        for c in range(into.size):
            into[c] += np.float32(total[c])
