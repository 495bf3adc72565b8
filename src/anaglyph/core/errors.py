"""The few exception types that anaglyph raises on purpose.

The command line prints any of them as one line and exits with code 2; a traceback therefore always
means a bug of ours.
"""


class AnaglyphError(Exception):
    """Base of everything that anaglyph raises on purpose."""


class InputError(AnaglyphError, ValueError):
    """An argument, file, field, shape or setting that cannot be used; the message names it."""


class ModelError(AnaglyphError):
    """A model, adapter or tokenizer that cannot be loaded or does not fit its partner."""


class StoreError(AnaglyphError):
    """An artifact on disk that is damaged, unfinished or belongs to another run."""


class PeerError(AnaglyphError):
    """Another process of a command that runs in several has ended, or failed."""


class EndpointError(AnaglyphError):
    """A language-model endpoint that cannot be reached, refuses, or answers what cannot be used."""
