"""What a player is: it meets an arena and makes claims, or abstains."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from anaglyph.core.errors import InputError
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
_VERSIONS: dict[str, int] = {}


def baseline(name: str, version: int = 1) -> Callable[[Player], Player]:
    """Register a player that is no dictionary method.

    Args:
        name: What it is called.
        version: Raised by hand when it plays otherwise; its plays are then played anew.
    """

    def put(player: Player) -> Player:
        if name in _BASELINES:
            raise InputError(f"player {name!r} is registered already")
        _BASELINES[name], _VERSIONS[name] = player, version
        return player

    return put


def baseline_version(name: str) -> int | None:
    """Return the version of a player, None for one that is a dictionary method."""
    return _VERSIONS.get(name)


def baselines() -> dict[str, Player]:
    """Return the players that are no dictionary methods, by name."""
    return dict(_BASELINES)
