"""How much of each atom either model has where it fires, with intervals over sequences.

Where an atom with direction u fires, what does each model's activation have that it has not
elsewhere? Regressing h^m on the indicators of all atoms at once gives R^m, the mean activation that
goes with the atom alone. Indicators, not codes: codes carry the difference's noise, and a regressor
with noise makes every coefficient too small. Then

    beta^m = <R^m, u>,       beta^tuned - beta^base = the difference's own strength,
    common = the part of R^m across u, which both models have,

and the numbers that a kind is decided on follow: the share of beta^tuned in the difference, and the
angle between the two models' vectors, atan2(beta^tuned, |common|) - atan2(beta^base, |common|).
Activations are taken relative to what their sequence is like where nothing fires, so that a topic
which goes with an atom is not taken for it. Values are corrected for bias and given intervals by a
jackknife over groups of sequences.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64
from numpy import ndarray
from scipy.sparse import csr_matrix

from anaglyph.core.stats import half_width
from anaglyph.findings.atoms import Atoms, support
from anaglyph.findings.sample import Sample

GROUPS = 24
# A sequence's own mean counts as much as this many tokens of the mean over all.
PRIOR_TOKENS = 5.0


@dataclass(frozen=True)
class Estimate:
    """A number for each atom with its 95% interval."""

    value: Float64[ndarray, " atoms"]
    low: Float64[ndarray, " atoms"]
    high: Float64[ndarray, " atoms"]


@dataclass(frozen=True)
class Strengths:
    """What both models have of each atom."""

    beta_base: Estimate
    beta_tuned: Estimate
    share: Estimate
    """beta^tuned / (beta^tuned - beta^base): 1 if only the tuned model has it, 0 if only base has,
    one half for a pure rotation, beyond 0 and 1 for a change of scale."""
    angle: Estimate
    """Degrees between the two models' vectors."""
    base: Float64[ndarray, "atoms d"]
    tuned: Float64[ndarray, "atoms d"]


def measure_strengths(sample: Sample, atoms: Atoms, codes: csr_matrix) -> Strengths:
    """Measure both models along the atoms, and across.

    Args:
        sample: Activations, the base's in the tuned model's space.
        atoms: The atoms.
        codes: Their activations on the sample, [tokens, atoms].
    """
    fires, directions = support(codes)[0], atoms.directions
    groups = min(GROUPS, max(sample.n_sequences, 2))
    sums = _sums(sample, fires, sample.groups(groups), groups)
    directions = directions.astype(np.float64)
    rows = [_vectors(sums, None), *(_vectors(sums, group) for group in range(groups))]
    base, tuned = (np.stack([row[side] for row in rows]) for side in (0, 1))
    luck = chosen_noise(codes, atoms) / 2
    beta_base = (base * directions).sum(-1) + luck
    beta_tuned = (tuned * directions).sum(-1) - luck
    middle = (base + tuned) / 2
    along = (middle * directions).sum(-1, keepdims=True)
    common = np.linalg.norm(middle - along * directions, axis=-1)
    size = beta_tuned - beta_base
    turned = np.arctan2(beta_tuned, common) - np.arctan2(beta_base, common)
    return Strengths(
        jackknife(beta_base),
        jackknife(beta_tuned),
        jackknife(_divide(beta_tuned, size)),
        jackknife(np.degrees(np.abs(turned))),
        base[0],
        tuned[0],
    )


def chosen_noise(codes: csr_matrix, atoms: Atoms) -> Float64[ndarray, " atoms"]:
    """Return the mean noise of the tokens at which each atom is said to fire.

    A token is chosen because its projection p = a + noise exceeds the threshold, so its noise is
    positive on average: E[noise | p > c] = noise^2 f(c) / P(p > c) for normal noise and any a,
    f the density of p. The density is taken from the tokens within one deviation of noise above c.
    Half of this is the tuned model's luck, half the base's bad luck.
    """
    width = max(atoms.noise, 1e-30)
    near = codes.copy()
    near.data = (near.data < atoms.threshold + width).astype(np.float64)
    fired = np.maximum(support(codes)[1], 1)
    return atoms.noise**2 * np.asarray(near.sum(0)).ravel() / width / fired


def jackknife(rows: Float64[ndarray, "groups_plus_one atoms"]) -> Estimate:
    """Return bias-corrected values and 95% intervals from leave-one-group-out values.

    The first row is of all groups, each other one of all groups but one.
    """
    whole, parts = rows[0], rows[1:]
    groups = len(parts)
    value = groups * whole - (groups - 1) * parts.mean(0)
    error = np.sqrt((groups - 1) / groups * np.square(parts - parts.mean(0)).sum(0))
    half = half_width(error, groups - 1)
    return Estimate(value, value - half, value + half)


def relative_to_sequence(
    values: Float[ndarray, "tokens d"], quiet: ndarray, sequences: ndarray
) -> Float64[ndarray, "tokens d"]:
    """Return activations minus their sequence's mean over tokens at which no atom fires.

    A short or busy sequence leans on the mean over all sequences (``PRIOR_TOKENS``).
    """
    overall = values[quiet].mean(0) if quiet.any() else values.mean(0)
    numbers = sequences[quiet]
    count = int(sequences.max()) + 1
    weights = csr_matrix(
        (np.ones(len(numbers)), (numbers, np.arange(len(numbers)))), shape=(count, len(numbers))
    )
    own = weights @ (values[quiet] - overall)
    own /= (np.bincount(numbers, minlength=count) + PRIOR_TOKENS)[:, None]
    return values - overall - own[sequences]


def _sums(
    sample: Sample, fires: csr_matrix, group_of: ndarray, groups: int
) -> list[dict[str, ndarray]]:
    quiet = np.asarray(fires.sum(1)).ravel() == 0
    sides = [
        relative_to_sequence(values, quiet, sample.sequences)
        for values in (sample.base, sample.tuned)
    ]
    sums = []
    for group in range(groups):
        rows = np.flatnonzero(group_of == group)
        own = fires[rows]
        sums.append(
            {
                "gram": (own.T @ own).toarray(),
                "fires": np.asarray(own.sum(0)).ravel(),
                "tokens": np.array(float(len(rows))),
                "base": own.T @ sides[0][rows],
                "tuned": own.T @ sides[1][rows],
                "base_mean": sides[0][rows].sum(0),
                "tuned_mean": sides[1][rows].sum(0),
            }
        )
    return sums


def _vectors(sums: list[dict[str, ndarray]], without: int | None) -> tuple[ndarray, ndarray]:
    total = {
        name: sum(part[name] for number, part in enumerate(sums) if number != without)
        for name in sums[0]
    }
    tokens = max(float(total["tokens"]), 1.0)
    gram = total["gram"] - np.outer(total["fires"], total["fires"]) / tokens
    gram = gram + 1e-9 * max(gram.diagonal().max(initial=0.0), 1e-30) * np.eye(len(gram))
    right = [
        total[side] - np.outer(total["fires"], total[f"{side}_mean"]) / tokens
        for side in ("base", "tuned")
    ]
    base, tuned = np.split(np.linalg.solve(gram, np.concatenate(right, axis=1)), 2, axis=1)
    return base, tuned


def _divide(upper: ndarray, lower: ndarray) -> ndarray:
    safe = np.where(np.abs(lower) > 1e-12, lower, np.copysign(1e-12, lower))
    return upper / safe
