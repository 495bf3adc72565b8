"""What was read before is known by the whole text before it, not by the token."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from anaglyph.store.repeats import first_readings


def readings(*texts: list[int]) -> list[bool]:
    ids = np.array([token for text in texts for token in text], np.int32)
    offsets = np.cumsum([0, *(len(text) for text in texts)])
    return first_readings(ids, offsets).tolist()


def test_a_shared_beginning_is_new_once() -> None:
    assert readings([7, 1, 2], [7, 1, 3], [1, 3], [7, 1, 2, 4]) == [
        *(True, True, True),
        *(False, False, True),
        *(True, True),
        *(False, False, False, True),
    ]


def test_arrays_without_text_have_no_repeats() -> None:
    assert readings([0, 0], [0]) == [True, True, True]


@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=5), min_size=1, max_size=12))
def test_it_equals_a_set_of_prefixes(texts: list[list[int]]) -> None:
    texts = [[*text, 5] for text in texts]
    seen: set[tuple[int, ...]] = set()
    expected = []
    for text in texts:
        for end in range(1, len(text) + 1):
            expected.append(tuple(text[:end]) not in seen)
            seen.add(tuple(text[:end]))
    assert readings(*texts) == expected
