"""Compare the causal tables of finished runs with the post's, as JSON and in docs/causal.md.

    python benchmarks/causal_tables.py --run demo=RUN --run trigger=RUN --small demo=RUN

`--run` names a run folder in which `anaglyph causal` has measured its dictionaries. `--small` names
one whose diff-SAE has as many latents as the model is wide (expansion 1). Earlier results that are
not named again stay in the JSON. Without arguments only the page is rewritten.
"""

import argparse
from pathlib import Path
from typing import Any

import polars as pl

from anaglyph.core.files import read_json, write_json, write_text
from anaglyph.run import RunFolder

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "causal.json"
PAGE = ROOT / "docs" / "causal.md"
HEADING = "## The post's table and ours"

# Gemma-2-2B, layer 13, percent of the KL gap: Dumas, Minder and Nanda (2025).
POST = {
    ("crosscoder", "reconstruction"): "60",
    ("crosscoder", "error"): "60",
    ("diff-sae", "reconstruction"): "88",
    ("diff-sae", "error"): "30",
    ("crosscoder", "subset nu<=0.3"): "10 to 20",
    ("crosscoder", "subset nu<=0.6"): "10 to 20",
    ("tuned-sae", "subset nu<=0.3"): "10 to 20",
    ("tuned-sae", "subset nu<=0.6"): "10 to 20",
    ("diff-sae", "subset nu<=0.3"): "40 to 60",
    ("diff-sae", "subset nu<=0.6"): "40 to 60",
    ("diff-sae x1", "subset nu<=0.3"): "37",
    ("diff-sae x1", "subset nu<=0.6"): "55",
    ("diff-sae x1", "reconstruction"): "82",
}
ROWS = (
    *("reconstruction", "error", "paired reconstruction", "bias", "subset nu<=0.1"),
    *("subset nu<=0.3", "random latents nu<=0.3", "random directions nu<=0.3", "subset nu<=0.6"),
    *("random latents nu<=0.6", "random directions nu<=0.6", "subset all", "mean difference"),
    *("template only", "exact", "none"),
)


def main() -> None:
    """Parse the arguments, store the numbers and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--run", action="append", default=[], metavar="NAME=FOLDER")
    parser.add_argument("--small", action="append", default=[], metavar="NAME=FOLDER")
    arguments = parser.parse_args()
    results: dict[str, Any] = read_json(RESULTS) if RESULTS.exists() else {}
    for given, suffix in ((arguments.run, ""), (arguments.small, " x1")):
        for pair in given:
            name, _, folder = pair.partition("=")
            results.setdefault(name, {}).update(measured(Path(folder), suffix))
    write_json(RESULTS, results)
    write_text(PAGE, page(results))


def measured(folder: Path, suffix: str) -> dict[str, Any]:
    """Return what a run's causal tables hold, by dictionary."""
    run, found = RunFolder.open(folder), {}
    for file in sorted((folder / "causal").glob("*.parquet")):
        name = file.stem
        if f"causal/{name}" not in run.state.stages:
            continue
        stats = read_json(folder / "dictionaries" / name / "config.json")["stats"]
        rows = pl.read_parquet(file)
        kept = ("intervention", "n_latents", "l0", "push", "kl", "recovered", "recovered_low")
        found[name + suffix] = {
            "seconds": run.state.stages[f"causal/{name}"].seconds,
            "fve": stats["fve"],
            "l0": stats["l0"],
            "layer": run.state.layer,
            "tokens": rows["tokens"][0],
            "sequences": rows["sequences"][0],
            "rows": rows.select(*kept, "recovered_high", "kl_other", "nll", "top1").to_dicts(),
        }
    return found


def page(results: dict[str, Any]) -> str:
    """Return docs/causal.md: the guide as it is there, then the tables."""
    guide = PAGE.read_text(encoding="utf-8").partition(HEADING)[0]
    parts = [guide.rstrip(), "", HEADING, ""]
    parts.append(
        "`python benchmarks/causal_tables.py` writes these tables from `benchmarks/causal.json`."
        " The numbers are percent of the KL gap recovered, with 95% intervals over sequences. The"
        " post measured Gemma-2-2B base and chat at layer 13; we measured LoRA organisms on"
        " SmolLM2-135M-Instruct. The question is the same, the pairs are not. Apart from the demo,"
        " the organisms are from the [game](game.md), made by `anaglyph game build`. x1 means as"
        " many latents as the model is wide. n is the number of latents. *Agrees* means that our"
        " interval overlaps the post's number or range."
    )
    if not results:
        parts += ["", "No run has been measured yet."]
    for organism, found in results.items():
        # Folder names have no colon: crosscoder-l1 is the crosscoder:l1.
        dictionaries = {name.replace("-l1", ":l1"): one for name, one in found.items()}
        names = list(dictionaries)
        parts += ["", f"### {organism}", "", _facts(dictionaries), ""]
        parts.append("| intervention | " + " | ".join(names) + " |")
        parts.append("|---" * (1 + len(names)) + "|")
        for row in ROWS:
            cells = [_cell(dictionaries[name], row) for name in names]
            if any(cells):
                parts.append(f"| {row} | " + " | ".join(cell or "" for cell in cells) + " |")
        parts += ["", "| | post | ours | |", "|---|---|---|---|", *_compared(dictionaries)]
    return "\n".join(parts) + "\n"


def _facts(dictionaries: dict[str, Any]) -> str:
    facts = [
        f"{name}: FVE {one['fve']:.0%}, L0 {one['l0']:.1f}, {one['tokens']} held-out tokens of"
        f" {one['sequences']} sequences."
        for name, one in dictionaries.items()
    ]
    seconds = [one["seconds"] for one in dictionaries.values() if "seconds" in one]
    if seconds:
        facts.append(f"Measuring took {sum(seconds):.0f} s.")
    return " ".join(facts)


def _row(dictionary: dict[str, Any], name: str) -> dict[str, Any] | None:
    found = [row for row in dictionary["rows"] if row["intervention"] == name]
    return found[0] if found else None


def _cell(dictionary: dict[str, Any], name: str) -> str | None:
    row = _row(dictionary, name)
    if row is None:
        return None
    if row["recovered"] is None:
        return "–"
    bounds = (row["recovered_low"], row["recovered_high"])
    said = f"{100 * row['recovered']:.1f}"
    if None not in bounds:
        said += f" ({100 * bounds[0]:.1f} to {100 * bounds[1]:.1f})"
    return said if row["n_latents"] is None else f"{said}, n={row['n_latents']}"


def _compared(dictionaries: dict[str, Any]) -> list[str]:
    lines = []
    for (name, row), said in POST.items():
        ours = _row(dictionaries[name], row) if name in dictionaries else None
        if ours is None or ours["recovered"] is None:
            lines.append(f"| {name}: {row} | {said}% | not measured | |")
            continue
        if ours.get("n_latents") == 0:
            lines.append(f"| {name}: {row} | {said}% | no latent with such a ν | |")
            continue
        low, _, high = said.partition(" to ")
        ends = (ours["recovered_low"], ours["recovered_high"])
        inside = (
            None not in ends
            and ends[0] * 100 <= float(high or low)
            and (ends[1] * 100 >= float(low))
        )
        word = "agrees" if inside else "differs"
        lines.append(f"| {name}: {row} | {said}% | {_cell(dictionaries[name], row)} | {word} |")
    return lines


if __name__ == "__main__":
    main()
