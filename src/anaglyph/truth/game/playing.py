"""The game: every player meets every organism once a seed, and is scored against its card.

Each play is a file, written when it is over. A game that was killed goes on with the first play
that has no file; a changed organism, setting or player is played anew.
"""

import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
from pydantic import BaseModel

from anaglyph.core.errors import InputError, StoreError
from anaglyph.core.files import digest, read_json, remove_temporaries, write_json
from anaglyph.core.lock import reserved
from anaglyph.core.progress import Progress, silent
from anaglyph.core.seals import signed, unsigned
from anaglyph.core.settings import GameSettings
from anaglyph.core.validation import validate
from anaglyph.truth.game.arena import Arena
from anaglyph.truth.game.check import causal_check
from anaglyph.truth.game.claims import MOST_CLAIMS, SHOWN, Claim, first_hit
from anaglyph.truth.game.players import get_player, player_version
from anaglyph.truth.game.workers import side_by_side
from anaglyph.truth.memory import peak_memory
from anaglyph.truth.organisms.build import build
from anaglyph.truth.organisms.card import Card
from anaglyph.truth.organisms.recipe import Organism

SCHEMA = {
    "organism": pl.String,
    "kind": pl.String,
    "is_control": pl.Boolean,
    "dilution": pl.Int64,
    "seed": pl.Int64,
    "player": pl.String,
    "abstained": pl.Boolean,
    "claims": pl.Int64,
    "rank": pl.Int64,
    "score": pl.Float64,
    "shown_base": pl.Float64,
    "shown_tuned": pl.Float64,
    "shown_removed": pl.Float64,
    "shown_added": pl.Float64,
    "whole_removed": pl.Float64,
    "whole_added": pl.Float64,
    "neutral_same": pl.Float64,
    "kl_span": pl.Float64,
    "kl_reconstruction": pl.Float64,
    "kl_error": pl.Float64,
    "tuned_specific": pl.Int64,
    "fve": pl.Float64,
    "seconds": pl.Float64,
    "peak_mib": pl.Float64,
}
"""Columns of the table of plays. ``rank`` is that of the first claim that hits, from 1, null if
none does. ``score`` is 1 / rank for an organism (0 without a hit); for a control 1 if the player
abstained, else 0."""


@dataclass(frozen=True)
class Match:
    """One organism to play against."""

    organism: Organism
    dilution: int = 0


def matches(organisms: Sequence[Organism], dilutions: Sequence[int]) -> list[Match]:
    """Return every organism in every dilution; those that no text teaches are played once.

    Raises:
        InputError: A dilution is negative, or there is none.
    """
    if not dilutions or min(dilutions) < 0:
        raise InputError(f"dilutions {list(dilutions)}: give at least one, none negative")
    return [
        Match(organism, dilution if organism.teach else 0)
        for place, dilution in enumerate(dilutions)
        for organism in organisms
        if organism.teach or place == 0
    ]


def play(
    games: Sequence[Match],
    players: Sequence[str],
    base: Path,
    out: Path,
    *,
    settings: GameSettings | None = None,
    seeds: Sequence[int] = (0,),
    organisms: Path | None = None,
    workers: int = 1,
    progress: Progress = silent,
) -> pl.DataFrame:
    """Play the game; one row a play, columns `SCHEMA`.

    Args:
        games: What is played against.
        players: Names of players.
        base: Base model of all organisms.
        out: Folder of the game.
        settings: Left out, the defaults of `GameSettings`.
        seeds: Each organism is trained and each player plays once for each.
        organisms: Folder of the organisms; left out, `OUT/organisms`.
        workers: Matches that are played at a time, if more than one: a thread each, in processes
            of their own.
        progress: Told of plays done, and, where one match is played at a time, how far that is.

    Raises:
        InputError: A player is unknown, workers are fewer than one, or one was killed.
        ModelError: A model cannot be loaded.
        StoreError: Another process plays in the folder.
    """
    settings = settings or GameSettings()
    for name in players:
        get_player(name)
    if workers < 1:
        raise InputError(f"workers is {workers}: it must be at least 1")
    out_organisms = organisms or out / "organisms"
    calls = [
        (game, players, base, out, settings, seed, out_organisms)
        for seed in seeds
        for game in games
    ]
    with reserved(out):
        remove_temporaries(out / "plays")
        rows = _all_rows(calls, workers, progress)
    return pl.DataFrame([row for place in sorted(rows) for row in rows[place]], schema=SCHEMA)


def _all_rows(
    calls: Sequence[tuple[Any, ...]], workers: int, progress: Progress
) -> dict[int, list[dict[str, Any]]]:
    """Return the rows of each call of `_meet`, by its place."""
    rows: dict[int, list[dict[str, Any]]] = {}
    total = sum(len(players) for _, players, *_ in calls)
    # Not two at a time in one folder: an organism that is named twice is there the second time, and
    # noise is as large as the benign fine-tune, which it makes if nobody has.
    first: dict[tuple[str, int, int], int] = {}
    for place, (game, *_, seed, _) in enumerate(calls):
        if game.organism.objective != "noise":
            first.setdefault((game.organism.name, game.dilution, seed), place)
    apart = list(first.values())
    if min(workers, len(apart)) > 1:
        progress("game", 0, total, "plays")
        together = side_by_side(_meet, [calls[place] for place in apart], workers)
        for number, (place, found) in enumerate(together, start=1):
            rows[apart[place]] = found
            progress("game", number * total // len(calls), total, "plays")
    for place, call in enumerate(calls):
        if place not in rows:
            done = sum(map(len, rows.values()))
            rows[place] = _meet(*call, progress=progress, done=done, total=total)
    progress("game", total, total, "plays")
    return rows


def _meet(
    game: Match,
    players: Sequence[str],
    base: Path,
    out: Path,
    settings: GameSettings,
    seed: int,
    organisms: Path,
    *,
    progress: Progress = silent,
    done: int = 0,
    total: int = 0,
) -> list[dict[str, Any]]:
    """Let all players meet one organism; ``done`` of the game's ``total`` plays are over."""
    built = build(
        game.organism,
        base,
        organisms,
        dilution=game.dilution,
        seed=game.organism.seed + seed,
        progress=progress,
    )
    cell = out / "plays" / built.folder.name
    arena = Arena(built, cell, settings, seed, progress)
    rows: list[dict[str, Any]] = []
    for name in players:
        progress("game", done + len(rows), total, "plays")
        rows.append(_play_once(arena, name, cell, seed))
    # Activations are many times larger than all that was learnt from them.
    shutil.rmtree(cell / "activations", ignore_errors=True)
    return rows


def _play_once(arena: Arena, name: str, cell: Path, seed: int) -> dict[str, Any]:
    card = arena.built.card
    key = digest(
        {
            "card": card.key,
            "settings": arena.game.model_dump(mode="json", exclude={"device", "model_dtype"}),
            "computed": arena.computed,
            "player": name,
            "seed": seed,
            "code": player_version(name),
        }
    )
    path = cell / f"{name.replace(':', '-')}.json"
    if path.is_file():
        with suppress(StoreError):  # a damaged play is played again
            kept = read_play(path)
            if kept.key == key:
                return kept.row
    arena.prepare()
    start = time.monotonic()
    with peak_memory() as peak:
        answer = get_player(name)(arena)
    seconds = time.monotonic() - start
    checked = causal_check(arena, answer.claims, card)
    row = _row(card, name, seed, answer.claims, answer.facts | checked)
    row |= {"seconds": round(seconds, 2), "peak_mib": peak.mib}
    claims = [_shown(claim, card) for claim in answer.claims[:MOST_CLAIMS]]
    play = {"key": key, "row": row, "facts": answer.facts, "claims": claims}
    write_json(path, signed(play))
    return row


class Play(BaseModel):
    """What a play's file holds."""

    key: str
    row: dict[str, Any]
    facts: dict[str, Any]
    claims: list[dict[str, Any]]


def read_play(path: Path) -> Play:
    """Read a play.

    Raises:
        StoreError: The file is missing or damaged.
    """
    value = read_json(path)
    value = unsigned(value, path) if isinstance(value, dict) else value
    return validate(Play, value, f"{path} is damaged", StoreError)


def _row(
    card: Card, name: str, seed: int, claims: list[Claim], numbers: dict[str, Any]
) -> dict[str, Any]:
    rank = None if card.is_control else first_hit(claims, card)
    score = float(not claims) if card.is_control else (1 / rank if rank else 0.0)
    row: dict[str, Any] = {
        "organism": card.name,
        "kind": card.kind,
        "is_control": card.is_control,
        "dilution": card.dilution,
        "seed": seed,
        "player": name,
        "abstained": not claims,
        "claims": len(claims),
        "rank": rank,
        "score": score,
        "shown_base": card.measured.shown_base,
        "shown_tuned": card.measured.shown_tuned,
    }
    return {column: row.get(column, numbers.get(column)) for column in SCHEMA}


def _shown(claim: Claim, card: Card) -> dict[str, Any]:
    return {
        "says": claim.says,
        "words": list(claim.words[:SHOWN]),
        "promotes": list(claim.promotes[:SHOWN]),
        "hits": claim.hits(card),
    }
