"""TopK, BatchTopK, and BatchTopK over nested dictionaries."""

import math
from typing import Any

import torch
from torch import Tensor

from anaglyph.core.errors import InputError
from anaglyph.dictionaries.kernels import Active
from anaglyph.dictionaries.sparsity.base import SPARSITIES, Sparsity

# The filter before the exact selection is this fraction of the last batch's smallest kept score.
SLACK = 0.9


@SPARSITIES.register("batchtopk")
class BatchTopK(Sparsity):
    """The k * tokens largest positive scores of the whole batch, in any distribution over tokens.

    Inference takes each token alone: it keeps scores above a threshold, which is the moving average
    of the smallest kept score over the last steps.
    """

    selects_k = True

    _bound = 0.0

    @property
    def decay(self) -> float:
        """Decay of the threshold's moving average: for long runs 0.999, as in the paper.

        A short run averages over its last tenth, because scores of early steps are quite different.
        """
        return max(0.0, min(0.999, 1 - 10 / self.steps))

    def select(self, pre: Tensor, bias: Tensor, norms: Tensor) -> Active:
        """Return the largest scores exactly, without sorting the batch or a limit per token."""
        total = self.group.sum
        wanted = round(min(self.k_now, pre.shape[1]) * total(pre.shape[0]))
        active = self._above(self._bound, pre, bias, norms)
        while total(len(active.indices)) < wanted and self._bound > 0:
            self._bound = self._bound * 0.5 if self._bound > 1e-3 * (self.threshold or 0) else 0.0
            active = self._above(self._bound, pre, bias, norms)
        if self.exact is not None:
            active = self.exact(active)
        scores = active.values * norms[active.indices]
        # A score that is positive in the rough product need not be positive.
        wanted = min(wanted, int(total(int((scores > 0).sum()))))
        if wanted == 0:
            return self._above(math.inf, pre, bias, norms)
        if self.group.size > 1:
            active, smallest = self._largest_of_all(active, scores, wanted)
        elif len(scores) > wanted:
            active, smallest = self.kernels.largest(active, scores, wanted)
        else:
            smallest = float(scores.min())
        self._bound = SLACK * smallest
        if self.threshold is None:
            self.threshold = smallest
        self.threshold += (1 - self.decay) * (smallest - self.threshold)
        return active

    def _largest_of_all(self, active: Active, scores: Tensor, count: int) -> tuple[Active, float]:
        """Return this process's entries among the largest of the whole batch, as one would."""
        everything = torch.cat(self.group.joined(scores))
        kth = everything.kthvalue(len(everything) - count + 1).values
        keep, tied = scores > kth, scores == kth
        places = count - int((everything > kth).sum())
        if int((everything == kth).sum()) == places:
            return active.only(keep | tied), float(kth)
        # Of equal scores the earlier tokens win, then the lower latents. Token t of process r is
        # token t * size + r of the batch.
        tokens = torch.repeat_interleave(active.offsets.diff())[tied] * self.group.size
        order = [(tokens + self.group.rank).tolist(), active.indices[tied].tolist()]
        entries = sorted(
            (token, latent, rank)
            for rank, (theirs, latents) in enumerate(self.group.exchange(order))
            for token, latent in zip(theirs, latents, strict=True)
        )[:places]
        mine = sum(rank == self.group.rank for _, _, rank in entries)
        keep |= tied & (tied.cumsum(0) <= mine)
        return active.only(keep), float(kth)

    @property
    def can_screen(self) -> bool:
        """Whether there is a bound to screen with; true after the first step."""
        return self._bound > 0

    def infer(self, pre: Tensor, bias: Tensor, norms: Tensor) -> Active:
        """Return the scores above the threshold."""
        return self._above(self.threshold or 0.0, pre, bias, norms)

    def state(self) -> dict[str, Any]:
        """Return the threshold and the filter's bound."""
        return {"threshold": self.threshold, "bound": self._bound}

    def restore(self, state: dict[str, Any]) -> None:
        """Restore a saved threshold and bound."""
        self.threshold = state["threshold"]
        self._bound = state["bound"] or 0.0


@SPARSITIES.register("matryoshka")
class Matryoshka(BatchTopK):
    """BatchTopK whose first 1/16 and 1/4 of the latents must also reconstruct the input alone.

    There is one selection over the whole dictionary. The loss is the mean over the nested prefixes
    of the reconstruction by their active latents (Matryoshka BatchTopK, arXiv 2503.17547). A small
    dictionary gains nothing from splitting a feature, so the first latents stay general.
    """

    def prefixes(self, latents: int) -> tuple[int, ...]:
        """Return 1/16, 1/4 and all of the latents."""
        return tuple(sorted({max(1, latents // 16), max(1, latents // 4), latents}))


@SPARSITIES.register("topk")
class TopK(Sparsity):
    """The k largest positive scores of each token, in training and after."""

    selects_k = True
    whole_k = True

    def select(self, pre: Tensor, bias: Tensor, norms: Tensor) -> Active:
        """Return the largest scores of each token."""
        if self.k > pre.shape[1]:
            raise InputError(f"k={self.k} exceeds the {pre.shape[1]} latents")
        k = min(round(self.k_now), pre.shape[1])
        scores = (pre + bias).mul_(norms)
        largest, latents = scores.topk(k, dim=1, sorted=False)
        latents, order = latents.sort(dim=1)
        positive = largest.gather(1, order) > 0
        values = (pre.gather(1, latents) + bias[latents])[positive]
        offsets = torch.zeros(len(pre) + 1, dtype=torch.int64, device=pre.device)
        torch.cumsum(positive.sum(1), 0, out=offsets[1:])
        return Active(latents[positive].int(), values, offsets)

    def infer(self, pre: Tensor, bias: Tensor, norms: Tensor) -> Active:
        """Return the largest scores of each token."""
        return self.select(pre, bias, norms)
