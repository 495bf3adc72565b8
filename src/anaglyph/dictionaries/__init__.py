"""Dictionaries: training, sparse codes, saving, and the registry of methods.

Methods differ by one small class (``methods.py``), sparsities by another (``sparsity/``); there
is one trainer (``training.py``), one saver (``saving.py``) and one :class:`Dictionary`.
"""

from anaglyph.dictionaries.codes import Codes
from anaglyph.dictionaries.dictionary import Dictionary
from anaglyph.dictionaries.methods import (
    METHODS,
    DictionaryMethod,
    describe_methods,
    get_method,
    list_methods,
    register,
)
from anaglyph.dictionaries.saving import Selection
from anaglyph.dictionaries.training import train
from anaglyph.dictionaries.weights import Weights

__all__ = [
    "METHODS",
    "Codes",
    "Dictionary",
    "DictionaryMethod",
    "Selection",
    "Weights",
    "describe_methods",
    "get_method",
    "list_methods",
    "register",
    "train",
]
