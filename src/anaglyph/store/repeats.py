"""Which tokens of a store are read for the first time: a text read again is no new measurement."""

import numpy as np
from jaxtyping import Bool, Int32, Int64
from numpy import ndarray

# Of a rolling hash: any odd number that fills 64 bits.
_BASE = 0x9E3779B97F4A7C15


def first_readings(
    token_ids: Int32[ndarray, " tokens"], offsets: Int64[ndarray, " sequences_and_one"]
) -> Bool[ndarray, " tokens"]:
    """Return which tokens follow what no earlier sequence began with.

    Args:
        token_ids: Of all sequences, end to end; all 0 where there is no text, and nothing repeats.
        offsets: Where each sequence begins, and the number of tokens.
    """
    if not token_ids.any():
        return np.ones(len(token_ids), bool)
    lengths = np.diff(offsets)
    position = np.arange(len(token_ids)) - np.repeat(offsets[:-1], lengths)
    powers = np.full(int(lengths.max()), _BASE, np.uint64)
    np.multiply.accumulate(powers, out=powers)
    # The hash of everything from the start of the sequence to the token; it wraps around.
    total = np.cumsum((token_ids.astype(np.uint64) + np.uint64(1)) * powers[position])
    before = np.append(np.zeros(1, np.uint64), total)[offsets[:-1]]
    first = np.zeros(len(token_ids), bool)
    first[np.unique(total - np.repeat(before, lengths), return_index=True)[1]] = True
    return first
