"""The methods: what each dictionary reads and reconstructs.

``base.py`` defines the interface; ``saes.py`` and ``crosscoders.py`` have the methods of this
package. Others register through the registry and its entry point.
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
