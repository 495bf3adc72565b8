"""An endpoint's answer is read only so far and for only so long, whatever it sends."""

import gzip
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from fake_endpoint import KEY, Raw, fake_endpoint

from anaglyph.auditor import Endpoint, endpoint
from anaglyph.core.errors import EndpointError

HELLO = [{"role": "user", "content": "Hello."}]
BODY = b'{"choices": [{"message": {"content": "'


@contextmanager
def server(status: int, headers: bytes, first: bytes, rest: bytes, pause: float) -> Iterator[str]:
    """Answer every request with ``first`` and then ``rest`` without end."""
    listening = socket.create_server(("127.0.0.1", 0))
    ended = threading.Event()

    def serve(opened: socket.socket) -> None:
        with opened:
            try:
                opened.recv(65536)
                opened.sendall(b"HTTP/1.1 %d X\r\n" % status + headers + b"\r\n" + first)
                while rest and not ended.wait(pause):
                    opened.sendall(rest)
            except OSError:
                pass

    def accept() -> None:
        while True:
            try:
                opened, _ = listening.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(opened,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
    ended.set()
    listening.shutdown(socket.SHUT_RDWR)
    listening.close()


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setattr(endpoint, "LONGEST_ANSWER", 100_000)
    monkeypatch.setattr(endpoint, "SECONDS", 1.0)


JSON = b"Content-Type: application/json\r\n"


@pytest.mark.parametrize("status", [200, 400])
@pytest.mark.parametrize(
    ("headers", "first", "rest", "pause", "says"),
    [
        (JSON, BODY, b"a" * 4096, 0.0, "more than 100,000 bytes"),
        (JSON, BODY, b"a", 0.2, "takes too long to arrive"),
        (
            JSON + b"Content-Encoding: gzip\r\n",
            gzip.compress(b"a" * 9_000_000),
            b"",
            0.0,
            "is packed \\(gzip\\)",
        ),
    ],
    ids=["endless", "slow", "packed"],
)
def test_an_answer_without_end(status, headers, first, rest, pause, says):
    start = time.monotonic()
    with (
        server(status, headers, first, rest, pause) as url,
        Endpoint("fake", url).connect() as client,
        pytest.raises(EndpointError, match=says),
    ):
        client.reply(HELLO)
    assert time.monotonic() - start < 15


@pytest.mark.parametrize(
    "usage",
    [{"total_tokens": -5}, {"total_tokens": 5, "prompt_tokens": -1}, {"total_tokens": None}],
)
def test_a_usage_that_would_defeat_the_limit(usage):
    body = json.dumps({"choices": [{"message": {"content": "Hi."}}], "usage": usage})
    with (
        fake_endpoint(Raw(200, body)) as fake,
        Endpoint("fake", fake.url).connect() as client,
        pytest.raises(EndpointError, match="usage"),
    ):
        client.reply(HELLO)


@pytest.mark.parametrize("body", ["[" * 100_000, "\ud800", '{"choices": [{"message": 1e999}]}'])
def test_bodies_that_are_hard_to_parse(body):
    raw = Raw(200, body.encode("utf-8", "replace").decode())
    with (
        fake_endpoint(raw) as fake,
        Endpoint("fake", fake.url).connect() as client,
        pytest.raises(EndpointError),
    ):
        client.reply(HELLO)
