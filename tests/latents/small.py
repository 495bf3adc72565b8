"""Small random dictionaries and stores for the tests of the table and the examples."""

import numpy as np
import torch

from anaglyph.dictionaries import Dictionary, Weights, get_method
from anaglyph.store import PairedStore


def random_dictionary(method, latents, widths, rng, threshold=0.5):
    """Return an untrained dictionary whose latents fire now and then; latent 0 never does."""
    spec = get_method(method)
    sources = spec.widths(*widths)

    def matrices():
        return tuple(
            torch.from_numpy(rng.standard_normal((latents, width)).astype(np.float32))
            for width in sources
        )

    bias = torch.full((latents,), -0.5)
    bias[0] = -1e6
    decoder_bias = tuple(
        torch.from_numpy(rng.standard_normal(w).astype(np.float32)) for w in sources
    )
    weights = Weights(matrices(), bias, matrices(), decoder_bias)
    return Dictionary(spec, weights, k=2, threshold=threshold)


def random_store(folder, rng, *, sequences=12, length=7, widths=(5, 5), roles=None, mean=0.0):
    """Return a store of correlated random activations in sequences of one length."""
    tokens = sequences * length
    shared = rng.standard_normal((tokens, max(widths)))
    base, tuned = (
        (shared[:, :width] + 0.5 * rng.standard_normal((tokens, width)) + mean).astype(np.float32)
        for width in widths
    )
    return PairedStore.from_arrays(
        base,
        tuned,
        folder,
        token_ids=np.arange(tokens),
        sequence_ids=np.repeat(np.arange(sequences), length),
        roles=roles,
    )


def arrays(store):
    """Return all activations of a store as float32 arrays."""
    base, tuned = store.gather(np.arange(store.n_tokens))
    return {"base": base.numpy(), "tuned": tuned.numpy()}
