"""How many threads torch, numba and the linear algebra of NumPy and SciPy use."""

from collections.abc import Iterator
from contextlib import contextmanager

import numba
import scipy.linalg  # noqa: F401 - its linear algebra must be loaded before it can be told
import torch
from numba.core import config
from threadpoolctl import threadpool_info, threadpool_limits

from anaglyph.core.errors import InputError


def set_threads(threads: int | None) -> None:
    """Let all libraries use that many threads from here on; None takes what torch uses now.

    Sums of floating-point numbers depend on how they are divided between threads. So the libraries
    agree on a number, which keys record, and the same number gives the same bytes, whatever
    environment variables such as ``OMP_NUM_THREADS`` say. torch and numba share one pool, and
    numba, left alone, widens torch's when it starts.

    Raises:
        InputError: Fewer than one thread, or more than numba was started with.
    """
    most = int(vars(config)["NUMBA_NUM_THREADS"])
    wanted = min(torch.get_num_threads(), most) if threads is None else threads
    is_number = isinstance(wanted, int) and not isinstance(wanted, bool)
    if not is_number or not 1 <= wanted <= most:
        raise InputError(f"threads={wanted} must be between 1 and {most}")
    torch.set_num_threads(wanted)
    numba.set_num_threads(wanted)
    threadpool_limits(limits=wanted, user_api="blas")


@contextmanager
def use_threads(threads: int | None) -> Iterator[None]:
    """Let all libraries use that many threads until the block ends; None changes nothing.

    Raises:
        InputError: Fewer than one thread, or more than numba was started with.
    """
    if threads is None:
        yield
        return
    before = torch.get_num_threads(), numba.get_num_threads()
    with threadpool_limits(limits=None, user_api="blas"):  # put back what it finds
        set_threads(threads)
        try:
            yield
        finally:
            torch.set_num_threads(before[0])
            numba.set_num_threads(before[1])


def blas_threads() -> set[int]:
    """Return how many threads each linear-algebra library uses."""
    return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}
