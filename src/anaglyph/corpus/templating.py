"""Chats as the models see them, and who speaks at every character.

The post found that what a chat model learns sits mostly at the template's own tokens, so which
tokens those are must be exact. The template itself is asked. It renders the chat, and then the same
chat with invisible marks around what each message says. Where the second text without its marks
equals the first, the marks say exactly where the template put each message, whatever it strips,
reorders or adds. ``{% generation %}`` blocks are marked in the same way.
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import compress
from typing import Any

import numpy as np
from jaxtyping import UInt8

from anaglyph.core.errors import InputError
from anaglyph.corpus.account import BadRowError
from anaglyph.corpus.documents import Document, Message
from anaglyph.corpus.marks import Piece, Span, difference, pieces_of, unmarked
from anaglyph.corpus.roles import ASSISTANT, REASONING, TEMPLATE, Characters
from anaglyph.pair.spans import AnyTokenizer
from anaglyph.pair.templates import TemplateRefusedError, chosen_template, render_chats

_WRITTEN_OUT = ("{'type': 'text'", '{"type": "text"')  # a list of parts taken for a string
_OLDER_NAMES = {"developer": "system", "function": "tool"}  # for templates that know only these


class ChatTemplate:
    """The chat template of one tokenizer, able to say which message each character belongs to.

    Attributes:
        notes: What was done to chats beyond rendering them, with how often.
    """

    def __init__(self, tokenizer: AnyTokenizer) -> None:
        self._tokenizer = tokenizer
        self._template = chosen_template(tokenizer.chat_template)[0]
        self.notes: Counter[str] = Counter()

    def render(self, document: Document) -> tuple[str, Characters]:
        """Render a chat.

        Reasoning that the template leaves out is put back in front of the answer, and tool calls
        that it does not show are written as text; `notes` counts both.

        Returns:
            The text that the tokenizer is to read (without adding special tokens), and the role
            code of each of its characters: the message's role, or `TEMPLATE`.

        Raises:
            BadRowError: The template refuses the chat or does not show one of its messages.
            InputError: The document is no chat, or the tokenizer has no template that can be used.
        """
        if document.messages is None:
            raise InputError(f"{document.source}: a plain text has no turns to put in a template")
        if self._template is None:
            raise InputError(
                f"{document.source}: the corpus holds chats, but the tokenizer has no chat "
                "template; give a tokenizer that has one (a chat-tuned model's), or a corpus of "
                "plain text"
            )
        first: BadRowError | None = None
        for messages, in_parts in _ways_to_write(document.messages):
            try:
                chat = _Chat(self, document, messages, in_parts)
                found = chat.rendered()
            except BadRowError as fault:
                first = first or fault
                continue
            self.notes.update(chat.notes)
            return found
        raise first or InputError(f"{document.source}: the chat cannot be rendered")

    def apply(
        self, document: Document, chats: list[list[dict[str, Any]]], mark: tuple[str, str]
    ) -> list[str | TemplateRefusedError]:
        """Render the first chat as it is, and the others with their generation blocks marked."""
        try:
            return render_chats(
                self._tokenizer,
                chats,
                tools=document.tools or None,
                marks=[("", ""), *[mark] * (len(chats) - 1)],
            )
        except InputError as error:
            raise InputError(f"{document.source}: {error}") from error

    def marker(self, said: str) -> str:
        """Three characters that neither the template nor the messages hold."""
        for start in range(0xF1000, 0xFFFF0, 3):  # private use
            marker = "".join(map(chr, range(start, start + 3)))
            if not any(sign in said or sign in str(self._template) for sign in marker):
                return marker
        raise InputError("the chat uses every private character there is")


def _ways_to_write(messages: tuple[Message, ...]) -> Iterator[tuple[tuple[Message, ...], bool]]:
    """The chat as it is; in the older names of roles; in lists of parts, as some templates want."""
    older = tuple(replace(m, role=_OLDER_NAMES.get(m.role, m.role)) for m in messages)
    for in_parts in (False, True):
        yield messages, in_parts
        if older != messages:
            yield older, in_parts


class _Chat:
    """One chat being rendered."""

    def __init__(
        self,
        template: ChatTemplate,
        document: Document,
        messages: tuple[Message, ...],
        in_parts: bool = False,
    ) -> None:
        self.template, self.document, self.in_parts = template, document, in_parts
        self.messages = list(messages)
        self.notes: Counter[str] = Counter()
        said = "".join(m.content + (m.reasoning or "") for m in messages)
        self.marker = template.marker(said + str([m.tool_calls for m in messages if m.tool_calls]))

    def bad(self, reason: str, detail: str) -> BadRowError:
        return BadRowError(self.document.source, reason, detail)

    def rendered(self) -> tuple[str, Characters]:
        """Return the text and the role of each of its characters."""
        calls = self.tool_calls() if any(m.tool_calls for m in self.messages) else []
        pieces = pieces_of(self.messages)
        text, spans, generated = self.aligned(pieces)
        roles = np.full(len(text), TEMPLATE, np.uint8)
        for start, end in [*calls, *generated]:
            roles[start:end] = ASSISTANT
        for span in spans:
            roles[span.start : span.end] = pieces[span.piece].role
        return self.complete(text, roles, pieces, spans)

    def complete(
        self, text: str, roles: Characters, pieces: list[Piece], spans: list[Span]
    ) -> tuple[str, UInt8[np.ndarray, " more_characters"]]:
        """Put reasoning that is missing back; refuse a chat that lacks anything else."""
        shown = {span.piece: span for span in reversed(spans)}
        inserts: list[tuple[int, str, str, str]] = []
        for place, piece in enumerate(pieces):
            if place in shown:
                continue
            message = self.messages[piece.message]
            answers = [
                shown[other].start
                for other, answer in enumerate(pieces)
                if answer.message == piece.message and answer.role == ASSISTANT and other in shown
            ]
            if piece.role != REASONING or not answers:
                raise self.bad(
                    "left out by the chat template",
                    f"the chat template leaves out messages[{piece.message}] (role {message.role})",
                )
            thought = (message.reasoning if piece.field == "reasoning" else message.content) or ""
            if piece.field == "reasoning":
                before, said, after = "<think>\n", thought.strip(), "\n</think>\n\n"
            else:
                answer = next(
                    p for p in pieces if p.message == piece.message and p.role == ASSISTANT
                )
                said = thought[piece.start : piece.end]
                before, after = thought[: piece.start], thought[piece.end : answer.start]
            inserts.append((answers[0], before, said, after))
        for at, before, said, after in sorted(inserts, reverse=True):
            self.notes["reasoning put back that the chat template leaves out"] += 1
            codes = np.repeat(
                np.array([TEMPLATE, REASONING, TEMPLATE], np.uint8),
                [len(before), len(said), len(after)],
            )
            text = text[:at] + before + said + after + text[at:]
            roles = np.concatenate([roles[:at], codes, roles[at:]])
        return text, roles

    def aligned(self, pieces: list[Piece]) -> tuple[str, list[Span], list[tuple[int, int]]]:
        """Find every piece in the rendered text, and what generation blocks wrote."""
        fields = [self.field(piece) for piece in pieces]
        text, marked = self.render([[], pieces])
        plain, spans, generated = unmarked(marked, self.marker)
        if plain == text:
            return text, spans, generated
        inner = [
            piece.inside(field, True, True) for piece, field in zip(pieces, fields, strict=True)
        ]
        _, marked, bare = self.render([[], inner, []])
        generated = unmarked(bare, self.marker)[2]
        if unmarked(marked, self.marker)[0] == text:
            # The template trims some message. Those with white space are asked for one by one.
            for place, (piece, field) in enumerate(zip(pieces, fields, strict=True)):
                sides = [piece.inside(field, *side) for side in _SIDES]
                wider = [side for side in dict.fromkeys(sides) if side != inner[place]]
                tries = [[*inner[:place], side, *inner[place + 1 :]] for side in wider]
                shown = self.render([[], *tries])[1:] if tries else []
                fits = (unmarked(said, self.marker)[0] == text for said in shown)
                inner[place] = next(compress(wider, fits), inner[place])
            plain, spans, generated = unmarked(self.render([[], inner])[1], self.marker)
            if plain == text:
                return text, spans, generated
        return text, self.one_by_one(text, pieces), generated

    def one_by_one(self, text: str, pieces: list[Piece]) -> list[Span]:
        """Find pieces in a template that looks at what it is given, so that marks disturb it."""
        found: list[Span] = []
        for place, piece in enumerate(pieces):
            content = self.field(piece)
            tries = [piece.inside(content, *sides) for sides in _SIDES]
            shown = [unmarked(t, self.marker) for t in self.render([[], *([t] for t in tries)])[1:]]
            spans = next((spans for plain, spans, _ in shown if plain == text and spans), None)
            if spans is None:
                said = content[piece.start : piece.end].strip()
                if text.count(said) == 1:
                    spans = [Span(0, text.index(said), text.index(said) + len(said))]
                elif said not in text:
                    spans = []  # left out; `complete` decides
                else:
                    raise self.bad(
                        "not told from the chat template",
                        f"messages[{piece.message}] cannot be told from the chat template",
                    )
            found += [replace(span, piece=place) for span in spans]
        return found

    def tool_calls(self) -> list[tuple[int, int]]:
        """Find the calls in the text; write them into the content where the template does not."""
        (text,) = self.render([[]])
        found = []
        for number, message in enumerate(self.messages):
            if not message.tool_calls:
                continue
            without = replace(message, tool_calls=())
            messages = [*self.messages[:number], without, *self.messages[number + 1 :]]
            (other,) = self.render([[]], messages)
            if other != text:
                found.append(difference(text, other))
                continue
            calls = "\n".join(
                f"<tool_call>\n{json.dumps(call['function'], ensure_ascii=False)}\n</tool_call>"
                for call in message.tool_calls
            )
            content = f"{message.content}\n{calls}" if message.content else calls
            self.messages[number] = replace(without, content=content)
            self.notes["tool calls written as text, because the chat template has none"] += 1
            return self.tool_calls()
        return found

    def field(self, piece: Piece) -> str:
        return getattr(self.messages[piece.message], piece.field) or ""

    def render(
        self, marks: Sequence[Sequence[Piece]], messages: Sequence[Message] | None = None
    ) -> list[str]:
        """Render the chat once for each choice of pieces to mark."""
        opening, closing, end = self.marker
        chats = []
        for pieces in marks:
            rows = [_row(message) for message in messages or self.messages]
            # From the back, so that what stands before keeps its place.
            for place, piece in sorted(enumerate(pieces), key=lambda p: -p[1].start):
                text = rows[piece.message][piece.field]
                rows[piece.message][piece.field] = (
                    f"{text[: piece.start]}{opening}{place + 1}{end}"
                    f"{text[piece.start : piece.end]}{closing}{place + 1}{end}{text[piece.end :]}"
                )
            for row in rows:
                if "reasoning" in row:
                    row["reasoning_content"] = row["thinking"] = row["reasoning"]
                if self.in_parts:
                    row["content"] = [{"type": "text", "text": row["content"]}]
            chats.append(rows)
        texts = self.template.apply(self.document, chats, (f"{opening}0{end}", f"{closing}0{end}"))
        if isinstance(texts[0], TemplateRefusedError):
            raise self.bad("refused by the chat template", str(texts[0]))
        if self.in_parts and any(written in texts[0] for written in _WRITTEN_OUT):
            raise self.bad("refused by the chat template", "the template reads no parts")
        # A marked chat that is refused is one in which the marks disturb the template.
        return [text if isinstance(text, str) else "" for text in texts]


# Whether to leave out white space on the left and on the right, in the order in which it is tried.
_SIDES = ((False, False), (True, True), (False, True), (True, False))


def _row(message: Message) -> dict[str, Any]:
    row = {"role": message.role, "content": message.content, "reasoning": message.reasoning}
    row |= dict(message.fields)
    if message.tool_calls:
        row["tool_calls"] = list(message.tool_calls)
    return {name: value for name, value in row.items() if value is not None}
