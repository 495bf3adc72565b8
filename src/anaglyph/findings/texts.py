"""Which held-out texts a finding's effect is measured on: those in which it fires.

A change at one token in a thousand hardly comes up in texts drawn blindly. So every finding asks
for the same number of texts in which it fires, or for all where it has fewer; a text is drawn with
the largest chance that any finding asks for, and counts for one over its chance (Horvitz and
Thompson, 1952). Totals are then unbiased, whatever was asked for. Texts in which a finding does
not fire need not be matched: adding it changes nothing there.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64
from numpy import ndarray

from anaglyph.core.errors import InputError
from anaglyph.core.rng import rng
from anaglyph.corpus import TokenCorpus
from anaglyph.dictionaries import Dictionary
from anaglyph.store import PairedStore

MOST_POOLED = 100_000
"""Held-out tokens among which is drawn, at most."""
_HALVINGS = 60


@dataclass(frozen=True)
class Firings:
    """How often each latent of the findings' dictionary fires in each held-out text."""

    sequences: Int64[ndarray, " texts"]
    counts: Int64[ndarray, "texts latents"]


@dataclass(frozen=True)
class Texts:
    """What was drawn."""

    sequences: Int64[ndarray, " drawn"]
    weights: Float64[ndarray, " drawn"]
    """One over the chance of being drawn."""


def heldout_firings(store: PairedStore, corpus: TokenCorpus, dic: Dictionary, seed: int) -> Firings:
    """Count firings in a store's held-out texts, or in as many of them as ``MOST_POOLED`` allows.

    Raises:
        InputError: The corpus has no held-out sequence.
    """
    sequences = corpus.draw_heldout(MOST_POOLED, seed)
    tokens = np.concatenate([np.arange(*corpus.offsets[i : i + 2]) for i in sequences])
    base, tuned = store.gather(tokens)
    return Firings(sequences, firing_counts(dic, base, tuned, corpus.lengths[sequences]))


def firing_counts(
    dic: Dictionary, base: torch.Tensor, tuned: torch.Tensor, lengths: Int64[ndarray, " texts"]
) -> Int64[ndarray, "texts latents"]:
    """Return on how many tokens of each text each latent fires; texts come one after the other."""
    codes = dic.encode(base, tuned)
    text = np.repeat(np.arange(len(lengths)), lengths)[codes.tokens()]
    counts = np.zeros((len(lengths), dic.n_latents), np.int64)
    np.add.at(counts, (text, codes.indices), 1)
    return counts


def drawn_where_they_fire(
    firings: Firings, lengths: Int64[ndarray, " texts"], max_tokens: int, seed: int
) -> Texts:
    """Draw texts of about ``max_tokens`` tokens, each latent's texts as likely as its share allows.

    Args:
        firings: Of every text that may be drawn.
        lengths: Tokens of each.
        max_tokens: Expected number of tokens drawn; at least one text is drawn.
        seed: Of the draw.
    """
    fires = firings.counts > 0
    chance = _chances(fires, lengths, max_tokens)
    # Systematic sampling: along the texts in random order, every whole step of the summed chances.
    generator = rng(seed, "texts of findings")
    order = generator.permutation(len(chance))
    upto = np.cumsum(chance[order])
    steps = np.floor(upto + generator.random() * (1 - 1e-12))
    taken = order[np.diff(steps, prepend=0.0) > 0]
    taken = np.sort(taken)
    return Texts(firings.sequences[taken], 1 / chance[taken])


def _chances(
    fires: Bool[ndarray, "texts latents"], lengths: Int64[ndarray, " texts"], max_tokens: int
) -> Float64[ndarray, " texts"]:
    """Return each text's chance of being drawn: min(1, m / texts of the rarest latent in it)."""
    if max_tokens < 1:
        raise InputError(f"max_tokens is {max_tokens}: it must be at least 1")
    texts = len(fires)
    holders = fires.sum(0)
    # Every text counts as holding one thing that all hold.
    rarest = np.where(fires, holders, texts).min(1, initial=texts)
    low, high = 0.0, float(texts)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if (np.minimum(1, middle / rarest) * lengths).sum() <= max_tokens:
            low = middle
        else:
            high = middle
    chance = np.minimum(1, low / rarest)
    return chance / min(chance.sum(), 1.0)
