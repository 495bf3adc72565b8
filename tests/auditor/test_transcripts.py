"""A conversation on disk survives a kill at any byte."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anaglyph.auditor.transcript import Transcript, Usage
from anaglyph.core.errors import StoreError

HEAD = {"key": "k"}
MESSAGES = [
    {"role": "user", "content": 'Ünïcode and a\nnew line and a "quote"'},
    {"role": "assistant", "content": "", "tool_calls": []},
    {"role": "tool", "content": "{}", "tool_call_id": "1"},
]


def written(folder) -> Transcript:
    transcript = Transcript.start(folder / "new" / "t.jsonl", HEAD)
    for message in MESSAGES:
        transcript.add(message, usage=Usage(total_tokens=2), generated=3)
    return transcript


def test_what_is_written_is_read_back(tmp_path):
    transcript = written(tmp_path)
    again = Transcript.read(transcript.path)
    assert again is not None
    assert (again.head, again.messages) == (HEAD, MESSAGES)
    assert again.lines == transcript.lines
    assert again.lines[0].usage == Usage(total_tokens=2)


def test_there_may_be_none(tmp_path):
    assert Transcript.read(tmp_path / "t.jsonl") is None


@given(st.data())
def test_a_kill_loses_at_most_the_last_line(tmp_path_factory, data):
    transcript = written(tmp_path_factory.mktemp("t"))
    whole = transcript.path.read_bytes()
    cut = data.draw(st.integers(0, len(whole)))
    transcript.path.write_bytes(whole[:cut])
    left = whole[:cut].count(b"\n")
    again = Transcript.read(transcript.path)
    if left == 0:
        assert again is None
        return
    assert again is not None
    assert again.messages == MESSAGES[: left - 1]
    # And what comes next is not swallowed by the torn line.
    again.resume().add({"role": "user", "content": "next"})
    more = Transcript.read(transcript.path)
    assert more is not None
    assert more.messages == [*MESSAGES[: left - 1], {"role": "user", "content": "next"}]


@pytest.mark.parametrize(
    ("line", "number"), [("nonsense", 2), ('{"time": "now"}', 2), ("[]", 1), ("{", 1)]
)
def test_a_damaged_line_is_named(tmp_path, line, number):
    path = tmp_path / "t.jsonl"
    path.write_text('{"key": "k"}\n' * (number - 1) + line + "\n")
    with pytest.raises(StoreError, match=rf"t\.jsonl:{number} is damaged"):
        Transcript.read(path)
