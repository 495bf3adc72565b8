"""Moments: hand-computed, merged in any division, and stable where sums of squares are not."""

from functools import reduce

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from anaglyph.store import Moments


def test_two_tokens_by_hand():
    moments = Moments.of(torch.tensor([[1.0, 2.0], [3.0, 6.0]]))
    assert moments.count == 2
    assert moments.mean.tolist() == [2.0, 4.0]
    assert moments.m2.tolist() == [2.0, 8.0]
    assert moments.variance_sum == 5.0
    assert moments.rms == pytest.approx(12.5**0.5, rel=1e-15)


def test_the_difference_is_tuned_minus_base():
    moments = Moments.of_difference(torch.tensor([[1.0], [2.0]]), torch.tensor([[4.0], [9.0]]))
    assert moments.mean.tolist() == [5.0]
    assert moments.m2.tolist() == [8.0]


@given(
    seed=st.integers(0, 1000),
    offset=st.sampled_from([0.0, 1.0, -1e4, 1e4]),
    scale=st.sampled_from([1e-2, 1.0, 1e3]),
    cuts=st.lists(st.integers(1, 299), max_size=5, unique=True),
)
def test_merged_parts_agree_with_float64(seed: int, offset: float, scale: float, cuts: list[int]):
    drawn = np.random.default_rng(seed).normal(size=(300, 4)) * scale + offset
    values = drawn.astype(np.float32)
    parts = np.split(values, sorted(cuts))
    merged = reduce(Moments.merge, (Moments.of(torch.from_numpy(part)) for part in parts))
    exact = values.astype(np.float64)
    assert merged.count == 300
    np.testing.assert_allclose(merged.mean, exact.mean(axis=0), rtol=1e-12, atol=1e-12 * scale)
    np.testing.assert_allclose(merged.m2 / 300, exact.var(axis=0), rtol=1e-8)
    assert merged.variance_sum == pytest.approx(exact.var(axis=0).sum(), rel=1e-8)
    assert merged.rms == pytest.approx(np.sqrt((exact**2).mean()), rel=1e-12)


def test_many_tokens_far_from_zero_keep_their_small_variance():
    # float32 sums of squares would be off by more than the variance itself here
    values = 1e4 + torch.randn(20_000, 2, generator=torch.Generator().manual_seed(0)) / 100
    exact = values.double().numpy().var(axis=0)
    np.testing.assert_allclose(Moments.of(values).m2 / 20_000, exact, rtol=1e-9)


def test_bfloat16_is_measured_as_it_is():
    values = torch.tensor([[1.0], [1.0 + 2**-7]], dtype=torch.bfloat16)
    assert Moments.of(values).m2.tolist() == [2 * (2**-8) ** 2]
