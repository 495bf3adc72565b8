"""The typed findings as a player: the only one that may find nothing."""

import numpy as np

from anaglyph.findings import (
    Finding,
    conclude,
    difference_is_nil,
    discover_in_models,
    foremost,
)
from anaglyph.truth.game.arena import Arena
from anaglyph.truth.game.claims import MOST_CLAIMS, Claim
from anaglyph.truth.game.players.base import Answer, baseline


@baseline("findings", version=10)
def play(arena: Arena) -> Answer:
    """Show the findings as `anaglyph diff` orders them: by the KL that each closes alone."""
    if difference_is_nil(arena.store):
        return Answer([])
    rate, seed = arena.settings.rate, arena.seed
    found, recovered = discover_in_models(
        arena.pair,
        arena.corpus,
        arena.store,
        rate,
        seed,
        most=MOST_CLAIMS,
        max_tokens=arena.settings.causal_tokens,
        progress=arena.progress,
    )
    order = foremost(found, recovered)[:MOST_CLAIMS]
    verdict = conclude(arena.store, found, order, rate, seed, progress=arena.progress)
    # Who reads on comes to these; where there is nothing else, the verdict is "no difference".
    further = verdict.like_noise if verdict.findings else ()
    return Answer(
        [_claim(arena, finding) for finding in (*verdict.findings, *further)],
        {
            "findings": len(found.findings) - len(found.like_noise),
            "like_noise": len(found.like_noise),
            "kinds": [finding.kind for finding in verdict.findings],
        },
    )


def _claim(arena: Arena, finding: Finding) -> Claim:
    direction = changed(finding)
    offsets = arena.corpus.offsets
    places = [
        int(offsets[each["sequence"]]) + each["start"] + each["position"]
        for each in finding.examples
    ]
    return Claim(
        says=f"{finding.kind} {finding.effect:.3g}",
        words=arena.reader.around(places) if places else arena.along(direction),
        promotes=arena.promoted(direction),
        direction=direction,
    )


def changed(finding: Finding) -> np.ndarray:
    """Return the unit direction in which the difference lies: of a rotated one, what it gained."""
    base, tuned = (
        None if direction is None else np.asarray(direction, np.float32)
        for direction in (finding.direction_base, finding.direction_tuned)
    )
    if base is None or tuned is None or len(base) != len(tuned):
        only = tuned if tuned is not None else base
        if only is None:
            raise ValueError("a finding has no direction")  # its class forbids it
        return only
    if finding.kind != "rotated":
        return tuned
    gained = tuned - base
    return gained / np.linalg.norm(gained)
