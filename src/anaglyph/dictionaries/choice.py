"""``k="auto"``: the sparsity chosen from the data, by latents that come again.

FVE cannot choose k: it rises with k for ever, and a diff-SAE with a crosscoder's k splits every
change over many latents while it does. What tells too many from enough is chance: with too few
active latents the same strong features come out of every training, and more of them with a larger
k; from the k on at which noise has to be coded too, latents are split in a way that depends on the
seed. So short pilot trainings, two seeds for each k, are judged by the variance of held-out
sequences that they explain with *reproduced* latents only, those with a latent of the other seed at
a decoder cosine of at least ``SAME``. This rises up to the number of features really active at a
token, and falls after it. Near its maximum the reproduced latents also say what that number is: the
mean number of them that are active at a token, L. (Pilots are short and weak features not yet
settled in them, so the maximum may come early: the next larger k is taken as long as it reproduces
nearly as much and each latent that it adds explains a fair part of what the others do.) The choice
is L less twice the chance variation of such a mean over one batch,

    k = L - 2 sqrt(L / batch),

because a batch with fewer true firings than k * batch fills up with noise. Nothing here knows a
truth; the measurements are in docs/planted.md.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Bool

from anaglyph.dictionaries.agreement import agreement
from anaglyph.dictionaries.config import TrainConfig, steps_of
from anaglyph.dictionaries.dictionary import Dictionary
from anaglyph.dictionaries.evaluation import explained_by
from anaglyph.dictionaries.methods import get_method
from anaglyph.dictionaries.optimiser import default_rate
from anaglyph.dictionaries.sparsity import SPARSITIES
from anaglyph.errors import InputError
from anaglyph.progress import Progress
from anaglyph.store import PairedStore

AUTO = "auto"
SAME = 0.9
"""Decoder cosine at which a latent of another seed is the same."""
PILOTS = 2
"""Seeds for each k that is tried."""
PILOT_SHARE = 1 / 12
"""Tokens of a pilot over those of the training: up to 18 pilots, and never three trainings."""
FEWEST_STEPS = 60
"""Length below which a pilot tells nothing."""
FIRST = {True: 1 / 16, False: 0.5}
"""The least k tried: of a difference, and of whole activations."""
STRIDE = 4.0
NEAR = 0.9
"""What counts as near the maximum, over it."""
GAIN = 0.25
"""A fair part: FVE per active latent of those added over that of the others."""
FALLEN = 0.5
"""The coarse search stops at a k that reproduces less than this part of the best."""
DENSEST = 1 / 4
"""The largest k tried, over the number of latents."""

Fit = Callable[[TrainConfig], Dictionary]


@dataclass(frozen=True)
class Choice:
    """The k that was chosen, and what it was chosen by."""

    k: int | float
    curve: list[dict[str, Any]]
    """One row a k tried, ascending: ``k``, ``l0``, ``fve``, ``reproduced_fve``,
    ``reproduced_l0``, ``reproduced_latents``, means over the pilots; on held-out sequences."""


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
    tokens = max(
        round(config.tokens * PILOT_SHARE), min(config.tokens, FEWEST_STEPS * config.batch)
    )
    steps = steps_of(tokens, config.batch)
    # A rate that fits a long run is too low for a short one.
    lr = config.lr * default_rate(1, steps) / default_rate(1, config.steps)
    rows: dict[int | float, dict[str, Any]] = {}

    def measure(k: int | float) -> float:
        k = _allowed(k, config, kind.whole_k)
        if k not in rows:
            pilots = [
                fit(replace(config, k=k, tokens=tokens, lr=lr, seed=config.seed + number))
                for number in range(PILOTS)
            ]
            rows[k] = {"k": k, **_judge(pilots, store)}
            progress(f"choose k for {config.method}", len(rows), max(9, len(rows) + 1), "values")
        return rows[k]["reproduced_fve"]

    highest = max(0.0, measure(FIRST[difference]))
    k = FIRST[difference] * STRIDE
    while k <= max(1.0, DENSEST * config.latents):
        reached = measure(k)
        if reached < FALLEN * highest:
            break
        highest = max(highest, reached)
        k *= STRIDE
    for step in (2.0, math.sqrt(2.0)):
        best = _best(rows)
        for neighbour in (best / step, best * step):
            measure(neighbour)
    curve = [rows[k] for k in sorted(rows)]
    progress(f"choose k for {config.method}", len(rows), len(rows), "values")
    active = _settled(curve)["reproduced_l0"]
    # Where nothing comes again there is nothing to find: as few as possible.
    wanted = active - 2 * math.sqrt(active / config.batch) if active > 0 else FIRST[difference]
    return Choice(_allowed(wanted, config, kind.whole_k), curve)


def _best(rows: dict[int | float, dict[str, Any]]) -> int | float:
    """Return the k of the highest curve; of equal ones the lowest."""
    return max(sorted(rows), key=lambda k: rows[k]["reproduced_fve"])


def _settled(curve: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the row that tells the number of active latents."""
    here = max(curve, key=lambda row: row["reproduced_fve"])
    enough = NEAR * here["reproduced_fve"]
    for after in curve[curve.index(here) + 1 :]:
        gain = after["fve"] - here["fve"]
        fair = GAIN * here["fve"] / max(here["l0"], 1e-9) * (after["l0"] - here["l0"])
        if after["reproduced_fve"] < enough or gain < fair:
            break
        here = after
    return here


def _allowed(k: int | float, config: TrainConfig, whole: bool) -> int | float:
    """Return the nearest k that the sparsity, the batch and the dictionary take."""
    if whole:
        return int(min(max(1, round(k)), config.latents))
    return float(min(max(k, 1 / config.batch), config.latents))


def _judge(pilots: list[Dictionary], store: PairedStore) -> dict[str, float | int]:
    """Measure the pilots of one k against each other."""
    figures = []
    for first, second in zip(pilots, pilots[1:] + pilots[:1], strict=True):
        found = agreement(first, second)
        again: Bool[np.ndarray, " latents"] = found.known & (found.cosine >= SAME)
        figures.append(explained_by(first, store, again))
    return {name: float(np.mean([figure[name] for figure in figures])) for name in figures[0]}
