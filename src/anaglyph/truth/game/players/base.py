"""What a player is: it meets an arena and makes claims, or abstains."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from anaglyph.errors import InputError
from anaglyph.truth.game.arena import Arena
from anaglyph.truth.game.claims import Claim


@dataclass(frozen=True)
class Answer:
    """What a player says of one organism.

    Attributes:
        claims: Foremost first; none where the player abstains.
        facts: Numbers of its own, such as FVE or the KL that its reconstruction recovers.
    """

    claims: list[Claim]
    facts: dict[str, Any] = field(default_factory=dict)


Player = Callable[[Arena], Answer]

_BASELINES: dict[str, Player] = {}


def baseline(name: str) -> Callable[[Player], Player]:
    """Register a player that is no dictionary method."""

    def put(player: Player) -> Player:
        if name in _BASELINES:
            raise InputError(f"player {name!r} is registered already")
        _BASELINES[name] = player
        return player

    return put


def baselines() -> dict[str, Player]:
    """Return the players that are no dictionary methods, by name."""
    return dict(_BASELINES)
