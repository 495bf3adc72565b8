"""The causal stage: what is measured for one dictionary of a run, and what is shared by all."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import polars as pl

from anaglyph.causal import kl_recovered, latent_kl, layer_sweep
from anaglyph.core.files import digest
from anaglyph.run.direct import keep_tables

if TYPE_CHECKING:
    from anaglyph.run.stages import Workbench


def causal_tables(
    bench: "Workbench",
    name: str,
    table: pl.DataFrame,
    settings: dict[str, Any],
    latents: Sequence[int],
) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Measure one dictionary.

    Returns:
        One row an intervention, judged at the first of the positions and put into the first model;
        the rows of all other positions and of the other direction; one row a latent, each alone.
    """
    dictionary = bench.dictionary(name)
    where = (bench.pair, dictionary, bench.corpus, bench.run.state.layer)
    shared = digest(settings)
    known = bench.without_dictionary.get(shared)
    whole = kl_recovered(
        *where,
        table,
        space=bench.difference_space,
        known=known,
        progress=bench.progress,
        **settings,
    )
    free = whole.filter(pl.col("dictionary").is_null())
    if known is not None:
        free = pl.concat([known, free]).unique(["into", "positions", "intervention"], keep="first")
    bench.without_dictionary[shared] = free
    alone = latent_kl(
        *where,
        latents,
        seed=settings["seed"],
        max_tokens=settings["max_tokens"],
        positions=settings["positions"][:1],
        progress=bench.progress,
    )
    first = (pl.col("positions") == settings["positions"][0]) & (
        pl.col("into") == settings["into"][0]
    )
    return whole.filter(first), whole.filter(~first), alone


def sweep(bench: "Workbench", layers: Sequence[int | float]) -> pl.DataFrame:
    """Put edits that need no dictionary in at several layers; kept as `direct/layers.parquet`."""
    config = bench.config
    settings = {
        "layers": [bench.pair.resolve_layer(layer) for layer in layers],
        "positions": config.positions,
        "edit_at": config.edit_at,
        "seed": config.seed,
        "max_tokens": config.causal_tokens,
    }
    tables = keep_tables(
        bench.run,
        "layers",
        settings,
        lambda: {
            "layers": layer_sweep(bench.pair, bench.corpus, progress=bench.progress, **settings)
        },
    )
    return tables["layers"]
