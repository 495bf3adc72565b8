"""Two near-identical language models, read through one tokenizer and run side by side."""

from anaglyph.pair.model_pair import ModelPair, Side

__all__ = ["ModelPair", "Side"]
