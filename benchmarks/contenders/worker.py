"""What every contender shares: the data, the clock and the line protocol.

A contender is a process of its own, in the interpreter of its own environment, that holds one
trainer in memory. It reads the number of steps to do from standard input, does them and prints the
seconds of each as one line of JSON, so that the caller can let contenders take turns. Only torch
and the standard library are needed here.
"""

import json
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

BATCHES = 8
DEAD_SHRINK = 1e-3
"""Encoder rows of dead latents are shrunk by it: they activate, but are never selected."""
DEAD_RATE = 1e-7
"""Learning rate of runs with dead latents, so that the auxiliary loss does not revive them."""
RATE = 1e-4


class Contender(NamedTuple):
    """A trainer in memory."""

    step: Callable[[int], Any]
    """Does the optimiser step of that number."""
    facts: Callable[[], dict[str, Any]] = dict
    """What to report at the end, such as the number of dead latents."""


class Shuffled(Sequence[Tensor]):
    """Batches of the rows of a matrix, in a random order that all contenders share."""

    def __init__(self, rows: Tensor, batch: int) -> None:
        self._rows, self._batch = rows, batch
        generator = torch.Generator().manual_seed(7)
        self._order = torch.randperm(len(rows), generator=generator)

    def __len__(self) -> int:
        return len(self._order) // self._batch

    def __getitem__(self, place: Any) -> Any:
        return self._rows[self._order[place * self._batch : (place + 1) * self._batch]]


def batches(spec: dict[str, Any], source: int = 0) -> Sequence[Tensor]:
    """Return batches of activations, the same for every contender of a spec.

    They are those of ``spec["file"]``, if there is one. Planted otherwise: each token is a sum of
    16 of 2 d random directions with positive strengths, and noise.
    """
    if "file" in spec:
        rows = torch.load(spec["file"], weights_only=True)["train"]
        return Shuffled(rows.to(spec["device"]), spec["batch"])
    generator = torch.Generator().manual_seed(1000 + source)
    width, tokens = spec["d"], spec["batch"]
    directions = torch.nn.functional.normalize(
        torch.randn(2 * width, width, generator=generator), dim=1
    )
    found = []
    for _ in range(BATCHES):
        chosen = torch.randint(2 * width, (tokens, 16), generator=generator)
        strengths = torch.rand(tokens, 16, generator=generator) * 6
        values = torch.randn(tokens, width, generator=generator) * 0.3
        for place in range(16):
            values += strengths[:, place, None] * directions[chosen[:, place]]
        found.append(values.to(spec["device"]))
    return found


@torch.no_grad()
def explained(spec: dict[str, Any], weights: tuple[Tensor, ...], norms: bool) -> dict[str, float]:
    """Return the fraction of variance explained on held-out activations; nothing without a file.

    The k * tokens largest scores of the held-out tokens are kept, for everyone alike.

    Args:
        spec: Names the file.
        weights: Encoder [latents, d] and bias, decoder [latents, d] and bias.
        norms: Whether the decoder's norms are part of the score.
    """
    if "file" not in spec:
        return {}
    values = torch.load(spec["file"], weights_only=True)["heldout"].to(spec["device"])
    encoder, bias, decoder, centre = weights
    codes = torch.relu((values - centre) @ encoder.T + bias)
    scores = codes * decoder.norm(dim=1) if norms else codes
    smallest = scores.flatten().topk(spec["k"] * len(values), sorted=False).values.min()
    error = values - (codes * (scores >= smallest)) @ decoder - centre
    return {"fve": 1 - float(error.var(0).sum() / values.var(0).sum())}


def rate(spec: dict[str, Any]) -> float:
    """Return the learning rate of a spec."""
    if "rate" in spec:
        return spec["rate"]
    return DEAD_RATE if spec["dead"] else RATE


def n_dead(spec: dict[str, Any]) -> int:
    """Return how many latents, the first ones, are dead."""
    return int(spec["dead"] * spec["latents"])


def clock(spec: dict[str, Any]) -> float:
    """Return the time when the device has done what it was told."""
    if spec["device"] == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def serve(make: Callable[[dict[str, Any]], Contender]) -> None:
    """Make the contender that the command line asks for and let it take turns."""
    out = sys.stdout
    sys.stdout = sys.stderr  # whatever a package prints must not come between the lines
    spec = json.loads(sys.argv[1])
    torch.set_num_threads(spec["threads"])
    contender = make(spec)
    done = 0
    print(json.dumps({"ready": True}), file=out, flush=True)
    for line in sys.stdin:
        seconds = []
        for _ in range(int(line)):
            start = clock(spec)
            contender.step(done)
            seconds.append(clock(spec) - start)
            done += 1
        print(json.dumps({"seconds": seconds, **contender.facts()}), file=out, flush=True)
