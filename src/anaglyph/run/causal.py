"""The causal stage: what is measured for one dictionary of a run, and what is shared by all."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import polars as pl

from anaglyph.causal import causal_table, latent_kl, layer_sweep
from anaglyph.core.settings import CausalSettings
from anaglyph.run.direct import keep_tables

if TYPE_CHECKING:
    from anaglyph.run.stages import Workbench


def causal_tables(
    bench: "Workbench",
    name: str,
    table: pl.DataFrame,
    settings: CausalSettings,
    latents: Sequence[int],
) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Measure one dictionary.

    Returns:
        One row an intervention, judged at the first of the positions and put into the first model;
        the rows of all other positions and of the other direction; one row a latent, each alone.
    """
    dictionary = bench.dictionary(name)
    whole = causal_table(bench.subject, dictionary, table, settings)
    alone = latent_kl(bench.subject, dictionary, latents, settings)
    first = (pl.col("positions") == settings.positions[0]) & (pl.col("into") == settings.into[0])
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
        lambda: {"layers": layer_sweep(bench.subject, settings["layers"], bench.causal_settings)},
    )
    return tables["layers"]
