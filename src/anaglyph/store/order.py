"""The tokens of a subset, and the order in which training sees them; no file is touched here.

A shuffled epoch is divided into buffers. A buffer has random blocks of 256 consecutive tokens of
the subset, so the disk is read in long runs. It is shuffled as a whole, so a batch mixes hundreds
of sequences. A subset that fits into one buffer is simply permuted. Every buffer has its own random
generator, so the endless stream can start anywhere without walking through what comes before.
"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Int64

from anaglyph.core.rng import rng

BLOCK_TOKENS = 256


class Subset:
    """The tokens of some sequences, as runs of consecutive tokens (far smaller than a list).

    Args:
        chosen: Which sequences belong to it.
        offsets: Token offsets of all sequences.
    """

    def __init__(
        self,
        chosen: Bool[np.ndarray, " sequences"],
        offsets: Int64[np.ndarray, " sequences_plus_one"],
    ) -> None:
        edges = np.diff(np.concatenate(([0], chosen.astype(np.int8), [0])))
        first = offsets[np.flatnonzero(edges == 1)]
        last = offsets[np.flatnonzero(edges == -1)]
        ends = np.cumsum(last - first)
        self.n_tokens = int(ends[-1]) if ends.size else 0
        self._starts = ends - (last - first)
        self._shift = first - self._starts

    def tokens(self, positions: Int64[np.ndarray, " picked"]) -> Int64[np.ndarray, " picked"]:
        """Return the store's index of the tokens at these positions of the subset."""
        run = np.searchsorted(self._starts, positions, side="right") - 1
        return positions + self._shift[run]


def shuffled_buffers(
    n_tokens: int, seed: int, buffer: int, start: int = 0
) -> Iterator[tuple[Int64[np.ndarray, " held"], Int64[np.ndarray, " shuffled"]]]:
    """Walk a subset in shuffled order, endlessly, epoch after epoch.

    Args:
        n_tokens: Size of the subset, at least 1.
        seed: Seed of the order.
        buffer: Maximum tokens per buffer (at least one block of 256).
        start: How many tokens of the stream to skip.

    Yields:
        Ascending positions of the buffer's tokens, and the order in which to take them (indexes
        into those positions; in the first buffer without what ``start`` skips).
    """
    blocks = -(-n_tokens // BLOCK_TOKENS)
    shortfall = blocks * BLOCK_TOKENS - n_tokens  # of the last block
    stride = max(1, buffer // BLOCK_TOKENS)
    epoch, passed = divmod(start, n_tokens)
    while True:
        order = _generator(seed, epoch, 0).permutation(blocks)
        for part, first in enumerate(range(0, blocks, stride)):
            chosen = order[first : first + stride]
            size = len(chosen) * BLOCK_TOKENS - shortfall * int((chosen == blocks - 1).any())
            if passed >= size:
                passed -= size
                continue
            positions = np.sort(chosen)[:, None] * BLOCK_TOKENS + np.arange(BLOCK_TOKENS)
            shuffled = _generator(seed, epoch, 1 + part).permutation(size)
            # only the last block can reach past the end, and it is sorted last
            yield positions.reshape(-1)[:size], shuffled[passed:]
            passed = 0
        epoch += 1


def _generator(seed: int, epoch: int, part: int) -> np.random.Generator:
    return rng(seed, "training order", epoch, part)
