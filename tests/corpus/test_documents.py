"""Reading files: what comes out, and that bad input is named by file, line and field."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anaglyph.core.errors import InputError
from anaglyph.corpus import Document, Message, read_documents

CHAT = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo"}]}


def write(path: Path, *rows: object) -> Path:
    lines = (row if isinstance(row, str) else json.dumps(row) for row in rows)
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_texts_and_chats_may_be_mixed(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", {"text": "One."}, "", {**CHAT, "topic": "ignored"})
    assert read_documents(path) == [
        Document(text="One."),
        Document(messages=(Message("user", "Hi"), Message("assistant", "Yo"))),
    ]
    assert [d.source for d in read_documents(path)] == [f"{path}:1", f"{path}:3"]


@pytest.mark.parametrize("name", ["a.txt", "a.md"])
def test_a_text_file_is_one_document(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\xef\xbb\xbfOne.\r\n\r\nTwo.\n")
    assert read_documents(tmp_path / name) == [Document(text="One.\n\nTwo.\n")]


def test_a_folder_is_all_of_its_files_sorted(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "b.txt").write_text("b")
    (tmp_path / "a.md").write_text("a")
    write(tmp_path / "sub" / "c.jsonl", {"text": "c"})
    (tmp_path / "picture.png").write_bytes(b"\xff\xfe")
    (tmp_path / ".hidden" / "d.txt").write_text("d")
    assert [d.text for d in read_documents(str(tmp_path))] == ["a", "b", "c"]


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(lambda s: s.strip()))
def test_any_text_survives_the_file(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.mktemp("any") / "a.jsonl"
    path.write_text(json.dumps({"text": text}, ensure_ascii=False) + "\n", "utf-8", newline="\n")
    assert read_documents(path) == [Document(text=text)]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{", r"a\.jsonl:2: not JSON"),
        ("[" * 100_000, r"a\.jsonl:2: not JSON"),
        ("[1]", r"a\.jsonl:2: a line must be a JSON object, not list"),
        ({"prompt": "x"}, r'a\.jsonl:2: a line has either "text" or "messages".*has: prompt; name'),
        ({"text": None}, r"a\.jsonl:2: text is null"),
        ({"text": 3}, r"a\.jsonl:2: text must be a string, not int"),
        ({"text": " \n"}, r"a\.jsonl:2: text is blank"),
        ('{"text": "\\ud800"}', r"a\.jsonl:2: text holds a lone surrogate"),
        ({"messages": {}}, r"a\.jsonl:2: messages must be a list"),
        ({"messages": []}, r"a\.jsonl:2: messages is empty"),
        ({"messages": ["Hi"]}, r"a\.jsonl:2: messages\[0\] must be an object with .role"),
        (
            {"messages": [*CHAT["messages"], {"role": "user"}]},
            r"a\.jsonl:2: messages\[2\]\.content is missing",
        ),
        ({"messages": [{"content": "Hi"}]}, r"a\.jsonl:2: messages\[0\]\.role is missing"),
        (
            {"messages": [{"role": "user", "content": None}]},
            r"a\.jsonl:2: messages\[0\]\.content is null; add text or remove the message",
        ),
        (
            {"messages": [{"role": "user", "content": ""}]},
            r"a\.jsonl:2: all messages are blank",
        ),
        (
            {"messages": [{"role": "owl", "content": "Hi"}]},
            r"a\.jsonl:2: messages\[0\]\.role is 'owl'; it must be one of system, developer, us",
        ),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, row: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_documents(write(tmp_path / "a.jsonl", {"text": "fine"}, row))


def test_bad_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"missing\.txt: no such file or folder"):
        read_documents(tmp_path / "missing.txt")
    with pytest.raises(InputError, match=r"the folder holds no \.txt, \.md, \.jsonl, .* file"):
        read_documents(tmp_path)
    (tmp_path / "a.png").write_text("a,b")
    with pytest.raises(InputError, match=r"a\.png: a corpus file ends in one of \.txt, \.md"):
        read_documents(tmp_path / "a.png")
    (tmp_path / "empty.jsonl").write_text("\n \n")
    with pytest.raises(InputError, match=r"empty\.jsonl: the file is empty"):
        read_documents(tmp_path / "empty.jsonl")
    (tmp_path / "latin.txt").write_bytes(b"one\ntwo\ncaf\xe9\n")
    with pytest.raises(InputError, match=r"latin\.txt:3: not UTF-8"):
        read_documents(tmp_path / "latin.txt")
    with pytest.raises(InputError, match="builtin:nothing: there is no such corpus; shipped are"):
        read_documents("builtin:nothing")


def test_a_document_is_a_text_or_a_chat() -> None:
    with pytest.raises(InputError, match='either "text" or "messages"'):
        Document()
    with pytest.raises(InputError, match='either "text" or "messages"'):
        Document(text="a", messages=(Message("user", "b"),))
