"""The interface of a kernel backend: the sparse operations between the dense products.

With k of F latents active, only the encoder product is dense. Everything here costs
O(tokens * k * d), except the filter over the pre-activations and the optimiser.
"""

from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor


class Active(NamedTuple):
    """Active latents of a batch, compressed by token, latents ascending in each token."""

    indices: Tensor
    """int32 [active], the latent."""
    values: Tensor
    """float32 [active], its activation."""
    offsets: Tensor
    """int64 [tokens + 1]."""

    def only(self, keep: Tensor) -> "Active":
        """Return the entries at which ``keep`` [active] is true."""
        before = torch.zeros(len(keep) + 1, dtype=torch.int64, device=keep.device)
        torch.cumsum(keep, 0, out=before[1:])
        return Active(self.indices[keep], self.values[keep], before[self.offsets])


class Columns(NamedTuple):
    """The same entries compressed by latent, tokens ascending in each latent."""

    offsets: Tensor
    """int64 [latents + 1]."""
    tokens: Tensor
    """int64 [active]."""
    entries: Tensor
    """int64 [active], the place of the entry in ``Active``."""


class Adam(NamedTuple):
    """The constants of one Adam step; see ``optimiser.py``."""

    rate: float
    beta1: float
    beta2: float
    epsilon: float
    correction1: float
    correction2: float
    scale: float
    """The clipping coefficient, by which the gradient is multiplied first."""


@runtime_checkable
class Kernels(Protocol):
    """One implementation of the operations; all tensors are contiguous and on one device."""

    def above(self, pre: Tensor, bias: Tensor, bounds: Tensor) -> Active:
        """Return the entries of ``pre + bias`` [tokens, latents] that exceed ``bounds`` [latents].

        A bound is never negative, so every returned value is positive.
        """
        ...

    def largest(self, active: Active, scores: Tensor, count: int) -> tuple[Active, float]:
        """Return the ``count`` entries of largest score, and the smallest score among them.

        Of equal scores the earlier tokens win, then the lower latents.
        """
        ...

    def decode(self, active: Active, decoder: Tensor, out: Tensor) -> None:
        """Add sum_j f_j decoder[j] of each token to its row of ``out`` [tokens, d]."""
        ...

    def code_gradients(
        self, active: Active, decoder: Tensor, gradient: Tensor, out: Tensor
    ) -> None:
        """Add <gradient[token], decoder[latent]> of each entry to ``out`` [active]."""
        ...

    def columns(self, active: Active, n_latents: int) -> Columns:
        """Return the entries ordered by latent."""
        ...

    def weight_gradients(
        self, columns: Columns, values: Tensor, matrix: Tensor, out: Tensor
    ) -> Tensor:
        """Set out[j] to the sum over j's entries of values * matrix[token]; ``out`` [latents, d].

        Returns:
            The squared norm of each row, float32 [latents].
        """
        ...

    def cap_rows(self, codes: Tensor, limit: int) -> None:
        """Zero all but the largest ``limit`` values of each row of ``codes``; none is negative.

        Of several equal values at the border, the implementation may keep any.
        """
        ...

    def adam(
        self, weights: Tensor, gradient: Tensor, first: Tensor, second: Tensor, step: Adam
    ) -> Tensor:
        """Do one Adam step on a matrix in place; ``gradient`` stays unchanged.

        Returns:
            The squared norm of each row after the step, float32 [rows].
        """
        ...
