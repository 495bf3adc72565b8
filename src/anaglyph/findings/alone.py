"""What each finding is worth for behaviour: the KL that it closes alone, and the order by it."""

import math
from collections.abc import Mapping
from typing import NamedTuple

from anaglyph.causal import latent_kl
from anaglyph.corpus import ROLES, TokenCorpus
from anaglyph.findings.discovery import Discovery
from anaglyph.pair import ModelPair
from anaglyph.progress import Progress, silent

NORMAL = 1.96
"""Half the width of a 95% interval, in standard errors."""


class Closed(NamedTuple):
    """The share of the KL gap that a finding closes alone."""

    value: float
    error: float
    """Standard error over sequences."""


def recovered_alone(
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
    """Return the share of the KL gap that each of the largest findings closes alone, by index.

    Left out is what cannot be said: where there is no gap, or where a single sequence has one.

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
    columns = table.select("recovered", "recovered_low", "recovered_high").rows()
    return {
        i: Closed(value, (high - low) / (2 * NORMAL))
        for (i, _), (value, low, high) in zip(atoms, columns, strict=True)
        if None not in (value, low, high)
    }


def foremost(found: Discovery, recovered: Mapping[int, Closed]) -> list[int]:
    """Return the findings' indices, those that close most of the KL gap first.

    What is no more than noise in the weights comes after all that is.
    """
    closed = {i: each.value for i, each in recovered.items()}
    order = range(len(found.findings))
    return sorted(order, key=lambda i: (i in found.like_noise, -closed.get(i, -math.inf), i))
