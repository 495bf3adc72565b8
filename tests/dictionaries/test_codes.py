import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anaglyph.core.errors import InputError
from anaglyph.dictionaries import Codes


def example() -> Codes:
    """Three tokens: latents 1 and 4, none, latent 0."""
    return Codes(
        np.array([1, 4, 0], np.int32),
        np.array([0.5, 2.0, 1.0], np.float32),
        np.array([0, 2, 2, 3], np.int64),
    )


def test_dense_puts_every_value_in_its_place() -> None:
    expected = [[0, 0.5, 0, 0, 2], [0, 0, 0, 0, 0], [1, 0, 0, 0, 0]]
    np.testing.assert_array_equal(example().dense(5), expected)


def test_only_switches_other_latents_off() -> None:
    kept = example().only(np.array([False, True, True, True, False]))
    np.testing.assert_array_equal(kept.indices, [1])
    np.testing.assert_array_equal(kept.offsets, [0, 1, 1, 1])


def test_tokens_names_the_token_of_every_entry() -> None:
    np.testing.assert_array_equal(example().tokens(), [0, 0, 2])


@given(st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=2, max_size=8), st.data())
def test_join_undoes_a_split(rows: list[list[bool]], data: st.DataObject) -> None:
    dense = np.array(rows, np.float32)
    cut = data.draw(st.integers(1, len(rows) - 1))
    whole = from_dense(dense)
    joined = Codes.join([from_dense(dense[:cut]), from_dense(dense[cut:])])
    np.testing.assert_array_equal(joined.indices, whole.indices)
    np.testing.assert_array_equal(joined.offsets, whole.offsets)
    np.testing.assert_array_equal(joined.dense(3), dense)


def from_dense(dense: np.ndarray) -> Codes:
    tokens, latents = dense.nonzero()
    offsets = np.concatenate([[0], np.cumsum((dense != 0).sum(1))]).astype(np.int64)
    return Codes(latents.astype(np.int32), dense[tokens, latents], offsets)


@pytest.mark.parametrize("offsets", [[], [0, 1], [1, 3], [0, 2, 1, 3], [0, 4]])
def test_offsets_that_do_not_fit_are_refused(offsets: list[int]) -> None:
    with pytest.raises(InputError, match="do not fit"):
        Codes(example().indices, example().values, np.array(offsets, np.int64))


def test_nothing_to_join_is_refused() -> None:
    with pytest.raises(InputError, match="no codes"):
        Codes.join([])
