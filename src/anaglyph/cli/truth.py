"""The benchmark with known answers, and the list of methods."""

import json
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any

import typer

from anaglyph.cli.app import app
from anaglyph.cli.options import AsJson
from anaglyph.cli.terminal import Bars, say, table_text
from anaglyph.core.declared import declared_classes
from anaglyph.core.files import write_json, write_parquet
from anaglyph.core.lock import reserved


@app.command()
def planted(
    preset: Annotated[list[str], typer.Option(help="Preset of the generator; repeatable.")],
    method: Annotated[
        list[str],
        typer.Option("--methods", help="METHOD or METHOD:SPARSITY, repeatable, or all."),
    ] = ["all"],  # noqa: B006 - typer copies defaults
    seeds: Annotated[int, typer.Option(min=1, help="Pairs, and trainings of each method.")] = 3,
    first_seed: Annotated[int, typer.Option(min=0, help="First of the seeds.")] = 0,
    ratio: Annotated[
        float, typer.Option(help="Dictionary size over the number of true features.")
    ] = 2.0,
    k: Annotated[
        str | None,
        typer.Option(help="Mean active latents per token, or auto (default: the planted number)."),
    ] = None,
    tokens: Annotated[
        int, typer.Option(min=1, help="Training tokens, repeats counted.")
    ] = 1_000_000,
    batch: Annotated[int, typer.Option(min=1, help="Training batch, in tokens.")] = 1024,
    sweep: Annotated[
        str | None,
        typer.Option(help="NAME=V1,V2,...: values of ratio, k, tokens or a field of the preset."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for runs.parquet, summary.json and index.html.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Let dictionary methods play on synthetic pairs whose right answer is known."""
    import polars as pl

    from anaglyph.report import build_benchmark
    from anaglyph.truth.planted import PRESETS, planted_settings, run_planted, summarise
    from anaglyph.truth.planted.benchmark import sweep_planted

    presets = list(PRESETS) if preset == ["all"] else preset
    for name in presets:
        planted_settings(name)
    settings: dict[str, Any] = {"ratio": ratio, "k": _parse_k(k), "tokens": tokens, "batch": batch}
    swept = None if sweep is None else _parse_sweep(sweep)
    numbers = range(first_seed, first_seed + seeds)
    with Bars() as progress, reserved(out):
        settings["progress"] = progress
        runs = pl.concat(
            [
                run_planted(name, method, numbers, **settings)
                if swept is None
                else sweep_planted(name, method, numbers, *swept, **settings)
                for name in presets
            ],
            how="diagonal_relaxed",
        )
        summary = summarise(runs)
        if out is not None:
            write_json(out / "summary.json", summary.to_dicts())
            write_parquet(out / "runs.parquet", runs)
            command = " ".join(["anaglyph", *sys.argv[1:]])
            build_benchmark(summary, command, out / "index.html")
    if as_json:
        say(json.dumps(summary.to_dicts()))
    else:
        say(table_text(_main_figures(summary)))


@app.command("methods")
def methods_command(as_json: AsJson = False) -> None:
    """List the dictionary methods, those of installed plug-ins included."""
    if entry_points(group="anaglyph.methods"):
        from anaglyph.dictionaries import describe_methods

        rows = describe_methods()
    else:
        rows = our_methods()
    if as_json:
        say(json.dumps(rows, indent=2))
    else:
        say(table_text(rows))


def _parse_k(text: str | None) -> float | str | None:
    """Read a number or the word auto."""
    if text is None or text == "auto":
        return text
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(f"--k takes a number or auto, not {text!r}") from None


def our_methods() -> list[dict[str, Any]]:
    """Return what `describe_methods` does of the methods in the package, without loading torch."""
    folder = Path(__file__).parents[1] / "dictionaries" / "methods"
    rows = declared_classes(folder, ["kind", "sources", "default_k"])
    return [row | {"sources": list(row["sources"])} for row in rows]


def _parse_sweep(text: str) -> tuple[str, list[str]]:
    name, equals, values = text.partition("=")
    if not (name and equals and values):
        raise typer.BadParameter(f"--sweep takes NAME=V1,V2,..., not {text!r}")
    return name, values.split(",")


def _main_figures(summary: Any) -> list[dict[str, Any]]:
    from anaglyph.report.benchmark import FIGURES

    shown = [name for name in FIGURES if name in summary.columns and summary[name].count() > 0]
    return summary.select("preset", "entrant", "seeds", *shown).to_dicts()
