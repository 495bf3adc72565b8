"""Subsets as runs, and the shuffled order: complete, endless, reachable at any place."""

from itertools import islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anaglyph.store.order import BLOCK_TOKENS, Subset, shuffled_buffers


def stream(n_tokens: int, seed: int, buffer: int, start: int, length: int) -> list[int]:
    taken: list[int] = []
    for positions, order in shuffled_buffers(n_tokens, seed, buffer, start):
        taken.extend(positions[order].tolist())
        if len(taken) >= length:
            return taken[:length]
    raise AssertionError("the stream ended")


def test_a_subset_by_hand():
    subset = Subset(np.array([True, False, True, True, False]), np.array([0, 2, 5, 6, 9, 11]))
    assert subset.n_tokens == 6
    assert subset.tokens(np.arange(6)).tolist() == [0, 1, 5, 6, 7, 8]
    assert subset.tokens(np.array([5, 0, 2])).tolist() == [8, 0, 5]


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 5)), min_size=1, max_size=40))
def test_a_subset_has_the_tokens_of_its_sequences(sequences: list[tuple[bool, int]]):
    chosen = np.array([held for held, _ in sequences])
    lengths = np.array([length for _, length in sequences])
    subset = Subset(chosen, np.concatenate(([0], np.cumsum(lengths))))
    expected = np.flatnonzero(np.repeat(chosen, lengths))
    assert subset.n_tokens == len(expected)
    assert subset.tokens(np.arange(len(expected))).tolist() == expected.tolist()


@given(
    n_tokens=st.integers(1, 2000),
    seed=st.integers(0, 5),
    buffer=st.integers(1, 2500),
    start=st.integers(0, 5000),
)
def test_any_start_is_a_continuation(n_tokens: int, seed: int, buffer: int, start: int):
    length = 2 * n_tokens
    whole = stream(n_tokens, seed, buffer, 0, start + length)
    assert stream(n_tokens, seed, buffer, start, length) == whole[start:]


@given(n_tokens=st.integers(1, 2000), buffer=st.integers(1, 2500))
def test_every_token_once_an_epoch_and_each_epoch_in_its_own_order(n_tokens: int, buffer: int):
    taken = stream(n_tokens, 0, buffer, 0, 3 * n_tokens)
    epochs = [taken[n_tokens * epoch : n_tokens * (epoch + 1)] for epoch in range(3)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(n_tokens))
    if n_tokens >= 20:  # by chance alike: 1 in 20!
        assert epochs[0] != epochs[1] != epochs[2]
        assert stream(n_tokens, 1, buffer, 0, n_tokens) != epochs[0]


def test_a_buffer_holds_whole_blocks_up_to_its_size():
    held = [positions for positions, _ in islice(shuffled_buffers(5 * BLOCK_TOKENS - 6, 0, 600), 3)]
    assert sorted(map(len, held)) in ([256, 506, 512], [250, 512, 512])
    for positions in held:
        blocks = positions.reshape(-1)[: len(positions) // 256 * 256].reshape(-1, 256)
        assert (np.diff(blocks, axis=1) == 1).all()


def test_what_fits_the_buffer_is_permuted_as_a_whole():
    positions, order = next(shuffled_buffers(1000, 3, 1024))
    assert positions.tolist() == list(range(1000))
    # of a uniform permutation the mean distance moved is n/3, of shuffled blocks far less
    assert np.abs(order - np.arange(1000)).mean() == pytest.approx(1000 / 3, rel=0.1)
