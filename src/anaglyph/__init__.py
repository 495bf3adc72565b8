"""anaglyph: what did a fine-tune change inside a language model?

The public names are loaded when they are first used, so that the command line answers at once.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from anaglyph.behaviour.behave import behave
    from anaglyph.causal import kl_recovered
    from anaglyph.core.errors import AnaglyphError, InputError, ModelError, StoreError
    from anaglyph.core.schemas import Claim, Finding
    from anaglyph.corpus import load_corpus
    from anaglyph.dictionaries import Dictionary, list_methods, register, train
    from anaglyph.findings import find
    from anaglyph.latents import score
    from anaglyph.pair import ModelPair
    from anaglyph.run import diff
    from anaglyph.store import PairedStore, collect

_ROOMS = {
    "AnaglyphError": "core.errors",
    "Claim": "core.schemas",
    "Dictionary": "dictionaries",
    "Finding": "core.schemas",
    "InputError": "core.errors",
    "ModelError": "core.errors",
    "ModelPair": "pair",
    "PairedStore": "store",
    "StoreError": "core.errors",
    "behave": "behaviour.behave",
    "collect": "store",
    "diff": "run",
    "find": "findings",
    "kl_recovered": "causal",
    "list_methods": "dictionaries",
    "load_corpus": "corpus",
    "register": "dictionaries",
    "score": "latents",
    "train": "dictionaries",
}

__all__ = [  # noqa: RUF022 - the names in the order of the data
    "ModelPair",
    "load_corpus",
    "collect",
    "PairedStore",
    "train",
    "register",
    "list_methods",
    "Dictionary",
    "score",
    "kl_recovered",
    "find",
    "Finding",
    "behave",
    "Claim",
    "diff",
    "AnaglyphError",
    "InputError",
    "ModelError",
    "StoreError",
]


def __getattr__(name: str) -> Any:
    if name not in _ROOMS:
        raise AttributeError(f"module 'anaglyph' has no attribute {name!r}")
    return getattr(import_module(f"anaglyph.{_ROOMS[name]}"), name)
