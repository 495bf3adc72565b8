"""Run as a script: kill a writing process at every line it executes, resume, compare the bytes.

Usage: kill_everywhere.py STEP ROOT BASE TUNED, to kill at every STEPth line. Forks once for every
kill, so that the imports are paid for once, and prints how many lines and tokens there were.
"""

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import numpy as np
import torch
from store_cases import contents, numbered_store

from anaglyph import store
from anaglyph.core import files
from anaglyph.corpus import Document, load_corpus
from anaglyph.pair import ModelPair

OURS = (files.__file__, str(Path(store.__file__).parent))


def lines_until(limit: float, work: Callable[[], object]) -> int:
    """Do ``work``, counting the executed lines of ours; SIGKILL this process at the limit."""
    count = 0

    def trace(frame: FrameType, event: str, _argument: object) -> Callable | None:
        nonlocal count
        if not frame.f_code.co_filename.startswith(OURS):
            return None
        if event == "line":
            count += 1
            if count >= limit:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    sys.settrace(trace)
    work()
    sys.settrace(None)
    return count


def killed(work: Callable[[], object]) -> bool:
    """Run ``work`` in a child; tell whether it was killed."""
    child = os.fork()
    if child == 0:
        work()
        os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def main(step: int, root: Path, base: str, tuned: str) -> None:
    torch.set_num_threads(1)

    def arrays(name: str) -> object:
        return numbered_store(root / name, 60, shard_tokens=20)

    lines = lines_until(float("inf"), lambda: arrays("unbroken"))
    expected = contents(root / "unbroken")
    for line in range(1, lines + 1, step):
        name = f"line{line}"
        if not killed(lambda line=line, name=name: lines_until(line, lambda: arrays(name))):
            raise SystemExit(f"not killed at line {line}")
        arrays(name)
        if contents(root / name) != expected:
            raise SystemExit(f"killed at line {line}, the resumed store differs")

    pair = ModelPair.load(base, tuned)
    generator = np.random.default_rng(0)
    texts = [" ".join(f"w{word}" for word in generator.integers(0, 40, 9)) for _ in range(8)]
    corpus = load_corpus([Document(text=text) for text in texts], pair.tokenizer)

    def collected(name: str, dies_at: float = float("inf")) -> None:
        def progress(task: str, done: int, total: int, unit: str = "tokens") -> None:
            if done >= dies_at:
                os.kill(os.getpid(), signal.SIGKILL)

        store.collect(
            pair, corpus, [0, 2], root / name, shard_tokens=20, token_budget=9, progress=progress
        )

    collected("collected")
    expected = contents(root / "collected")
    for tokens in range(0, corpus.n_tokens, 9):
        name = f"token{tokens}"
        if not killed(lambda tokens=tokens, name=name: collected(name, tokens)):
            raise SystemExit(f"not killed at token {tokens}")
        collected(name)
        if contents(root / name) != expected:
            raise SystemExit(f"killed at token {tokens}, the resumed store differs")
    sys.stdout.write(json.dumps({"lines": lines, "tokens": corpus.n_tokens}))


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])
