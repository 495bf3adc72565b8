"""The auxiliary loss: dead latents learn the error of the live ones.

Per token the top dead latents by pre-activation reconstruct the error e of the live ones, with no
gradient into e: L = sum ||e - e_hat||^2 / sum ||e - mean e||^2, over
all sources together, times ``WEIGHT`` in the total loss (docs/maths.md, section 1).
"""

from typing import NamedTuple

import torch
from torch import Tensor

from anaglyph.core.processes import ALONE, Group
from anaglyph.dictionaries.kernels import Kernels
from anaglyph.dictionaries.weights import Weights

WEIGHT = 1 / 32
COST = 1 / 4


class Auxiliary(NamedTuple):
    """The loss before weighting, and gradients of the weighted loss for the dead latents."""

    loss: float
    encoder: tuple[Tensor, ...]
    encoder_bias: Tensor
    decoder: tuple[Tensor, ...]


def auxiliary_tokens(batch: int, latents: int, dead: int) -> int:
    """Return how many tokens of a batch the loss is estimated on.

    Its five products with the dead latents' weights may cost at most ``COST`` of the encoder's
    product; if most latents are dead, the whole batch would cost several steps. A batch is
    shuffled, so its first tokens are a fair sample.
    """
    return min(batch, max(1, int(COST / 5 * batch * latents / dead)))


def auxiliary(
    dead: Tensor,
    products: Tensor,
    inputs: tuple[Tensor, ...],
    errors: tuple[Tensor, ...],
    weights: Weights,
    kernels: Kernels,
    group: Group = ALONE,
) -> Auxiliary | None:
    """Return the auxiliary loss of a batch, or None if it is 0/0 and does not count.

    Args:
        dead: Indices of the dead latents, int64 [n], n >= 1.
        products: Products with the dead latents' encoder rows, without the bias, [tokens, n].
        inputs: What the encoder read, one [tokens, d] per source.
        errors: Reconstruction minus target, one [tokens, d] per source.
        weights: Current weights.
        kernels: The sparse operations.
        group: The processes that hold the batch together; gradients are each one's part.
    """
    count = group.sum(len(products))
    means = [group.total(error.sum(0)) / count for error in errors]
    centred = [error - mean for error, mean in zip(errors, means, strict=True)]
    spread = group.sum(_square(*centred))
    if not spread > 0:
        return None
    codes = (products + weights.encoder_bias[dead]).relu_()
    limit = max(1, max(error.shape[1] for error in errors) // 2)
    if len(dead) > limit:
        kernels.cap_rows(codes, limit)
    decoders = tuple(matrix[dead] for matrix in weights.decoder)
    # The target is e = -error, so the residual e_hat - e is a sum.
    residuals = tuple(
        torch.addmm(error, codes, matrix) for error, matrix in zip(errors, decoders, strict=True)
    )
    loss = group.sum(_square(*residuals)) / spread
    gradients = tuple(residual.mul_(2 * WEIGHT / spread) for residual in residuals)
    code_gradient = torch.zeros_like(codes)
    for gradient, matrix in zip(gradients, decoders, strict=True):
        code_gradient.addmm_(gradient, matrix.T)
    code_gradient.mul_(codes > 0)
    return Auxiliary(
        loss,
        tuple(code_gradient.T @ values for values in inputs),
        code_gradient.sum(0),
        tuple(codes.T @ gradient for gradient in gradients),
    )


def _square(*matrices: Tensor) -> float:
    return sum(float(torch.linalg.vector_norm(matrix)) ** 2 for matrix in matrices)
