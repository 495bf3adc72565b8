"""Ctrl-C, SIGTERM and a lost terminal end a command at once, wherever it is, and lose nothing.

Python runs signal handlers between two instructions of the main thread. Inside compiled code that
may take minutes, and an exception raised in a compiler's callback is swallowed. So nothing is
raised here: the interpreter writes the signal's number to a pipe, and a thread that waits for it
ends the process. That is safe because a kill is: files appear whole or not at all, and what is
finished is recorded after it is written.
"""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from anaglyph.core.files import remove_unfinished

WORDS = {signal.SIGINT: "Interrupted", signal.SIGTERM: "Terminated"}
if sys.platform != "win32":
    WORDS[signal.SIGHUP] = "Hung up"
RESUME = "Run the same command again to resume."
_SHOW_CURSOR = "\r\x1b[K\x1b[?25h"


@contextmanager
def ending_at_once() -> Iterator[None]:
    """Let SIGINT, SIGTERM and SIGHUP end the process with exit code 130, 143 or 129 meanwhile.

    A SIGHUP that is ignored, as under nohup, stays so.

    In a thread other than the main one, which cannot set handlers, signals stay as they are.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    before_pipe = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    before = {number: signal.signal(number, _nothing) for number in WORDS if _is_heard(number)}
    watcher = threading.Thread(target=_watch, args=(reading,), name="signals", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(before_pipe)
        os.close(writing)  # ends the watcher
        watcher.join()
        os.close(reading)


def _is_heard(number: signal.Signals) -> bool:
    hangs_up = number not in (signal.SIGINT, signal.SIGTERM)
    return not (hangs_up and signal.getsignal(number) is signal.SIG_IGN)


def _nothing(_number: int, _frame: object) -> None:
    """Stand in for a handler, so that the interpreter writes the number to the pipe."""


def _watch(reading: int) -> None:
    while number := os.read(reading, 1):
        if number[0] in WORDS:
            end(signal.Signals(number[0]))


def end(number: signal.Signals) -> None:
    """End this process and its children, with one line; exit code 128 + the signal's number."""
    with suppress(Exception):
        for child in multiprocessing.active_children():
            child.kill()
        remove_unfinished()
        screen = _SHOW_CURSOR if sys.stderr.isatty() else ""
        os.write(2, f"{screen}{WORDS[number]}. {RESUME}\n".encode())
    os._exit(128 + number)
