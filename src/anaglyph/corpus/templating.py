"""Chats as the models see them, and who speaks at every character.

The post found that what a chat model learns sits mostly at the template's own tokens, so which
tokens those are must be exact. The template itself is asked: it is rendered a second time with a
placeholder for every message; what stands between the placeholders is the template's, whatever it
strips, reorders or adds (a default system prompt, a beginning-of-sequence token).
"""

import re
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64, UInt8
from jinja2.exceptions import TemplateError
from transformers import PreTrainedTokenizerBase

from anaglyph.core.errors import InputError
from anaglyph.corpus.documents import Document, Message

ROLES = ("bos", "template", "system", "user", "assistant", "text")
"""Names of the token roles; a role's uint8 code is its index."""

BOS, TEMPLATE, SYSTEM, USER, ASSISTANT, TEXT = range(len(ROLES))

# Private-use characters: no template writes them.
_PLACEHOLDER = re.compile("\ue000([0-9]+)\ue001")
# Some templates write today's date, which would make every cached result stale overnight; they take
# it from this variable (the value is the one that Llama 3 falls back on) and others ignore it.
_DATE = "26 Jul 2024"


class ChatTemplate:
    """The chat template of one tokenizer, able to say which message each character belongs to."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._skeletons: dict[tuple[str, ...], str] = {}

    def render(self, document: Document) -> tuple[str, UInt8[np.ndarray, " characters"]]:
        """Render a chat.

        Returns:
            The text that the tokenizer is to read (without adding special tokens), and the role
            code of each of its characters: the message's role, or `TEMPLATE`.

        Raises:
            InputError: The document is no chat, the tokenizer has no template, the template refuses
                the chat or does not show one of its messages.
        """
        messages = document.messages
        if messages is None:
            raise InputError(f"{document.source}: a plain text has no turns to put in a template")
        rendered = self._apply(messages, document.source)
        skeleton = self._skeleton(tuple(message.role for message in messages), document.source)
        # Split at the placeholders: template, number, template, number, ..., template.
        pieces = _PLACEHOLDER.split(skeleton)
        literals, numbers = pieces[::2], [int(number) for number in pieces[1::2]]
        for number in set(range(len(messages))) - set(numbers):
            raise InputError(
                f"{document.source}: the chat template leaves out messages[{number}] "
                f"(role {messages[number].role})"
            )
        roles = np.full(len(rendered), TEMPLATE, np.uint8)
        cursor = len(literals[0])
        found = rendered.startswith(literals[0])
        for place, number in enumerate(numbers):
            message, after = messages[number], literals[place + 1]
            end = _content_end(rendered, cursor, message.content, after, place == len(numbers) - 1)
            if not found or end < 0:
                raise InputError(
                    f"{document.source}: messages[{number}] cannot be told from the chat template"
                )
            roles[cursor:end] = ROLES.index(message.role)
            cursor = end + len(after)
        return rendered, roles

    def _skeleton(self, roles: tuple[str, ...], source: str) -> str:
        if roles not in self._skeletons:
            blanks = [Message(role, f"\ue000{number}\ue001") for number, role in enumerate(roles)]
            self._skeletons[roles] = self._apply(blanks, source)
        return self._skeletons[roles]

    def _apply(self, messages: Sequence[Message], source: str) -> str:
        if self._tokenizer.chat_template is None:
            raise InputError(
                f"{source}: the corpus holds chats, but the tokenizer has no chat template; give a "
                "tokenizer that has one (a chat-tuned model's), or a corpus of plain text"
            )
        rows = [{"role": message.role, "content": message.content} for message in messages]
        try:
            rendered = self._tokenizer.apply_chat_template(rows, tokenize=False, date_string=_DATE)
        except TemplateError as error:
            raise InputError(f"{source}: the chat template refuses this chat ({error})") from error
        return str(rendered)


def _content_end(rendered: str, start: int, content: str, after: str, last: bool) -> int:
    """Where the message that begins at ``start`` ends, ``after`` following it; -1 if nowhere.

    Templates show a content as it is or without the whitespace around it. Anything else (a template
    that cuts out a reasoning block, say) ends where the template's own next words begin.
    """
    for shown in (content, content.strip(), content.lstrip(), content.rstrip()):
        end = start + len(shown)
        if rendered.startswith(shown + after, start) and (
            not last or end + len(after) == len(rendered)
        ):
            return end
    if last:
        end = len(rendered) - len(after)
        return end if rendered.endswith(after) and end >= start else -1
    return rendered.find(after, start) if after else -1


def roles_of_tokens(
    characters: UInt8[np.ndarray, " characters"], spans: Int64[np.ndarray, "tokens 2"]
) -> UInt8[np.ndarray, " tokens"]:
    """Give every token the role that most of its characters have.

    A tie goes to the message, for a template's space before a word says nothing, and between
    messages to the role of the token's first character. Characters between two tokens (whitespace
    that the tokenizer trims from its offsets) count for the later one; a token that stands for no
    character takes the role of the one before it.

    Args:
        characters: Role code of each character of the text.
        spans: Start and end (exclusive) of each token in the text, in characters.
    """
    if len(characters) == 0 or len(spans) == 0:
        return np.full(len(spans), TEMPLATE, np.uint8)
    ends = np.maximum.accumulate(spans[:, 1])
    starts = np.minimum(spans[:, 0], np.concatenate([[0], ends[:-1]]))
    ends = np.maximum(spans[:, 1], starts)
    empty = starts == ends
    starts = np.where(empty, np.maximum(starts - 1, 0), starts)
    ends = np.where(empty, starts + 1, ends)

    one_hot = characters[:, None] == np.arange(len(ROLES))
    before = np.concatenate([np.zeros((1, len(ROLES)), np.int64), np.cumsum(one_hot, axis=0)])
    counts = 4 * (before[ends] - before[starts]) + one_hot[starts]  # the last term breaks ties
    counts[:, [role for role in range(len(ROLES)) if role != TEMPLATE]] += 2
    return counts.argmax(axis=1).astype(np.uint8)
