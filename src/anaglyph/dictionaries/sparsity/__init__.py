"""How pre-activations become sparse codes, one small class a kind of sparsity."""

from anaglyph.dictionaries.sparsity.base import SPARSITIES, Sparsity
from anaglyph.dictionaries.sparsity.topk import BatchTopK, TopK

__all__ = ["SPARSITIES", "BatchTopK", "Sparsity", "TopK"]
