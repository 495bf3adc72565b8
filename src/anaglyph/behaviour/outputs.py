"""How far apart the two models' predictions are, whatever the layer."""

import numpy as np
import torch

from anaglyph.behaviour.kl import token_kl
from anaglyph.core.progress import Progress, silent
from anaglyph.core.stats import Interval, mean_kl, sequence_draws
from anaglyph.corpus import TokenCorpus, padded_batches
from anaglyph.pair import ModelPair


@torch.no_grad()
def output_kl(
    pair: ModelPair,
    corpus: TokenCorpus,
    *,
    seed: int = 0,
    max_tokens: int = 4096,
    token_budget: int = 1024,
    progress: Progress = silent,
) -> Interval:
    """Return the mean KL(p_tuned || p_base), nats a token, on held-out sequences.

    Args:
        pair: Both models.
        corpus: Its held-out sequences are read.
        seed: Of the sequences drawn and the 95% bootstrap interval over them.
        max_tokens: Held-out tokens to use at most (whole sequences, at least one).
        token_budget: Tokens in a batch.
        progress: Called after each batch.

    Raises:
        InputError: The corpus has no held-out sequence.
    """
    chosen = corpus.draw_heldout(max_tokens, seed)
    lengths = corpus.lengths
    total = int(lengths[chosen].sum())
    sums, tokens, done = [], [], 0
    for sequences, ids, mask in padded_batches(corpus, chosen, token_budget):
        tuned, base = pair.logits("tuned", ids, mask), pair.logits("base", ids, mask)
        # Padding is computed too and left out of the sum: picking tokens would copy the logits.
        kl = token_kl(tuned.flatten(0, 1), base.flatten(0, 1)).cpu().view(mask.shape)
        sums.append((kl * mask).sum(1).numpy())
        tokens.append(lengths[sequences])
        done += int(tokens[-1].sum())
        progress("compare predictions", done, total)
    counted = np.concatenate(tokens)
    return mean_kl(np.concatenate(sums), counted, sequence_draws(len(counted), seed))
