"""How far a small push of an activation moves the predictions, along the way from base to tuned.

    g_t = int_0^1 grad_{h_t} KL(p_tuned || p(h_base + s (h_tuned - h_base))) ds

is the mean gradient along the straight path between the two models' activations (integrated
gradients, Sundararajan et al. 2017), by Gauss and Legendre's rule over a few points. To first
order, adding a_t at token t takes -<g_t, a_t> off the KL; summed over the tokens and over parts
that make up the difference, that is the whole KL that the layer carries. One pass serves all parts.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from anaglyph.causal.positions import token_mask
from anaglyph.core.errors import InputError
from anaglyph.corpus import padded_batches
from anaglyph.subject import Subject

POINTS = 2
"""Of the path; two are exact for what bends like a polynomial of the third degree."""
TOKEN_BUDGET = 512
"""Tokens in a batch: a pass backwards keeps what every block computes."""


@dataclass(frozen=True)
class Pulls:
    """Some sequences with both models' activations and the gradient at each token.

    Attributes:
        sequences: Their numbers, in the order of the tokens.
        tokens: Index of each token within the corpus.
        base: The base model's activations.
        tuned: The tuned model's.
        gradient: Nats of KL, summed over the counted predictions of the sequence, for each unit of
            the activation.
    """

    sequences: Int64[np.ndarray, " sequences"]
    tokens: Int64[np.ndarray, " tokens"]
    base: Float32[Tensor, "tokens d"]
    tuned: Float32[Tensor, "tokens d"]
    gradient: Float32[Tensor, "tokens d"]


def path_gradients(
    subject: Subject,
    sequences: Int64[np.ndarray, " chosen"],
    place: str,
    *,
    points: int = POINTS,
    token_budget: int = TOKEN_BUDGET,
) -> Iterator[Pulls]:
    """Run both models over sequences and yield the mean gradients along the path, by batch.

    Args:
        subject: Both models of one width, their text and layer.
        sequences: Which sequences, each once.
        place: The place (`positions.PLACES`) whose predictions count.
        points: Points of the path.
        token_budget: Tokens in a batch, padding included.

    Raises:
        InputError: The place is unknown, or a gradient is NaN or infinite.
    """
    pair, corpus, layer = subject.pair, subject.corpus, subject.layer
    counted_of = token_mask(corpus, place)
    nodes, weights = np.polynomial.legendre.leggauss(points)
    for rows, ids, mask in padded_batches(corpus, sequences, token_budget):
        spans = zip(corpus.offsets[rows].tolist(), corpus.offsets[rows + 1].tolist(), strict=True)
        tokens = np.concatenate([np.arange(first, end) for first, end in spans])
        real = mask.bool()
        counted = torch.zeros_like(real)
        counted[real] = torch.from_numpy(counted_of[tokens])
        with torch.no_grad():
            reached = pair.run_both_to(ids, mask, [layer])
            base, tuned = (reached[side][layer] for side in ("base", "tuned"))
            own = pair.run_from("tuned", layer, tuned, ids, mask, counted).float().softmax(-1)
        total = torch.zeros_like(base, dtype=torch.float32)
        for node, weight in zip(nodes.tolist(), weights.tolist(), strict=True):
            h = (base + (1 + node) / 2 * (tuned - base)).requires_grad_()
            logits = pair.run_from("tuned", layer, h, ids, mask, counted)
            # Of KL(p || softmax(z)) by z: softmax(z) - p.
            slope = (logits.detach().float().softmax(-1) - own).to(logits)
            (gradient,) = torch.autograd.grad(logits, h, slope)
            total += weight / 2 * gradient.float()
        flat = total[real].cpu()
        if not flat.isfinite().all():
            raise InputError("a gradient of the KL is NaN or infinite")
        before, after = (each[real].float().cpu() for each in (base, tuned))
        yield Pulls(rows, tokens, before, after, flat)
