"""Read a corpus from files, or take one that is shipped.

A file is refused as a whole with one line that names the file, the line and the field, because a
corpus that silently lost a tenth of its chats would change every number that follows.
"""

import json
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

from anaglyph.core.errors import InputError
from anaglyph.corpus.documents import Document, Message

TEXT_SUFFIXES = (".txt", ".md")
SUFFIXES = (*TEXT_SUFFIXES, ".jsonl")

BUILTIN = ("chats", "demo", "english")
"""Names of the shipped corpora; ``data/SOURCES.md`` says where each came from."""

DEMO_CHATS, DEMO_PASSAGES = 60, 6
"""How much of "chats" and of "english" the demo reads, from the top of each file."""


def read_documents(path: str | Path) -> list[Document]:
    """Read a corpus from a file, a folder or the package itself.

    Args:
        path: A ``.txt`` or ``.md`` file (one document); a ``.jsonl`` file with a document a line,
            ``{"messages": [{"role": ..., "content": ...}, ...]}`` or ``{"text": ...}`` (the two may
            be mixed, other fields are ignored); a folder (all such files below it, sorted by path,
            hidden ones left out); or a shipped corpus: "builtin:chats" (short questions on many
            topics, answered by SmolLM2-135M-Instruct), "builtin:english" (prose in the public
            domain) or "builtin:demo" (a part of both, mostly chats).

    Returns:
        At least one document, in the order of the files.

    Raises:
        InputError: Something cannot be read; the message names file, line and field.
    """
    if str(path).startswith("builtin:"):
        return _builtin(str(path).removeprefix("builtin:"))
    path = Path(path)
    if path.is_dir():
        files = sorted(
            file
            for file in path.rglob("*")
            if file.suffix in SUFFIXES
            and file.is_file()
            and not any(part.startswith(".") for part in file.relative_to(path).parts)
        )
        if not files:
            raise InputError(f"{path}: the folder holds no {', '.join(SUFFIXES)} file")
        return [document for file in files for document in _read_file(file)]
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")
    return _read_file(path)


def _read_file(path: Path) -> list[Document]:
    """Read one ``.txt``, ``.md`` or ``.jsonl`` file; the rules are those of `read_documents`."""
    if path.suffix not in SUFFIXES:
        raise InputError(f"{path}: a corpus file ends in one of {', '.join(SUFFIXES)}")
    content = _read_text(path)
    if not content.strip():
        raise InputError(f"{path}: the file is empty")
    if path.suffix in TEXT_SUFFIXES:
        return [Document(text=content, source=str(path))]
    return list(_read_lines(path, content))


def _read_text(path: Path) -> str:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from error
    try:
        content = raw.decode("utf-8-sig")  # a byte-order mark is not part of the text
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path}:{line}: not UTF-8 ({error.reason})") from error
    return content.replace("\r\n", "\n")


def _read_lines(path: Path, content: str) -> Iterator[Document]:
    # Not splitlines(): it also breaks at U+2028 and its like, which JSON strings may hold.
    for number, line in enumerate(content.split("\n"), start=1):
        if not line.strip():
            continue
        source = f"{path}:{number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{source}: not JSON ({error})") from error
        yield _document(row, source)


def _document(row: Any, source: str) -> Document:
    if not isinstance(row, dict):
        raise InputError(f"{source}: a line must be a JSON object, not {type(row).__name__}")
    if ("text" in row) == ("messages" in row):
        raise InputError(f'{source}: a line has either "text" or "messages"')
    if "text" in row:
        return Document(text=_string(row, "text", source, "text"), source=source)
    if not isinstance(row["messages"], list):
        raise InputError(f"{source}: messages must be a list")
    messages = []
    for number, message in enumerate(row["messages"]):
        name = f"messages[{number}]"
        if not isinstance(message, dict):
            raise InputError(f"{source}: {name} must be a JSON object")
        role, content = (
            _string(message, key, source, f"{name}.{key}") for key in ("role", "content")
        )
        messages.append(Message(role, content))
    return Document(messages=tuple(messages), source=source)


def _string(row: dict[str, Any], key: str, source: str, name: str) -> str:
    if key not in row:
        raise InputError(f"{source}: {name} is missing")
    if not isinstance(row[key], str):
        raise InputError(f"{source}: {name} must be a string, not {type(row[key]).__name__}")
    return row[key]


def _builtin(name: str) -> list[Document]:
    if name not in BUILTIN:
        shipped = ", ".join(BUILTIN)
        raise InputError(f"builtin:{name}: there is no such corpus; shipped are {shipped}")
    if name == "demo":
        return _shipped("chats")[:DEMO_CHATS] + _shipped("english")[:DEMO_PASSAGES]
    return _shipped(name)


def _shipped(name: str) -> list[Document]:
    with resources.as_file(resources.files("anaglyph.corpus") / "data" / f"{name}.jsonl") as path:
        return _read_file(path)
