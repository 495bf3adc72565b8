"""How pre-activations become sparse codes, one small class a kind of sparsity."""

from anaglyph.core.errors import InputError
from anaglyph.core.settings import DictionarySettings
from anaglyph.dictionaries.kernels import Kernels
from anaglyph.dictionaries.sparsity.base import SPARSITIES, Batch, Penalty, Sparsity
from anaglyph.dictionaries.sparsity.blocks import Blocks, Budgets
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
    settings: DictionarySettings,
    kernels: Kernels,
    steps: int = 1,
    budgets: Budgets | None = None,
) -> Sparsity:
    """Return the sparsity that the settings name, one a block where blocks have their own budgets.

    Raises:
        InputError: There is no such sparsity, or k is still to be chosen.
    """
    cls, k = SPARSITIES.get(settings.sparsity), settings.k
    if isinstance(k, str):
        raise InputError(f"k={k} must be chosen before it selects: train does that")
    if budgets is not None:
        return Blocks(cls, budgets, kernels, steps, settings)
    return cls(k, kernels, steps, settings)
