"""A sample of whole sequences that is split as the whole text is."""

from dataclasses import replace

import numpy as np
from jaxtyping import Int64

from anaglyph.core.errors import InputError
from anaglyph.core.rng import rng
from anaglyph.corpus.split import split_mask
from anaglyph.corpus.tokens import TokenCorpus, offsets_of


def sample_of(corpus: TokenCorpus, max_tokens: int, seed: int = 0) -> TokenCorpus:
    """Return a sample of whole sequences, held out where the corpus holds them out.

    Args:
        corpus: The whole text.
        max_tokens: Tokens of the sample at most; a text of no more is returned as it is.
        seed: Draws the sequences.

    Returns:
        A corpus of its own, whose held-out sequences (``TokenCorpus.heldout``) are held-out
        sequences of the whole text, so that no stream trains on them.

    Raises:
        InputError: Not even two sequences fit.
    """
    if corpus.n_tokens <= max_tokens:
        return corpus
    generator = rng(seed, "stream sample")
    training, heldout = (
        generator.permutation(np.flatnonzero(each)) for each in (~corpus.heldout, corpus.heldout)
    )
    count = int(max_tokens / corpus.lengths.mean())
    while count >= 2:
        mask = split_mask(count)
        held = int(mask.sum())
        if held <= len(heldout) and count - held <= len(training):
            chosen = np.empty(count, np.int64)
            chosen[mask], chosen[~mask] = heldout[:held], training[: count - held]
            if corpus.lengths[chosen].sum() <= max_tokens:
                return taken(corpus, chosen)
        count -= max(1, count // 100)
    raise InputError(
        f"sample_tokens: {max_tokens} tokens have no room for two sequences; the longest has "
        f"{corpus.lengths.max()}"
    )


def taken(corpus: TokenCorpus, chosen: Int64[np.ndarray, " chosen"]) -> TokenCorpus:
    """Return some sequences of a corpus in the given order."""
    lengths, offsets = corpus.lengths[chosen], corpus.offsets[chosen]
    ends = offsets_of(lengths)
    tokens = np.arange(ends[-1]) - np.repeat(ends[:-1] - offsets, lengths)
    return replace(
        corpus,
        token_ids=corpus.token_ids[tokens],
        roles=corpus.roles[tokens],
        offsets=ends,
    )
