"""What is measured of a patched prediction: KL to either model, surprise, top-1 agreement.

After the logits all is summed in float64, a few rows at a time, for the reasons given in
``direct/kl.py``. For logits z of p and y of q,

    KL(p || q) = (sum_v p_v z_v - sum_v p_v y_v) / sum_v p_v - lse(z) + lse(y),

of which all but two parts are the same for every patch. So one exponential a logit, that of the
patched ones, serves every measure. The p_v are kept in float32. Both sums have the same ones, so
that their rounding counts only where z and y differ: it moves the KL by less than the rounding of
the float32 logits themselves does.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float32, Float64, Int64
from torch import Tensor

from anaglyph.core.devices import with_float64
from anaglyph.core.errors import InputError

MEASURES = ("kl", "kl_other", "nll", "top1")
_SLICE = 2**18
"""Logits converted to float64 at a time: a temporary has 2 MB and stays in the cache."""


@dataclass(frozen=True)
class Predictions:
    """A model's own predictions at some tokens, as far as a KL to others needs them."""

    probabilities: Float32[Tensor, "tokens vocab"]
    totals: Float64[Tensor, " tokens"]
    """Sums of the rounded probabilities: 1 but for rounding."""
    expected: Float64[Tensor, " tokens"]
    """Mean logit under the probabilities, times their sum."""
    normalisers: Float64[Tensor, " tokens"]
    """Log-sum-exp of the logits."""
    likeliest: Int64[Tensor, " tokens"]

    @classmethod
    def of(cls, logits: Float[Tensor, "tokens vocab"]) -> "Predictions":
        """Take them from a model's logits."""
        logits = with_float64(logits)
        device = logits.device
        probabilities = torch.empty_like(logits, dtype=torch.float32)
        sums = torch.empty(3, len(logits), dtype=torch.float64, device=device)
        totals, expected, normalisers = sums
        likeliest = torch.empty(len(logits), dtype=torch.int64, device=device)
        for part in _slices(logits):
            z = logits[part].double()
            normalisers[part], likeliest[part] = z.logsumexp(-1), z.argmax(-1)
            probabilities[part] = (z - normalisers[part][:, None]).exp_()
            totals[part] = probabilities[part].double().sum(-1)
            expected[part] = _weighted(probabilities[part], z)
        return cls(probabilities, totals, expected, normalisers, likeliest)


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
    device = own.totals.device
    patched, following = patched.to(device), following.to(device)
    found = torch.zeros(4, len(patched), dtype=torch.float64, device=device)
    for part in _slices(patched):
        y = patched[part].double()
        highest, likeliest = y.max(-1)
        normaliser = (y - highest[:, None]).exp_().sum(-1).log_() + highest
        for place, model in enumerate((own, other)):
            mean = (model.expected[part] - _weighted(model.probabilities[part], y)).div_(
                model.totals[part]
            )
            found[place, part] = mean - model.normalisers[part] + normaliser
        nexts = following[part]
        surprise = normaliser - y.gather(1, nexts.clamp(min=0)[:, None])[:, 0]
        found[2, part] = torch.where(nexts >= 0, surprise, 0.0)
        found[3, part] = (own.likeliest[part] == likeliest).double()
    if not found.isfinite().all():
        raise InputError("a model's logits are NaN or infinite: the KL divergence is undefined")
    # Exact arithmetic cannot go below zero; rounding can, by about 1e-14.
    found[:2].clamp_(min=0)
    return found


def _weighted(
    weights: Float32[Tensor, "tokens vocab"], values: Float64[Tensor, "tokens vocab"]
) -> Float64[Tensor, " tokens"]:
    return torch.mul(weights, values).sum(-1)


def _slices(logits: Tensor) -> Iterator[slice]:
    rows = max(1, _SLICE // logits.shape[1])
    return (slice(start, start + rows) for start in range(0, len(logits), rows))
