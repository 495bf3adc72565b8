"""The sparse operations as numba functions.

Each is parallel over tokens, latents or rows. One thread sums each row in a fixed order, so results
do not depend on the number of threads. Compiled code is cached on disk.
"""

import numpy as np
from numba import njit, prange

# "reassoc" lets sums use vector registers; NaN and inf keep their meaning.
_MATHS = {"contract", "reassoc", "nsz"}
# Latents tested together. Hits are rare, so the inner test is a vector comparison.
_TILE = 64


@njit(parallel=True, cache=True, nogil=True)
def find_above(pre, limits, found, counts):
    """Write the columns of each row above their limit, ascending, to the rows of found."""
    latents = pre.shape[1]
    for b in prange(pre.shape[0]):
        row = pre[b]
        n = 0
        for start in range(0, latents, _TILE):
            stop = min(start + _TILE, latents)
            hit = False
            for j in range(start, stop):
                hit |= row[j] > limits[j]
            if hit:
                for j in range(start, stop):
                    if row[j] > limits[j]:
                        found[b, n] = j
                        n += 1
        counts[b] = n


@njit(parallel=True, cache=True, nogil=True)
def gather(pre, bias, found, offsets, indices, values):
    """Compact the rows of found and fetch their activations."""
    for b in prange(pre.shape[0]):
        start = offsets[b]
        for i in range(offsets[b + 1] - start):
            j = found[b, i]
            indices[start + i] = j
            values[start + i] = pre[b, j] + bias[j]


@njit(cache=True, nogil=True)
def keep_largest(active, scores, kth, ties, kept):
    """Copy the entries above kth and the first ``ties`` of those equal to it.

    ``active`` and ``kept`` are (indices, values, offsets).
    """
    indices, values, offsets = active
    new_indices, new_values, new_offsets = kept
    n = 0
    new_offsets[0] = 0
    for b in range(len(offsets) - 1):
        for i in range(offsets[b], offsets[b + 1]):
            if scores[i] < kth:
                continue
            if scores[i] == kth:
                if ties == 0:
                    continue
                ties -= 1
            new_indices[n] = indices[i]
            new_values[n] = values[i]
            n += 1
        new_offsets[b + 1] = n


@njit(parallel=True, cache=True, nogil=True, fastmath=_MATHS)
def decode(indices, values, offsets, decoder, out):
    """Add the weighted decoder rows of each token to its row."""
    for b in prange(out.shape[0]):
        row = out[b]
        for i in range(offsets[b], offsets[b + 1]):
            value = values[i]
            direction = decoder[indices[i]]
            for c in range(len(row)):
                row[c] += value * direction[c]


@njit(parallel=True, cache=True, nogil=True, fastmath=_MATHS)
def code_gradients(indices, offsets, decoder, gradient, out):
    """Add the inner product of each entry's gradient and decoder rows."""
    for b in prange(gradient.shape[0]):
        row = gradient[b]
        for i in range(offsets[b], offsets[b + 1]):
            direction = decoder[indices[i]]
            total = np.float32(0.0)
            for c in range(len(row)):
                total += row[c] * direction[c]
            out[i] += total


@njit(cache=True, nogil=True)
def columns(indices, offsets, column_offsets, tokens, entries):
    """Order the entries by latent with a counting sort."""
    for j in indices:
        column_offsets[j + 1] += 1
    for j in range(len(column_offsets) - 1):
        column_offsets[j + 1] += column_offsets[j]
    place = column_offsets[:-1].copy()
    for b in range(len(offsets) - 1):
        for i in range(offsets[b], offsets[b + 1]):
            j = indices[i]
            tokens[place[j]] = b
            entries[place[j]] = i
            place[j] += 1


@njit(parallel=True, cache=True, nogil=True, fastmath=_MATHS)
def weight_gradients(offsets, tokens, entries, values, matrix, out, squares):
    """Sum the weighted rows of each latent's tokens, and square the result while it is in cache."""
    for j in prange(out.shape[0]):
        row = out[j]
        row[:] = np.float32(0.0)
        for i in range(offsets[j], offsets[j + 1]):
            value = values[entries[i]]
            source = matrix[tokens[i]]
            for c in range(len(row)):
                row[c] += value * source[c]
        total = np.float32(0.0)
        for c in range(len(row)):
            total += row[c] * row[c]
        squares[j] = total


@njit(parallel=True, cache=True, nogil=True, fastmath=_MATHS)
def adam(weights, gradient, first, second, constants, squares):
    """Do one Adam step in one pass over memory; constants as in ``types.Adam``, float32."""
    rate, beta1, beta2, epsilon, correction1, correction2, scale = constants
    one = np.float32(1.0)
    step = rate / correction1
    for j in prange(weights.shape[0]):
        total = np.float32(0.0)
        for c in range(weights.shape[1]):
            g = gradient[j, c] * scale
            m = beta1 * first[j, c] + (one - beta1) * g
            v = beta2 * second[j, c] + (one - beta2) * g * g
            first[j, c] = m
            second[j, c] = v
            w = weights[j, c] - step * m / (np.sqrt(v / correction2) + epsilon)
            weights[j, c] = w
            total += w * w
        squares[j] = total


@njit(parallel=True, cache=True, nogil=True)
def cap_rows(codes, bits, limit):
    """Zero all but the largest ``limit`` values of each row; no value is negative.

    ``bits`` is the same memory as int32. The bits of such floats have the same order as the floats,
    so bisecting on bits finds the limit-th largest value exactly, with at most 31 vectorised
    counts.
    """
    for b in prange(codes.shape[0]):
        row = bits[b]
        low, high = np.int32(-1), np.int32(2**31 - 1)  # count(> low) > limit >= count(> high)
        if _count_above(row, np.int32(0)) <= limit:
            continue
        while high - low > 1:
            middle = np.int32(low + (high - low) // 2)
            if _count_above(row, middle) > limit:
                low = middle
            else:
                high = middle
        ties = limit - _count_above(row, high)
        for j in range(len(row)):
            if row[j] > high:
                continue
            if row[j] == high and ties > 0:
                ties -= 1
            else:
                codes[b, j] = np.float32(0.0)


@njit(cache=True, nogil=True)
def _count_above(row, bound):
    count = 0
    for j in range(len(row)):
        count += row[j] > bound
    return count
