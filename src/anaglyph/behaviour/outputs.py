"""How far apart the two models' predictions are, whatever the layer, and at which tokens."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

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
    by_token: dict[int, Float[np.ndarray, " tokens"]]


@torch.no_grad()
def prediction_gap(subject: Subject, max_tokens: int = 4096) -> Gap:
    """Measure how far apart the predictions are on held-out sequences (docs/maths.md, section 7).

    Args:
        subject: Both models and their text; the seed draws sequences and bootstraps the interval.
        max_tokens: Held-out tokens to use at most (whole sequences, at least one).

    Raises:
        InputError: The corpus has no held-out sequence.
    """
    pair, corpus = subject.pair, subject.corpus
    chosen = corpus.draw_heldout(max_tokens, subject.seed)
    lengths = corpus.lengths
    total = int(lengths[chosen].sum())
    sums, tokens, done, by_token = [], [], 0, dict[int, np.ndarray]()
    by_role = np.zeros((2, len(ROLES)))
    for sequences, ids, mask in padded_batches(corpus, chosen, TOKEN_BUDGET):
        tuned, base = pair.logits("tuned", ids, mask), pair.logits("base", ids, mask)
        # Padding is computed too and left out of the sum: picking tokens would copy the logits.
        kl = token_kl(tuned.flatten(0, 1), base.flatten(0, 1)).cpu().view(mask.shape)
        sums.append((kl * mask).sum(1).numpy())
        tokens.append(lengths[sequences])
        for row, sequence in enumerate(sequences.tolist()):
            by_token[sequence] = kl[row, : lengths[sequence]].numpy()
        roles = np.concatenate([corpus.sequence(int(each))[1] for each in sequences])
        by_role[0] += np.bincount(roles, kl[mask.bool()].numpy(), len(ROLES))
        by_role[1] += np.bincount(roles, minlength=len(ROLES))
        done += int(tokens[-1].sum())
        subject.progress("compare predictions", done, total)
    counted = np.concatenate(tokens)
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
    return Gap(mean_kl(np.concatenate(sums), counted, draws), tuple(gaps), by_token)


def kept_gap(subject: Subject, max_tokens: int) -> Gap:
    """Return the subject's `prediction_gap`, measured the first time it is asked for."""
    return subject.once("prediction gap", lambda: prediction_gap(subject, max_tokens))
