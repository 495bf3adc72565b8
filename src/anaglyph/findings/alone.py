"""What each finding is worth for behaviour: the KL that it closes alone, and the order by it."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from anaglyph.causal import Intervention, edit_kl, shifted, subset
from anaglyph.core.settings import FindSettings
from anaglyph.corpus import ROLES
from anaglyph.findings.discovery import Discovery
from anaglyph.subject import Subject


class Closed(NamedTuple):
    """How much of the KL between the models one finding closes alone, nats a token."""

    nats: float
    gap: float
    """With nothing put in at the layer."""

    @property
    def share(self) -> float:
        """Of the gap."""
        return self.nats / self.gap


def closed_alone(subject: Subject, found: Discovery, settings: FindSettings) -> dict[int, Closed]:
    """Return how much of the KL gap each of the largest findings closes alone, by index.

    Nothing can be said where the layer has no gap to close, and of findings in a space that the
    base had to be mapped into first. Predictions are judged where the assistant speaks, if it does
    anywhere: what a model expects inside the chat template is not behaviour that anybody trained.

    Args:
        subject: Both models and their text; held-out sequences are used.
        found: The findings.
        settings: How many findings are measured, on how many tokens.

    Raises:
        InputError: As in `edit_kl`.
    """
    if found.alignment is not None or not found.findings:
        return {}
    corpus = subject.corpus
    speaks = bool((corpus.roles == ROLES.index("assistant")).any())
    chosen = range(len(found.findings))[: settings.candidates]
    table = edit_kl(
        subject,
        [_added(found, i) for i in chosen],
        found.dictionary,
        positions=("assistant" if speaks else "all",),
        max_tokens=settings.find_tokens,
    )
    return {
        i: Closed(row["closed"], row["closed"] + row["kl"])
        for i, row in zip(chosen, table.iter_rows(named=True), strict=True)
        if row["recovered"] is not None
    }


def _added(found: Discovery, i: int) -> Intervention:
    """Return the edit that adds one finding to h_base."""
    finding, atom = found.findings[i], found.atoms[i]
    if atom is not None and found.dictionary is not None:
        return subset(found.dictionary, f"finding {i}", [atom])
    return shifted(
        f"finding {i}", "h_base + shift", finding.effect * np.array(finding.direction_tuned)
    )


def order_by_effect(found: Discovery, recovered: Mapping[int, float]) -> list[int]:
    """Return the findings' indices, those that close most of the KL gap first.

    Findings that do not beat weight noise come last.
    """
    order = range(len(found.findings))
    return sorted(order, key=lambda i: (i in found.like_noise, -recovered.get(i, -math.inf), i))
