"""The command line as torchrun starts it: small shards, and a process that may end early.

python -m torch.distributed.run --nproc-per-node 2 tests/run/in_processes.py diff BASE TUNED ...

KILL=RANK:PLACE:N ends that process by SIGKILL at its Nth shard or training step.
"""

import os
import signal
from collections.abc import Callable
from typing import Any

from anaglyph import cli
from anaglyph.dictionaries.checkpoint import Checkpoint
from anaglyph.dictionaries.training import Training
from anaglyph.store import collecting


def killed_at(number: int, function: Callable[..., Any]) -> Callable[..., Any]:
    done = 0

    def counted(*arguments: Any) -> Any:
        nonlocal done
        done += 1
        if done == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments)

    return counted


if __name__ == "__main__":
    assert collecting.collect.__kwdefaults__ is not None
    collecting.collect.__kwdefaults__["shard_tokens"] = 1000
    save = Checkpoint.save_if_due

    def save_always(keeper: Checkpoint, *arguments: Any) -> None:
        keeper.interval = 0.0
        save(keeper, *arguments)

    setattr(Checkpoint, "save_if_due", save_always)  # noqa: B010
    rank, place, count = os.environ.get("KILL", "-1:nowhere:0").split(":")
    if rank == os.environ.get("RANK"):
        if place == "shard":
            collecting.write_shard = killed_at(int(count), collecting.write_shard)
        else:
            Training.step = killed_at(int(count), Training.step)
    cli.main()
