"""What a run could have seen: known changes are planted into its own activations and looked for.

New features of random direction are added to the run's tuned activations, each at one token in a
hundred, and atoms are fitted and tested as in the run itself. The first round plants all sizes:
whether a feature came back is regressed (logistic) on the logarithm of its size, which says where
nine of ten come back. That only has to be near, so its fits start at random tokens and no
dictionary is trained for it. The round after it plants one size, a little smaller, and the limit
follows from how many come back: a promise is for what lies at it, and larger features would make
smaller ones harder to find. "No difference found" then says: nothing of that size, that often.
"""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Bool, Float, Float64
from numpy import ndarray

from anaglyph.core.rng import rng
from anaglyph.core.schemas import DetectionLimit
from anaglyph.core.settings import FindSettings
from anaglyph.core.stats import q_values
from anaglyph.findings.atoms import SAME, Atoms
from anaglyph.findings.sample import Sample
from anaglyph.findings.significance import p_values
from anaglyph.findings.stable import stable_atoms

PROBABILITY = 0.9
FREQUENCY = 0.01
A_ROUND = 36
"""Features planted at once; few enough not to get in each other's way."""
SIZES = (4.0, 12.0)
"""Smallest and largest size planted at first, in deviations of the run's noise."""
BELOW = 1.2
"""So many times smaller than the first limit is what the next round plants: some of it has to be
lost, or nothing can be said of it, and without a dictionary less comes back than with one."""
STEEPNESS = 20.0
"""How fast the odds of coming back rise with the logarithm of a size that all features have: 15 to
25 on planted pairs. The nearer a round is to the limit, the less it matters."""
LARGER = 2.5
"""If too few came back of all sizes, the next round plants features this much larger."""
SPREAD = 0.35
"""Of the logarithm of a feature's strength from token to token."""
_RIDGE = 0.001
_STEPS = 50


def detection_limit(
    sample: Sample,
    atoms: Atoms,
    settings: FindSettings,
    floor: float,
    seed: int,
    start: Callable[[Float[ndarray, "tokens d"]], Float[ndarray, "starts d"]],
) -> DetectionLimit | None:
    """Measure the limit by planting new features.

    Args:
        sample: Activations, the base's in the tuned model's space.
        atoms: What the run itself found; its noise sets the range of sizes.
        settings: The run's: the false-discovery rate; how many features to plant, in rounds of
            ``A_ROUND``; and below which share that came back there is one more round.
        floor: Least noise to assume, as in the run.
        seed: Of the planted features.
        start: Gives the starting points of a fit for the tuned activations with what was planted,
            as in the run: a detection is one of the whole way. Not called for the first of several
            rounds.

    Returns:
        The limit, or None if hardly any or nearly all came back, whatever their size, if hardly any
        did in the last round, or if the limit lies far from every size that was planted.
    """
    generator = rng(seed, "detection limit")
    delta = sample.tuned - sample.base
    low, high = (atoms.noise * each for each in SIZES)
    rate, few = settings.rate, settings.replant_below
    rounds = -(-settings.trials // A_ROUND)
    limit: float | None = None
    planted: list[Float[ndarray, " features"]] = []
    came: list[Bool[ndarray, " features"]] = []
    for round_ in range(rounds + 1):
        if round_ == rounds and min(came[-1].mean(), np.concatenate(came).mean()) >= few:
            break
        size = np.exp(generator.uniform(np.log(low), np.log(high), A_ROUND))
        directions = generator.standard_normal((A_ROUND, delta.shape[1]))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        spiked = plant(delta, directions, size, np.full(A_ROUND, FREQUENCY), generator)
        starts = [] if round_ == 0 and rounds > 1 else [start(sample.base + spiked)]
        planted.append(size)
        came.append(_come_back(sample, spiked, starts, directions, rate, floor, seed + round_))
        if limit is not None:
            low = high = limit = of_one_size(low, int(came[-1].sum()), A_ROUND)
        else:
            limit = _limit(np.concatenate(planted), np.concatenate(came))
            if limit is not None:
                low = high = limit / BELOW
            elif came[-1].mean() < few:
                # What atoms do not explain need not be noise; then only larger features stand out.
                low, high = low * LARGER, high * LARGER
    if limit is None or came[-1].mean() < few:
        return None
    typical = float(np.sqrt(np.square(sample.tuned - sample.tuned.mean(0)).sum(1).mean()))
    return DetectionLimit(
        size=limit,
        relative=limit / max(typical, 1e-30),
        frequency=FREQUENCY,
        probability=PROBABILITY,
        trials=sum(len(each) for each in came),
        found=int(sum(each.sum() for each in came)),
    )


def _limit(sizes: Float[ndarray, " trials"], came: Bool[ndarray, " trials"]) -> float | None:
    """Return the size at which nine of ten come back, of features of all sizes.

    None if size hardly decides what does, or if it lies more than ``LARGER`` times beyond every
    size that was planted.
    """
    if came.sum() < 3 or (~came).sum() < 3:
        return None
    columns = np.stack([np.ones(len(sizes)), np.log(sizes)], axis=1)
    weights = logistic(columns, came)
    if weights[1] <= 0:
        return None
    limit = (_log_odds(PROBABILITY) - weights[0]) / weights[1]
    low, high = np.log([sizes.min() / LARGER, sizes.max() * LARGER])
    return float(np.exp(limit)) if low <= limit <= high else None


def of_one_size(size: float, came: int, planted: int) -> float:
    """Return the size at which nine of ten come back, where so many of one size did.

    Half a feature is added to those that came and to those that did not: the odds stay finite.
    """
    odds = _log_odds((came + 0.5) / (planted + 1))
    return float(size * np.exp((_log_odds(PROBABILITY) - odds) / STEEPNESS))


def _log_odds(chance: float) -> float:
    return float(np.log(chance / (1 - chance)))


def plant(
    delta: Float[ndarray, "tokens d"],
    directions: Float[ndarray, "features d"],
    sizes: Float[ndarray, " features"],
    frequencies: Float[ndarray, " features"],
    generator: np.random.Generator,
) -> Float[ndarray, "tokens d"]:
    """Return differences with features added at random tokens, of log-normal strength."""
    spiked = delta.copy()
    for direction, size, frequency in zip(directions, sizes, frequencies, strict=True):
        where = np.flatnonzero(generator.random(len(delta)) < frequency)
        strength = size * generator.lognormal(-(SPREAD**2) / 2, SPREAD, len(where))
        spiked[where] += (strength[:, None] * direction).astype(np.float32)
    return spiked


def _come_back(
    sample: Sample,
    delta: ndarray,
    starts: Sequence[ndarray],
    directions: ndarray,
    rate: float,
    floor: float,
    seed: int,
) -> Bool[ndarray, " features"]:
    atoms, _ = stable_atoms(delta[~sample.heldout], starts, floor, seed)
    if not len(atoms.directions):
        return np.zeros(len(directions), bool)
    sure = q_values(p_values(delta, sample.sequences, atoms, atoms.codes(delta))) <= rate
    if not sure.any():
        return np.zeros(len(directions), bool)
    return (directions @ atoms.directions[sure].T).max(1) >= SAME


def logistic(
    columns: Float64[ndarray, "trials weights"], came: Bool[ndarray, " trials"]
) -> Float64[ndarray, " weights"]:
    """Return the weights of a logistic regression, with a small ridge on all but the first.

    The ridge keeps slopes finite where size alone separates what came back.
    """
    ridge = _RIDGE * np.eye(columns.shape[1])
    ridge[0, 0] = 1e-6
    weights = np.zeros(columns.shape[1])
    for _ in range(_STEPS):
        chance = 1 / (1 + np.exp(-np.clip(columns @ weights, -30, 30)))
        slope = columns.T @ (came - chance) - ridge @ weights
        curve = (columns * (chance * (1 - chance))[:, None]).T @ columns + ridge
        weights = weights + np.linalg.solve(curve + 1e-9 * np.eye(len(curve)), slope)
    return weights
