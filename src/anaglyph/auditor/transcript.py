"""A conversation on disk: JSON lines, one a message, written as they come.

The first line says whose conversation it is. Each line goes to the file in one write and is synced,
so a killed process loses at most the line that it was writing.
"""

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, RootModel

from anaglyph.core.errors import StoreError
from anaglyph.core.files import told
from anaglyph.core.validation import translated


class Usage(BaseModel):
    """Tokens of one call, as the endpoint counts them."""

    prompt_tokens: int = Field(default=0, ge=0)
    completion_tokens: int = Field(default=0, ge=0)
    total_tokens: int = Field(ge=0)


class Line(BaseModel):
    """One message.

    Attributes:
        time: When it was written.
        message: As the endpoint is sent it.
        usage: Of the call that brought it; None for a message that no model wrote.
        calls: Tool calls that answering took: 1, or 0 where a call was refused.
        generated: Tokens that base and tuned wrote for it.
    """

    model_config = ConfigDict(extra="forbid")

    time: str
    message: dict[str, Any]
    usage: Usage | None = None
    calls: int = 0
    generated: int = 0


class _Head(RootModel[dict[str, Any]]):
    """The first line."""


Record = TypeVar("Record", bound=BaseModel)


class Transcript:
    """The lines so far, and the file that more are put into."""

    def __init__(self, path: Path, head: dict[str, Any], lines: list[Line]) -> None:
        self.path = path
        self.head = head
        self.lines = lines

    @classmethod
    def start(cls, path: Path, head: dict[str, Any]) -> "Transcript":
        """Begin a new conversation; what the file held is gone."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        transcript = cls(path, head, [])
        transcript._write(head)
        return transcript

    @classmethod
    def read(cls, path: Path) -> "Transcript | None":
        """Read a conversation; None if there is none, or it was lost before its first line.

        Raises:
            StoreError: A whole line is not what was written.
        """
        if not path.is_file():
            return None
        whole = path.read_bytes().split(b"\n")[:-1]
        if not whole:
            return None
        head = _record(_Head, whole[0], f"{path}:1").root
        lines = [_record(Line, line, f"{path}:{i}") for i, line in enumerate(whole[1:], 2)]
        return cls(path, head, lines)

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The conversation as an endpoint is sent it."""
        return [line.message for line in self.lines]

    def add(self, message: dict[str, Any], **facts: Any) -> None:
        """Put a message at the end, on disk first; ``facts`` are the line's other fields."""
        time = datetime.now(UTC).isoformat(timespec="seconds")
        line = Line(time=time, message=message, **facts)
        self._write(line.model_dump(mode="json"))
        self.lines.append(line)

    def resume(self) -> "Transcript":
        """Cut off what a killed process left of its last line, so that more can follow."""
        data = self.path.read_bytes()
        os.truncate(self.path, data.rfind(b"\n") + 1)
        return self

    def _write(self, value: dict[str, Any]) -> None:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
        data = text.encode("utf-8", "backslashreplace") + b"\n"
        with told(self.path), self.path.open("ab") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())


def _record(kind: type[Record], text: bytes, where: str) -> Record:
    with translated(f"{where} is damaged", StoreError):
        return kind.model_validate_json(text)
