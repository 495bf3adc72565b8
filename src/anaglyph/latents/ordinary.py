"""A latent's share of the difference over ordinary tokens, those of massive activation left out.

The first token of a sequence soaks up attention. In SmolLM2-135M its activation is 160 times as
long as any other, and so is what a fine-tune does to it: in the demo 98% of the difference's energy
stood on 1% of the tokens, and a ranking by energy would have ranked nothing else.
"""

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from anaglyph.dictionaries import Dictionary
from anaglyph.store import PairedStore


def ordinary_difference_share(
    dic: Dictionary, store: PairedStore, written: Float64[ndarray, " latents"]
) -> Float64[ndarray, " latents"]:
    """Return sum (f - mean f)^2 w^2 over sum ||Delta - mean Delta||^2, ordinary tokens alone.

    Args:
        dic: The dictionary; it says which tokens are massive (`Dictionary.pull_factors`).
        store: Activations of models of one width.
        written: Length of what each latent adds to the difference at code 1.
    """
    tokens = 0
    fired, squares = np.zeros(dic.n_latents), np.zeros(dic.n_latents)
    mean, energy = np.zeros(store.d_tuned), 0.0
    for block in store.blocks():
        inputs = dic.spec.scoring_inputs(block.base, block.tuned)
        ordinary = dic.pull_factors(inputs).numpy() == 1
        codes = dic.encode_inputs(inputs)
        kept = ordinary[np.repeat(np.arange(codes.n_tokens), np.diff(codes.offsets))]
        latents, values = codes.indices[kept], codes.values[kept].astype(np.float64)
        fired += np.bincount(latents, values, dic.n_latents)
        squares += np.bincount(latents, values**2, dic.n_latents)
        delta = (block.tuned - block.base).double().numpy()[ordinary]
        mean += delta.sum(0)
        energy += float((delta**2).sum())
        tokens += len(delta)
    spread = np.maximum(squares - fired**2 / max(tokens, 1), 0)
    spread[spread <= 1e-9 * squares] = 0
    total = energy - float((mean**2).sum()) / max(tokens, 1)
    return spread * written**2 / total if total > 0 else np.full(dic.n_latents, np.nan)
