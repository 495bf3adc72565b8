"""L1: every positive activation is active, and a penalty keeps them few and small.

    penalty = mu * mean_x sum_j f_j s_j,  s_j = sum_m ||d_j^m||

with gradients through the codes and through the norms (docs/maths.md, section 1; Lindsey et al.,
"Sparse Crosscoders", 2024). Without the latter a latent would shrink f and lengthen d at no cost.
"""

import torch
from torch import Tensor

from anaglyph.dictionaries.kernels import Active
from anaglyph.dictionaries.sparsity.base import SPARSITIES, Batch, Penalty, Sparsity

WARM_UP = 1 / 5
"""Fraction of the training over which mu rises linearly to its value: a full penalty on random
weights kills latents before they have found anything."""
DEFAULT = 1.76
"""mu for the squared norm; see ``default_mu``."""
UNEXPLAINED = 0.2


def default_mu(norm: str, widths: tuple[int, ...]) -> float:
    """Return a mu for activations scaled to unit variance a dimension.

    With the squared norm the penalty takes mu / 2 off every code (times its decoder's norm), which
    has to exceed the noise along a direction; that noise does not depend on the width, and so
    neither does mu. 1.76 gives L0 = 42 to a crosscoder and 10 to a diff-SAE of SmolLM2-135M, where
    BatchTopK would have 32 and 8, and 5 on planted pairs with a true L0 of 3.6.

    An error weighs 2 ||e|| times as much squared as it does unsquared. With a fifth of the variance
    unexplained ||e||^2 is a fifth of the width: 1.76 is then the same as the paper's 0.041 at its
    width of 2304 (arXiv 2504.02922). Where far more is explained, the unsquared norm needs more.
    """
    if norm == "unsquared":
        return DEFAULT / (2 * (UNEXPLAINED * sum(widths) / len(widths)) ** 0.5)
    return DEFAULT


@SPARSITIES.register("l1")
class L1(Sparsity):
    """All positive activations, penalised by their size times the norms of their decoders."""

    takes_k = False
    takes_mu = True

    _risen = 1.0

    @property
    def mu_now(self) -> float:
        """What ``penalty`` goes by; below ``mu`` while it rises."""
        return (self.settings.mu or 0.0) * self._risen

    def begin(self, step: int) -> None:
        """Raise mu over the first fifth of the training."""
        self._risen = min(1.0, (step + 1) / max(1.0, WARM_UP * self.steps))

    def select(self, pre: Tensor, bias: Tensor, norms: Tensor) -> Active:
        """Return all positive activations."""
        return self._above(0.0, pre, bias, norms)

    def penalty(self, batch: Batch) -> Penalty:
        """Return the penalty at the present mu."""
        active, norms = batch.active, batch.norms
        weight = self.mu_now / self.group.sum(len(active.offsets) - 1)
        # Sum of each latent's values, by the kernel that sums rows in a fixed order.
        sums = torch.empty(len(norms), 1, device=norms.device)
        ones = torch.ones(len(active.offsets) - 1, 1, device=norms.device)
        self.kernels.weight_gradients(batch.columns, active.values, ones, sums)
        by_norm = sums[:, 0] * weight
        loss = float(by_norm.double() @ norms.double())
        return Penalty(loss, weight * norms[active.indices], by_norm)

    def infer(self, pre: Tensor, bias: Tensor, norms: Tensor) -> Active:
        """Return all positive activations."""
        return self._above(0.0, pre, bias, norms)
