"""Gather a few rows of each table that the commands without a dictionary kept in a run folder."""

from typing import Any

import polars as pl

from anaglyph.core.errors import StoreError
from anaglyph.core.files import read_parquet
from anaglyph.report.records import Files

ROWS = 24
_LONGEST = 300
# File, title, note and columns shown, in the order of the page.
TABLES: tuple[tuple[str, str, str, tuple[str, ...]], ...] = (
    (
        "pca",
        "Principal components of the difference",
        "Component 0 is the mean difference; shares are of the mean of ‖Δ‖².",
        ("component", "share", "cumulative"),
    ),
    (
        "pca-tokens",
        "Where the difference is",
        "Share of the sum of ‖Δ‖² on each role, then on single tokens.",
        ("role", "token", "tokens", "token_share", "difference_share", "ratio"),
    ),
    (
        "tokens-favoured",
        "Next tokens that the fine-tune favours",
        "By mean probability over all tokens, then by position and role.",
        ("by", "group", "favoured_by", "token", "probability_base", "probability_tuned"),
    ),
    (
        "weights",
        "Matrices that changed most",
        "Norm of tuned minus base, and its stable rank (near 1: one direction).",
        ("matrix", "norm", "relative", "share", "stable_rank", "top_share"),
    ),
    (
        "weights-directions",
        "Directions of the weights as tokens",
        "A module that writes pushes these tokens up or down; one that reads is activated by them.",
        ("matrix", "component", "side", "sigma", "tokens_up", "tokens_down"),
    ),
    (
        "weights-parts",
        "Rank-one parts by the KL they account for",
        "KL, in nats per token, when the part is removed from the tuned model.",
        ("matrix", "component", "sigma", "kl_alone", "shapley", "shapley_share", "greedy_rank"),
    ),
    (
        "stitch",
        "From base to tuned, layer by layer",
        "n layers of the tuned model, from the bottom or the top; and interpolated weights.",
        ("kind", "n", "kl_to_tuned", "kl_to_base", "recovered"),
    ),
    (
        "stitch-replies",
        "What each mixture says",
        "Greedy decoding.",
        ("question", "kind", "n", "reply"),
    ),
    (
        "lens-shift",
        "Shift at the start of unrelated text",
        "Compared with a null pair, whose weights have random noise of the same effect.",
        ("pair", "position", "shift_norm", "alike", "relative", "agreement", "entropy"),
    ),
    (
        "lens-tokens",
        "The shift read as tokens",
        "Most likely tokens first.",
        ("pair", "position", "method", "strength", "token", "probability"),
    ),
    (
        "lens-replies",
        "Replies with the shift added",
        "",
        ("prompt", "pair", "strength", "reply"),
    ),
    (
        "amplify-replies",
        "Replies with the change scaled",
        "0 is the base, 1 the tuned model.",
        ("prompt", "kind", "alpha", "reply"),
    ),
    (
        "amplify-search",
        "Prompts whose reply changes most",
        "",
        ("rank", "prompt", "score", "reply", "amplified"),
    ),
)


def gather_direct(files: Files) -> list[dict[str, Any]]:
    """Return the tables found, each with title, note, columns, rows and its full length.

    Args:
        files: A run folder's files.

    Raises:
        StoreError: A table is damaged; the message names the file.
    """
    shown = []
    for name, title, note, wanted in TABLES:
        path = files.find(f"direct/{name}.parquet")
        if path is None:
            continue
        table = read_parquet(path)
        columns = [column for column in wanted if column in table.columns]
        if not columns:
            raise StoreError(f"{path} is damaged: it has no column {wanted[0]}")
        rows = [[_cell(value) for value in row] for row in _top_rows(table).select(columns).rows()]
        facts = {"title": title, "note": note, "columns": columns, "rows": rows}
        shown.append(facts | {"total": len(table)})
    return shown


def _top_rows(table: pl.DataFrame) -> pl.DataFrame:
    if "measure" in table.columns:
        table = table.filter(pl.col("measure") == "probability")
    if "rank" in table.columns and "method" in table.columns:
        table = table.filter(pl.col("rank") == 1)
    return table.head(ROWS)


def _cell(value: Any) -> Any:
    """Return the value for the page: text cut to a maximum length, numbers unchanged."""
    if isinstance(value, list):
        value = " ".join(map(str, value))
    return value[:_LONGEST] if isinstance(value, str) else value
