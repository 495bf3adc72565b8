"""Which latents carry most of the difference."""

import polars as pl


def candidates(table: pl.DataFrame, limit: int) -> list[int]:
    """Return the top latents by difference share times how specific they are to one model."""
    base, tuned = pl.col("beta_act_base"), pl.col("beta_act_tuned")
    # 1 where only one model has it or the two are opposite, 0 where both have the same amount.
    specific = (tuned - base).abs() / (tuned.abs() + base.abs())
    alive = table.filter(
        pl.col("alive"), (base != 0) | (tuned != 0), pl.col("difference_share") > 0
    )
    ranked = alive.sort(
        pl.col("difference_share") * specific, "latent", descending=[True, False], nulls_last=True
    )
    return ranked.head(limit)["latent"].to_list()
