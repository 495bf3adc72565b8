"""The typical activation of each model: the zero from which latents are measured.

It is the median of each dimension, not the mean. Massive tokens (``store/massive.py``) would move
the mean: in SmolLM2-135M, layer 15, one token in a hundred has a norm of 25,000 where the others
have 150 to 250, and moves the mean about as far as an ordinary token is from it.
"""

import numpy as np
from jaxtyping import Float32
from numpy import ndarray

from anaglyph.core.rng import rng
from anaglyph.store import PairedStore

SAMPLE_TOKENS = 8192


def typical_activations(
    store: PairedStore,
) -> tuple[Float32[ndarray, " d_base"], Float32[ndarray, " d_tuned"]]:
    """Return each model's median activation over (up to) 8192 tokens, the same for both.

    The tokens are drawn at random, once and for all for a number of tokens: a regular stride could
    fall in step with sequences of one length and meet nothing but first tokens.
    """
    size = min(store.n_tokens, SAMPLE_TOKENS)
    generator = rng((), "typical activation")
    tokens = np.sort(generator.choice(store.n_tokens, size, replace=False))
    base, tuned = (np.median(side.numpy(), axis=0) for side in store.gather(tokens))
    return base, tuned
