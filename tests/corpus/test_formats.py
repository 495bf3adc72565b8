"""Every format, written by its real writer, gives the same chats; columns are found or named."""

import gzip
import json
import os
from pathlib import Path

import polars as pl
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from anaglyph.core.errors import InputError
from anaglyph.corpus import Document, Message, Reading, read_documents
from anaglyph.corpus import files as corpus_files

ROWS = [
    {"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]}
    for q, a in (("Hi", "Yo"), ("Is ü ok?", 'Yes, "ü",\nit is.'), ("Two\u2028lines", "No"))
]
CHATS = [
    Document(messages=tuple(Message(m["role"], m["content"]) for m in row["messages"]))
    for row in ROWS
]
TEXTS = [Document(text=text) for text in ("One.", 'Two, "three"\nand four.')]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)


def write(path: Path, content: str) -> None:
    data = content.encode()
    if path.suffix.lower() == ".gz":
        data = gzip.compress(data)
    if path.suffix == ".zst":
        data = zstandard.ZstdCompressor().compress(data)
    path.write_bytes(data)


@pytest.mark.parametrize(
    "name",
    ["a.jsonl", "a.ndjson", "a.json", "a.jsonl.gz", "a.jsonl.zst", "a.json.zst", "a.JSONL.GZ"],
)
@pytest.mark.parametrize("form", ["lines", "array", "pretty array", "pretty lines"])
def test_json(tmp_path: Path, name: str, form: str) -> None:
    content = {
        "lines": LINES,
        "array": json.dumps(ROWS),
        "pretty array": json.dumps(ROWS, indent=2),
        "pretty lines": "\n".join(json.dumps(row, indent=1) for row in ROWS),
    }[form]
    write(tmp_path / name, content)
    assert read_documents(tmp_path / name) == CHATS


def test_a_json_file_with_its_rows_inside(tmp_path: Path) -> None:
    write(tmp_path / "a.json", json.dumps({"version": 1, "data": ROWS}))
    assert read_documents(tmp_path / "a.json") == CHATS


@pytest.mark.parametrize("block", [1, 7, 64])
def test_values_are_read_in_blocks(
    tmp_path: Path, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus_files, "_BLOCK", block)
    write(tmp_path / "a.json", json.dumps(ROWS, indent=2))
    assert read_documents(tmp_path / "a.json") == CHATS


def test_parquet_and_csv_by_polars(tmp_path: Path) -> None:
    pl.DataFrame(ROWS).write_parquet(tmp_path / "a.parquet")
    assert read_documents(tmp_path / "a.parquet") == CHATS
    pl.DataFrame(ROWS).write_ipc(tmp_path / "a.arrow")
    assert read_documents(tmp_path / "a.arrow") == CHATS
    texts = pl.DataFrame({"id": [1, 2], "text": [document.text for document in TEXTS]})
    for name, separator in (("a.csv", ","), ("a.tsv", "\t")):
        texts.write_csv(tmp_path / name, separator=separator)
        assert read_documents(tmp_path / name) == TEXTS
    write(tmp_path / "a.csv.gz", (tmp_path / "a.csv").read_text())
    assert read_documents(tmp_path / "a.csv.gz") == TEXTS
    chats = pl.DataFrame({"messages": [json.dumps(row["messages"]) for row in ROWS]})
    chats.write_csv(tmp_path / "chats.csv")
    assert read_documents(tmp_path / "chats.csv") == CHATS


def test_a_data_set_saved_by_datasets(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    made = datasets.Dataset.from_list(ROWS)
    made.save_to_disk(tmp_path / "saved")
    made.to_parquet(tmp_path / "a.parquet")
    made.to_json(tmp_path / "a.jsonl")
    assert read_documents(tmp_path / "saved") == CHATS
    assert read_documents(tmp_path / "a.parquet") == CHATS
    assert read_documents(tmp_path / "a.jsonl") == CHATS


def test_hub_names_stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    (tmp_path / "here").mkdir()
    write(tmp_path / "here" / "train.jsonl", LINES)
    write(tmp_path / "here" / "test.jsonl", LINES.splitlines()[0])
    asked, real = [], datasets.load_dataset

    def local(name: str, *args, **options):
        asked.append((name, *args, options.get("revision")))
        assert options["streaming"]
        if name == "json":
            return real(
                name, data_files=str(tmp_path / "here/train.jsonl"), split="train", streaming=True
            )
        return real(str(tmp_path / "here"), streaming=True)

    monkeypatch.setattr(datasets, "load_dataset", local)
    monkeypatch.chdir(tmp_path)
    assert read_documents("owner/name") == CHATS
    assert read_documents("owner/name@main:default:test") == CHATS[:1]
    assert read_documents("hf://datasets/owner/name:test") == CHATS[:1]
    assert read_documents("hf://datasets/owner/name/data/*.jsonl") == CHATS
    assert asked[:3] == [
        ("owner/name", None, None), ("owner/name", "default", "main"), ("owner/name", None, None),
    ]  # fmt: skip
    with pytest.raises(InputError, match=r"no split 'dev'; name one: .*:SPLIT \(train, test\)"):
        read_documents("owner/name:dev")
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: 1 / 0)
    with pytest.raises(InputError, match="cannot be read as a data set of the hub"):
        read_documents("owner/name")


def test_a_hub_name_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(InputError, match=r"owner/name: no such.*install.*anaglyph\[datasets\]"):
        read_documents("owner/name")


def test_a_folder_is_read_whole_and_says_what_it_leaves_out(tmp_path: Path) -> None:
    write(tmp_path / "README.md", "# card")
    write(tmp_path / "LICENSE.txt", "MIT")
    write(tmp_path / "picture.png", "x")
    write(tmp_path / "a.jsonl", LINES)
    pl.DataFrame(ROWS).write_parquet(tmp_path / "b.parquet")
    write(tmp_path / "c.json", json.dumps(ROWS))
    os.mkfifo(tmp_path / "d.jsonl")
    reading = Reading()
    assert read_documents(tmp_path, reading=reading) == CHATS * 3
    assert sorted(reading.left_out) == [
        "file LICENSE.txt", "file README.md", "file d.jsonl", "file picture.png",
    ]  # fmt: skip
    assert read_documents(tmp_path / "README.md") == [Document(text="# card")]
    assert read_documents(tmp_path / "*.json*", reading=Reading()) == CHATS * 2
    with pytest.raises(InputError, match=r"d\.jsonl: not a regular file"):
        read_documents(tmp_path / "d.jsonl")


def said(*turns: tuple[str, str]) -> Document:
    return Document(messages=tuple(Message(role, content) for role, content in turns))


CHAT = said(("user", "Q"), ("assistant", "A"))
TURNS = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]


@pytest.mark.parametrize(
    ("row", "document", "column"),
    [
        (
            {"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]},
            CHAT,
            "conversations",
        ),
        (
            {
                "conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}],
                "system": "S",
            },
            said(("system", "S"), ("user", "Q"), ("assistant", "A")),
            "conversations",
        ),
        ({"text": "rendered", "messages": TURNS}, CHAT, "messages"),
        ({"prompt": "Q", "completion": "A"}, CHAT, "prompt and completion"),
        ({"prompt": TURNS[:1], "completion": TURNS[1:]}, CHAT, "prompt and completion"),
        ({"instruction": "Q", "input": "", "output": "A"}, CHAT, "instruction and output"),
        (
            {"instruction": "Do", "input": "this", "output": "A"},
            said(("user", "Do\n\nthis"), ("assistant", "A")),
            "instruction and output",
        ),
        ({"question": "Q", "answer": "A"}, CHAT, "question and answer"),
        (
            {"instruction": "Do", "context": "this", "response": "A", "category": "qa"},
            said(("user", "Do\n\nthis"), ("assistant", "A")),
            "instruction and response",
        ),
        (
            {"system_prompt": "S", "question": "Q", "response": "A"},
            said(("system", "S"), ("user", "Q"), ("assistant", "A")),
            "question and response",
        ),
        ({"problem": "Q", "solution": "A"}, CHAT, "problem and solution"),
        ({"inputs": "Q", "targets": "A"}, CHAT, "inputs and targets"),
        (
            {"conversation": [{"input": "Q", "output": "A"}] * 2},
            said(("user", "Q"), ("assistant", "A"), ("user", "Q"), ("assistant", "A")),
            "conversation",
        ),
        (
            {"messages": {"role": ["user", "assistant"], "content": ["Q", "A"]}},
            CHAT,
            "messages",
        ),
        (
            {"messages": [{**turn, "role": turn["role"].title()} for turn in TURNS]},
            CHAT,
            "messages",
        ),
        ({"prompt": "Q", "chosen": "A", "rejected": "B"}, CHAT, "chosen"),
        ({"prompt": "Q", "chosen": TURNS, "rejected": TURNS}, CHAT, "chosen"),
        ({"prompt": TURNS[:1], "chosen": TURNS[1:], "rejected": TURNS[1:]}, CHAT, "chosen"),
        ({"chosen": "Human: Q", "rejected": "x"}, Document(text="Human: Q"), "chosen"),
        ({"messages": None, "text": "T"}, Document(text="T"), "text"),
    ],
)
def test_columns_are_found(tmp_path: Path, row: dict, document: Document, column: str) -> None:
    write(tmp_path / "a.jsonl", json.dumps(row))
    reading = Reading()
    assert read_documents(tmp_path / "a.jsonl", reading=reading) == [document]
    assert dict(reading.columns) == {column: 1}


def test_a_column_is_named(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", json.dumps({"body": "T", "talk": TURNS, "text": "no"}))
    assert read_documents(tmp_path / "a.jsonl", column="body") == [Document(text="T")]
    assert read_documents(tmp_path / "a.jsonl", column="talk") == [CHAT]
    with pytest.raises(InputError, match=r"no column 'x'; there are: body, talk, text"):
        read_documents(tmp_path / "a.jsonl", column="x")


def test_turns_of_every_kind(tmp_path: Path) -> None:
    call = {"type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    turns = [
        {"role": "developer", "content": "D"},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image_url"}]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "42", "tool_call_id": "x"},
        {"role": "assistant", "content": "", "reasoning_content": "R"},
        {"role": "function", "name": "f", "content": "43"},
        {"role": "assistant", "content": [{"type": "thinking", "thinking": "T"}, "b"]},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "u"}}]},
        {"role": "assistant", "content": None, "refusal": "no"},
        {"role": "user", "content": {"type": "text", "text": "c"}},
        {"role": "assistant", "tool_calls": [{"name": "f", "arguments": '{"a": 1'}]},
    ]
    write(tmp_path / "a.jsonl", json.dumps({"messages": turns, "tools": [{"name": "f"}]}))
    reading = Reading()
    (found,) = read_documents(tmp_path / "a.jsonl", reading=reading)
    made = {"type": "function", "function": {"name": "f", "arguments": {"a": 1}}}
    # Arguments that a model cut short stay as they were written.
    cut = {"type": "function", "function": {"name": "f", "arguments": '{"a": 1'}}
    assert found.messages == (
        Message("developer", "D"),
        Message("user", "a"),
        Message("assistant", "", tool_calls=(made,)),
        Message("tool", "42", fields=(("tool_call_id", "x"),)),
        Message("assistant", "", reasoning="R"),
        Message("function", "43", fields=(("name", "f"),)),
        Message("assistant", "b", reasoning="T"),
        Message("user", ""),
        Message("assistant", "no"),
        Message("user", "c"),
        Message("assistant", "", tool_calls=(cut,)),
    )
    assert found.tools == ({"name": "f"},)
    assert dict(reading.left_out) == {"image_url part of a message": 2}


def test_a_hundred_chats_with_a_bad_one(tmp_path: Path) -> None:
    rows = [json.dumps(ROWS[0])] * 99
    write(tmp_path / "a.jsonl", "\n".join([*rows[:41], '{"messages": [', *rows[41:]]))
    reading = Reading()
    assert len(read_documents(tmp_path / "a.jsonl", reading=reading)) == 99
    assert [(row.source, row.reason) for row in reading.skipped_rows] == [
        (f"{tmp_path}/a.jsonl:42", "not JSON")
    ]
    assert reading.rows == 100
    table = {(what, name): n for what, name, n in reading.table().iter_rows()}
    assert table["documents", "chat"] == 99
    assert table["rows skipped", "not JSON"] == 1
    assert json.loads(json.dumps(reading.as_json()))["skipped"] == {"not JSON": 1}
    # Two in a hundred are too many, unless that is said; the first is shown.
    write(tmp_path / "b.jsonl", "\n".join(["3", "{}", *rows[:98]]))
    with pytest.raises(InputError, match=r"b\.jsonl:1: .*2 of 100 rows are bad, more than the 1%"):
        read_documents(tmp_path / "b.jsonl")
    assert len(read_documents(tmp_path / "b.jsonl", skip_bad=0.02)) == 98
    with pytest.raises(InputError, match=r"a\.jsonl:42: not JSON"):
        read_documents(tmp_path / "a.jsonl", skip_bad=0.0)


def test_a_corpus_that_is_mostly_bad_is_refused_at_once(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", "{}\n" * 5000)
    reading = Reading()
    with pytest.raises(InputError, match=r"a\.jsonl:1: "):
        read_documents(tmp_path / "a.jsonl", reading=reading)
    assert reading.rows < 300


def test_damage_that_loses_the_rest_of_a_file_refuses_it(tmp_path: Path) -> None:
    whole = gzip.compress((LINES * 200).encode())
    (tmp_path / "a.jsonl.gz").write_bytes(whole[:-40])
    (tmp_path / "b.jsonl.zst").write_bytes(b"not zstandard")
    (tmp_path / "c.parquet").write_bytes(b"PAR1junkPAR1")
    write(tmp_path / "d.json", json.dumps(ROWS * 200)[:-30])
    write(tmp_path / "e.csv", 'text\n"One.\nTwo.\n')
    for name, message in (
        ("a.jsonl.gz", "damaged or not a .gz file"),
        ("b.jsonl.zst", "damaged or not a .zst file"),
        ("c.parquet", "damaged or not a .parquet file"),
        ("d.json", "d.json:1: not JSON"),
        ("e.csv", "e.csv:3: not CSV"),
    ):
        with pytest.raises(InputError, match=message):
            read_documents(tmp_path / name)


def test_a_long_text_is_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus_files, "PIECE", 50)
    monkeypatch.setattr(corpus_files, "_BLOCK", 16)
    text = "".join(f"word{i} \r\n" * (i % 3) + "ü" * i for i in range(40))
    with (tmp_path / "a.txt").open("w", newline="", encoding="utf-8") as file:
        file.write(text)
    write(tmp_path / "a.jsonl", json.dumps({"text": text}))
    for name, expected in (("a.txt", text.replace("\r\n", "\n")), ("a.jsonl", text)):
        found = read_documents(tmp_path / name)
        assert all(len(document.text or "") <= 50 for document in found)
        assert "".join(document.text or "" for document in found) == expected
    write(tmp_path / "b.txt", "a" * 120)
    assert [len(document.text or "") for document in read_documents(tmp_path / "b.txt")] == [
        50,
        50,
        20,
    ]


def test_a_line_that_is_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus_files, "LONGEST_ROW", 200)
    monkeypatch.setattr(corpus_files, "_BLOCK", 16)
    long = json.dumps({"text": "a" * 500})
    write(tmp_path / "a.jsonl", f'{{"text": "b"}}\n{long}\n{{"text": "c"}}\n')
    reading = Reading(skip_bad=0.5)
    assert read_documents(tmp_path / "a.jsonl", reading=reading) == [
        Document(text="b"), Document(text="c"),
    ]  # fmt: skip
    assert dict(reading.skipped) == {"too long": 1}
    write(tmp_path / "a.json", f"[{long}]")
    with pytest.raises(InputError, match=r"a\.json:1: a value has more than 200 bytes"):
        read_documents(tmp_path / "a.json")


SUFFIXES = [
    ".txt", ".md", ".jsonl", ".json", ".csv", ".tsv", ".parquet", ".arrow", ".jsonl.gz",
    ".json.zst", ".csv.gz",
]  # fmt: skip
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
NAMES = [
    "messages", "conversations", "text", "content", "role", "from", "value", "prompt", "chosen",
    "completion", "instruction", "output", "input", "tools", "tool_calls", "function", "name",
    "arguments", "type", "system", "reasoning_content", "thinking",
]  # fmt: skip
rows_like = st.recursive(
    st.sampled_from([None, "user", "assistant", "tool", "[", "{}", "\ud800", "", "x"])
    | st.integers(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4)
    ),
    max_leaves=20,
)
many = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)


@many
@given(st.binary(max_size=200), st.sampled_from(SUFFIXES))
def test_any_bytes_give_documents_or_our_error(tmp_path: Path, data: bytes, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    for raw in (data, gzip.compress(data), b'{"text": "a"}\n' + data):
        path.write_bytes(raw)
        try:
            assert read_documents(path, skip_bad=0.9)
        except InputError as error:
            assert str(path) in str(error)  # noqa: PT017


@many
@given(st.lists(json_values | rows_like, min_size=1, max_size=4), st.sampled_from([None, "text"]))
def test_any_json_gives_documents_or_our_error(
    tmp_path: Path, rows: list, column: str | None
) -> None:
    for name, content in (
        ("a.jsonl", "\n".join(map(json.dumps, rows))),
        ("a.json", json.dumps(rows, indent=1)),
    ):
        path = tmp_path / name
        path.write_text(content)
        try:
            assert read_documents(path, column, skip_bad=0.9)
        except InputError as error:
            assert str(path) in str(error)  # noqa: PT017


@pytest.mark.parametrize("name", ["x\0y", "a" * 5000, "*[", "owner/na me", "hf://datasets/x", ""])
def test_names_that_are_no_files(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(InputError):
        read_documents(name)
