"""Several processes of one command: `torchrun --nproc-per-node N -m anaglyph ...`.

Process 0 is the command: it alone prints, locks folders and keeps records. The others wait for it.
Where work divides, process 0 sends them a task by name, and all work on it together until it is
done. Between processes go tensors and JSON, by torch.distributed: gloo on CPUs, nccl on GPUs. When
a process ends, the others notice at their next exchange and end too.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from anaglyph.core.errors import AnaglyphError, PeerError

PATIENCE = timedelta(days=30)
"""The others wait while process 0 does what does not divide."""


class Group:
    """The processes that share a task; with one process, everything is as it was given.

    Attributes:
        rank: This process, from 0.
        size: How many there are.
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size

    def total(self, values: Tensor) -> Tensor:
        """Add up the processes' tensors, in place; all get the same bits."""
        if self.size > 1:
            with self._together():
                dist.all_reduce(values)
        return values

    def sum(self, value: int | float) -> int | float:
        """Return the sum of the processes' numbers."""
        if self.size == 1:
            return value
        return float(self.total(torch.tensor([value], dtype=torch.float64)))

    def joined(self, values: Tensor) -> list[Tensor]:
        """Return the processes' one-dimensional tensors, which may differ in length."""
        if self.size == 1:
            return [values]
        with self._together():
            sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
            dist.all_gather(sizes, torch.tensor([len(values)]))
            longest = max(int(size) for size in sizes)
            padded = values.new_zeros(longest)
            padded[: len(values)] = values
            found = [torch.empty_like(padded) for _ in sizes]
            dist.all_gather(found, padded)
        return [each[: int(size)] for each, size in zip(found, sizes, strict=True)]

    def exchange(self, value: Any) -> list[Any]:
        """Return what each process gave, as JSON."""
        if self.size == 1:
            return [value]
        text = json.dumps(value).encode()
        found = self.joined(torch.frombuffer(bytearray(text), dtype=torch.uint8))
        return [json.loads(bytes(each.numpy())) for each in found]

    @contextmanager
    def _together(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            raise PeerError(
                f"process {self.rank} of {self.size} has lost another one, which has ended; run "
                "the same command again to resume"
            ) from error


ALONE = Group()
_state: dict[str, Any] = {"group": ALONE, "in step": True}


def launched() -> bool:
    """Return whether torchrun started this process as one of several."""
    return "TORCHELASTIC_RUN_ID" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1


def start() -> Group:
    """Join the other processes that torchrun started."""
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    with_gpus = torch.cuda.is_available()
    if with_gpus:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    backend = "cpu:gloo,cuda:nccl" if with_gpus else "gloo"
    dist.init_process_group(backend, timeout=PATIENCE)
    _state["group"] = Group(rank, size)
    return _state["group"]


@contextmanager
def together(task: str, **arguments: Any) -> Iterator[Group]:
    """Have all processes do a task; the block is process 0's part of it.

    Args:
        task: Its name in the ``tasks`` of ``serve``.
        **arguments: What the others get, as JSON.

    Yields:
        The processes; one alone where the command is one process, or is within a task already.
    """
    group: Group = _state["group"]
    if group.size == 1:
        yield group
        return
    group.exchange({"task": task, "arguments": arguments})
    # Within the task, other work of this process is its own.
    _state["group"], _state["in step"] = ALONE, False
    try:
        yield group
        _state["in step"] = True
    finally:
        _state["group"] = group


def of_several() -> dict[str, int]:
    """Return what of the processes determines numbers, for a key: nothing if it is one alone."""
    size = _state["group"].size
    return {} if size == 1 else {"processes": size}


def serve(group: Group, tasks: Mapping[str, Callable[..., None]]) -> int:
    """Do the tasks that process 0 sends until it ends; return its exit code.

    Raises:
        AnaglyphError: A task failed here, or process 0 is gone; the message names this process.
    """
    while True:
        said = group.exchange(None)[0]
        if "code" in said:
            dist.destroy_process_group()
            return said["code"]
        try:
            tasks[said["task"]](group, **said["arguments"])
        except PeerError:
            raise
        except AnaglyphError as error:
            raise PeerError(f"process {group.rank} of {group.size}: {error}") from error


def finish(code: int) -> None:
    """Tell the others that the command has ended, unless it ended within a task."""
    group: Group = _state["group"]
    if group.size > 1 and _state["in step"]:
        group.exchange({"code": code})
        dist.destroy_process_group()
