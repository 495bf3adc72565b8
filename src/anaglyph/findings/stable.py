"""Atoms that come again: fitted from several starts, kept where most of the fits agree."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray

from anaglyph.core.rng import rng
from anaglyph.findings.atoms import Atoms, fit_atoms
from anaglyph.findings.sample import column_medians

FITS = 3
"""Fits to compare; those that no start is given for begin at random tokens."""
STARTS = 256
READ = 32_768
"""A fit that votes reads a third of the tokens, but no fewer than these."""
AGAIN = 0.7
"""Cosine from which on another fit counts as having found the same atom."""
CLEAN, DITHER = 0.003, 0.01
"""Noise a dimension, relative to a large difference, below which some is added, and how much."""


def stable_atoms(
    delta: Float[ndarray, "tokens d"],
    starts: Sequence[Float[ndarray, "_ d"]],
    floor: float,
    seed: int,
) -> tuple[Atoms, Float[ndarray, " atoms"]]:
    """Fit atoms from every start alone, then from what these found together.

    Returned are the atoms that more than half of the single fits have too, and the share that does.
    What most single fits have is never lost: a broad atom (a change at a quarter of all tokens,
    say) may come apart into many narrow ones where the fits' atoms are fitted together.
    """
    delta = _dithered(delta, seed)
    draws = [_drawn(delta, seed, draw) for draw in range(max(FITS - len(starts), 2))]
    # Rough fits do for a vote: what two of them agree on is fitted to the end together. As each
    # reads tokens of its own, what comes again comes again in other data too.
    order = rng(seed, "thirds of the tokens").permutation(len(delta))
    read = min(max(len(delta) // FITS, READ), len(delta))
    fits = []
    for i, rows in enumerate((*starts, *draws)):
        part = np.sort(np.roll(order, -i * read)[:read])
        fits.append(fit_atoms(delta[part], rows, floor, roughly=True))
    joint = fit_atoms(delta, np.concatenate([fit.directions for fit in fits]), floor)
    share = np.mean([_has(fit.directions, joint.directions) for fit in fits], axis=0)
    kept = share > 0.5
    lost = _lost(fits, joint.directions[kept])
    directions = np.concatenate([joint.directions[kept], lost])
    found = [_has(fit.directions, lost) for fit in fits]
    again = np.concatenate([share[kept], np.mean(found, axis=0)])
    return Atoms(directions, joint.offset, joint.noise), again


def _lost(fits: Sequence[Atoms], kept: Float[ndarray, "_ d"]) -> Float[ndarray, "lost d"]:
    """Return the atoms that most fits have and the kept ones lack, each once.

    Of atoms that stand for one another, that of the fit with the fewest atoms is taken: it came
    apart least.
    """
    lost = kept[:0]
    for fit in sorted(fits, key=lambda fit: len(fit.directions)):
        again = np.mean([_has(other.directions, fit.directions) for other in fits], axis=0)
        missing = (again > 0.5) & ~_has(np.concatenate([kept, lost]), fit.directions)
        lost = np.concatenate([lost, fit.directions[missing]])
    return lost


def _dithered(delta: Float[ndarray, "tokens d"], seed: int) -> Float[ndarray, "tokens d"]:
    """Add noise where there is next to none.

    Where unchanged tokens are equal in both models to the last digit, the least error of an atom
    stands out, gets an atom of its own to mend it, and the fit never settles.
    """
    centred = delta - column_medians(delta)
    lengths = np.linalg.norm(centred, axis=1)
    middle = np.median(lengths)
    large = lengths[lengths > 2 * middle]
    event = float(np.sqrt(np.square(large).mean())) if len(large) else 0.0
    if middle / np.sqrt(delta.shape[1]) >= CLEAN * event:
        return delta
    generator = rng(seed, "dither")
    return delta + (DITHER * event) * generator.standard_normal(delta.shape, np.float32)


def _drawn(delta: Float[ndarray, "tokens d"], seed: int, draw: int) -> Float[ndarray, "_ d"]:
    """Draw tokens of large difference; what happens at a token alone is a guess at an atom."""
    centred = delta - column_medians(delta)
    lengths = np.linalg.norm(centred, axis=1)
    large = np.flatnonzero(lengths > 2 * np.median(lengths))
    large = large if len(large) >= STARTS else np.argsort(-lengths, kind="stable")[:STARTS]
    generator = rng((seed, draw), "starting tokens")
    return centred[generator.choice(large, min(STARTS, len(large)), replace=False)]


def _has(
    atoms: Float[ndarray, "atoms d"], directions: Float[ndarray, "n d"]
) -> Bool[ndarray, " n"]:
    if not len(atoms) or not len(directions):
        return np.zeros(len(directions), bool)
    return (directions @ atoms.T).max(1) >= AGAIN
