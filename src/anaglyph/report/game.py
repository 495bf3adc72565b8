"""The game's page: which player found what, and what each claimed."""

import html
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import polars as pl

from anaglyph.core.files import write_text
from anaglyph.truth.game.playing import read_play

COLUMNS = {
    "player": "player",
    "plays": "plays",
    "found": "found",
    "top1": "at rank 1",
    "score": "mean 1 / rank",
    "alarms": "false alarms",
    "removed": "behaviour removed",
    "added": "behaviour added",
    "neutral_same": "neutral answers kept",
    "kl_span": "KL recovered",
    "kl_reconstruction": "KL recovered, whole",
    "tuned_specific": "tuned-specific latents",
    "seconds": "seconds",
}
"""Columns of the leaderboard and their headings."""
SHARES = (
    *("found", "top1", "score", "alarms", "removed", "added", "neutral_same"),
    *("kl_span", "kl_reconstruction"),
)
LEGEND = (
    "Found: one of the first ten claims shows a trigger or a word of the changed answers among its"
    " ten words or ten tokens (for a planted edit: the claim's direction is the planted one, "
    "cosine 0.9 or more). Rank: that of the first such claim. False alarms: share of controls on "
    "which the player did not abstain. Behaviour removed and added: share of the probes' behaviour"
    " that goes away in the organism, or appears in the base, when the activation along the first "
    "five directions is replaced by the other model's. If replacing the whole difference at that "
    "layer does nothing either, the change comes after the layer. KL recovered: what these "
    "directions carry; whole: what the dictionary's reconstruction carries. What an organism shows"
    " is from its card (all probes, longer replies). What is removed and added is from its first "
    "probes and short replies, so differences of a few per cent mean nothing. Seconds: work that "
    "an earlier player did for all, such as both models' predictions, is not counted again. "
    "Intervals: 95%, Wilson."
)


def game_tables(board: pl.DataFrame, grid: pl.DataFrame) -> tuple[list[list[str]], list[list[str]]]:
    """Return leaderboard and grid as rows of text; the first row is the head."""
    shown = [name for name in COLUMNS if board[name].count() > 0]
    head = [COLUMNS[name] for name in shown]
    body = [[_cell(row, name) for name in shown] for row in board.to_dicts()]
    one_seed = grid["seed"].n_unique() == 1
    cells = grid.with_columns(dilution=pl.format("1:{}", "dilution"))
    cells = cells.drop("seed") if one_seed else cells
    ranks = [[str(value) if value is not None else "" for value in row] for row in cells.rows()]
    return [head, *body], [cells.columns, *ranks]


def build_game(
    board: pl.DataFrame,
    grid: pl.DataFrame,
    plays: Sequence[Path],
    command: str,
    out: Path,
) -> Path:
    """Write the page.

    Args:
        board: From `leaderboard`.
        grid: From `grid`.
        plays: The plays' files, for what each player claimed; those of other games are left out.
        command: What a reader runs to get the same.
        out: The file to write.
    """
    first, second = game_tables(board, grid)
    css = (files("anaglyph.report") / "page" / "benchmark.css").read_text(encoding="utf-8")
    parts = [
        "<!doctype html><html lang='en'><meta charset='utf-8'><title>diffing game</title>",
        f"<style>{css}</style><main class='bench wide'><h1>The diffing game</h1>",
        "<p>Real fine-tunes whose change is known. The players saw the models and a text, not the "
        f"answer. Made by <code>{html.escape(command)}</code></p>",
        f"<h2>Leaderboard</h2>{_table(first)}<p>{html.escape(LEGEND)}</p>",
        f"<h2>Rank of the first hit</h2>{_table(second)}",
        "<h2>What they claimed</h2>",
    ]
    kept = {_key(play.row): play.model_dump() for play in map(read_play, plays)}
    for match in grid.to_dicts():
        met = [kept.get(_key(match | {"player": player})) for player in board["player"]]
        parts.append(_said([play for play in met if play is not None]))
    parts.append("</main></html>")
    write_text(out, "\n".join(parts))
    return out


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in ("organism", "dilution", "seed", "player"))


def _said(plays: Sequence[dict[str, Any]]) -> str:
    """Return what the players claimed about one organism, folded."""
    row = plays[0]["row"]
    title = f"{row['organism']}, 1:{row['dilution']}"
    if row["shown_tuned"] is not None:
        title += f": shows its behaviour on {row['shown_tuned']:.0%} of the probes"
        title += f", the base on {row['shown_base']:.0%}"
    parts = [f"<details><summary>{html.escape(title)}</summary>"]
    for play in plays:
        claims = [["claim", "typical words", "made likelier"]]
        claims += [
            [
                ("✓ " if claim["hits"] else "") + claim["says"],
                " ".join(claim["words"]),
                " ".join(text.strip() for text in claim["promotes"]),
            ]
            for claim in play["claims"]
        ]
        shown = _table(claims) if play["claims"] else ""
        summary = html.escape(f"{play['row']['player']}: {_result(play['row'])}")
        parts.append(f"<details><summary>{summary}</summary>{shown}</details>")
    return "".join([*parts, "</details>"])


def _result(row: dict[str, Any]) -> str:
    if row["abstained"]:
        return "abstains"
    if row["is_control"]:
        return f"{row['claims']} claims"
    return "no hit" if row["rank"] is None else f"rank {row['rank']}"


def _table(rows: list[list[str]]) -> str:
    head = "".join(f"<th scope='col'>{html.escape(cell)}</th>" for cell in rows[0])
    body = "".join(
        "<tr>"
        + f"<th scope='row'>{html.escape(row[0])}</th>"
        + "".join(f"<td>{html.escape(cell)}</td>" for cell in row[1:])
        + "</tr>"
        for row in rows[1:]
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _cell(row: dict[str, Any], name: str) -> str:
    value = row[name]
    if value is None:
        return "–"
    if isinstance(value, str):
        return value
    if name not in SHARES:
        return f"{value:.3g}"
    low, high = row.get(f"{name}_low"), row.get(f"{name}_high")
    around = "" if low is None or high is None else f" ({low:.0%} to {high:.0%})"
    return f"{value:.2f}" if name == "score" else f"{value:.0%}{around}"
