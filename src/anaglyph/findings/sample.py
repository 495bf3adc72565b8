"""The tokens that findings are read from: both models' activations in memory, with sequences."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32, Int64
from numpy import ndarray

from anaglyph.core.rng import rng
from anaglyph.store import PairedStore
from anaglyph.store.massive import is_massive

# Of each model; a longer store is represented by whole sequences drawn at random.
MOST_BYTES = 2**29
MEDIAN_ROWS = 4096


@dataclass(frozen=True)
class Sample:
    """Paired activations of whole sequences, less massive tokens and what was read before."""

    base: Float[ndarray, "tokens d_base"]
    tuned: Float[ndarray, "tokens d_tuned"]
    sequences: Int64[ndarray, " tokens"]
    """Number of each token's sequence, counted from 0 without gaps."""
    heldout: Bool[ndarray, " tokens"]
    tokens: Int64[ndarray, " tokens"]
    """Index of each token in the store."""

    @property
    def n_sequences(self) -> int:
        """Number of sequences."""
        return int(self.sequences.max()) + 1 if len(self.sequences) else 0

    def groups(self, count: int) -> Int64[ndarray, " tokens"]:
        """Put each token into one of ``count`` groups; sequences stay whole.

        Neighbouring sequences go to different groups, so that groups are alike.
        """
        return self.sequences % count


def load_sample(store: PairedStore, seed: int) -> Sample:
    """Read a store's tokens, or as many whole sequences of it as fit ``MOST_BYTES`` a model.

    Tokens that are massive in either model (``store/massive.py``) are left out, and so are those
    that `PairedStore.first_readings` does not name.
    """
    chosen = np.ones(store.n_sequences, bool)
    lengths = np.diff(store.sequence_offsets)
    room = MOST_BYTES // (4 * max(store.d_base, store.d_tuned))
    if store.n_tokens > room:
        order = rng(seed, "sample of findings").permutation(store.n_sequences)
        chosen = np.zeros(store.n_sequences, bool)
        chosen[order[np.cumsum(lengths[order]) <= room]] = True
    sequences, heldout, base, tuned, tokens = [], [], [], [], []
    of_tokens, split = store.sequence_of_tokens(), store.heldout
    fresh = store.first_readings()
    for block in store.blocks("all"):
        rows = of_tokens[block.tokens]
        kept = chosen[rows] & fresh[block.tokens]
        sequences.append(rows[kept])
        heldout.append(split[rows[kept]])
        base.append(block.base.float().numpy()[kept])
        tuned.append(block.tuned.float().numpy()[kept])
        tokens.append(block.tokens[kept])
    sample = Sample(
        np.concatenate(base),
        np.concatenate(tuned),
        np.unique(np.concatenate(sequences), return_inverse=True)[1].astype(np.int64),
        np.concatenate(heldout),
        np.concatenate(tokens).astype(np.int64),
    )
    return _without_massive(sample)


def column_medians(values: Float[ndarray, "tokens d"]) -> Float32[ndarray, " d"]:
    """Return the median of each column, over evenly spaced rows where there are very many."""
    step = max(len(values) // MEDIAN_ROWS, 1)
    # Sorted rows are twice as fast as `np.median`, which selects in strided columns.
    ordered = np.sort(np.ascontiguousarray(values[::step].T), axis=1)
    count = ordered.shape[1]
    if count == 0:
        return np.zeros(len(ordered), np.float32)
    return ((ordered[:, (count - 1) // 2] + ordered[:, count // 2]) / 2).astype(np.float32)


def is_ordinary(*sides: Float[ndarray, "tokens _"]) -> Bool[ndarray, " tokens"]:
    """Return which tokens are massive in none of the models (``store/massive.py``)."""
    kept = np.ones(len(sides[0]), bool)
    for values in sides:
        kept &= ~is_massive(np.linalg.norm(values - column_medians(values), axis=1))
    return kept


def _without_massive(sample: Sample) -> Sample:
    kept = is_ordinary(sample.base, sample.tuned)
    if kept.all():
        return sample
    numbers = np.unique(sample.sequences[kept], return_inverse=True)[1].astype(np.int64)
    return Sample(
        sample.base[kept],
        sample.tuned[kept],
        numbers,
        sample.heldout[kept],
        sample.tokens[kept],
    )
