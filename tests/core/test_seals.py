"""Seals: a changed file is noticed, by its sample or by all its bytes."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anaglyph.core import seals
from anaglyph.core.errors import StoreError
from anaglyph.core.seals import Seal, sample_digest, signed, unsigned


@given(st.binary(min_size=1, max_size=400), st.data())
def test_any_flipped_bit_of_a_small_file_is_noticed(tmp_path_factory, content, data):
    path = tmp_path_factory.mktemp("seal") / "file"
    path.write_bytes(content)
    seal = Seal.of(path)
    assert seal.problem(path) is None
    assert seal.problem(path, whole=True) is None
    at = data.draw(st.integers(0, len(content) - 1))
    changed = bytearray(content)
    changed[at] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(changed)
    for whole in (False, True):
        problem = seal.problem(path, whole)
        assert problem is not None
        assert str(path) in problem


def test_what_a_large_file_s_sample_has_and_has_not(tmp_path: Path, monkeypatch):
    """Two blocks of 4 bytes: the first and the last of 12."""
    monkeypatch.setattr(seals, "BLOCKS", 2)
    monkeypatch.setattr(seals, "BLOCK_BYTES", 4)
    path = tmp_path / "file"
    path.write_bytes(b"aaaabbbbcccc")
    seal = Seal.of(path)
    assert seal.sample != seal.digest
    for content, sampled in ((b"aaaXbbbbcccc", True), (b"aaaabbbbXccc", True)):
        path.write_bytes(content)
        assert (sample_digest(path) != seal.sample) is sampled
    path.write_bytes(b"aaaabXbbcccc")
    assert sample_digest(path) == seal.sample
    assert "is damaged" in str(seal.problem(path, whole=True))


def test_size_and_absence_are_named(tmp_path: Path):
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    seal = Seal.of(path)
    path.write_bytes(b"ab")
    assert seal.problem(path) == f"{path} has 2 bytes instead of 3"
    path.unlink()
    assert seal.problem(path) == f"{path} is missing"
    with pytest.raises(StoreError, match="cannot read"):
        Seal.of(path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)  # fmt: skip


@given(st.dictionaries(st.text(max_size=5).filter(lambda name: name != "digest"), JSON), JSON)
def test_a_signed_object_notices_any_other_value(value, other):
    path = Path("x.json")
    sealed = signed(value)
    assert unsigned(sealed, path) == value
    for name in value:
        if other != value[name]:
            with pytest.raises(StoreError, match=r"x\.json is damaged"):
                unsigned(sealed | {name: other}, path)
    with pytest.raises(StoreError, match=r"x\.json is damaged"):
        unsigned(sealed | {"more": float("nan")}, path)
