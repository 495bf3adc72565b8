"""What differs without any dictionary: predictions, directions, weights, mixtures of the two."""

from anaglyph.behaviour.prompts import Completion, read_completions, read_prompts
from anaglyph.direct.completions import rank_completions
from anaglyph.direct.tokens import TokenDifferences, token_differences

__all__ = [
    "Completion",
    "TokenDifferences",
    "rank_completions",
    "read_completions",
    "read_prompts",
    "token_differences",
]
