"""Digests and atomic writes: whole or absent, whatever happens in between."""

import pytest

from anaglyph.core.errors import StoreError
from anaglyph.core.files import atomic_path, digest, file_digest, read_json, write_json


def test_digest_ignores_key_order_and_sees_every_value():
    assert digest({"a": 1, "b": [1, 2]}) == digest({"b": [1, 2], "a": 1})
    assert digest({"a": 1}) != digest({"a": 2})
    assert digest([1, 2]) != digest([2, 1])


def test_file_digest_depends_on_the_bytes(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    (tmp_path / "b").write_bytes(b"abc")
    (tmp_path / "c").write_bytes(b"abd")
    assert file_digest(tmp_path / "a") == file_digest(tmp_path / "b")
    assert file_digest(tmp_path / "a") != file_digest(tmp_path / "c")


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "artifact"
    path.write_text("old")

    def write_half() -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_half()
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["artifact"]


def test_json_refuses_nan_and_keeps_the_old_file(tmp_path):
    path = tmp_path / "x.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError):
        write_json(path, {"a": float("nan")})
    assert read_json(path) == {"a": 1}


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe"])
def test_damaged_json_names_the_file(tmp_path, content):
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"x\.json is damaged"):
        read_json(path)


def test_missing_json_names_the_file(tmp_path):
    with pytest.raises(StoreError, match=r"x\.json is missing"):
        read_json(tmp_path / "x.json")
