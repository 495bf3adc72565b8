"""Massive activations: the one definition of such tokens.

Language models have activations a hundred times the usual size on a few tokens, mostly the first of
a sequence, which serves as attention sink (Sun et al. 2024, "Massive activations in large language
models", arXiv 2402.17762). In SmolLM2-135M, layer 15, such an activation is 160 times as long as
any other, and a fine-tune changes it as strongly: 98% of the difference's energy was on 1% of the
tokens. A ranking by energy would show nothing else.

A token is massive if its distance from the centre exceeds ``MULTIPLE`` times a quantile of the
distances of all tokens. That is far beyond any feature, which can be five to twelve times the
median.
"""

import numpy as np
from jaxtyping import Bool, Float, Float64
from numpy import ndarray

QUANTILE = 0.95
MULTIPLE = 15.0
MASSIVE = (QUANTILE, MULTIPLE)
"""The quantile of the distances, and the multiple of it beyond which a token is massive."""


def usual_distance(distances: Float[ndarray, "*sides tokens"]) -> Float64[ndarray, "*sides 1"]:
    """Return the 95th percentile of the tokens' distances from the centre, for each side."""
    return np.quantile(distances, QUANTILE, axis=-1, keepdims=True).astype(np.float64)


def is_massive(distances: Float[ndarray, "*sides tokens"]) -> Bool[ndarray, "*sides tokens"]:
    """Return which tokens are of massive activation, for each side.

    Example:
        >>> is_massive(np.array([1.0] * 99 + [160.0])).sum()
        1
    """
    return distances > MULTIPLE * usual_distance(distances)
