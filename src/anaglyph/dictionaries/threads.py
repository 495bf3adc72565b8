"""How many threads torch and numba use, for the length of a call."""

from collections.abc import Iterator
from contextlib import contextmanager

import numba
import torch

from anaglyph.errors import InputError


@contextmanager
def use_threads(threads: int | None) -> Iterator[None]:
    """Let torch and numba use that many threads until the block ends; None changes nothing.

    Raises:
        InputError: Fewer than one thread, or more than numba was started with.
    """
    if threads is None:
        yield
        return
    most = numba.config.NUMBA_NUM_THREADS  # type: ignore[attr-defined]
    if not 1 <= threads <= most:
        raise InputError(f"threads={threads} must be between 1 and {most}")
    before = torch.get_num_threads(), numba.get_num_threads()
    torch.set_num_threads(threads)
    numba.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        numba.set_num_threads(before[1])
