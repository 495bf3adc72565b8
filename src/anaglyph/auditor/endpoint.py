"""A language model behind an OpenAI-compatible endpoint: one call in, one checked reply out."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict

from anaglyph.auditor.bounded import AnswerTooLargeError, bounded_client
from anaglyph.auditor.transcript import Usage
from anaglyph.core.errors import EndpointError, InputError
from anaglyph.core.validation import translated

LONGEST_ANSWER = 16 * 2**20
"""Bytes of an answer; the rest is not read."""
SECONDS = 300.0
"""Time that an answer may take; the package tries three times."""
OPENAI = "https://api.openai.com/v1"
KEY_VARIABLE = "OPENAI_API_KEY"
_LONGEST = 300
"""Characters of an endpoint's own words in an error."""


@dataclass(frozen=True)
class Endpoint:
    """Where a model answers.

    Attributes:
        model: Its name there.
        base_url: The address before ``/chat/completions``.
        key_variable: Environment variable that holds the key; the key is never written anywhere.

    Raises:
        InputError: The name is empty, or the address is no address, or holds a password.
    """

    model: str
    base_url: str = OPENAI
    key_variable: str = KEY_VARIABLE

    def __post_init__(self) -> None:
        if not self.model.strip():
            raise InputError("the model's name is empty")
        parts = urlsplit(self.base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InputError(f"base_url={self.base_url!r} is no http or https address")
        if parts.username or parts.password:
            raise InputError(
                f"the address of {parts.hostname} holds a user or password: put the key into the"
                f" environment variable {self.key_variable}"
            )

    @contextmanager
    def connect(self) -> Iterator["Client"]:
        """Open a client, and close it afterwards.

        Raises:
            InputError: The key's variable is not set, or the openai package is not installed.
        """
        try:
            import openai
        except ImportError as error:
            raise InputError(
                'the auditor needs the openai package: pip install "anaglyph[judge]"'
            ) from error
        key = os.environ.get(self.key_variable)
        if not key:
            raise InputError(
                f"the environment variable {self.key_variable} is not set: it must hold the key of"
                f" {self.base_url} (any word where the endpoint asks for none)"
            )
        http = bounded_client(LONGEST_ANSWER, SECONDS)
        with openai.OpenAI(
            api_key=key, base_url=self.base_url, http_client=http, timeout=SECONDS
        ) as client:
            yield Client(self, client, key, openai.OpenAIError)


@dataclass(frozen=True)
class Call:
    """A tool call that a model asks for."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True)
class Reply:
    """What a model said.

    Attributes:
        message: The message as the endpoint is sent it in later calls.
        text: Its words, "" if none.
        usage: Tokens of the call.
    """

    message: dict[str, Any]
    text: str
    usage: Usage


class Client:
    """An open connection to an endpoint."""

    def __init__(self, endpoint: Endpoint, client: Any, key: str, error: type[Exception]) -> None:
        self.endpoint = endpoint
        self._client = client
        self._key = key
        self._error = error

    def reply(
        self, messages: Sequence[dict[str, Any]], tools: Sequence[dict[str, Any]] = ()
    ) -> Reply:
        """Let the model answer.

        Args:
            messages: The conversation so far.
            tools: What it may call, each as the endpoint is sent it.

        Raises:
            EndpointError: There is no answer, or none that can be used.
        """
        options: dict[str, Any] = {"tools": list(tools)} if tools else {}
        where = f"{self.endpoint.model} at {self.endpoint.base_url}"
        try:
            raw = self._client.chat.completions.with_raw_response.create(
                model=self.endpoint.model, messages=list(messages), **options
            )
            text = raw.text
        except (self._error, AnswerTooLargeError) as error:
            raise EndpointError(f"{where}: {self._words(error)}") from error
        with translated(f"{where} answers no chat completion", EndpointError):
            completion = _Completion.model_validate_json(text)
        if completion.usage is None:
            raise EndpointError(f"{where} counts no tokens (`usage`): no limit could be kept")
        if not completion.choices:
            raise EndpointError(f"{where} answers without a choice")
        return _reply(completion.choices[0].message, completion.usage)

    def _words(self, error: Exception) -> str:
        """Return an error's words in one line, without the key if they quote it."""
        said, body = str(error), getattr(error, "body", None)
        if isinstance(error.__cause__, AnswerTooLargeError):
            said = str(error.__cause__)
        # Where an endpoint words its errors in its own way, the package leaves them out.
        if body and not (isinstance(body, dict) and "message" in body) and str(body) not in said:
            said = f"{said}: {body}"
        words = " ".join(said.replace(self._key, "***").split())
        return words if len(words) <= _LONGEST else f"{words[:_LONGEST]}..."


def calls_of(message: dict[str, Any]) -> list[Call]:
    """Return the tool calls of a message."""
    calls = message.get("tool_calls") or []
    return [
        Call(call["id"], call["function"]["name"], call["function"]["arguments"]) for call in calls
    ]


class _Wire(BaseModel):
    # Endpoints put fields of their own beside these; some want those of a call sent back.
    model_config = ConfigDict(extra="allow")


class _Function(_Wire):
    name: str
    arguments: str


class _ToolCall(_Wire):
    id: str
    type: str = "function"
    function: _Function


class _Message(_Wire):
    content: str | None = None
    tool_calls: list[_ToolCall] | None = None


class _Choice(_Wire):
    message: _Message


class _Completion(_Wire):
    choices: list[_Choice]
    usage: Usage | None = None


def _reply(message: _Message, usage: Usage) -> Reply:
    sent: dict[str, Any] = {"role": "assistant", "content": message.content or ""}
    if message.tool_calls:
        sent["tool_calls"] = [call.model_dump(mode="json") for call in message.tool_calls]
    return Reply(sent, message.content or "", usage)
