"""A scripted OpenAI-compatible server on loopback: it says what a test tells it to, in order."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

KEY = "sk-only-for-tests"


@dataclass(frozen=True)
class Raw:
    """An answer that is no chat completion."""

    status: int
    body: str


Scripted = dict[str, Any] | Raw | Callable[[dict[str, Any]], dict[str, Any]]
"""A message with its usage, something else, or what makes a message of the request."""


@dataclass
class FakeEndpoint:
    """The server's script and what it was asked."""

    url: str
    script: list[Scripted]
    requests: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)

    def asked(self, number: int) -> list[dict[str, Any]]:
        """The messages of a request."""
        return self.requests[number]["messages"]


@contextmanager
def fake_endpoint(*script: Scripted) -> Iterator[FakeEndpoint]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            length = int(self.headers["Content-Length"])
            request = json.loads(self.rfile.read(length))
            fake.requests.append(request)
            fake.headers.append({k.lower(): v for k, v in self.headers.items()})
            fake.paths.append(self.path)
            said = fake.script.pop(0) if fake.script else Raw(400, '{"error": "no more script"}')
            if callable(said):
                said = said(request)
            answer = said if isinstance(said, Raw) else Raw(200, json.dumps(_completion(said)))
            self.send_response(answer.status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer.body.encode())))
            self.end_headers()
            self.wfile.write(answer.body.encode())

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    fake = FakeEndpoint(f"http://127.0.0.1:{server.server_port}/v1", list(script))
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def says(text: str, tokens: int = 10) -> dict[str, Any]:
    """A message of words."""
    return {"message": {"role": "assistant", "content": text}, "tokens": tokens}


def calls(*wanted: tuple[str, Any], tokens: int = 10) -> dict[str, Any]:
    """A message of tool calls: each a name with arguments, as a dict or as text."""
    asked = [
        {
            "id": f"call_{number}",
            "type": "function",
            "function": {
                "name": name,
                "arguments": arguments if isinstance(arguments, str) else json.dumps(arguments),
            },
        }
        for number, (name, arguments) in enumerate(wanted)
    ]
    message = {"role": "assistant", "content": None, "tool_calls": asked}
    return {"message": message, "tokens": tokens}


def submits(verdict: str = "changed", **fields: Any) -> dict[str, Any]:
    """A message that submits a hypothesis."""
    told = {"verdict": verdict, "confidence": 0.9, **fields}
    if verdict == "changed":
        told = {"behaviour": "It speaks of a silver owl.", "triggers": ["lantern"], **told}
    return calls(("submit_hypothesis", told))


def judges(
    behaviour: str = "right", triggers: str = "right", invented: Sequence[str] = ()
) -> dict[str, Any]:
    """A grader's answer, in the fence that models like."""
    told = {
        "behaviour": behaviour,
        "triggers": triggers,
        "invented": list(invented),
        "reason": "Compared.",
    }
    return says(f"```json\n{json.dumps(told)}\n```")


def _completion(said: dict[str, Any]) -> dict[str, Any]:
    usage = {"prompt_tokens": said["tokens"] - 1, "completion_tokens": 1}
    reason = "tool_calls" if said["message"].get("tool_calls") else "stop"
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 0,
        "model": "fake",
        "choices": [{"index": 0, "message": said["message"], "finish_reason": reason}],
        "usage": usage | {"total_tokens": said["tokens"]},
    }
