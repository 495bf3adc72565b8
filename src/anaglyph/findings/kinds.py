"""From measurements to kinds: what happened to the concept behind an atom.

Let t = beta^tuned / (beta^tuned - beta^base) along the atom (``strengths.py``). An atom is a change
of the direction u, so t alone says who has u where it fires:

| t | base, tuned | kind |
|---|---|---|
| near 1 | nothing, u | new, unless base has u at other tokens |
| near 0 | -u, nothing | removed, unless tuned has u at other tokens |
| above 1 or below 0 | both, of different size | scaled |
| between | opposite parts along u, one part across | rotated |

A concept that the other model has at other tokens is refrequencied if those lie in the same
sequences more than chance would have it, else retriggered: other places are other contexts. Where
a concept left some tokens and came up at others, two atoms show it, u and -u; they are one finding.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from scipy.sparse import csc_matrix

from anaglyph.core.schemas import Kind
from anaglyph.findings.atoms import SAME, Atoms
from anaglyph.findings.elsewhere import LEAST, TOGETHER, Elsewhere, Search
from anaglyph.findings.sample import Sample
from anaglyph.findings.strengths import GROUPS, Estimate, Strengths, jackknife

NEAR = 0.05
"""How far beyond 0 or 1 t may lie for one model to lack the concept, whatever its interval."""
BETWEEN = 0.15
"""How far between 0 and 1; and beyond them where the interval holds them, and so cannot tell a weak
rest of the concept from none."""


Triple = tuple[float, float, float]
"""A value with the low and the high end of its interval."""
Effect = tuple[float, float | None, float | None]
"""The same; None where an end has no bound."""
Look = Callable[[str, int], Elsewhere]
"""Looks for the concept of an atom elsewhere in "base" or "tuned"."""


@dataclass(frozen=True)
class Change:
    """What happened to one concept."""

    kind: Kind
    atoms: tuple[int, ...]
    direction_base: Float[ndarray, " d"] | None
    direction_tuned: Float[ndarray, " d"] | None
    effect: Effect
    """Value, low, high, in the unit of the kind (``Finding.effect``)."""
    frequency_base: Triple | None
    frequency_tuned: Triple | None
    fires: Triple
    """Share of tokens on which the atom itself fires, low, high."""
    elsewhere: Elsewhere | None = None


def changes(
    sample: Sample, atoms: Atoms, codes: csc_matrix, strengths: Strengths, seed: int
) -> list[Change]:
    """Say what happened at each atom; atoms that are one change come back as one.

    Args:
        sample: Activations, the base's in the tuned model's space.
        atoms: The atoms.
        codes: Their activations on the sample, [tokens, atoms].
        strengths: What both models have of them.
        seed: Of the random directions.
    """
    searches: dict[str, Search] = {}

    def look(side: str, atom: int) -> Elsewhere:
        if side not in searches:
            values = sample.base if side == "base" else sample.tuned
            searches[side] = Search(values, sample.sequences, seed)
        column = codes[:, [atom]]
        fires = np.zeros(len(sample.sequences), bool)
        fires[column.indices] = True
        direction = atoms.directions[atom] * (1 if side == "base" else -1)
        return searches[side].look(direction, column.data, fires)

    found = []
    for atom in range(len(atoms.directions)):
        often = _bounded(_triple(_frequency(sample, codes, atom), 0))
        found.append(_change(atom, atoms, strengths, often, look))
    return _joined(found, atoms)


def _change(atom: int, atoms: Atoms, strengths: Strengths, often: Triple, look: Look) -> Change:
    share, low, high = _triple(strengths.share, atom)
    direction = atoms.directions[atom]
    above, below = (BETWEEN if holds else NEAR for holds in (low <= 1, high >= 0))
    if 1 - BETWEEN < share < 1 + above or -below < share < BETWEEN:
        return _one_sided(atom, share > 0.5, direction, strengths, often, look)
    if BETWEEN <= share <= 1 - BETWEEN:
        return Change(
            "rotated",
            (atom,),
            _unit(strengths.base[atom]),
            _unit(strengths.tuned[atom]),
            _triple(strengths.angle, atom),
            often,
            often,
            often,
        )
    signed = direction if share > 1 else -direction
    ratio = ratio_of(_triple(strengths.share, atom))
    return Change("scaled", (atom,), signed, signed, ratio, often, often, often)


def ratio_of(share: Triple) -> Effect:
    """Return beta^tuned / beta^base = t / (t - 1), which falls as t rises, on either side of 1.

    An interval of t that reaches across 1 leaves the ratio without a bound on that side.
    """
    value, low, high = share
    lower, upper = (t / (t - 1) if (t > 1) == (value > 1) else None for t in (high, low))
    return value / (value - 1), lower, upper


def _one_sided(
    atom: int,
    gained: bool,
    direction: ndarray,
    strengths: Strengths,
    often: Triple,
    look: Look,
) -> Change:
    """One model lacks the concept where the atom fires; ask whether it has it elsewhere."""
    direction = direction if gained else -direction
    elsewhere = look("base" if gained else "tuned", atom)
    if not elsewhere.present:
        # What the weaker model has, relative to the stronger: nothing, within its interval.
        weaker = (strengths.beta_base, strengths.beta_tuned)[not gained]
        stronger = abs(float((strengths.beta_base, strengths.beta_tuned)[gained].value[atom]))
        sign = 1 if gained else -1
        value, low, high = (sign * x / stronger for x in _triple(weaker, atom))
        return Change(
            "new" if gained else "removed",
            (atom,),
            None if gained else direction,
            direction if gained else None,
            (value, min(low, high), max(low, high)),
            None if gained else often,
            often if gained else None,
            often,
            elsewhere,
        )
    kept = _triple(elsewhere.relative, 0)
    less = tuple(often[0] * max(x, 0.0) for x in kept)
    more = tuple(often[0] * (1 + max(x, 0.0)) for x in kept)
    value, low, high = ((1 + max(x, 1e-3)) / max(x, 1e-3) for x in (kept[0], kept[2], kept[1]))
    effect = (value, low, high) if gained else (1 / value, 1 / high, 1 / low)
    together = elsewhere.overlap is not None and elsewhere.overlap >= TOGETHER
    return Change(
        "refrequencied" if together else "retriggered",
        (atom,),
        direction,
        direction,
        effect,
        _bounded(less if gained else more),
        _bounded(more if gained else less),
        often,
        elsewhere,
    )


def _joined(found: list[Change], atoms: Atoms) -> list[Change]:
    """Make one change of an atom that came and its opposite that went."""
    opposite = -(atoms.directions @ atoms.directions.T)
    taken: set[int] = set()
    joined = []
    gains = [c for c in found if _side(c) == 1]
    losses = {c.atoms[0]: c for c in found if _side(c) == -1}
    for gain in gains:
        others = [j for j in losses if j not in taken and opposite[gain.atoms[0], j] > SAME]
        if not others:
            continue
        loss = losses[max(others, key=lambda j: opposite[gain.atoms[0], j])]
        taken |= {gain.atoms[0], loss.atoms[0]}
        joined.append(_moved(gain, loss))
    return [c for c in found if c.atoms[0] not in taken] + joined


def _side(change: Change) -> int:
    """Return 1 if a concept came up at the atom's tokens, -1 if it left them, 0 for neither."""
    if change.kind in ("new", "removed"):
        return 1 if change.kind == "new" else -1
    if change.kind in ("retriggered", "refrequencied"):
        return 1 if change.effect[0] > 1 else -1
    return 0


def _moved(gain: Change, loss: Change) -> Change:
    """Join the tokens that a concept came up at and those that it left."""
    came, left = gain.fires, loss.fires
    # What the gain's search found in the base is what was lost and what stayed.
    stayed = max(_found_elsewhere(gain) * came[0] - left[0], 0.0) if gain.elsewhere else 0.0
    stayed = stayed if stayed > LEAST * max(came[0], left[0]) else 0.0
    before, after = (_bounded(tuple(x + stayed for x in often)) for often in (left, came))
    ratio = after[0] / max(before[0], 1e-12)
    spread = ratio * math.hypot(
        *((high - low) / (2 * max(value, 1e-12)) for value, low, high in (before, after))
    )
    return replace(
        gain,
        kind="retriggered",
        atoms=(*gain.atoms, *loss.atoms),
        direction_base=gain.direction_tuned,
        effect=(ratio, ratio - spread, ratio + spread),
        frequency_base=before,
        frequency_tuned=after,
    )


def _found_elsewhere(change: Change) -> float:
    return float(change.elsewhere.relative.value[0]) if change.elsewhere else 0.0


def _frequency(sample: Sample, codes: csc_matrix, atom: int) -> Estimate:
    fires = np.zeros(len(sample.sequences))
    fires[codes[:, [atom]].indices] = 1.0
    groups = sample.groups(GROUPS)
    fired, tokens = np.bincount(groups, fires, GROUPS), np.bincount(groups, minlength=GROUPS)
    left = np.concatenate([[fired.sum()], fired.sum() - fired])
    of = np.concatenate([[tokens.sum()], tokens.sum() - tokens])
    return jackknife((left / np.maximum(of, 1))[:, None])


def _triple(estimate: Estimate, index: int) -> Triple:
    return (
        float(estimate.value[index]),
        float(estimate.low[index]),
        float(estimate.high[index]),
    )


def _bounded(values: tuple[float, ...]) -> Triple:
    value, low, high = (min(max(x, 0.0), 1.0) for x in values)
    return value, low, high


def _unit(vector: ndarray) -> ndarray:
    return vector / max(float(np.linalg.norm(vector)), 1e-30)
