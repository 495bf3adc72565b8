"""Every file that a stranger may have written is read or refused in one line, whatever it holds."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from anaglyph.auditor.key import read_key
from anaglyph.behaviour.directions import read_direction
from anaglyph.behaviour.prompts import read_prompts
from anaglyph.core.errors import AnaglyphError
from anaglyph.core.files import read_json, read_parquet, write_json
from anaglyph.core.schemas import read_behaviour, read_state, read_verdict
from anaglyph.core.settings import load_settings
from anaglyph.dictionaries import saving
from anaglyph.report.records import DictionaryRecord, ExamplesRecord, read
from anaglyph.store.format import map_tensors, read_manifest
from anaglyph.truth.organisms.recipe import load_recipe

DEEP = b"[" * 100_000
TEXTS = [
    *(b"", b"\x00", b"\xff\xfe", b"\xed\xa0\x80", DEEP, b'{"a":' * 50_000, b"{", b"null", b"NaN"),
    *(b"[]", b"{}", b'"\\ud800"', b"1" * 5000, b"1e999", b'{"format": 1e999}', b'{"format": true}'),
    *(b"a: &a [*a]", b"a: &a [x]\nb: [*a, *a]", b"2001-99-99", b"!!python/object:os.system x"),
    *(b"x = 1979-05-27T99:00:00Z", b"a: " + b"- " * 5000, b"? " * 5000, b"{" * 5000, b"a=" + DEEP),
]


def whole(reader: Callable[[Path], Any], name: str) -> Callable[[Path], Any]:
    """Read a folder in which the file is called so."""
    return lambda folder: reader(folder / name)


READERS: dict[str, Callable[[Path], Any]] = {
    "x.json": whole(read_json, "x.json"),
    "settings.json": whole(load_settings, "settings.json"),
    "settings.toml": whole(load_settings, "settings.toml"),
    "recipe.yaml": whole(load_recipe, "recipe.yaml"),
    "prompts.jsonl": whole(read_prompts, "prompts.jsonl"),
    "prompts.txt": whole(read_prompts, "prompts.txt"),
    "run.json": whole(read_state, "run.json"),
    "findings.json": whole(read_verdict, "findings.json"),
    "behaviour.json": whole(read_behaviour, "behaviour.json"),
    "manifest.json": read_manifest,
    "config.json": saving.read,
    "examples.json": lambda folder: read(folder / "examples.json", ExamplesRecord),
    "stats.json": lambda folder: read(folder / "stats.json", DictionaryRecord),
    "table.parquet": whole(read_parquet, "table.parquet"),
    "shard.safetensors": whole(map_tensors, "shard.safetensors"),
}


def read_or_refused(name: str, folder: Path, content: bytes) -> None:
    (folder / name).write_bytes(content)
    try:
        READERS[name](folder)
    except AnaglyphError as error:
        said = str(error)
    else:
        said = ""
    assert "\n" not in said
    assert len(said) < 2000


@pytest.mark.parametrize("name", list(READERS))
def test_odd_files(tmp_path: Path, name: str):
    for content in TEXTS:
        read_or_refused(name, tmp_path, content)


@pytest.mark.parametrize("name", list(READERS))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=200))
@example(content=b"PAR1" + b"\x00" * 40 + b"PAR1")
@example(content=(2**63).to_bytes(8, "little"))
def test_any_bytes(tmp_path: Path, name: str, content: bytes):
    read_or_refused(name, tmp_path, content)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)
FIELDS = {
    "manifest.json": {
        **{"format": 1, "key": "k", "dtype": "float32", "layers": [1], "widths": [3, 4]},
        **{"tokens": 5, "sequences": 1, "complete": True},
        "shards": [
            {
                **{"name": "shard-00000.safetensors", "first_sequence": 0, "tokens": 5},
                **{"sequences": 1, "bytes": 9, "checksum": "c"},
            }
        ],
    },
    "config.json": {
        **{"format": 1, "method": "diff-sae", "latents": 4, "widths": [3], "config": {}},
        **{"stats": {}, "options": {}, "k": 1, "sparsity": "batchtopk", "threshold": 0.5},
        **{"source_weights": [1.0], "radii": None},
    },
    "findings.json": {
        **{"format": 2, "verdict": "difference found", "reason": "r", "rate": 0.1, "seed": 0},
        "findings": [
            {"kind": "new", "direction_base": None, "direction_tuned": [1.0], "effect": 1.0}
        ],
    },
    "settings.json": {"train": {"latents": 8}, "rate": 0.1, "counts": [1], "options": {"a": 1}},
    "examples.json": {"": []},
}


def paths(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    keys = (
        value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    )
    return [at, *(path for key in keys for path in paths(value[key], (*at, key)))]


@pytest.mark.parametrize("name", list(FIELDS))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=80)
@given(data=st.data())
def test_fields_of_any_type(tmp_path: Path, name: str, data):
    """A good file in which one field, at any depth, is anything."""
    value = json.loads(json.dumps(FIELDS[name]))
    *way, last = data.draw(st.sampled_from(paths(value)[1:]))
    inner = value
    for key in way:
        inner = inner[key]
    inner[last] = data.draw(JSON)
    read_or_refused(name, tmp_path, json.dumps(value).encode())


HEADER = {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_the_index_of_a_shard(tmp_path: Path, data):
    header = json.loads(json.dumps(HEADER))
    header["a"][data.draw(st.sampled_from(["dtype", "shape", "data_offsets"]))] = data.draw(JSON)
    text = json.dumps(header).encode()
    length = data.draw(st.sampled_from([len(text), 0, 2**40]))
    read_or_refused("shard.safetensors", tmp_path, length.to_bytes(8, "little") + text + b"\0" * 8)


@pytest.mark.parametrize("shape", [[-2], [-1, -2], [2.0], ["2"], [True], [2**70]])
def test_negative_and_odd_shapes_of_a_shard(tmp_path: Path, shape):
    text = json.dumps({"a": HEADER["a"] | {"shape": shape}}).encode()
    (tmp_path / "s").write_bytes(len(text).to_bytes(8, "little") + text + b"\0" * 8)
    with pytest.raises(AnaglyphError, match="is damaged"):
        map_tensors(tmp_path / "s")


def test_lone_surrogates_are_written_escaped(tmp_path: Path):
    write_json(tmp_path / "x.json", {"token": "\ud800"})
    assert read_json(tmp_path / "x.json") == {"token": "\ud800"}


NO_FILES = [*READERS, "vector.npy", "table.parquet:0", "card.json"]


@pytest.mark.parametrize("name", NO_FILES)
def test_files_that_are_no_files(tmp_path: Path, name: str):
    """A pipe in which nobody writes, a device without end, a folder, a name that is none."""
    file = tmp_path / name.removesuffix(":0")
    reader = READERS.get(name)
    if reader is None:
        reader = read_key if name == "card.json" else direction_in
    for make in (os.mkfifo, Path.mkdir, lambda path: path.symlink_to("/dev/zero")):
        make(file)
        with pytest.raises(AnaglyphError) as refused:
            reader(tmp_path if name in READERS else tmp_path / name)
        assert "\n" not in str(refused.value)
        file.rmdir() if file.is_dir() else file.unlink()
    with pytest.raises(AnaglyphError):
        reader(tmp_path if name in READERS else tmp_path / name)


def direction_in(path: Path) -> Any:
    return read_direction(str(path), 1, None, into="tuned")


@pytest.mark.parametrize("name", ["a\0b.json", "x" * 5000 + ".json"])
def test_names_that_are_none(tmp_path: Path, name: str):
    for reader in (load_settings, load_recipe, read_key, read_prompts):
        with pytest.raises(AnaglyphError):
            reader(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("settings.json", '{"seed": 1, "seed": 2}'),
        ("settings.json", '{"train": {"latents": 8, "k": 2, "latents": 9}}'),
        ("settings.toml", "seed = 1\nseed = 2\n"),
        ("recipe.yaml", "name: a\nkind: benign\nname: b\n"),
        ("recipe.yaml", "name: a\nteach:\n  - {user: a, assistant: b, user: c}\n"),
        ("prompts.jsonl", '{"prompt": "a", "prompt": "b"}\n'),
    ],
)
def test_a_name_that_is_there_twice(tmp_path: Path, name: str, text: str):
    """The last one would win without a word."""
    (tmp_path / name).write_text(text)
    with pytest.raises(AnaglyphError, match=r"twice|overwrite"):
        READERS[name](tmp_path)


def test_the_mark_of_an_encoding_is_no_part_of_the_text(tmp_path: Path):
    """Editors on Windows put U+FEFF first."""
    for name, text in (("a.json", '{"seed": 3}'), ("a.toml", "seed = 3")):
        (tmp_path / name).write_text(text, encoding="utf-8-sig")
        assert load_settings(tmp_path / name).seed == 3
    for name, text in (("a.txt", "Hello"), ("a.jsonl", '{"prompt": "Hello"}')):
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + text.encode() + b"\r\n")
        assert read_prompts(tmp_path / name) == ["Hello"]


def test_only_a_line_feed_ends_a_prompt(tmp_path: Path):
    """U+2028 and the like may be inside a JSON string, as they are."""
    asked = "one\u2028two\x85three"
    (tmp_path / "a.jsonl").write_text(json.dumps({"prompt": asked}, ensure_ascii=False) + "\n")
    assert read_prompts(tmp_path / "a.jsonl") == [asked]
    (tmp_path / "a.txt").write_text(asked + "\nfour\n")
    assert read_prompts(tmp_path / "a.txt") == [asked, "four"]
