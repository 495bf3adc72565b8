"""The mean of the difference between the two models and its principal components."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from anaglyph.core.errors import InputError


@dataclass(frozen=True)
class DifferenceSpace:
    """The mean of h_tuned - h_base over training tokens, and its principal components.

    Attributes:
        mean: The mean.
        components: Orthonormal rows, largest variance first. Their signs are arbitrary.
        deviations: Standard deviation of the difference along each.
        mean_square: Mean of ||h_tuned - h_base||^2: all variances and ||mean||^2 together.
    """

    mean: Float64[np.ndarray, " d"]
    components: Float64[np.ndarray, "components d"]
    deviations: Float64[np.ndarray, " components"]
    mean_square: float = 0.0

    @classmethod
    def of(cls, differences: Iterable[Tensor]) -> "DifferenceSpace":
        """Compute all from blocks of differences [tokens, d], in one pass and float64.

        Raises:
            InputError: There are no tokens.
        """
        tokens, total, products = 0, None, None
        for block in differences:
            values = block.double().cpu()
            if total is None or products is None:
                total = torch.zeros(values.shape[1], dtype=torch.float64)
                products = torch.zeros(values.shape[1], values.shape[1], dtype=torch.float64)
            tokens += len(values)
            total += values.sum(0)
            products.addmm_(values.T, values)
        if total is None or products is None or tokens == 0:
            raise InputError("there are no training tokens to measure the mean difference on")
        mean = total / tokens
        covariance = products / tokens - torch.outer(mean, mean)
        values, vectors = torch.linalg.eigh(covariance)
        deviations = values.flip(0).clamp(min=0).sqrt()
        return cls(
            mean.numpy(),
            vectors.T.flip(0).contiguous().numpy(),
            deviations.numpy(),
            float(products.trace()) / tokens,
        )
