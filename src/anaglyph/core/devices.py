"""Which device computes, and what happens when its memory is too small. The one place that decides.

A device is named in the settings ("auto", "cpu", "cuda", "cuda:1", "mps"). Everything else asks for
it here, and then follows the tensors it is given: a tensor is made on the device of its neighbours.
No GPU has run this code yet; docs/scale.md says what stands in for one in the tests.
"""

import logging
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar, cast

import torch

from anaglyph.core.errors import InputError
from anaglyph.core.processes import launched

T = TypeVar("T")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
TOKEN_BUDGETS = {"cpu": 1024, "mps": 4096, "cuda": 16_384}
"""Tokens per forward pass: enough to keep the device busy, few enough for a CPU's cache
(SmolLM2-135M is a third faster with 512 to 1024 than with 4096)."""
_NAMES = re.compile(r"auto|cpu|cuda(:\d+)?|mps")
_log = logging.getLogger("anaglyph")


def resolve_device(device: str) -> torch.device:
    """Return the torch device of a name; "auto" takes a CUDA GPU if there is one, else the CPU.

    Raises:
        InputError: The name is unknown, or there is no such device here.

    Example:
        >>> resolve_device("cpu")
        device(type='cpu')
    """
    if not isinstance(device, str) or not _NAMES.fullmatch(device):
        raise InputError(f"device {device!r} is unknown: use auto, cpu, cuda, cuda:N or mps")
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if gpus and device in ("auto", "cuda") and launched():
        return torch.device("cuda", torch.cuda.current_device())  # each process has its own
    if device == "auto":
        return torch.device("cuda" if gpus else "cpu")
    kind, _, number = device.partition(":")
    if kind == "cuda" and int(number or 0) >= gpus:
        has = f"this machine has {gpus} of them" if gpus else "this machine has no CUDA GPU"
        raise InputError(f"device {device} is not here: {has}. Use auto or cpu")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise InputError("device mps is not here: this machine has no Apple GPU. Use auto or cpu")
    return torch.device(device)


def resolve_dtype(dtype: str) -> torch.dtype:
    """Return the torch dtype called ``dtype``: "float32" or "bfloat16".

    Raises:
        InputError: The name is unknown.
    """
    if dtype not in DTYPES:
        raise InputError(f"dtype {dtype!r} is unknown: use {' or '.join(DTYPES)}")
    return DTYPES[dtype]


def numbers_of(device: torch.device, dtype: torch.dtype | None = None) -> str:
    """Return what of a device determines numbers: its type, and the format it computes in.

    Goes into the keys of stages; which of several GPUs it was does not.
    """
    kind = "float32" if dtype is None else str(dtype).removeprefix("torch.")
    return kind if device.type == "cpu" else f"{kind} on {device.type}"


def multiplies_bfloat16(device: str | torch.device) -> bool:
    """Say whether a CPU multiplies bfloat16 in hardware, where that is faster than float32."""
    known = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return torch.device(device).type == "cpu" and known is not None and bool(known())


def token_budget(device: torch.device) -> int:
    """Return how many tokens a forward pass takes at a time, padding included."""
    return TOKEN_BUDGETS.get(device.type, TOKEN_BUDGETS["cpu"])


def with_float64(values: torch.Tensor) -> torch.Tensor:
    """Return values on a device that has float64: a copy on the CPU for mps, which has none."""
    return values.cpu() if values.device.type == "mps" else values


class Fitting:
    """Runs batches whole or, when memory runs out, in halves; remembers what fitted.

    Each halving is logged as a warning, which a terminal shows.

    Example:
        >>> Fitting().run(lambda part: part.stop - part.start, rows=8, length=10)
        [8]
    """

    def __init__(self) -> None:
        self._most: int | None = None

    def run(self, run: Callable[[slice], T], rows: int, length: int) -> list[T]:
        """Return what ``run`` gives for all rows: of one part, or of several in order.

        Args:
            run: Computes a part of the rows.
            rows: Sequences of the batch.
            length: Tokens of each.

        Raises:
            InputError: One sequence alone does not fit.
        """
        found: list[T] = []
        start = 0
        while start < rows:
            size = rows - start
            if self._most is not None:
                size = min(size, max(1, self._most // max(1, length)))
            try:
                found.append(run(slice(start, start + size)))
                start += size
                continue
            except torch.OutOfMemoryError:
                if size == 1:
                    raise InputError(
                        f"out of memory for one sequence of {length} tokens: use a shorter "
                        "--context, --model-dtype bfloat16 or another --device"
                    ) from None
            # Outside the handler, whose traceback keeps the failed attempt's tensors.
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            self._most = size * length // 2
            _log.warning(
                "out of memory for %d sequences of %d tokens: the batch is halved", size, length
            )
        return found


def sent(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return values on a device; to a CUDA GPU they are copied while it computes."""
    if device.type != "cuda" or values.device.type != "cpu":
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)


def ahead(items: Iterator[T]) -> Iterator[T]:
    """Yield the items, each made in a thread while the one before it is used."""
    end = object()
    with ThreadPoolExecutor(1, "ahead") as pool:
        waiting = pool.submit(next, items, end)
        while (item := waiting.result()) is not end:
            waiting = pool.submit(next, items, end)
            yield cast(T, item)
