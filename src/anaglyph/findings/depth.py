"""One change at several layers is one finding: what fires together and stands in for each other.

Findings are made at each layer on its own. A finding j of one layer and a finding i of another are
the same change if they fire together, corr(c_i, c_j) >= 1/2 over the tokens that both layers read,
and if one stands in for the other. Let i be of the earlier layer. Put i into the base's activation
there and let the tuned model run on to the layer of j, where it gives h. The part of j that is
there already is

    r = sum_t c_j(t) d_j . (h(t) - h_base(t)) / sum_t c_j(t)^2,

so that j adds 1 - r of itself to what i does. From r = 1/2 on it adds less than half, as within a
layer (``groups.py``). Without models, firing together decides.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from numpy import ndarray
from torch import Tensor

from anaglyph.core.schemas import AtLayer, Finding
from anaglyph.corpus import padded_batches
from anaglyph.findings.alone import Alone
from anaglyph.findings.discovery import Discovery
from anaglyph.subject import Subject

TOGETHER = 0.5
"""Correlation over tokens from which on two findings fire together."""
THERE = 0.5
"""Share of a finding that an earlier one has to bring about."""
TOKENS = 1024
"""Text on which that is measured: where the later one fires most."""


@dataclass(frozen=True, eq=False)
class AtOneLayer:
    """What the search of one layer gave."""

    subject: Subject
    found: Discovery
    alone: Alone | None
    order: tuple[int, ...]
    """Findings that stay, named ones first, strongest first."""

    def nats(self, i: int) -> float:
        """Return the KL that a finding closes alone; of none that was put in, less than any."""
        closed = None if self.alone is None else self.alone.closed.get(i)
        return closed.nats if closed is not None and closed.measured else -np.inf


@dataclass(frozen=True)
class Place:
    """One finding of one layer."""

    look: AtOneLayer
    i: int

    @property
    def finding(self) -> Finding:
        """The finding."""
        return self.look.found.findings[self.i]

    @property
    def layer(self) -> int:
        """Its layer."""
        return self.look.subject.store.layer

    @property
    def is_named(self) -> bool:
        """Whether it beats weight noise."""
        return self.i not in self.look.found.like_noise


def over_layers(looks: Sequence[AtOneLayer]) -> dict[Place, tuple[Place, ...]]:
    """Return the findings of all layers that stay, each with what it is at other layers.

    Named ones come first, in order of the KL that each closes. A finding takes in one of each other
    layer at most: so the findings that stay are at least as many as those of any one layer, and a
    false-discovery rate that is divided over the layers holds for them.

    Args:
        looks: One a layer.
    """
    places = [Place(look, i) for look in looks for i in look.order]
    if len(looks) > 1:
        # Shares of the gap are of different gaps.
        places.sort(key=lambda x: (not x.is_named, -x.look.nats(x.i), -_share(x)))
    groups: dict[Place, tuple[Place, ...]] = {}
    for place in places:
        near = [
            (together(place, leader), -rank, leader)
            for rank, (leader, others) in enumerate(groups.items())
            if leader.is_named and all(place.layer != each.layer for each in (leader, *others))
        ]
        near = sorted((each for each in near if each[0] >= TOGETHER), key=lambda x: x[:2])
        while near:
            *_, leader = near.pop()
            if is_same(place, leader):
                groups[leader] += (place,)
                break
        else:
            groups[place] = ()
    return groups


def _share(place: Place) -> float:
    return float(place.finding.evidence["difference_share"])


def together(one: Place, other: Place) -> float:
    """Return the correlation of two findings' codes; shifts, which are everywhere, have 1."""
    atoms = [each.look.found.atoms[each.i] for each in (one, other)]
    if atoms == [None, None]:
        return 1.0
    if None in atoms or one.look.found.tokens is None or other.look.found.tokens is None:
        return 0.0
    shared, *rows = np.intersect1d(
        one.look.found.tokens, other.look.found.tokens, assume_unique=True, return_indices=True
    )
    codes = [_column(each, row) for each, row in zip((one, other), rows, strict=True)]
    deviations = [float(each.std()) for each in codes]
    if min(deviations, default=0.0) == 0 or not len(shared):
        return 0.0
    covariance = float((codes[0] * codes[1]).mean() - codes[0].mean() * codes[1].mean())
    return covariance / (deviations[0] * deviations[1])


def _column(place: Place, rows: ndarray) -> Float[ndarray, " tokens"]:
    codes, atom = place.look.found.codes, place.look.found.atoms[place.i]
    return np.zeros(len(rows)) if codes is None else codes[:, [atom]].toarray()[rows, 0]


def is_same(one: Place, other: Place) -> bool:
    """Return whether of two findings that fire together the earlier stands in for the later."""
    if one.look.alone is None or other.look.alone is None:
        return True
    earlier, later = sorted((one, other), key=lambda each: each.layer)
    return brought_about(earlier, later) >= THERE


@torch.no_grad()
def brought_about(earlier: Place, later: Place) -> float:
    """Return the share of a finding that is there once an earlier one is put in; see above."""
    subject = later.look.subject
    pair, corpus = subject.pair, subject.corpus
    there = whole = 0.0
    for rows, ids, mask in padded_batches(corpus, _texts(later), TOKENS):
        real = mask.bool()
        tokens = np.concatenate([np.arange(*corpus.offsets[row : row + 2]) for row in rows])
        base, codes, direction = _part(earlier, tokens)
        edited = torch.zeros(*ids.shape, base.shape[1])
        edited[real] = base + codes[:, None] * direction
        start = (earlier.layer, edited)
        reached = pair.run_to("tuned", ids, mask, [later.layer], start=start)[later.layer]
        base, codes, direction = _part(later, tokens)
        moved = (reached.float().cpu()[real] - base) @ direction
        there += float(codes @ moved)
        whole += float(codes @ codes)
    return there / whole if whole > 0 else 0.0


def _texts(place: Place) -> Int64[ndarray, " texts"]:
    """Return the texts in which a finding fires most a token, ``TOKENS`` in all."""
    store, tokens = place.look.subject.store, place.look.found.tokens
    lengths = np.diff(store.sequence_offsets)
    fires = np.zeros(len(lengths))
    if tokens is not None and place.look.found.atoms[place.i] is not None:
        weights = np.square(_column(place, np.arange(len(tokens))))
        np.add.at(fires, store.sequence_of_tokens()[tokens], weights)
    order = np.argsort(-fires / lengths, kind="stable")
    count = max(int((np.cumsum(lengths[order]) <= TOKENS).sum()), 1)
    return np.sort(order[:count]).astype(np.int64)


def _part(
    place: Place, tokens: ndarray
) -> tuple[Float[Tensor, "tokens d"], Float[Tensor, " tokens"], Float[Tensor, " d"]]:
    """Return the base's activations, and how strongly a finding fires there along its direction."""
    found, atom = place.look.found, place.look.found.atoms[place.i]
    base, tuned = place.look.subject.store.gather(tokens)
    if atom is None or found.dictionary is None:
        direction = torch.tensor(place.finding.direction_tuned or place.finding.direction_base)
        return base, torch.full((len(tokens),), place.finding.effect), direction
    codes = found.dictionary.encode(base, tuned).dense(found.dictionary.n_latents)[:, atom]
    return base, torch.from_numpy(codes), found.dictionary.decoder[0][atom]


def with_depth(finding: Finding, leader: Place, others: Sequence[Place]) -> Finding:
    """Return a finding with what it is at each layer."""
    every = sorted((leader, *others), key=lambda each: each.layer)
    named = [each.layer for each in every if each.is_named and each is not leader]
    depth = tuple(_at(each) for each in every)
    return finding.model_copy(update={"layers": (leader.layer, *named), "depth": depth})


def _at(place: Place) -> AtLayer:
    facts: dict[str, Any] = {
        name: getattr(place.finding, name) for name in ("kind", "effect", "q_value", "direction")
    }
    closed = None if place.look.alone is None else place.look.alone.closed.get(place.i)
    share = closed.share if closed is not None and closed.measured else None
    return AtLayer(layer=place.layer, kl_recovered=share, **facts)
