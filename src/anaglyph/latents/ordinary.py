"""Ordinary tokens and those of massive activation: shares of the difference, and sizes.

`store/massive.py` says which tokens are massive, and why they are set apart.
"""

import numpy as np
from jaxtyping import Float32, Float64
from numpy import ndarray

from anaglyph.dictionaries import Dictionary
from anaglyph.store import PairedStore
from anaglyph.store.massive import is_massive, usual_distance


def ordinary_sizes(
    store: PairedStore,
    centres: tuple[Float32[ndarray, " d_base"], Float32[ndarray, " d_tuned"]],
) -> Float64[ndarray, " tokens"]:
    """Return the factor that brings every token to ordinary size: 1, less for a massive token.

    For a token that is massive in either model, it is the usual distance from the centre over the
    token's own.
    """
    distances = np.empty((2, store.n_tokens))
    for block in store.blocks():
        for side, values in enumerate((block.base, block.tuned)):
            distances[side, block.tokens] = np.linalg.norm(
                values.float().numpy() - centres[side], axis=1
            )
    usual, massive = usual_distance(distances), is_massive(distances)
    return np.where(massive, usual / np.where(massive, distances, 1.0), 1.0).min(axis=0)


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
