import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anaglyph.latents.bootstrap import assign_blocks, draw_weights, interval
from anaglyph.latents.usage import usage


@given(st.integers(1, 500), st.integers(1, 256))
def test_blocks_hold_neighbours_and_are_of_one_size(sequences, blocks):
    blocks = min(sequences, blocks)
    assigned = assign_blocks(sequences, blocks)
    sizes = np.bincount(assigned, minlength=blocks)
    assert (np.diff(assigned) >= 0).all()
    assert len(sizes) == blocks
    assert sizes.max() - sizes.min() <= 1


def test_each_resample_draws_as_many_blocks_as_there_are():
    weights = draw_weights(30, 200, seed=1)
    assert (weights.sum(axis=1) == 30).all()
    assert (weights >= 0).all()
    assert weights.mean(axis=0) == pytest.approx(np.ones(30), abs=0.5)
    assert (weights == draw_weights(30, 200, seed=1)).all()
    assert (weights != draw_weights(30, 200, seed=2)).any()


def test_interval_is_the_percentile_of_what_is_defined():
    rng = np.random.default_rng(0)
    draws = rng.standard_normal((200, 3))
    draws[rng.random(200) < 0.3, 1] = np.nan
    draws[39:, 2] = np.nan  # 39 draws left
    low, high = interval(draws)
    for column in (0, 1):
        assert low[column] == pytest.approx(np.nanquantile(draws[:, column], 0.025))
        assert high[column] == pytest.approx(np.nanquantile(draws[:, column], 0.975))
    assert np.isnan([low[2], high[2]]).all()


def test_no_resamples_no_interval():
    low, high = interval(np.empty((0, 2)))
    assert np.isnan(low).all()
    assert np.isnan(high).all()


def test_usage_by_hand():
    firings = np.array([[1, 2, 0, 0, 1, 0, 0, 0], [0] * 8])
    found = usage(firings, np.array([6.0, 0.0]), np.array([3, 0], dtype=np.float32), 16)
    assert found["alive"].tolist() == [True, False]
    assert found["frequency"].tolist() == [0.25, 0]
    assert found["mean_activation"][0] == 1.5
    assert found["max_activation"][0] == 3
    assert found["active_tokens"].tolist() == [4, 0]
    assert found["template_share"][0] == 0.75
    assert found["share_bos"][0] == 0.25
    assert found["share_assistant"][0] == 0.25
    assert found["share_text"][0] == 0
    for name in ("mean_activation", "max_activation", "template_share", "share_bos"):
        assert np.isnan(found[name][1])
