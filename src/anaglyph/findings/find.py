"""The one door to findings: `search` says what differs between two models, or that nothing does.

`ag.find`, the command `find` and the game's player all call it. It reads the stored activations and
difference dictionaries. Where both models are at hand it also measures what each finding does to
the predictions and compares the findings with weight noise; without them these steps are skipped,
and the verdict says so. It never reads causal tables.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from anaglyph.behaviour.outputs import Gap, prediction_gap
from anaglyph.core.errors import InputError
from anaglyph.core.progress import Progress, silent
from anaglyph.core.schemas import DIFFERENCE, NO_DIFFERENCE, Apart, Finding, Verdict
from anaglyph.core.settings import FindSettings, Settings
from anaglyph.core.validation import check_rate, check_type, validate
from anaglyph.corpus import TokenCorpus
from anaglyph.dictionaries import Dictionary
from anaglyph.findings.alone import Alone, closed_alone, order_by_effect
from anaglyph.findings.baselines import with_baselines
from anaglyph.findings.decoys import compared_with_noise
from anaglyph.findings.depth import AtOneLayer, Place, over_layers, with_depth
from anaglyph.findings.discovery import Discovery, discover
from anaglyph.findings.groups import as_evidence, joined
from anaglyph.findings.nil import NOISE, difference_is_nil, relative_difference
from anaglyph.latents import top_examples
from anaglyph.pair import ModelPair
from anaglyph.store import PairedStore
from anaglyph.subject import Subject

EVERY = 10_000
"""More findings than there can be: a list in Python is not cut as a page is."""
OUTPUT_NOISE = 1e-8
"""KL, nats a token, below which two computations of one distribution may differ by rounding."""


def find(
    store: PairedStore | Sequence[PairedStore],
    rate: float = 0.1,
    seed: int = 0,
    pair: ModelPair | None = None,
    corpus: TokenCorpus | None = None,
    *,
    dictionaries: Mapping[str, Dictionary] | None = None,
    progress: Progress = silent,
) -> list[Finding]:
    """Return what differs between the two models, strongest first; [] if nothing can be named.

    Args:
        store: Both models' activations at one layer; or several stores of the same tokens, each
            at another layer. A change that shows at several layers is then one finding.
        rate: False-discovery rate to keep, between 0 and 1.
        seed: Seed of every random choice.
        pair: Both models. With them and their text, findings are ordered by what they do to the
            predictions, and those that do not beat weight noise are left out.
        corpus: The text that the store was collected from.
        dictionaries: Trained dictionaries by name. The search starts from the difference
            dictionaries among them; if there is none, it trains one. They are of the first
            store.
        progress: Told how far the search is.

    Raises:
        InputError: ``rate`` is not between 0 and 1, one of pair and corpus is missing, the store
            holds other text, or two stores are of one layer or of other tokens.

    Example:
        >>> found = find(store, rate=0.05)                      # doctest: +SKIP
        >>> [finding.kind for finding in found]                 # doctest: +SKIP
        ['new', 'scaled']
    """
    check_rate(rate)
    if pair is not None:
        check_type("pair", pair, ModelPair, "load it with ModelPair.load")
    if (pair is None) != (corpus is None):
        missing = "corpus" if corpus is None else "pair"
        raise InputError(f"{missing} is missing: findings need both models and the text they read")
    first, *others = _stores(store)
    subject = Subject.of(
        pair=pair,
        corpus=corpus,
        store=first,
        others=others,
        settings=validate(Settings, {"seed": seed}),
        progress=progress,
    )
    asked = FindSettings(rate=rate, trials=0, most_findings=EVERY)
    return list(search(subject, asked, dictionaries).findings)


def _stores(given: PairedStore | Sequence[PairedStore]) -> list[PairedStore]:
    """Check that stores of several layers are of the same tokens."""
    stores = list(given) if isinstance(given, Sequence) else [given]
    for store in stores:
        check_type("store", store, PairedStore, "make one with collect or PairedStore.from_arrays")
    if not stores:
        raise InputError("store: there is none; give at least one")
    layers = [store.layer for store in stores]
    for store in stores[1:]:
        if layers.count(store.layer) > 1:
            raise InputError(
                f"store: two are of layer {store.layer}; give each its layer (from_arrays takes "
                "layer=...)"
            )
        same = np.array_equal(store.sequence_offsets, stores[0].sequence_offsets)
        if not same or not np.array_equal(store.token_ids, stores[0].token_ids):
            raise InputError(
                f"store: {store.path} and {stores[0].path} hold different tokens: several "
                "layers must be of the same text"
            )
    return stores


def search(
    subject: Subject,
    settings: FindSettings,
    dictionaries: Mapping[str, Dictionary] | None = None,
) -> Verdict:
    """Say how far apart the models are and which changes can be named.

    Args:
        subject: The stored activations; both models and their text where they are at hand.
        settings: The false-discovery rate and the sizes of the search.
        dictionaries: As in `find`.

    Raises:
        InputError: The store holds other text than the subject's corpus.
    """
    _check_text(subject)
    views = subject.at_each_layer()
    looks = []
    skipped: dict[str, None] = {}
    for number, view in enumerate(views):
        if difference_is_nil(view.store):
            continue
        # The detection limit and the run's dictionaries are of the first layer.
        asked = settings if number == 0 else settings.model_copy(update={"trials": 0})
        look, notes = _look(view, asked, dictionaries if number == 0 else None, len(views))
        looks.append(look)
        skipped |= dict.fromkeys(notes)
    if not looks:
        verdict = _nothing([view.store for view in views], settings, subject.seed)
    else:
        verdict = _named(looks, settings, several=len(views) > 1)
        verdict = verdict.model_copy(update={"skipped": tuple(skipped)})
    return _with_predictions(subject, settings, verdict)


def _look(
    subject: Subject,
    settings: FindSettings,
    dictionaries: Mapping[str, Dictionary] | None,
    layers: int,
) -> tuple[AtOneLayer, list[str]]:
    """Search one layer; return what it shows, and the steps that were skipped.

    Of several layers each gets its part of the false-discovery rate, and q-values are of all: that
    holds whatever the layers have in common.
    """
    strict = settings.model_copy(update={"rate": settings.rate / layers})
    skipped: list[str] = []
    found = discover(
        subject.store,
        strict,
        subject.seed,
        dictionaries=dictionaries,
        progress=subject.progress,
    )
    alone = None
    if subject.has_models:
        alone = closed_alone(subject, found, settings)
        closed = {} if alone is None else alone.closed
        found = compared_with_noise(subject, found, closed, strict)
        texts = None if alone is None else alone.bench.texts
        found = with_baselines(subject, found, settings, texts)
        skipped = [each for each in (found.unasked, found.unread) if each is not None]
    else:
        skipped.append(
            "findings are not compared with weight noise and not ordered by what they do to the "
            "predictions: the models were not given"
        )
    if found.left_out is not None:
        skipped.append(found.left_out)
    if layers > 1:
        found = _of_all_layers(found, layers, keep_latents=dictionaries is not None)
    order = order_by_effect(found, _recovered(alone))
    if alone is not None:
        named = [i for i in order if i not in found.like_noise]
        groups = joined(alone, found, named)
        found = as_evidence(found, groups)
        inside = {i for members in groups.values() for i in members}
        order = [i for i in order if i not in inside]
    look = AtOneLayer(subject, found, alone, tuple(order[: settings.most_findings]))
    return look, skipped


def _of_all_layers(found: Discovery, layers: int, keep_latents: bool) -> Discovery:
    """Return the findings of one of several layers with q-values that are of all.

    Latents of a dictionary that this search trained for itself would pass for those of a run's.
    """
    findings = []
    for each in found.findings:
        q_value = None if each.q_value is None else min(layers * each.q_value, 1.0)
        update = {"q_value": q_value} | ({} if keep_latents else {"latents": ()})
        findings.append(each.model_copy(update=update))
    return replace(found, findings=tuple(findings))


def _recovered(alone: Alone | None) -> dict[int, float]:
    """Return the share of the KL gap that each finding closes, of those that were put in."""
    closed = {} if alone is None else alone.closed
    return {i: each.share for i, each in closed.items() if each.measured}


def _check_text(subject: Subject) -> None:
    if not subject.has_models:
        return
    corpus = subject.corpus
    for store in (subject.store, *subject.others):
        same = corpus.n_tokens == store.n_tokens
        if not same or not np.array_equal(corpus.token_ids, store.token_ids):
            raise InputError(
                f"the store at {store.path} was collected from other text than the corpus: "
                f"{store.n_tokens} tokens against {corpus.n_tokens}"
            )


def _nothing(stores: Sequence[PairedStore], settings: FindSettings, seed: int) -> Verdict:
    """Return the verdict on activations that are equal up to rounding."""
    first, relative = stores[0], relative_difference(stores[0])
    names = sorted(store.layer for store in stores)
    where = f"layer {first.layer}" if len(names) == 1 else f"layers {_listed(names)}"
    reason = (
        f"at {where} the two models' activations are the same up to numerical "
        f"noise (relative difference {relative:.1g}, noise {NOISE[first.dtype]:.1g})"
    )
    apart = Apart(layer=first.layer, activations=relative)
    return Verdict(verdict=NO_DIFFERENCE, reason=reason, rate=settings.rate, seed=seed, apart=apart)


def _named(looks: Sequence[AtOneLayer], settings: FindSettings, several: bool) -> Verdict:
    """Return the verdict with the findings of all layers in order, and where they are strongest."""
    groups = over_layers(looks)
    chosen = list(groups)[: settings.most_findings]
    findings: list[Finding] = []
    like_noise: list[Finding] = []
    windows = {
        look: _windows(look, [each.i for each in chosen if each.look is look]) for look in looks
    }
    for place in chosen:
        found, i = place.look.found, place.i
        atom = found.atoms[i]
        update: dict[str, Any] = {"kl_recovered": _recovered(place.look.alone).get(i)}
        if atom is not None and found.dictionary is not None:
            direction = found.dictionary.decoder[0][atom].numpy()
            along = _along(place.finding, direction, windows[place.look].get(atom, ()))
            shown = tuple(_with_tokens(place.look.subject, each) for each in along)
            update["examples"] = shown
        finding = place.finding.model_copy(update=update)
        if several:
            finding = with_depth(finding, place, groups[place])
        (findings if place.is_named else like_noise).append(finding)
    first, called = looks[0].subject, len(findings)
    return Verdict(
        verdict=DIFFERENCE,
        reason=_reason(looks, groups, called, settings.rate),
        advice=None if called else ADVICE,
        apart=Apart(layer=first.store.layer, activations=relative_difference(first.store)),
        rate=settings.rate,
        seed=first.seed,
        findings=tuple(findings),
        like_noise=tuple(like_noise),
        detection_limit=next((each.found.limit for each in looks if each.found.limit), None),
    )


def _windows(look: AtOneLayer, chosen: Sequence[int]) -> dict[int, tuple[dict[str, Any], ...]]:
    """Return where the findings of a layer are strongest, by atom."""
    found, subject = look.found, look.subject
    atoms = [atom for atom in (found.atoms[i] for i in chosen) if atom is not None]
    if found.dictionary is None or not atoms:
        return {}
    shown = top_examples(found.dictionary, subject.store, atoms, progress=subject.progress)
    return {each["latent"]: tuple(each["examples"]) for each in shown}


ADVICE = (
    "more text in which the change shows, a search at other layers, or the models' own replies "
    "to more prompts may name it"
)


def _reason(
    looks: Sequence[AtOneLayer],
    groups: Mapping[Place, Sequence[Place]],
    called: int,
    rate: float,
) -> str:
    """Say how far apart the activations are, and what could be named."""
    reason = _distance(looks)
    # What one layer says is like noise may be, at another, a part of what is named.
    taken = {(each.look, each.i) for others in groups.values() for each in others}
    q = [
        look.found.findings[i].q_value
        for look in looks
        for i in look.found.like_noise
        if (look, i) not in taken
    ]
    if called:
        return f"{reason}; {_counted(called, 'change')} named" + _rest(q, rate, "more")
    if q:
        reason += "; no single change could be told from random weight noise"
        return reason + _rest(q, rate)
    return f"{reason}; no single change stands out at a false-discovery rate of {rate:g}"


def _distance(looks: Sequence[AtOneLayer]) -> str:
    """Say how far apart the activations are at each layer."""
    if len(looks) > 1:
        ordered = sorted((each.subject.store for each in looks), key=lambda store: store.layer)
        sizes = {store.layer: relative_difference(store) for store in ordered}
        if None in sizes.values():
            return f"activations at layers {_listed(list(sizes))} differ"
        said = _listed([f"{size:.2%} (layer {layer})" for layer, size in sizes.items()])
        return f"activations differ by {said} of their size"
    store, alignment = looks[0].subject.store, looks[0].found.alignment
    relative = relative_difference(store)
    where = "" if relative is None else f" by {relative:.2%} of their size"
    if alignment is not None and relative is not None:
        where += (
            f", most of it one map of the whole space (scale {alignment.scale:.3g}, rotation "
            f"{alignment.turned:.0f} degrees on average), which is taken out here"
        )
    return f"activations at layer {store.layer} differ{where}"


def _rest(q: Sequence[float | None], rate: float, more: str = "") -> str:
    """Count the changes that are not named: those like noise, and those that were not measured."""
    weak = sum(1 for each in q if each is not None and each <= rate)
    count, said = len(q) - weak, ""
    if count:
        verb = "is" if count == 1 else "are"
        said = f"; {_counted(count, f'{more} change'.strip())} {verb} indistinguishable from random"
        said += " weight noise"
    if weak:
        verb = "was" if weak == 1 else "were"
        said += f"; {_counted(weak, 'weaker change')} {verb} only estimated"
    return said


def _listed(names: Sequence[object]) -> str:
    """Return names as in a sentence: 3, 8 and 12."""
    *first, last = map(str, names)
    return f"{', '.join(first)} and {last}" if first else last


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _with_predictions(subject: Subject, settings: FindSettings, verdict: Verdict) -> Verdict:
    """Add how far apart the predictions are: a verdict never denies what the predictions show."""
    if not subject.has_models:
        return verdict
    apart = verdict.apart or Apart(layer=subject.layer, activations=None)
    if verdict.verdict == NO_DIFFERENCE and subject.pair.same_weights:
        said = f"{verdict.reason}, and both sides are the same weights"
        return verdict.model_copy(
            update={"reason": said, "apart": apart.model_copy(update={"kl": 0.0})}
        )
    if subject.pair.spans is not None:
        said = "predictions are not compared, for they are of different tokens"
        return verdict.model_copy(update={"reason": f"{said}; {verdict.reason}"})
    gap = _gap(subject, settings)
    update = {"kl": gap.kl.value, "kl_low": gap.kl.low, "kl_high": gap.kl.high, "roles": gap.roles}
    apart = apart.model_copy(update=update)
    kl = gap.kl.value or 0.0
    if verdict.verdict == NO_DIFFERENCE:
        if kl <= OUTPUT_NOISE:
            said = f"{verdict.reason}, and so are their predictions (KL {kl:.1g} nats a token)"
            return verdict.model_copy(update={"reason": said, "apart": apart})
        said = (
            f"predictions differ by {kl:.3g} nats a token, yet {verdict.reason}: the change is in "
            "later layers; diff a later one"
        )
        return verdict.model_copy(update={"verdict": DIFFERENCE, "reason": said, "apart": apart})
    said = f"predictions differ by {kl:.3g} nats a token{_where(apart)}, {verdict.reason}"
    return verdict.model_copy(update={"reason": said, "apart": apart})


def _gap(subject: Subject, settings: FindSettings) -> Gap:
    return subject.once("prediction gap", lambda: prediction_gap(subject, settings.find_tokens))


def first_look(subject: Subject, settings: FindSettings) -> str | None:
    """Say in a sentence how far apart the models are; None where that says nothing.

    It costs one pass of both models over a few held-out texts, which `search` uses again.
    """
    if not subject.has_models or subject.pair.spans is not None or subject.pair.same_weights:
        return None
    gap, relative = _gap(subject, settings), relative_difference(subject.store)
    apart = Apart(layer=subject.layer, activations=relative, kl=gap.kl.value, roles=gap.roles)
    said = f"Predictions differ by {gap.kl.value or 0.0:.3g} nats a token{_where(apart)}"
    if relative is not None:
        said += f", activations at layer {subject.layer} by {relative:.2%} of their size"
    return f"{said}."


def _where(apart: Apart) -> str:
    """Say at which role of token most of the KL is, where one has more than half of it."""
    if not apart.roles or (apart.roles[0].share or 0) <= 0.5 or len(apart.roles) < 2:
        return ""
    first = apart.roles[0]
    return f" ({first.share:.0%} of it at {first.role} tokens)"


def _along(
    finding: Finding, atom: Float[ndarray, " d"], windows: Sequence[dict[str, Any]]
) -> tuple[dict[str, Any], ...]:
    """Return windows with both models' strengths along the finding's direction.

    A concept that left the model has the opposite direction of its atom of the difference.
    """
    own = [each for each in (finding.direction_base, finding.direction_tuned) if each is not None]
    if any(np.dot(each, atom) >= 0 for each in own):
        return tuple(windows)
    sides = ("base", "tuned")
    return tuple(each | {side: [-x for x in each[side]] for side in sides} for each in windows)


def _with_tokens(subject: Subject, example: dict[str, Any]) -> dict[str, Any]:
    """Replace an example's token ids by the tokens as a person reads them, if there is a pair."""
    if not subject.has_models:
        return example
    shown = dict(example)
    shown["tokens"] = subject.pair.token_strings(shown.pop("token_ids"))
    return shown
