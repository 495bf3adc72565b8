"""An HTTP client that reads only so much of an answer, for only so long.

An endpoint is a stranger: its answer may be endless, trickle for hours, or be a few kilobytes that
unpack to gigabytes. The bounds hold for errors too, which the openai package reads whole.
"""

import time
from collections.abc import Iterator
from typing import Any


class AnswerTooLargeError(Exception):
    """The answer is larger, slower or packed otherwise than we read."""


def bounded_client(most_bytes: int, seconds: float) -> Any:
    """Return an HTTP client for the openai package, which raises `AnswerTooLargeError`.

    Args:
        most_bytes: Bytes of an answer.
        seconds: From its headers to its last byte.
    """
    import openai

    def bound(response: Any) -> None:
        packed = response.headers.get("content-encoding", "identity")
        if packed != "identity":
            raise AnswerTooLargeError(f"its answer is packed ({packed}), which was not asked for")
        end = time.monotonic() + seconds
        # The package brings httpx in one version and httpx2 in another.
        kinds: Any = (each for each in type(response.stream).__mro__)
        kind = next(each for each in kinds if each.__name__ == "SyncByteStream")
        response.stream = type("Bounded", (_Bounded, kind), {})(response.stream, most_bytes, end)

    return openai.DefaultHttpxClient(
        headers={"Accept-Encoding": "identity"}, event_hooks={"response": [bound]}
    )


class _Bounded:
    """A response's bytes, counted and timed."""

    def __init__(self, inner: Any, most_bytes: int, end: float) -> None:
        self._inner, self._most, self._end = inner, most_bytes, end

    def __iter__(self) -> Iterator[bytes]:
        read = 0
        for part in self._inner:
            read += len(part)
            if read > self._most:
                raise AnswerTooLargeError(f"its answer has more than {self._most:,} bytes")
            if time.monotonic() > self._end:
                raise AnswerTooLargeError("its answer takes too long to arrive")
            yield part

    def close(self) -> None:
        """Close the connection."""
        self._inner.close()
