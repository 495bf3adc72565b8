"""The typed findings as a player: the only one that may find nothing."""

import numpy as np

from anaglyph.core.schemas import Finding
from anaglyph.findings import search
from anaglyph.truth.game.arena import Arena
from anaglyph.truth.game.claims import Claim
from anaglyph.truth.game.players.base import Answer, baseline


@baseline("findings", version=12)
def play(arena: Arena) -> Answer:
    """Show the findings that `anaglyph find` names, in its order; naming none is abstaining."""
    verdict = search(arena, arena.settings.find)
    # A reader who reads on comes to these; where nothing is named, the player abstains.
    further = verdict.like_noise if verdict.findings else ()
    return Answer(
        [_claim(arena, finding) for finding in (*verdict.findings, *further)],
        {
            "findings": len(verdict.findings),
            "like_noise": len(verdict.like_noise),
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
