"""The tiny pairs, shared with the other folder that looks at them."""

from tiny_pairs import adapted, adapted_folders, corpus, lantern, pair, whole, whole_folders

__all__ = ["adapted", "adapted_folders", "corpus", "lantern", "pair", "whole", "whole_folders"]
