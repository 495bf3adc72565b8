"""``k="auto"``: the sparsity chosen from the data, by latents that come again.

FVE cannot choose k: it rises with k for ever, and a diff-SAE with a crosscoder's k splits every
change over many latents while it does. What tells too many from enough is chance: with too few
active latents the same strong features come out of every training, and more of them with a larger
k; from the k on at which noise has to be coded too, latents are split in a way that depends on the
seed. So short pilot trainings, two seeds for each k, are judged by the variance of held-out
sequences that they explain with *reproduced* latents only, those with a latent of the other seed at
a decoder cosine of at least ``SAME``. This rises up to the number of features really active at a
token, and falls after it, or rises a little more while features are coded twice. So a larger k is
taken only as long as each reproduced latent that it adds explains a fair part of what the others
do; where it ceases to be fair between two values of k, the straight line between them says how far
it was. There the reproduced latents also say what the number of features is: the mean number of
them that are active at a token, over the part of what is explained that they explain (pilots are
short, and weak features not all settled in them). The choice is that number L less twice the chance
variation of such a mean over one batch,

    k = L - 2 sqrt(L / batch),

because a batch with fewer true firings than k * batch fills up with noise. Nothing here knows a
truth; the measurements are in docs/planted.md.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool

from anaglyph.core.errors import InputError
from anaglyph.core.progress import Progress
from anaglyph.dictionaries.agreement import agreement
from anaglyph.dictionaries.config import TrainConfig, steps_of
from anaglyph.dictionaries.dictionary import Dictionary
from anaglyph.dictionaries.evaluation import explained_by
from anaglyph.dictionaries.methods import get_method
from anaglyph.dictionaries.optimiser import default_rate
from anaglyph.dictionaries.sparsity import SPARSITIES
from anaglyph.store import PairedStore

SAME = 0.9
"""Decoder cosine at which a latent of another seed is the same."""
PILOT_SHARE = {True: 1 / 20, False: 1 / 14}
"""Tokens of a pilot over those of the training, of a difference and of whole activations, which
have more to settle: a dozen pilots, and choosing and training cost less than three trainings."""
PILOT_BATCH = 1 / 4
"""Tokens a step of a pilot over those of the training: it is the steps that settle features."""
SMALLEST_BATCH = 64
FEWEST_STEPS = 120
"""Length below which a pilot tells nothing."""
FIRST = {True: 1 / 16, False: 2.0}
"""The least k tried: of a difference, and of whole activations."""
STRIDE = 2 * math.sqrt(2.0)
GAIN = 0.25
"""A fair part: FVE per active latent of those added over that of the others."""
FALLEN = 0.5
"""The search stops at a k that reproduces less than this part of the best."""
DENSEST = 1 / 4
"""The largest k tried, over the number of latents."""

Fit = Callable[[TrainConfig], Dictionary]


@dataclass(frozen=True)
class Choice:
    """The k that was chosen, and what it was chosen by."""

    k: int | float
    curve: list[dict[str, Any]]
    """One row a k tried, ascending: ``k``, ``l0``, ``fve``, ``reproduced_fve``,
    ``reproduced_l0``, ``reproduced_latents``; on held-out sequences."""


def choose_k(store: PairedStore, config: TrainConfig, fit: Fit, progress: Progress) -> Choice:
    """Choose k for a training.

    Args:
        store: Activations of both models; its held-out sequences judge.
        config: The settings of the training; its k does not matter.
        fit: Trains a pilot.
        progress: Told of finished pilots.

    Raises:
        InputError: The store has no held-out sequences.
    """
    if not store.heldout.any():
        raise InputError(f"k=auto judges by held-out sequences, and {store.path} has none")
    kind = SPARSITIES.get(config.sparsity)
    sources = get_method(config.method, config.options).sources
    difference = all(source.endswith("difference") for source in sources)
    batch = min(config.batch, max(SMALLEST_BATCH, round(config.batch * PILOT_BATCH)))
    tokens = max(
        round(config.tokens * PILOT_SHARE[difference]), min(config.tokens, FEWEST_STEPS * batch)
    )
    # A rate that fits a long run is too low for a short one.
    steps = steps_of(tokens, batch)
    lr = config.lr * default_rate(1, steps) / default_rate(1, config.steps)
    pilot = config.changed(tokens=tokens, batch=batch, lr=lr)
    rows: dict[int | float, dict[str, Any]] = {}

    def measure(k: int | float) -> float:
        k = _allowed(k, pilot, kind.whole_k)
        if k not in rows:
            first, second = (fit(pilot.changed(k=k, seed=config.seed + n)) for n in range(2))
            rows[k] = {"k": k, **_judge(first, second, store)}
            progress(f"choose k for {config.method}", len(rows), max(6, len(rows) + 1), "values")
        return rows[k]["reproduced_fve"]

    highest = max(0.0, measure(FIRST[difference]))
    k = FIRST[difference] * STRIDE
    while k <= max(1.0, DENSEST * config.latents):
        reached = measure(k)
        if reached < FALLEN * highest:
            break
        highest = max(highest, reached)
        k *= STRIDE
    best = max(sorted(rows), key=lambda k: rows[k]["reproduced_fve"])
    for factor in (STRIDE**-0.5, STRIDE**0.5):
        measure(best * factor)
    curve = [rows[k] for k in sorted(rows)]
    progress(f"choose k for {config.method}", len(rows), len(rows), "values")
    active = active_latents(curve)
    # Where nothing comes again there is nothing to find: as few as possible.
    wanted = active - 2 * math.sqrt(active / config.batch) if active > 0 else FIRST[difference]
    return Choice(_allowed(wanted, config, kind.whole_k), curve)


def active_latents(curve: list[dict[str, Any]]) -> float:
    """Return how many features are active at a token, as the curve has it."""
    shares = [max(0.0, row["reproduced_fve"]) for row in curve]
    numbers = [row["reproduced_l0"] for row in curve]
    place = int(np.argmax(shares))
    if shares[place] <= 0:
        return 0.0

    def fair(place: int) -> float:
        return GAIN * shares[place] / max(numbers[place], 1e-9)

    def gained(place: int) -> tuple[float, float]:
        return shares[place + 1] - shares[place], numbers[place + 1] - numbers[place]

    while place > 0:
        share, number = gained(place - 1)
        if share >= fair(place - 1) * number:
            break
        place -= 1
    active = numbers[place]
    if place + 1 < len(curve):
        share, number = gained(place)
        active += min(max(0.0, share) / fair(place), max(0.0, number))
    return active * max(1.0, curve[place]["fve"] / shares[place])


def _allowed(k: int | float, config: TrainConfig, whole: bool) -> int | float:
    """Return the nearest k that the sparsity, the batch and the dictionary take."""
    if whole:
        return int(min(max(1, round(k)), config.latents))
    return float(min(max(k, 1 / config.batch), config.latents))


def _judge(first: Dictionary, second: Dictionary, store: PairedStore) -> dict[str, float]:
    """Measure the latents of one pilot that the other has too."""
    found = agreement(first, second)
    again: Bool[np.ndarray, " latents"] = found.known & (found.cosine >= SAME)
    return explained_by(first, store, again)
