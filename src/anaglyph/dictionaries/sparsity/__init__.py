"""How pre-activations become sparse codes, one small class a kind of sparsity."""

from anaglyph.dictionaries.kernels import Kernels
from anaglyph.dictionaries.sparsity.base import SPARSITIES, Batch, Penalty, Sparsity
from anaglyph.dictionaries.sparsity.blocks import Blocks
from anaglyph.dictionaries.sparsity.jumprelu import JumpReLU
from anaglyph.dictionaries.sparsity.l1 import L1, default_mu
from anaglyph.dictionaries.sparsity.topk import BatchTopK, Matryoshka, TopK

__all__ = [
    "L1",
    "SPARSITIES",
    "Batch",
    "BatchTopK",
    "Blocks",
    "JumpReLU",
    "Matryoshka",
    "Penalty",
    "Sparsity",
    "TopK",
    "default_mu",
    "make_sparsity",
]


def make_sparsity(
    name: str,
    k: int | float | None,
    kernels: Kernels,
    steps: int = 1,
    *,
    budgets: tuple[tuple[int, int | float], ...] | None = None,
    mu: float | None = None,
    anneal: float = 0.0,
) -> Sparsity:
    """Return the sparsity of that name, one a block where blocks have budgets of their own."""
    cls = SPARSITIES.get(name)
    if budgets is not None:
        return Blocks(cls, budgets, kernels, steps, anneal=anneal)
    return cls(k, kernels, steps, mu=mu, anneal=anneal)
