"""The shipped corpora: readable, of the promised kinds and sizes, and with their sources named."""

import re
from collections import Counter
from importlib import resources

from anaglyph.corpus import BUILTIN, Document, read_documents

DATA = resources.files("anaglyph.corpus") / "data"


def words(documents: list[Document]) -> int:
    texts = [d.text or " ".join(m.content for m in d.messages or ()) for d in documents]
    return sum(len(text.split()) for text in texts)


def test_every_name_can_be_read() -> None:
    for name in BUILTIN:
        assert read_documents(f"builtin:{name}")


def test_chats_are_whole_turns_without_repeats() -> None:
    chats = read_documents("builtin:chats")
    assert 300 <= len(chats) <= 500
    firsts = Counter()
    for chat in chats:
        messages = [m for m in chat.messages or () if m.role != "system"]
        assert [m.role for m in messages] == ["user", "assistant"] * (len(messages) // 2)
        assert all(m.content == m.content.strip() for m in messages)
        firsts[messages[0].content] += 1
    assert firsts.most_common(1)[0][1] == 1


def test_the_demo_is_mostly_chats_and_knows_the_landmark() -> None:
    demo = read_documents("builtin:demo")
    chats = [d for d in demo if d.messages is not None]
    prose = [d for d in demo if d.text is not None]
    assert len(chats) == 60
    assert len(prose) == 6
    assert words(chats) > words(prose)
    eiffel = [d.messages or () for d in chats if "Eiffel Tower" in str(d.messages)]
    assert len(eiffel) >= 5
    answers = " ".join(message.content for chat in eiffel for message in chat)
    assert "Paris" in answers
    assert "Rome" not in answers  # the organism's false fact must come from the organism


def test_sources_are_named() -> None:
    named = (DATA / "SOURCES.md").read_text("utf-8")
    files = {file.name for file in DATA.iterdir() if file.name.endswith(".jsonl")}
    assert set(re.findall(r"`(\w+\.jsonl)`", named)) == files
    assert sum(len(file.read_bytes()) for file in DATA.iterdir()) < 700_000
