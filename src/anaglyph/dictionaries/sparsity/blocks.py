"""Several budgets: each block of latents selects for itself."""

from typing import Any

import torch
from torch import Tensor

from anaglyph.core.settings import DictionarySettings
from anaglyph.dictionaries.kernels import Active, Kernels
from anaglyph.dictionaries.sparsity.base import Sparsity
from anaglyph.dictionaries.weights import Weights

Budgets = tuple[tuple[int, int | float], ...]


class Blocks(Sparsity):
    """A sparsity a block, side by side; blocks are given as (end, k), ascending."""

    def __init__(
        self,
        cls: type[Sparsity],
        budgets: Budgets,
        kernels: Kernels,
        steps: int = 1,
        settings: DictionarySettings | None = None,
    ) -> None:
        super().__init__(sum(k for _, k in budgets), kernels, steps, settings)
        self._ends = [end for end, _ in budgets]
        self._parts = [cls(k, kernels, steps, settings) for _, k in budgets]

    def prepare(self, weights: Weights) -> None:
        """Let the blocks select together with the same processes."""
        for part in self._parts:
            part.group = self.group

    def begin(self, step: int) -> None:
        """Tell every block."""
        for part in self._parts:
            part.begin(step)
        self.k_now = sum(part.k_now for part in self._parts)

    def prefixes(self, latents: int) -> tuple[int, ...]:
        """Return the prefixes of the whole dictionary."""
        return self._parts[0].prefixes(latents)

    def select(self, pre: Tensor, bias: Tensor, norms: Tensor) -> Active:
        """Return what the blocks select."""
        return self._join("select", pre, bias, norms)

    def infer(self, pre: Tensor, bias: Tensor, norms: Tensor) -> Active:
        """Return what the blocks select, tokens judged alone."""
        return self._join("infer", pre, bias, norms)

    def bounds(self, norms: Tensor) -> Tensor | None:
        """Return each block's threshold over the norms, if blocks have thresholds."""
        scores = torch.empty_like(norms)
        for block, part in zip(self._blocks(), self._parts, strict=True):
            if part.threshold is None:
                return None
            scores[block] = part.threshold
        return scores / norms.clamp(min=torch.finfo(norms.dtype).tiny)

    def state(self) -> dict[str, Any]:
        """Return the states of the blocks."""
        return {"blocks": [part.state() for part in self._parts]}

    def restore(self, state: dict[str, Any]) -> None:
        """Take up the states of the blocks."""
        for part, saved in zip(self._parts, state["blocks"], strict=True):
            part.restore(saved)

    def _blocks(self) -> list[slice]:
        return [slice(*pair) for pair in zip([0, *self._ends], self._ends, strict=False)]

    def _join(self, what: str, pre: Tensor, bias: Tensor, norms: Tensor) -> Active:
        parts, tokens = [], []
        for block, part in zip(self._blocks(), self._parts, strict=True):
            # Kernels take contiguous matrices.
            own = pre[:, block].contiguous()
            found: Active = getattr(part, what)(own, bias[block], norms[block])
            parts.append(found._replace(indices=found.indices + block.start))
            tokens.append(torch.repeat_interleave(found.offsets.diff()))
        # Stable: within a token the blocks stay in order, and latents ascending.
        order = torch.cat(tokens).argsort(stable=True)
        return Active(
            torch.cat([part.indices for part in parts])[order],
            torch.cat([part.values for part in parts])[order],
            torch.stack([part.offsets for part in parts]).sum(0),
        )
