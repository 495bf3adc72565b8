"""Every random stream of the project, by name.

Two draws that start from the same seed must not share random numbers: a dictionary that starts from
the numbers its data were drawn from has seen the answer. So a draw names its stream, and the name
selects the stream.
"""

from collections.abc import Sequence

import numpy as np

from anaglyph.core.errors import InputError

STREAMS = {
    "sampled replies": 0xD17,
    "causal bootstrap": 0xC1,
    "causal controls": 0xC2,
    "causal text": 0xC3,
    "detection limit": 0x7370696B,
    "dictionary start": 0x1A17,
    "dither": 0x64726177,
    "findings put in": 0x70757421,
    "generic prompts": 0x61736B,
    "held-out split": 0x5B117,
    "latent bootstrap": 0xB007,
    "limited text": 0x70CE4,
    "null pair text": 0x6465636F,
    "planted pair": 0x706C616E,
    "random directions": 0x656C7365,
    "random player": 0x6A,
    "sample of findings": 0x73616D70,
    "Shapley orders": 0x54A9,
    "starting tokens": 0x64726177,
    "stream order": 0x73747265,
    "stream sample": 0x73616D32,
    "texts of findings": 0x74657874,
    "thirds of the tokens": 0x70617274,
    "training order": 0x0D3,
    "typical activation": 0xCE27,
}
"""Name of each stream to its number. Published figures were drawn from these: add, never change.

"dither" and "starting tokens" share a number; their seeds have different lengths, which keeps them
apart.
"""


def sequence(seed: int | Sequence[int], name: str, *parts: int) -> np.random.SeedSequence:
    """Return the seed sequence of a named stream.

    Args:
        seed: The seed that the user gave; several numbers where a draw is one of several.
        name: A key of `STREAMS`.
        *parts: Numbers that tell apart the draws within the stream.

    Raises:
        InputError: There is no such stream, or a seed is negative.
    """
    if name not in STREAMS:
        raise InputError(f"random stream {name!r} is not in core/rng.py: add it to STREAMS")
    seeds = [seed] if isinstance(seed, int | np.integer) else list(seed)
    if any(not isinstance(each, int | np.integer) or each < 0 for each in seeds):
        raise InputError(f"seed is {seed!r}: it must be a whole number, and not negative")
    return np.random.SeedSequence([*seeds, STREAMS[name], *parts])


def rng(seed: int | Sequence[int], name: str, *parts: int) -> np.random.Generator:
    """Return NumPy's generator of a named stream; arguments and errors as in `sequence`.

    Example:
        >>> rng(0, "held-out split").integers(10) == rng(0, "held-out split").integers(10)
        True
    """
    return np.random.default_rng(sequence(seed, name, *parts))
