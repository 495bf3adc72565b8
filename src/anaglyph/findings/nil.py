"""Is there a difference at all? Two computations of one activation differ by rounding alone."""

import math

from anaglyph.store import PairedStore

# How far apart two computations of one float32 activation may lie, relative to its length: eight
# units of its precision, for rounding adds up over layers.
_COMPUTED = 8 * 2.0**-23
# Stored as bfloat16, such a pair differs by one unit (2^-8) with probability _COMPUTED / 2^-8.
NOISE = {"float32": _COMPUTED, "bfloat16": math.sqrt(_COMPUTED * 2.0**-8)}


def relative_difference(store: PairedStore) -> float | None:
    """Return ``sqrt(sum ||h_tuned - h_base||^2 / sum ||h||^2)``, h of the larger model.

    None where the models differ in width and so have no difference.
    """
    base, tuned, difference = store.statistics
    if difference is None:
        return None
    # rms is per dimension and all three have the same number of them.
    largest = max(base.rms, tuned.rms)
    return difference.rms / largest if largest > 0 else 0.0


def difference_is_nil(store: PairedStore) -> bool:
    """Return whether the models' activations are equal up to numerical noise.

    The rule: ``sum ||Delta||^2 <= noise^2 * sum ||h||^2`` over all tokens of the store, with noise
    8 * 2^-23 for float32, and the geometric mean of that and 2^-8 for bfloat16 (`NOISE`).
    """
    relative = relative_difference(store)
    return relative is not None and relative <= NOISE[store.dtype]
