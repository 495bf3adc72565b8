"""How many threads torch and numba use."""

from collections.abc import Iterator
from contextlib import contextmanager

import numba
import torch
from numba.core import config

from anaglyph.core.errors import InputError


def set_threads(threads: int | None) -> None:
    """Let torch and numba use that many threads from here on; None takes what torch uses now.

    The two share one pool, and numba, left alone, widens torch's when it starts.

    Raises:
        InputError: Fewer than one thread, or more than numba was started with.
    """
    most = int(vars(config)["NUMBA_NUM_THREADS"])
    wanted = min(torch.get_num_threads(), most) if threads is None else threads
    if not 1 <= wanted <= most:
        raise InputError(f"threads={wanted} must be between 1 and {most}")
    torch.set_num_threads(wanted)
    numba.set_num_threads(wanted)


@contextmanager
def use_threads(threads: int | None) -> Iterator[None]:
    """Let torch and numba use that many threads until the block ends; None changes nothing.

    Raises:
        InputError: Fewer than one thread, or more than numba was started with.
    """
    if threads is None:
        yield
        return
    before = torch.get_num_threads(), numba.get_num_threads()
    set_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        numba.set_num_threads(before[1])
