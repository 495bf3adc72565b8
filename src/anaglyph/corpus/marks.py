"""What each message says, and invisible marks around it that survive a chat template."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from anaglyph.corpus.documents import Message
from anaglyph.corpus.roles import ASSISTANT, REASONING, ROLE_OF

# How data sets write what an assistant thinks in front of its answer. The opening may be missing:
# some templates write it themselves.
_THOUGHTS = (
    *((f"<{tag}>", f"</{tag}>") for tag in ("think", "thinking", "thought", "reasoning")),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
)


@dataclass(frozen=True)
class Piece:
    """A part of a message that one role says, and where in its field it is."""

    message: int
    field: str
    role: int
    start: int
    end: int

    def inside(self, text: str, left: bool, right: bool) -> "Piece":
        """Leave out the white space at the ends."""
        said = text[self.start : self.end]
        start = self.start + (len(said) - len(said.lstrip())) * left
        end = self.end - (len(said) - len(said.rstrip())) * right
        return replace(self, start=start, end=max(start, end))


@dataclass(frozen=True)
class Span:
    """Where the rendered text shows a piece."""

    piece: int
    start: int
    end: int


def pieces_of(messages: Sequence[Message]) -> list[Piece]:
    """All that is said, in order, apart from what is blank."""
    found = []
    for number, message in enumerate(messages):
        content, role = message.content, ROLE_OF[message.role]
        if message.reasoning and message.reasoning.strip():
            thought = Piece(number, "reasoning", REASONING, 0, len(message.reasoning))
            found.append(thought.inside(message.reasoning, True, True))
        start = 0
        if role == ASSISTANT:
            opening, closing = _thought_in(content)
            if closing > 0:
                thought = Piece(number, "content", REASONING, opening, closing)
                thought = thought.inside(content, True, True)
                tag = content.index("]" if content[closing] == "[" else ">", closing) + 1
                rest = content[tag:]
                start = tag + len(rest) - len(rest.lstrip())
                if thought.end > thought.start:
                    found.append(thought)
        if content[start:].strip():
            found.append(Piece(number, "content", role, start, len(content)))
    return found


def _thought_in(content: str) -> tuple[int, int]:
    """Where a thought in front of an answer begins and ends, its tags left out; or (0, 0)."""
    for opening, closing in _THOUGHTS:
        end = content.find(closing)
        start = content.find(opening)
        if end < 0 or (start >= 0 and content[:start].strip()):
            continue
        start = start + len(opening) if 0 <= start < end else 0
        return start, end
    return 0, 0


def unmarked(marked: str, marker: str) -> tuple[str, list[Span], list[tuple[int, int]]]:
    """Take the marks out: the text, the spans of the pieces, and those of generation blocks."""
    opening, closing, end = map(re.escape, marker)
    pattern = re.compile(f"({opening}|{closing})([0-9]{{1,9}}){end}")
    # Split at the marks: text, kind, number, text, kind, number, ..., text.
    parts = pattern.split(marked)
    spans, opened, length = [], {}, len(parts[0])
    for kind, digits, text in zip(parts[1::3], parts[2::3], parts[3::3], strict=True):
        number = int(digits)
        if kind == marker[0]:
            opened[number] = length
        elif number in opened:
            spans.append(Span(number - 1, opened.pop(number), length))
        length += len(text)
    blocks = [(span.start, span.end) for span in spans if span.piece < 0]
    return "".join(parts[::3]), [span for span in spans if span.piece >= 0], blocks


def difference(text: str, other: str) -> tuple[int, int]:
    """Where ``text`` has something that ``other`` lacks."""
    least = min(len(text), len(other))
    start = next((i for i in range(least) if text[i] != other[i]), least)
    rest = range(least - start)
    back = next((i for i in rest if text[-1 - i] != other[-1 - i]), least - start)
    end = max(len(text) - back, start)
    # "<call></call></s>" without its call is "</s>": the common "<" belongs to the call.
    while start > 0 and end > start and text[start - 1] == text[end - 1] and text[end - 1] in "<[":
        start, end = start - 1, end - 1
    return start, end
