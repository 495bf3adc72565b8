"""What the models read, before any tokenizer: plain texts and chats."""

from dataclasses import dataclass, field

from anaglyph.core.errors import InputError

CHAT_ROLES = ("system", "user", "assistant")


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


def _check_string(value: str, source: str, name: str) -> None:
    if not value.strip():
        raise InputError(f"{source}: {name} is blank")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:  # JSON may escape half a surrogate pair
        raise InputError(f"{source}: {name} holds a lone surrogate ({error.reason})") from error
