"""How often findings are wrong, measured on pairs whose right answer is known."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from anaglyph.cli.app import app
from anaglyph.cli.options import AsJson
from anaglyph.cli.terminal import Bars, say, table_text
from anaglyph.core.files import write_json, write_parquet
from anaglyph.core.lock import reserved

SHOWN = (
    *("rate", "preset", "pairs", "findings", "false_share", "false_share_low", "false_share_high"),
    *("silent", "recall", "right_kind", "covered"),
)


@app.command()
def calibrate(
    preset: Annotated[list[str], typer.Option(help="Preset of the generator, repeatable, or all.")],
    seeds: Annotated[int, typer.Option(min=1, help="Planted pairs of each preset.")] = 20,
    first_seed: Annotated[int, typer.Option(min=0, help="First of the seeds.")] = 0,
    rate: Annotated[
        list[float] | None,
        typer.Option(
            help="Target false-discovery rate (default 0.1). Repeatable: we search once at the "
            "highest rate and reuse its q-values for the others."
        ),
    ] = None,
    null: Annotated[
        str | None,
        typer.Option(help="Plant nothing: identical, noise, rotation, scale, or all in turn."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for findings.parquet and summary.json.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Count right and wrong findings on synthetic pairs whose right answer is known."""
    import polars as pl

    from anaglyph.truth.planted import (
        NULLS,
        PRESETS,
        at_rate,
        null_overrides,
        planted_settings,
        summarise_findings,
    )
    from anaglyph.truth.planted import calibrate as run

    presets = list(PRESETS) if preset == ["all"] else preset
    cells = [(name, {}) for name in presets]
    if null is not None:
        nulls: Any = NULLS if null == "all" else [null]
        cells = [(name, null_overrides(kind)) for name in presets for kind in nulls]
    for name, overrides in cells:
        planted_settings(name, **overrides)
    rates = sorted(rate or [0.1])
    numbers = range(first_seed, first_seed + seeds)
    parts = []
    with Bars() as progress, reserved(out):
        for name, overrides in cells:
            part = run(name, numbers, rate=rates[-1], progress=progress, **overrides)
            label = f"{name}, {overrides['null']}" if overrides else name
            parts.append(part.with_columns(preset=pl.lit(label)))
        rows = pl.concat(parts)
        summary = pl.concat(
            [
                summarise_findings(at_rate(rows, each)).insert_column(0, pl.lit(each).alias("rate"))
                for each in rates
            ],
            how="diagonal",
        )
        if out is not None:
            write_parquet(out / "findings.parquet", rows)
            write_json(out / "summary.json", summary.to_dicts())
    if as_json:
        say(json.dumps(summary.to_dicts()))
    else:
        say(table_text(summary.select(SHOWN).to_dicts()))
