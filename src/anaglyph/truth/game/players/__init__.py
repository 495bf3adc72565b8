"""Who plays: every dictionary method, the findings, cheap baselines and a black box."""

from collections.abc import Sequence

from anaglyph.core.errors import InputError
from anaglyph.dictionaries import list_methods
from anaglyph.truth.game.players import behaviour, black_box, cheap, findings
from anaglyph.truth.game.players.base import Answer, Player, baseline_version, baselines
from anaglyph.truth.game.players.dictionary import VERSION, dictionary_player

__all__ = [
    "Answer",
    "Player",
    "behaviour",
    "black_box",
    "cheap",
    "findings",
    "get_player",
    "player_names",
    "player_version",
]

POST = ("crosscoder", "crosscoder:l1", "tuned-sae", "diff-sae")
"""The dictionaries that the post compares."""


def player_names(names: Sequence[str]) -> list[str]:
    """Return players' names; "all" stands for every method and baseline, "post" for the post's.

    Raises:
        InputError: A name is unknown, or none is given.
    """
    groups = {
        "all": [*baselines(), *dict.fromkeys([*POST, *list_methods()])],
        "post": list(POST),
        "baselines": list(baselines()),
    }
    wanted = [each for name in names for each in groups.get(name, [name])]
    if not wanted:
        raise InputError("methods: name at least one, or all")
    for name in wanted:
        get_player(name)
    return list(dict.fromkeys(wanted))


def get_player(name: str) -> Player:
    """Return a player by its name.

    Raises:
        InputError: There is none.
    """
    known = baselines()
    if name in known:
        return known[name]
    try:
        return dictionary_player(name)
    except InputError as error:
        others = ", ".join(known)
        raise InputError(f"{error}; players that are no dictionaries: {others}") from error


def player_version(name: str) -> int:
    """Return a number that changes when a player plays otherwise."""
    return baseline_version(name) or VERSION
