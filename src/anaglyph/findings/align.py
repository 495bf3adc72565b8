"""A change of the whole space, such as a rotation or a scale, is taken out before looking closer.

Two models can say the same in other coordinates: every activation turned by one rotation, or made
longer by one factor. Then all features differ a little and none has changed on its own. The best
such map of base onto tuned is found in closed form (orthogonal Procrustes with a scale), and used
where it explains three fifths of the difference or more, or where the models differ in width.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from anaglyph.findings.sample import column_medians

# Of the difference that is left after the map, relative to the plain one. A fine-tune's difference
# is a function of the activation, and of undiluted ones such a map explains a fifth to a half.
WORTHWHILE = 0.4
_BY_CHANCE = 4.0
"""Standard deviations that a correlation of independent numbers stays below."""


@dataclass(frozen=True)
class Alignment:
    """Maps base activations into the tuned model's space: ``scale * (h - centre) @ turn + shift``.

    ``turn`` has orthonormal rows or columns.
    """

    scale: float
    centre: Float[ndarray, " d_base"]
    turn: Float[ndarray, "d_base d_tuned"]
    shift: Float[ndarray, " d_tuned"]

    def __call__(self, base: Float[ndarray, "tokens d_base"]) -> Float[ndarray, "tokens d_tuned"]:
        """Map activations."""
        return (self.scale * ((base - self.centre) @ self.turn) + self.shift).astype(np.float32)

    def back(self, direction: Float[ndarray, " d_tuned"]) -> Float[ndarray, " d_base"]:
        """Return the unit direction of the base model that is mapped onto this one."""
        mapped = self.turn @ direction
        return mapped / max(float(np.linalg.norm(mapped)), 1e-30)

    @property
    def turned(self) -> float:
        """How far directions turn on average, in degrees, where the widths are equal."""
        cosine = np.trace(self.turn) / len(self.turn)
        return float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))


def align(
    base: Float[ndarray, "tokens d_base"],
    tuned: Float[ndarray, "tokens d_tuned"],
    heldout: ndarray,
    *,
    related: bool = True,
) -> Alignment | None:
    """Return the map of base onto tuned if there is reason to use one, else None.

    It is fitted on the tokens that are not held out and judged on those that are. Where widths
    differ, or the models are not related, there is always one: without it nothing can be compared.
    """
    fit, test = ~heldout, heldout if heldout.any() else ~heldout
    if base.shape[1] != tuned.shape[1] or not related:
        return _procrustes(base[fit], tuned[fit], (base[test], tuned[test]))
    found = _procrustes(base[fit], tuned[fit])
    plain = _spread(tuned[test] - base[test])
    mapped = _spread(tuned[test] - found(base[test]))
    return found if mapped < WORTHWHILE * plain else None


def _procrustes(
    base: ndarray, tuned: ndarray, check: tuple[ndarray, ndarray] | None = None
) -> Alignment:
    """Fit the map; with further tokens, keep apart what only one of the models has (`_apart`)."""
    centre, shift = base.mean(0), tuned.mean(0)
    before, after = (base - centre).astype(np.float64), (tuned - shift).astype(np.float64)
    left, _, right = np.linalg.svd(before.T @ after, full_matrices=False)
    turn = left @ right
    if check is not None:
        pairs = (check[0] - centre) @ left, (check[1] - shift) @ right.T
        sizes = np.sqrt(np.square(pairs[0]).sum(0) * np.square(pairs[1]).sum(0))
        correlation = (pairs[0] * pairs[1]).sum(0) / np.maximum(sizes, 1e-30)
        seen = correlation > _BY_CHANCE / np.sqrt(len(check[0]))
        turn = _apart(before, after, left[:, seen], right[seen])
    # Only what the map keeps of the base counts, where it goes to fewer dimensions.
    energy = float(np.sum((before.T @ before @ turn) * turn))
    shared = float(np.sum((before.T @ after) * turn))
    return Alignment(shared / energy if energy > 0 else 1.0, centre, turn.astype(np.float32), shift)


def _apart(
    before: Float[ndarray, "tokens d_base"],
    after: Float[ndarray, "tokens d_tuned"],
    left: Float[ndarray, "d_base shared"],
    right: Float[ndarray, "shared d_tuned"],
) -> Float[ndarray, "d_base d_tuned"]:
    """Map what the models share, and the rest so that what only one has meets nothing.

    The directions that are left do not vary together, so that every map between them fits as well.
    The base's that vary most go to the tuned model's that vary least: a feature of one model would
    otherwise fall on one of the other, and both would look like one that changed.
    """
    rests = []
    for states, kept in ((before, left), (after, right.T)):
        others = np.linalg.svd(kept, full_matrices=True)[0][:, kept.shape[1] :]
        _, axes = np.linalg.eigh(others.T @ (states.T @ states) @ others)
        rests.append(others @ axes)  # what varies least comes first
    base, tuned = rests
    count = min(base.shape[1], tuned.shape[1])
    most = base[:, ::-1][:, :count]
    return left @ right + most @ tuned[:, :count].T


def _spread(delta: ndarray) -> float:
    # About the median, so that a constant shift is not counted for either side.
    return float(np.square(delta - column_medians(delta), dtype=np.float64).sum())
