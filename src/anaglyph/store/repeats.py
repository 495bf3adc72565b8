"""Which tokens of a store are read for the first time: repeated text is not new evidence."""

import numpy as np
from jaxtyping import Bool, Int32, Int64
from numpy import ndarray

# Base of a rolling hash: any odd number that fills 64 bits.
_BASE = 0x9E3779B97F4A7C15


def first_readings(
    token_ids: Int32[ndarray, " tokens"], offsets: Int64[ndarray, " sequences_and_one"]
) -> Bool[ndarray, " tokens"]:
    """Return which tokens are the first reading of their beginning.

    A token is a repeat if an earlier sequence begins with the same tokens up to it.

    Args:
        token_ids: Token ids of all sequences, end to end. All 0 means that there is no text; then
            nothing is a repeat.
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
