"""The findings of a store: what differs between two models, typed, sized and tested, or nothing."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from anaglyph.core.errors import InputError
from anaglyph.core.progress import Progress, silent
from anaglyph.core.schemas import DIFFERENCE, NO_DIFFERENCE, Finding, Verdict
from anaglyph.dictionaries import Dictionary
from anaglyph.findings.discovery import Discovery, discover
from anaglyph.findings.nil import NOISE, difference_is_nil, relative_difference
from anaglyph.latents import top_examples
from anaglyph.store import PairedStore

TRIALS = 72
"""Features planted to measure the detection limit."""


def find(
    store: PairedStore,
    rate: float = 0.1,
    seed: int = 0,
    *,
    dictionaries: Mapping[str, Dictionary] | None = None,
    limit: int | None = None,
    progress: Progress = silent,
) -> list[Finding]:
    """Return what differs between the two models, largest first; [] when nothing does.

    Args:
        store: Both models' activations at one layer.
        rate: False-discovery rate to keep, between 0 and 1.
        seed: Of all that is drawn at random.
        dictionaries: Trained dictionaries by name. Difference dictionaries among them are starting
            points, and each finding says which of them show it; what is missing is trained.
        limit: Findings at most; None for all.
        progress: Called during training.

    Raises:
        InputError: ``rate`` is not between 0 and 1, or ``limit`` is negative.
    """
    verdict = judge(
        store, rate, seed, dictionaries=dictionaries, limit=limit, trials=0, progress=progress
    )
    return list(verdict.findings)


def judge(
    store: PairedStore,
    rate: float = 0.1,
    seed: int = 0,
    *,
    dictionaries: Mapping[str, Dictionary] | None = None,
    limit: int | None = None,
    trials: int = TRIALS,
    progress: Progress = silent,
) -> Verdict:
    """Say whether the models differ at the store's layer, and how; arguments as for `find`.

    With ``trials``, also what could have been seen: so many changes are planted and looked for.
    """
    if not 0 < rate < 1:
        raise InputError(f"rate is {rate}: it must lie between 0 and 1")
    if limit is not None and limit < 0:
        raise InputError(f"limit is {limit}: it must not be negative")
    if difference_is_nil(store):
        return nothing(store, rate, seed)
    found = discover(store, rate, seed, dictionaries=dictionaries, trials=trials, progress=progress)
    return conclude(store, found, range(len(found.findings))[:limit], rate, seed, progress=progress)


def nothing(store: PairedStore, rate: float, seed: int) -> Verdict:
    """Return the verdict on activations that are equal up to rounding."""
    relative = relative_difference(store)
    reason = (
        f"at layer {store.layer} the two models' activations are the same up to numerical "
        f"noise (relative difference {relative:.1g}, noise {NOISE[store.dtype]:.1g})"
    )
    return Verdict(verdict=NO_DIFFERENCE, reason=reason, rate=rate, seed=seed)


def conclude(
    store: PairedStore,
    found: Discovery,
    chosen: Sequence[int],
    rate: float,
    seed: int,
    *,
    recovered: Mapping[int, float] | None = None,
    progress: Progress = silent,
) -> Verdict:
    """Return the verdict with the chosen findings, in that order, and where they are strongest.

    Args:
        store: The store they were found in.
        found: What `discover` returned.
        chosen: Indices of findings.
        rate: As given to `discover`.
        seed: As given to `discover`.
        recovered: Share of the KL gap that a finding's atom closes alone, by index.
        progress: Called while examples are looked for.
    """
    findings: list[Finding] = []
    like_noise: list[Finding] = []
    atoms = [atom for atom in (found.atoms[i] for i in chosen) if atom is not None]
    windows = {}
    if found.dictionary is not None and atoms:
        shown = top_examples(found.dictionary, store, atoms, progress=progress)
        windows = {each["latent"]: tuple(each["examples"]) for each in shown}
    for i in chosen:
        atom = found.atoms[i]
        update: dict[str, Any] = {"kl_recovered": (recovered or {}).get(i)}
        if atom is not None and found.dictionary is not None:
            direction = found.dictionary.decoder[0][atom].numpy()
            update["examples"] = _along(found.findings[i], direction, windows.get(atom, ()))
        of_kind = like_noise if i in found.like_noise else findings
        of_kind.append(found.findings[i].model_copy(update=update))
    relative = relative_difference(store)
    where = "" if relative is None else f" by {relative:.2%} of their size"
    if found.alignment is not None and store.d_base == store.d_tuned:
        where += (
            f", most of it one map of the whole space (scale {found.alignment.scale:.3g}, rotation "
            f"{found.alignment.turned:.0f} degrees on average), which is taken out here"
        )
    reason = f"at layer {store.layer} the two models' activations differ{where}"
    called = len(found.like_noise) < len(found.findings)
    if found.like_noise:
        count = len(found.like_noise)
        what = f"{count} further changes are" if called else f"{count} changes stand out, but are"
        reason += f"; {what} no more than what random noise in the weights shows"
    elif not called:
        reason += f"; no change stands out of the noise at a false-discovery rate of {rate:g}"
    if found.unasked:
        reason += f"; what random noise in the weights would show is not known ({found.unasked})"
    if found.unread:
        reason += f"; what the changed weights write is not known ({found.unread})"
    return Verdict(
        verdict=DIFFERENCE if called else NO_DIFFERENCE,
        reason=reason,
        rate=rate,
        seed=seed,
        findings=tuple(findings),
        like_noise=tuple(like_noise),
        detection_limit=found.limit,
    )


def _along(
    finding: Finding, atom: Float[ndarray, " d"], windows: Sequence[dict[str, Any]]
) -> tuple[dict[str, Any], ...]:
    """Return windows with both models' strengths along the finding's direction.

    What left the model lies against the atom, which is a direction of the difference.
    """
    own = [each for each in (finding.direction_base, finding.direction_tuned) if each is not None]
    if any(np.dot(each, atom) >= 0 for each in own):
        return tuple(windows)
    sides = ("base", "tuned")
    return tuple(each | {side: [-x for x in each[side]] for side in sides} for each in windows)
