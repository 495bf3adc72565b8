"""The methods: what each dictionary reads and what it rebuilds.

``base.py`` says what a method has to say, ``saes.py`` and ``crosscoders.py`` are those that come
with the package; others join through the registry and its entry point.
"""

from anaglyph.dictionaries.methods.base import (
    METHODS,
    DictionaryMethod,
    describe_methods,
    get_method,
    list_methods,
    register,
)
from anaglyph.dictionaries.methods.crosscoders import (
    Crosscoder,
    DedicatedFeatureCrosscoder,
    DeltaCrosscoder,
    DesignatedCrosscoder,
    LambdaBridge,
)
from anaglyph.dictionaries.methods.saes import (
    SAE,
    BaseSAE,
    DiffSAE,
    ReversedDiffSAE,
    TunedSAE,
)

__all__ = [
    "METHODS",
    "SAE",
    "BaseSAE",
    "Crosscoder",
    "DedicatedFeatureCrosscoder",
    "DeltaCrosscoder",
    "DesignatedCrosscoder",
    "DictionaryMethod",
    "DiffSAE",
    "LambdaBridge",
    "ReversedDiffSAE",
    "TunedSAE",
    "describe_methods",
    "get_method",
    "list_methods",
    "register",
]
