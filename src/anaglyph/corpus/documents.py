"""What the models read, before any tokenizer: plain texts and chats."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from anaglyph.core.errors import InputError
from anaglyph.corpus.account import BadRowError

CHAT_ROLES = ("system", "developer", "user", "assistant", "tool", "function")


@dataclass(frozen=True)
class Message:
    """One turn of a chat.

    Attributes:
        role: One of `CHAT_ROLES`.
        content: What is said; may be blank.
        reasoning: What an assistant thinks before it answers, where the data keeps it apart.
        tool_calls: Calls of functions, as chat templates expect them
            (``{"type": "function", "function": {"name": ..., "arguments": {...}}}``).
        fields: Names and values of other fields for the template (``name``, ``tool_call_id``).
    """

    role: str
    content: str
    reasoning: str | None = None
    tool_calls: tuple[Mapping[str, Any], ...] = ()
    fields: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Document:
    """A plain text or a chat, exactly one of the two.

    Attributes:
        text: The plain text, or None for a chat.
        messages: The turns of the chat, or None for a text.
        source: Where it was read ("file:line"), for error messages; not part of its identity.
        tools: Descriptions of the functions that a chat's assistant may call.

    Raises:
        InputError: Both or neither are given, a text is blank, a chat says nothing at all, a string
            holds characters that UTF-8 cannot store, or a role is unknown.
    """

    text: str | None = None
    messages: tuple[Message, ...] | None = None
    source: str = field(default="document", compare=False)
    tools: tuple[Mapping[str, Any], ...] = ()

    def __post_init__(self) -> None:
        if (self.text is None) == (self.messages is None):
            raise InputError(f'{self.source}: a document has either "text" or "messages"')
        if self.text is not None:
            if not self.text.strip():
                raise BadRowError(self.source, "blank", "text is blank")
            _check_utf8(self.text, self.source, "text")
        if self.messages is not None:
            self._check_messages(self.messages)

    def _check_messages(self, messages: tuple[Message, ...]) -> None:
        if not messages:
            raise BadRowError(self.source, "blank", "messages is empty")
        for number, message in enumerate(messages):
            name = f"messages[{number}]"
            if message.role not in CHAT_ROLES:
                raise BadRowError(
                    self.source,
                    "unknown role",
                    f"{name}.role is {message.role!r}; it must be one of {', '.join(CHAT_ROLES)}",
                )
            for key in ("content", "reasoning"):
                _check_utf8(getattr(message, key) or "", self.source, f"{name}.{key}")
        try:
            extra = [[list(m.tool_calls), dict(m.fields)] for m in messages]
            written = json.dumps([extra, list(self.tools)], ensure_ascii=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise BadRowError(self.source, "not plain data", f"tool calls: {error}") from error
        _check_utf8(written, self.source, "tool calls")
        if not any(m.content.strip() or m.reasoning or m.tool_calls for m in messages):
            raise BadRowError(self.source, "blank", "all messages are blank")

    @property
    def n_characters(self) -> int:
        """Characters of the text, or of all that the chat's messages say."""
        if self.text is not None:
            return len(self.text)
        return sum(
            len(m.content) + len(m.reasoning or "") + len(str(m.tool_calls or ""))
            for m in self.messages or ()
        )


def _check_utf8(value: str, source: str, name: str) -> None:
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:  # JSON may escape half a surrogate pair
        raise BadRowError(
            source, "lone surrogate", f"{name} holds a lone surrogate ({error.reason})"
        ) from error
