"""Paired activations on disk: collected once, read without loading them into memory."""

from anaglyph.store.collecting import collect
from anaglyph.store.difference import DifferenceSpace
from anaglyph.store.format import DType
from anaglyph.store.moments import Moments, Statistics
from anaglyph.store.paired_store import Block, PairedStore

__all__ = ["Block", "DType", "DifferenceSpace", "Moments", "PairedStore", "Statistics", "collect"]
