"""The leaderboard: plays summed up by player, with intervals over organisms."""

from typing import Any

import polars as pl

from anaglyph.core.stats import wilson


def leaderboard(plays: pl.DataFrame) -> pl.DataFrame:
    """Sum up the plays: one row a player, the best first.

    Columns: player; plays on organisms; found (share with a hit among the first ten claims), top1
    and top5 (the hit among the first one and five), found_low and found_high (95% Wilson interval);
    score (mean of 1 / rank); controls; alarms (share of controls on which it did not abstain) with
    its interval; removed (share of the shown behaviour that goes when its first directions are
    taken out: 1 - shown_removed / shown_tuned) and added (shown_added - shown_base over shown_tuned
    - shown_base), both over organisms that show their behaviour; neutral_same; kl_span,
    kl_reconstruction (means); tuned_specific (median); seconds (median). Null where there is
    nothing to average.
    """
    rows = []
    for (player,), group in plays.group_by(["player"], maintain_order=True):
        real, controls = group.filter(~pl.col("is_control")), group.filter("is_control")
        shows = real.filter(pl.col("shown_tuned") > pl.col("shown_base"))
        removed = shows.select(1 - pl.col("shown_removed") / pl.col("shown_tuned")).to_series()
        gap = pl.col("shown_tuned") - pl.col("shown_base")
        added = shows.select((pl.col("shown_added") - pl.col("shown_base")) / gap).to_series()
        ranks = real["rank"]
        found = int(ranks.is_not_null().sum())
        alarms = int((~controls["abstained"]).sum())
        row: dict[str, Any] = {
            "player": player,
            "plays": real.height,
            "top1": _share(int((ranks <= 1).sum()), real.height),
            "top5": _share(int((ranks <= 5).sum()), real.height),
            **_with_interval("found", found, real.height),
            "score": real["score"].mean(),
            "controls": controls.height,
            **_with_interval("alarms", alarms, controls.height),
            "removed": removed.mean(),
            "added": added.mean(),
            "neutral_same": real["neutral_same"].mean(),
            "kl_span": real["kl_span"].mean(),
            "kl_reconstruction": real["kl_reconstruction"].mean(),
            "tuned_specific": real["tuned_specific"].median(),
            "seconds": group["seconds"].median(),
        }
        rows.append(row)
    table = pl.DataFrame(rows, infer_schema_length=None)
    return table.sort(["score", "player"], descending=[True, False], nulls_last=True)


def grid(plays: pl.DataFrame) -> pl.DataFrame:
    """Lay out the ranks: one row an organism, dilution and seed, one column a player.

    A cell is the rank of the first hit, "-" for none; of a control "abstains" or the number of
    claims it made.
    """
    cell = (
        pl.when(pl.col("is_control") & pl.col("abstained"))
        .then(pl.lit("abstains"))
        .when("is_control")
        .then(pl.format("{} claims", "claims"))
        .when(pl.col("rank").is_null())
        .then(pl.lit("-"))
        .otherwise(pl.col("rank").cast(pl.String))
    )
    return plays.with_columns(cell.alias("cell")).pivot(
        "player", index=["organism", "dilution", "seed"], values="cell", sort_columns=False
    )


def _share(hits: int, total: int) -> float | None:
    return hits / total if total else None


def _with_interval(name: str, hits: int, total: int) -> dict[str, float | None]:
    share = wilson(hits, total)
    return {name: share.value, f"{name}_low": share.low, f"{name}_high": share.high}
