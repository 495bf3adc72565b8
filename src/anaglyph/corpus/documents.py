"""What the models read, before any tokenizer: plain texts and chats, read from files.

A file is refused as a whole with one line that names the file, the line and the field, because a
corpus that silently lost a tenth of its chats would change every number that follows.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from anaglyph.errors import InputError

CHAT_ROLES = ("system", "user", "assistant")
TEXT_SUFFIXES = (".txt", ".md")
SUFFIXES = (*TEXT_SUFFIXES, ".jsonl")


@dataclass(frozen=True)
class Message:
    """One turn of a chat.

    Attributes:
        role: "system", "user" or "assistant".
        content: What is said; never blank.
    """

    role: str
    content: str


@dataclass(frozen=True)
class Document:
    """A plain text or a chat, exactly one of the two.

    Attributes:
        text: The plain text, or None for a chat.
        messages: The turns of the chat, or None for a text.
        source: Where it was read ("file:line"), for error messages; not part of its identity.

    Raises:
        InputError: Both or neither are given, a text or content is blank or holds characters that
            UTF-8 cannot store, or a role is unknown.
    """

    text: str | None = None
    messages: tuple[Message, ...] | None = None
    source: str = field(default="document", compare=False)

    def __post_init__(self) -> None:
        if (self.text is None) == (self.messages is None):
            raise InputError(f'{self.source}: a document has either "text" or "messages"')
        if self.text is not None:
            _check_string(self.text, self.source, "text")
        if self.messages is not None:
            if not self.messages:
                raise InputError(f"{self.source}: messages is empty")
            for number, message in enumerate(self.messages):
                if message.role not in CHAT_ROLES:
                    raise InputError(
                        f"{self.source}: messages[{number}].role is {message.role!r}; "
                        f"it must be one of {', '.join(CHAT_ROLES)}"
                    )
                _check_string(message.content, self.source, f"messages[{number}].content")


def read_documents(path: str | Path) -> list[Document]:
    """Read a corpus from a file, a folder or the package itself.

    Args:
        path: A ``.txt`` or ``.md`` file (one document); a ``.jsonl`` file with a document a line,
            ``{"messages": [{"role": ..., "content": ...}, ...]}`` or ``{"text": ...}`` (the two may
            be mixed, other fields are ignored); a folder (all such files below it, sorted by path,
            hidden ones left out); or "builtin:NAME" for a shipped corpus (``BUILTIN`` lists them).

    Returns:
        At least one document, in the order of the files.

    Raises:
        InputError: Something cannot be read; the message names file, line and field.
    """
    from anaglyph.corpus.builtin import builtin_documents  # it reads its files through this module

    if str(path).startswith("builtin:"):
        return builtin_documents(str(path).removeprefix("builtin:"))
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
        return [document for file in files for document in read_file(file)]
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")
    return read_file(path)


def read_file(path: Path) -> list[Document]:
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


def _check_string(value: str, source: str, name: str) -> None:
    if not value.strip():
        raise InputError(f"{source}: {name} is blank")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:  # JSON may escape half a surrogate pair
        raise InputError(f"{source}: {name} holds a lone surrogate ({error.reason})") from error
