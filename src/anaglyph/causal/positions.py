"""Which tokens an edit replaces, and which predictions are judged (docs/maths.md, section 4).

A prediction belongs to the token at which it is made: the first word of a reply is predicted at the
last token before it, so that token is the first of the reply's predictions.
"""

from typing import get_args

import numpy as np
from jaxtyping import Bool

from anaglyph.core.errors import InputError
from anaglyph.core.settings import Place
from anaglyph.corpus import ROLES, TokenCorpus

PLACES: tuple[Place, ...] = get_args(Place)
"""Every token; those at which a token of the assistant is predicted; of these the first nine of
each reply, where chat models differ most (arXiv 2504.02922); the chat template's own tokens, the
beginning of the sequence among them."""

_FIRST = 9


def token_mask(corpus: TokenCorpus, place: str) -> Bool[np.ndarray, " tokens"]:
    """Return which tokens of the corpus are of the given place.

    Raises:
        InputError: There is no such place.
    """
    if place not in PLACES:
        raise InputError(f"position {place!r} is unknown: use one of {', '.join(PLACES)}")
    if place == "all":
        return np.ones(corpus.n_tokens, dtype=bool)
    if place == "template":
        return np.isin(corpus.roles, [ROLES.index("template"), ROLES.index("bos")])
    last = corpus.offsets[1:] - 1
    predicting = np.append(corpus.roles[1:] == ROLES.index("assistant"), False)
    predicting[last] = False
    if place == "assistant":
        return predicting
    # Runs of predicting tokens; one ends with its sequence, because the last predicts nothing.
    number = np.arange(corpus.n_tokens)
    starts = predicting & ~np.insert(predicting[:-1], 0, False)
    begun = np.maximum.accumulate(np.where(starts, number, -1))
    return predicting & (number - begun < _FIRST)
