"""Peak memory of a piece of work inside a process that has done other work before.

The process's own high-water mark (``getrusage``) only ever rises, so it tells the largest of all
trainings so far and not this one. Instead a thread samples the private resident memory while the
work runs. Memory mapped from a store does not count.
"""

import ctypes
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SECONDS = 0.01
_STATM = Path("/proc/self/statm")


class Peak:
    """What the sampling found; ``mib`` is None where the system tells no such thing."""

    mib: float | None = None


@contextmanager
def peak_memory() -> Iterator[Peak]:
    """Measure by how much the private memory rises above what it was at the start, in MiB."""
    found = Peak()
    if not _STATM.exists():
        yield found
        return
    _give_back()
    start = highest = _private_bytes()
    done = threading.Event()

    def watch() -> None:
        nonlocal highest
        while not done.wait(SECONDS):
            highest = max(highest, _private_bytes())

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        highest = max(highest, _private_bytes())
        done.set()
        thread.join()
        found.mib = (max(highest, start) - start) / 2**20


def _private_bytes() -> int:
    _, resident, shared = _STATM.read_text().split()[:3]
    return (int(resident) - int(shared)) * os.sysconf("SC_PAGE_SIZE")


def _give_back() -> None:
    """Return freed memory to the system, or the work would be seen to use it for nothing."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
