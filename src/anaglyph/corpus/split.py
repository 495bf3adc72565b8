"""The one split into training and held-out sequences, used by store, training and evaluation."""

import numpy as np
from jaxtyping import Bool

from anaglyph.core.errors import InputError
from anaglyph.core.rng import rng


def split_mask(
    n_sequences: int, fraction: float = 0.15, seed: int = 0
) -> Bool[np.ndarray, " sequences"]:
    """Choose the held-out sequences.

    Whole sequences are held out, never tokens: neighbouring tokens share most of their activation.

    Args:
        n_sequences: How many sequences there are.
        fraction: Share to hold out, between 0 and 1 (both excluded).
        seed: Another seed gives another split; the same arguments always give the same one.

    Returns:
        True for the held-out sequences. With two sequences or more at least one is held out and at
        least one is not; a single sequence is not held out.

    Raises:
        InputError: A negative count, or a fraction outside (0, 1).
    """
    if n_sequences < 0:
        raise InputError(f"n_sequences must not be negative, got {n_sequences}")
    if not 0 < fraction < 1:
        raise InputError(f"the held-out fraction must lie between 0 and 1, got {fraction}")
    mask = np.zeros(n_sequences, bool)
    if n_sequences >= 2:
        count = min(max(round(fraction * n_sequences), 1), n_sequences - 1)
        generator = rng(seed, "held-out split")
        mask[generator.choice(n_sequences, size=count, replace=False)] = True
    return mask
