"""JumpReLU: a learned threshold for each latent (Rajamanoharan et al., arXiv 2407.14435).

f_j = z_j where z_j > theta_j, else 0. The jump has no useful derivative, so thresholds are learned
by straight-through estimators with a rectangle of width ``BANDWIDTH`` (equations 11 and 12 there):

    d f_j / d theta_j       := -theta_j / BANDWIDTH   where |z_j - theta_j| < BANDWIDTH / 2
    d [z_j > theta_j] / d theta_j := -1 / BANDWIDTH   in the same place

The penalty ``WEIGHT`` * (L0 / k - 1)^2 aims at a mean of k active latents (appendix of that paper);
it acts only on the thresholds; codes and encoder get gradients from the reconstruction only.
"""

from typing import Any

import torch
from torch import Tensor

from anaglyph.dictionaries.kernels import Active
from anaglyph.dictionaries.sparsity.base import SPARSITIES, Batch, Penalty, Sparsity
from anaglyph.dictionaries.sparsity.topk import BatchTopK
from anaglyph.dictionaries.weights import Weights

BANDWIDTH = 0.1
WEIGHT = 0.1
"""Weight of the penalty per dimension of the activations."""


@SPARSITIES.register("jumprelu")
class JumpReLU(Sparsity):
    """Activations above a threshold that each latent learns, aimed at k active ones per token.

    Thresholds start where BatchTopK would cut the first batch, so that L0 starts at k.
    """

    learns_threshold = True

    _started = False

    def prepare(self, weights: Weights) -> None:
        """Add the thresholds to the weights."""
        if weights.threshold is None:
            weights.threshold = torch.zeros_like(weights.encoder_bias)
        else:
            self._started = True
        self._threshold = weights.threshold
        self._width = sum(len(bias) for bias in weights.decoder_bias)

    def select(self, pre: Tensor, bias: Tensor, norms: Tensor) -> Active:
        """Return the activations above their thresholds."""
        self._pre, self._bias = pre, bias
        if not self._started:
            first = BatchTopK(self.k, self.kernels)
            first.group = self.group
            first.select(pre, bias, norms)
            tiny = torch.finfo(norms.dtype).tiny
            self._threshold.copy_((first.threshold or 0.0) / norms.clamp(min=tiny))
            self._started = True
        return self.kernels.above(pre, bias, self._threshold)

    def penalty(self, batch: Batch) -> Penalty:
        """Return the L0 penalty and the thresholds' gradient."""
        threshold, own = self._threshold, len(self._pre)
        tokens = int(self.group.sum(own))
        low = self.kernels.above(self._pre, self._bias, (threshold - BANDWIDTH / 2).clamp_(min=0))
        near = low.values - threshold[low.indices] < BANDWIDTH / 2
        window = low.only(near)

        counts = self.group.total(batch.columns.offsets.diff().float())
        l0 = float(counts.sum() if batch.prices is None else counts @ batch.prices) / tokens
        weight = WEIGHT * self._width
        by_l0 = 2 * weight * (l0 / self.k - 1) / self.k / tokens
        latents = window.indices.long()
        gradient = batch.code_gradients(window).mul_(threshold[latents])
        gradient += by_l0 if batch.prices is None else by_l0 * batch.prices[latents]
        out = torch.empty(len(threshold), 1, device=threshold.device)
        ones = torch.ones(own, 1, device=threshold.device)
        columns = self.kernels.columns(window, len(threshold))
        self.kernels.weight_gradients(columns, gradient.mul_(-1 / BANDWIDTH), ones, out)
        return Penalty(weight * (l0 / self.k - 1) ** 2, by_threshold=out[:, 0])

    def infer(self, pre: Tensor, bias: Tensor, norms: Tensor) -> Active:
        """Return the activations above their thresholds."""
        return self.kernels.above(pre, bias, self._threshold)

    def state(self) -> dict[str, Any]:
        """Return whether the thresholds have been set."""
        return {"started": self._started}

    def restore(self, state: dict[str, Any]) -> None:
        """Restore whether the thresholds have been set."""
        self._started = state["started"]
