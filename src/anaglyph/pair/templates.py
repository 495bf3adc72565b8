"""Chat templates, rendered where they can do no harm and always alike.

A template is a program that came with a stranger's model. It runs in a worker process
(`template_worker.py`) with bounded time, memory and output, and with a clock that stands still: a
template that writes today's date would make every cached result stale overnight.
"""

import atexit
import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from anaglyph.core.errors import InputError

LONGEST = 4_000_000
"""Most characters that a rendered chat may have: a million tokens, which tokenize in 600 MB."""

_SECONDS = 3
_MEMORY = 512 * 2**20  # bytes of address space
_WAYS_OUT = "use another tokenizer, or give it another chat template"
# Llama 3's variable for the date; its template falls back on this value.
_DATE = "26 Jul 2024"

Row = Mapping[str, Any]


class TemplateRefusedError(InputError):
    """The template refuses this chat; it may take others."""


def chosen_template(templates: Any) -> tuple[str | None, str | None]:
    """Return the one template of a tokenizer's ``chat_template``, and its name if it has several.

    Of several the one called "default" is meant. Where there is none, "chat" is taken, or the
    first.

    Args:
        templates: What the tokenizer has: a template, a dict of named ones, or None.
    """
    if not isinstance(templates, Mapping):
        return templates or None, None
    names = [*(name for name in ("default", "chat") if name in templates), *templates]
    return (templates[names[0]], names[0]) if names else (None, None)


def render_chats(
    tokenizer: Any,
    chats: Sequence[Sequence[Row]],
    *,
    tools: Sequence[Row] | None = None,
    add_generation_prompt: bool = False,
    marks: Sequence[tuple[str, str]] | None = None,
) -> list[str | TemplateRefusedError]:
    """Render chats as ``tokenizer.apply_chat_template`` does, within bounds and with a fixed date.

    Args:
        tokenizer: Whose template and special tokens to use.
        chats: Messages as the template expects them.
        tools: Descriptions of functions that the model may call.
        add_generation_prompt: End with the opening of an assistant's turn.
        marks: For each chat what to write before and after each ``{% generation %}`` block.

    Returns:
        For each chat its text, or why the template refuses it.

    Raises:
        InputError: The tokenizer has no template, it is broken, or it exceeds the bounds.
    """
    template, _ = chosen_template(tokenizer.chat_template)
    if template is None:
        raise InputError(
            "the tokenizer has no chat template; give a tokenizer that has one (a chat-tuned "
            "model's), or a corpus of plain text"
        )
    rows = [[{k: v for k, v in row.items() if v is not None} for row in chat] for chat in chats]
    try:
        request = json.dumps(
            {
                "template": template,
                "variables": {
                    "tools": None if tools is None else list(tools),
                    "documents": None,
                    "add_generation_prompt": add_generation_prompt,
                    "date_string": _DATE,
                    **tokenizer.special_tokens_map,
                },
                "chats": [
                    (*mark, chat)
                    for mark, chat in zip(marks or [("", "")] * len(rows), rows, strict=True)
                ],
            }
        )
    except (TypeError, ValueError, RecursionError) as error:
        raise TemplateRefusedError(f"a message is not plain data ({error})") from error
    answers = _worker().ask(request)
    return [_result(answer) for answer in answers]


def render_chat(
    tokenizer: Any, messages: Sequence[Row], *, add_generation_prompt: bool = False
) -> str:
    """Render one chat, as `render_chats` does.

    Raises:
        InputError: As for `render_chats`, or the template refuses the chat.
    """
    (text,) = render_chats(tokenizer, [messages], add_generation_prompt=add_generation_prompt)
    if isinstance(text, TemplateRefusedError):
        raise text
    return text


def _result(answer: dict[str, str]) -> str | TemplateRefusedError:
    if "broken" in answer:
        raise InputError(f"the chat template has an error ({answer['broken']}); {_WAYS_OUT}")
    if "limit" in answer:
        raise InputError(f"the chat template is refused: {answer['limit']}; {_WAYS_OUT}")
    if "refused" in answer:
        return TemplateRefusedError(f"the chat template refuses this chat ({answer['refused']})")
    try:
        answer["text"].encode("utf-8")
    except UnicodeEncodeError as error:
        return TemplateRefusedError(f"the chat template writes a lone surrogate ({error.reason})")
    return answer["text"]


class _Worker:
    """The worker process; started when first asked, and again after one that died."""

    def __init__(self) -> None:
        self.owner = os.getpid()
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None

    def ask(self, request: str) -> list[dict[str, str]]:
        """Send a request and wait for its answers."""
        with self._lock:
            process = self._running()
            try:
                line = _exchange(process, request)
            except (OSError, ValueError):
                line = ""
            except BaseException:  # interrupted half-way: its answer would be taken for the next
                self._end(process)
                raise
            if not line.endswith("\n"):
                self._end(process)
                return [{"limit": f"it takes more than {_SECONDS} seconds, or too much memory"}]
            return json.loads(line)

    def _running(self) -> subprocess.Popen[str]:
        if self._process is None:
            script = Path(__file__).with_name("template_worker.py")
            limits = [str(limit) for limit in (_SECONDS, _MEMORY, LONGEST)]
            self._process = subprocess.Popen(
                [sys.executable, "-P", str(script), *limits],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                encoding="ascii",
                start_new_session=True,  # Ctrl-C is for the parent
            )
            atexit.register(self._end, self._process)
        return self._process

    def _end(self, process: subprocess.Popen[str]) -> None:
        """End the process and take note of it."""
        atexit.unregister(self._end)
        self._process = None
        process.kill()
        with process:  # closes the pipes and waits
            pass


def _exchange(process: subprocess.Popen[str], request: str) -> str:
    if process.stdin is None or process.stdout is None:
        raise ValueError("the worker has no pipes")
    process.stdin.write(request + "\n")
    process.stdin.flush()
    return process.stdout.readline()


_workers: list[_Worker] = []


def _worker() -> _Worker:
    # A forked child must not share its parent's pipes.
    if not _workers or _workers[0].owner != os.getpid():
        _workers[:] = [_Worker()]
    return _workers[0]
