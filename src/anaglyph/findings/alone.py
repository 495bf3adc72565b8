"""What each finding is worth for behaviour: the KL that it closes alone, and the order by it.

Of all findings the first-order estimate is taken (`causal.path`): a few passes backwards serve them
all. Those that it puts first are really added to the base's activation, each alone, and so are a
few at random, which say how far the estimates of the others may be trusted.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from anaglyph.causal import Intervention, shifted, subset
from anaglyph.causal.frame import noise
from anaglyph.causal.interventions import exact
from anaglyph.causal.patching import Plan, measure
from anaglyph.causal.path import path_gradients
from anaglyph.causal.positions import token_mask
from anaglyph.core.rng import rng
from anaglyph.core.settings import FindSettings
from anaglyph.corpus import ROLES
from anaglyph.findings.discovery import Discovery
from anaglyph.findings.texts import Firings, Texts, drawn_where_they_fire, heldout_firings
from anaglyph.subject import Subject

AT_RANDOM = 0.25
"""Share of the measured findings that are drawn at random, to calibrate the estimate."""
SCALES = (0.25, 4.0)
"""Least and largest factor that the estimates are believed to be off by."""


@dataclass(frozen=True)
class Closed:
    """How much of the KL between the models one finding closes alone.

    Attributes:
        nats: For each held-out token whose prediction counts.
        gap: The same with nothing put in at the layer.
        firing: Nats for each token at which the finding fires.
        acting: Nats for each text in which it acts: the mean over texts, each counted by the nats
            that are closed there. A learned change closes much where it acts, whatever the number
            of other texts; noise closes a little everywhere.
        estimate: ``nats`` to first order.
        measured: Whether the finding was really put in; else ``nats`` is the calibrated estimate.
    """

    nats: float
    gap: float
    firing: float = math.nan
    acting: float = math.nan
    estimate: float = math.nan
    measured: bool = True

    @property
    def share(self) -> float:
        """Of the gap."""
        return self.nats / self.gap


@dataclass(frozen=True)
class Bench:
    """Held-out texts on which edits are measured, and what they are counted by."""

    subject: Subject
    found: Discovery
    texts: Texts
    place: str
    tokens: int
    """Held-out tokens whose prediction counts, drawn or not."""
    fired: Float64[ndarray, " findings"]
    """Held-out tokens at which each finding fires."""

    @classmethod
    def of(
        cls, subject: Subject, found: Discovery, settings: FindSettings, firings: Firings
    ) -> "Bench":
        """Draw the texts among those in which firings were counted."""
        corpus = subject.corpus
        lengths = corpus.lengths[firings.sequences]
        texts = drawn_where_they_fire(firings, lengths, settings.find_tokens, subject.seed)
        speaks = bool((corpus.roles == ROLES.index("assistant")).any())
        place = "assistant" if speaks else "all"
        counted = np.concatenate([[0], token_mask(corpus, place).cumsum()])[corpus.offsets]
        often = firings.counts.sum(0)
        fired = [lengths.sum() if atom is None else often[atom] for atom in found.atoms]
        tokens = int(np.diff(counted)[firings.sequences].sum())
        return cls(subject, found, texts, place, tokens, np.array(fired, np.float64))

    def edit(self, *chosen: int) -> Intervention:
        """Return the edit that adds some findings to h_base."""
        found, name = self.found, "finding " + " + ".join(map(str, chosen))
        atoms = [found.atoms[i] for i in chosen]
        latents = [atom for atom in atoms if atom is not None]
        if found.dictionary is not None and len(latents) == len(atoms):
            return subset(found.dictionary, name, latents)
        (finding,) = (found.findings[i] for i in chosen)
        direction = np.array(finding.direction_tuned)
        return shifted(name, "h_base + shift", finding.effect * direction)

    def closed(
        self, edits: Sequence[Intervention]
    ) -> tuple[Float64[ndarray, "edits texts"], Float64[ndarray, " texts"], float]:
        """Return the nats that each edit closes in each text, the gap there, and the noise.

        The noise is the KL, nats a token, up to which a gap is numerical (`frame.noise`).

        Raises:
            InputError: As in `measure`.
        """
        plan = Plan(self.subject.layer, "tuned", [exact(), *edits], self.found.dictionary)
        (got,) = measure(self.subject, self.texts.sequences, [plan], (self.place,))
        none, edited = got.none[0, 0], got.edited[:, 0, 0]
        return none - edited[1:], none, noise(self.subject.pair, "tuned", got.exact_kl)

    def estimated(self) -> Float64[ndarray, "findings texts"]:
        """Return the nats that each finding closes in each text, to first order."""
        found, dic, lengths = self.found, self.found.dictionary, self.subject.corpus.lengths
        atoms = np.array([-1 if atom is None else atom for atom in found.atoms])
        total = np.zeros((len(atoms), len(self.texts.sequences)))
        for part in path_gradients(self.subject, self.texts.sequences, self.place):
            own = np.searchsorted(self.texts.sequences, part.sequences)
            text = np.repeat(own, lengths[part.sequences])
            if dic is not None:
                codes = dic.encode(part.base, part.tuned)
                where, latent = codes.tokens(), codes.indices
                pull = (part.gradient[where] * dic.decoder[0][latent]).sum(1).numpy()
                by_latent = np.zeros((dic.n_latents, total.shape[1]))
                np.add.at(by_latent, (latent, text[where]), -codes.values * pull)
                total[atoms >= 0] += by_latent[atoms[atoms >= 0]]
            for place in np.flatnonzero(atoms < 0):
                finding = found.findings[place]
                shift = finding.effect * np.array(finding.direction_tuned)
                np.add.at(total[place], text, -(part.gradient.double().numpy() @ shift))
        return total

    def sized(self, nats: Float64[ndarray, " texts"], finding: int, gap: float) -> "Closed":
        """Return what one finding closes, from the nats in each text."""
        weights = self.texts.weights
        whole = float(weights @ nats)
        some = np.maximum(nats, 0.0)
        return Closed(
            nats=whole / max(self.tokens, 1),
            gap=gap,
            firing=whole / max(float(self.fired[finding]), 1.0),
            acting=float(weights @ some**2) / max(float(weights @ some), 1e-30),
        )


@dataclass(frozen=True)
class Alone:
    """What each finding closes alone, by index, and the bench on which that was measured."""

    closed: Mapping[int, Closed]
    per_text: Mapping[int, Float64[ndarray, " texts"]]
    """Nats closed in each text, of the findings that were put in."""
    bench: Bench


def closed_alone(
    subject: Subject,
    found: Discovery,
    settings: FindSettings,
    firings: Firings | None = None,
) -> Alone | None:
    """Measure how much of the KL gap each finding closes alone; None if nothing can be said.

    Nothing can be said where the layer has no gap to close, and of findings in a space that the
    base had to be mapped into first. Predictions are judged where the assistant speaks, if it does
    anywhere: what a model expects inside the chat template is not behaviour that anybody trained.

    Args:
        subject: Both models and their text; held-out sequences are used.
        found: The findings.
        settings: How many findings are put in, and on how many tokens.
        firings: How often each atom fires in which held-out text; without it they are counted in
            the subject's store.

    Raises:
        InputError: As in `measure`.
    """
    if found.alignment is not None or not found.findings or found.dictionary is None:
        return None
    if firings is None:
        firings = heldout_firings(subject.store, subject.corpus, found.dictionary, subject.seed)
    bench = Bench.of(subject, found, settings, firings)
    estimate = bench.estimated()
    chosen = _chosen(estimate @ bench.texts.weights, settings.candidates, subject.seed)
    nats, none, nil = bench.closed([bench.edit(i) for i in chosen])
    gap = float(none @ bench.texts.weights) / max(bench.tokens, 1)
    if gap <= nil:
        return None
    measured = dict(zip(chosen, nats, strict=True))
    scale = _scale((estimate[chosen] @ bench.texts.weights), nats @ bench.texts.weights)
    found_closed = {}
    for i, each in enumerate(estimate):
        closed = bench.sized(measured.get(i, scale * each), i, gap)
        first = float(each @ bench.texts.weights) / max(bench.tokens, 1)
        found_closed[i] = replace(closed, estimate=first, measured=i in measured)
    return Alone(found_closed, measured, bench)


def _scale(x: Float64[ndarray, " measured"], y: Float64[ndarray, " measured"]) -> float:
    """Return what to multiply estimates x by: the slope of what was measured, y, on them."""
    square = float(x @ x)
    return float(np.clip(x @ y / square, *SCALES)) if square > 0 else 1.0


def _chosen(estimate: Float64[ndarray, " findings"], budget: int, seed: int) -> list[int]:
    """Return the findings to put in: those of the largest estimate, and some at random."""
    order = np.argsort(-estimate, kind="stable")
    if len(order) <= budget:
        return order.tolist()
    first = budget - int(AT_RANDOM * budget)
    rest = rng(seed, "findings put in").permutation(order[first:])[: budget - first]
    return [*order[:first].tolist(), *rest.tolist()]


def order_by_effect(found: Discovery, recovered: Mapping[int, float]) -> list[int]:
    """Return the findings' indices, those that close most of the KL gap first.

    Findings that do not beat weight noise come last.
    """
    order = range(len(found.findings))
    return sorted(order, key=lambda i: (i in found.like_noise, -recovered.get(i, -math.inf), i))
