"""What is measured of a patched prediction: KL to either model, surprise, top-1 agreement.

After the logits all is float64, a few rows at a time, for the reasons given in ``direct/kl.py``.
``KL(p || q) = sum_v p_v (z_v - y_v) - lse(z) + lse(y)`` for logits z of p and y of q: the logits
are subtracted before anything is summed, so that near-equal ones lose no digits, and one
exponential of the patched logits serves every measure.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from anaglyph.errors import InputError

MEASURES = ("kl", "kl_other", "nll", "top1")
_SLICE = 2**20


@dataclass(frozen=True)
class Predictions:
    """A model's own logits at some tokens with the logarithm of their normalisers."""

    logits: Float[Tensor, "tokens vocab"]
    normalisers: Float64[Tensor, " tokens"]

    @classmethod
    def of(cls, logits: Float[Tensor, "tokens vocab"]) -> "Predictions":
        """Add the normalisers."""
        parts = [part.double().logsumexp(-1) for part in logits.split(_rows(logits))]
        return cls(logits, torch.cat(parts))

    def at(self, tokens: Tensor) -> "Predictions":
        """Return the predictions at some of the tokens."""
        return Predictions(self.logits[tokens], self.normalisers[tokens])


def token_measures(
    own: Predictions,
    other: Predictions,
    patched: Float[Tensor, "tokens vocab"],
    following: Int64[Tensor, " tokens"],
) -> Float64[Tensor, "four tokens"]:
    """Return the `MEASURES` of every token, in this order.

    Args:
        own: Of the model whose remaining layers ran: ``kl`` is KL(own || patched), nats, and
            ``top1`` is 1 where both have the same likeliest token.
        other: Of the other model: ``kl_other`` is KL(other || patched).
        patched: Logits of the patched model.
        following: The token that comes next, -1 where none does; ``nll`` is its surprise in nats,
            0 where none comes.

    Raises:
        InputError: A logit is NaN or infinite.
    """
    found = torch.zeros(4, len(patched), dtype=torch.float64)
    rows = _rows(patched)
    for start in range(0, len(patched), rows):
        part = slice(start, start + rows)
        y = patched[part].double()
        normaliser = y.logsumexp(-1)
        for place, reference in enumerate((own, other)):
            z, lse = reference.logits[part].double(), reference.normalisers[part]
            p = (z - lse[:, None]).exp_()
            found[place, part] = (p * z.sub_(y)).sum(-1) - lse + normaliser
        nexts = following[part]
        surprise = normaliser - y.gather(1, nexts.clamp(min=0)[:, None])[:, 0]
        found[2, part] = torch.where(nexts >= 0, surprise, 0.0)
        found[3, part] = (own.logits[part].argmax(-1) == y.argmax(-1)).double()
    if not found.isfinite().all():
        raise InputError("a model's logits are NaN or infinite: the KL divergence is undefined")
    # Exact arithmetic cannot go below zero; rounding can, by about 1e-15.
    found[:2].clamp_(min=0)
    return found


def _rows(logits: Tensor) -> int:
    return max(1, _SLICE // logits.shape[1])
