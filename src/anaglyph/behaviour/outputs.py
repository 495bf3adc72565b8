"""How far apart the two models' predictions are, whatever the layer, and at which tokens."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64, Int64

from anaglyph.behaviour.kl import token_kl
from anaglyph.core.schemas import RoleGap
from anaglyph.core.stats import Interval, mean_kl, sequence_draws
from anaglyph.corpus import ROLES, padded_batches
from anaglyph.subject import Subject

TOKEN_BUDGET = 1024
"""Tokens in a batch, padding included."""


@dataclass(frozen=True)
class Gap:
    """The KL between the two models' predictions on held-out text.

    Attributes:
        kl: Mean KL(p_tuned || p_base), nats a token, with its 95% interval over sequences.
        roles: The same by role of the token at which the prediction is made, largest share first.
        by_token: The KL at each token of each sequence that was read, nats.
    """

    kl: Interval
    roles: tuple[RoleGap, ...]
    by_token: dict[int, Float64[np.ndarray, " tokens"]]


def prediction_gap(subject: Subject, max_tokens: int = 4096) -> Gap:
    """Measure how far apart the predictions are on held-out sequences (docs/maths.md, section 7).

    Args:
        subject: Both models and their text; the seed draws sequences and bootstraps the interval.
        max_tokens: Held-out tokens to use at most (whole sequences, at least one).

    Raises:
        InputError: The corpus has no held-out sequence.
    """
    corpus = subject.corpus
    chosen = corpus.draw_heldout(max_tokens, subject.seed)
    by_token = kl_by_token(subject, chosen)
    sums = np.array([kl.sum() for kl in by_token.values()])
    counted = corpus.lengths[list(by_token)]
    by_role = np.zeros((2, len(ROLES)))
    for sequence, kl in by_token.items():
        roles = corpus.sequence(sequence)[1]
        by_role[0] += np.bincount(roles, kl, len(ROLES))
        by_role[1] += np.bincount(roles, minlength=len(ROLES))
    draws = sequence_draws(len(counted), subject.seed)
    whole = by_role[0].sum()
    gaps = [
        RoleGap(
            role=role,
            tokens=int(count),
            kl=float(nats / count),
            share=float(nats / whole) if whole > 0 else None,
        )
        for role, nats, count in zip(ROLES, *by_role, strict=True)
        if count
    ]
    gaps.sort(key=lambda gap: -(gap.share or 0.0))
    return Gap(mean_kl(sums, counted, draws), tuple(gaps), by_token)


@torch.no_grad()
def kl_by_token(
    subject: Subject, sequences: Int64[np.ndarray, " chosen"]
) -> dict[int, Float64[np.ndarray, " _"]]:
    """Return KL(p_tuned || p_base) at each token of some sequences, nats; longest first."""
    pair, corpus = subject.pair, subject.corpus
    found: dict[int, np.ndarray] = {}
    done, total = 0, int(corpus.lengths[sequences].sum())
    for rows, ids, mask in padded_batches(corpus, sequences, TOKEN_BUDGET):
        keep = mask.bool()
        tuned, base = (pair.logits(side, ids, mask, keep) for side in ("tuned", "base"))
        ends = corpus.lengths[rows].cumsum()
        parts = np.split(token_kl(tuned, base).cpu().numpy(), ends[:-1])
        found |= dict(zip(rows.tolist(), parts, strict=True))
        done += int(ends[-1])
        subject.progress("compare predictions", done, total)
    return found


def kept_gap(subject: Subject, max_tokens: int) -> Gap:
    """Return the subject's `prediction_gap`, measured the first time it is asked for."""
    return subject.once("prediction gap", lambda: prediction_gap(subject, max_tokens))
