"""What each finding is worth for behaviour: the KL that it closes alone, and the order by it."""

import math
from collections.abc import Mapping
from typing import NamedTuple

from anaglyph.causal import latent_kl
from anaglyph.corpus import ROLES, TokenCorpus
from anaglyph.findings.discovery import Discovery
from anaglyph.pair import ModelPair
from anaglyph.progress import Progress, silent


class Closed(NamedTuple):
    """How much of the KL between the models one finding closes alone."""

    share: float
    """Of the gap at the layer."""
    nats: float
    """A token."""


def closed_alone(
    pair: ModelPair,
    corpus: TokenCorpus,
    layer: int | float,
    found: Discovery,
    *,
    most: int,
    seed: int,
    max_tokens: int,
    progress: Progress = silent,
) -> dict[int, Closed]:
    """Return how much of the KL gap each of the largest findings closes alone, by index.

    Nothing can be said where the layer has no gap to close.

    Judged where the assistant speaks, if it does anywhere: what a model expects inside the chat
    template is no behaviour, and nobody trained it.

    Args:
        pair: Both models.
        corpus: Its held-out sequences are used.
        layer: Where the findings are from.
        found: The findings.
        most: How many of them are measured.
        seed: Of the sequences drawn.
        max_tokens: Held-out tokens to use at most.
        progress: Called after each batch.

    Raises:
        InputError: As in `latent_kl`.
    """
    if found.dictionary is None:
        return {}
    speaks = bool((corpus.roles == ROLES.index("assistant")).any())
    atoms = [(i, atom) for i, atom in enumerate(found.atoms) if atom is not None][:most]
    table = latent_kl(
        pair,
        found.dictionary,
        corpus,
        layer,
        [atom for _, atom in atoms],
        positions=("assistant" if speaks else "all",),
        seed=seed,
        max_tokens=max_tokens,
        progress=progress,
    )
    index = dict(zip((atom for _, atom in atoms), (i for i, _ in atoms), strict=True))
    return {
        index[row["latent"]]: Closed(row["recovered"], row["closed"])
        for row in table.iter_rows(named=True)
        if row["recovered"] is not None
    }


def foremost(found: Discovery, recovered: Mapping[int, float]) -> list[int]:
    """Return the findings' indices, those that close most of the KL gap first.

    What is no more than noise in the weights comes after all that is.
    """
    order = range(len(found.findings))
    return sorted(order, key=lambda i: (i in found.like_noise, -recovered.get(i, -math.inf), i))
