"""Matches side by side: one thread each, in processes of their own.

The matrix products of a reply have few rows and gain little from a second thread; a second match
has a core of its own.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context, parent_process
from threading import Thread
from typing import Any, TypeVar

from anaglyph.core.errors import InputError
from anaglyph.core.threads import set_threads

T = TypeVar("T")
_ONE_THREAD = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_WARNINGS = "PYTHONWARNINGS"
_QUIET = "ignore::UserWarning:multiprocessing.resource_tracker"
"""Where Ctrl-C ends a game, Python's tracker of semaphores clears up, and would say so."""


def side_by_side(
    task: Callable[..., T], calls: Sequence[tuple[Any, ...]], workers: int
) -> Iterator[tuple[int, T]]:
    """Yield each call's place and result, in the order in which they end.

    An error ends the others where they are, as Ctrl-C does.

    Args:
        task: A function of a module, as processes find it by its name.
        calls: The arguments of each call.
        workers: Processes; each needs the memory of a call.

    Raises:
        InputError: A process was killed from outside.
    """
    with _one_thread_each(), _pool(min(workers, len(calls))) as pool:
        places: dict[Future[T], int] = {
            pool.submit(task, *arguments): place for place, arguments in enumerate(calls)
        }
        try:
            for future in as_completed(places):
                yield places[future], future.result()
        except BrokenProcessPool:
            raise InputError(
                f"one of {workers} workers was killed, perhaps for want of memory: what it had "
                "finished is kept; go on with fewer workers"
            ) from None


@contextmanager
def _pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    # Forked, a process would have torch's locks without the threads that hold them.
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_begin)
    try:
        yield pool
    except BaseException:
        for process in list((pool._processes or {}).values()):
            process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _begin() -> None:
    set_threads(1)
    Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Without this, a process outlives a game that was killed and keeps its memory."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Numerical libraries read how many threads to start where a process begins."""
    before = {name: os.environ.get(name) for name in (*_ONE_THREAD, _WARNINGS)}
    os.environ.update(dict.fromkeys(_ONE_THREAD, "1"))
    os.environ[_WARNINGS] = ",".join(filter(None, (before[_WARNINGS], _QUIET)))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
