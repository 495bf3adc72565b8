"""Run as a script: read many shuffled batches and print how much memory of its own that took.

Usage: read_with_little_memory.py STORE BATCHES BUFFER. Pages of the memory maps are not counted:
the system takes them back whenever it needs them.
"""

import json
import sys
from pathlib import Path

import torch

from anaglyph.store import PairedStore


def anonymous_memory() -> int:
    """Bytes of memory that only this process can give back."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("this system does not tell RssAnon")


def main(path: str, batches: int, buffer: int) -> None:
    torch.set_num_threads(1)
    before = anonymous_memory()
    store = PairedStore.open(path)
    peak = 0
    for number, _ in zip(
        range(batches), store.batches(2048, 0, "all", buffer=buffer), strict=False
    ):
        if number % 20 == 0:
            peak = max(peak, anonymous_memory())
    sys.stdout.write(json.dumps({"grown": peak - before}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
