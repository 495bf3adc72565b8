"""The planted benchmark as it is published: docs/performance/planted_grid.json and docs/planted.md.

    python benchmarks/planted_grid.py [--page]

Every part is one `anaglyph planted` command. The JSON is written after each part, so a run that was
stopped resumes with that part. After a complete run all parts start again. --page only writes the
page's tables, for the parts that exist.
"""

import sys
from typing import Any

from bench import ROOT, command, fill, machine, table

from anaglyph.core.files import read_json, write_json

NUMBERS = ROOT / "docs" / "performance" / "planted_grid.json"
PAGE = ROOT / "docs" / "planted.md"
SEEDS = 10
COMMON = f"--seeds {SEEDS} --tokens 300000 --batch 512"
POST = "--methods crosscoder --methods tuned-sae --methods base-sae --methods diff-sae"
FREQUENCIES = "0.0005,0.001,0.002,0.005,0.01,0.05"
PRESETS = ("easy", "rare", "null", "undercomplete", "realistic")
SMALL = "--preset undercomplete --methods diff-sae --sweep"
PARTS = {
    "undercomplete-ratio": f"{SMALL} ratio=0.25,0.5,1",
    "undercomplete-auto": f"{SMALL} ratio=0.25,2 --k auto",
    **{preset: f"--preset {preset} --methods all" for preset in PRESETS[:3]},
    "frequency": f"--preset easy {POST} --sweep changed_frequency={FREQUENCIES}",
    "ratio": f"--preset easy {POST} --sweep ratio=0.5,1,2,4,8,16",
    **{preset: f"--preset {preset} --methods all" for preset in PRESETS[3:]},
}
"""In the order in which they run: the cheap ones first."""
COLUMNS = {
    "recall_new": "new",
    "recall_removed": "removed",
    "recall_scaled": "scaled",
    "recall_rotated": "rotated",
    "recall_retriggered": "retriggered",
    "recall_shared": "shared",
    "flagged": "flagged",
    "precision": "precision",
    "fve": "FVE",
    "seconds": "seconds",
}
"""Figures of the table of a preset or sweep, and their heads."""
OF_CROSSCODERS = {
    "class_new": "class of new",
    "class_removed": "class of removed",
    "tuned_only": "tuned-only",
    "false_tuned_only": "of these false",
    "auroc_delta_norm": "AUROC Δ-norm",
    "auroc_nu_error": "AUROC ν error",
    "auroc_nu_recon": "AUROC ν recon.",
}
KEPT = (
    *COLUMNS,
    *OF_CROSSCODERS,
    *("auroc_nu_act", "ratio_error", "shared_leakage", "difference_recovered"),
    *("l0", "dead_share", "peak_mib"),
)
COUNTS = ("flagged", "tuned_only", "false_tuned_only", "seconds")
"""Figures that are not shares: shown with one digit."""


def measure() -> None:
    """Run every part that is missing."""
    parts = read_json(NUMBERS)["parts"] if NUMBERS.exists() else {}
    if set(parts) == set(PARTS):
        parts = {}
    for name, options in PARTS.items():
        if name not in parts:
            parts[name] = play(f"planted {options} {COMMON}")
            write_json(NUMBERS, {"machine": machine(), "seeds": SEEDS, "parts": parts})
            print(f"{name}: {parts[name]['processor_seconds']:.0f} s of processor time", flush=True)


def play(arguments: str) -> dict[str, Any]:
    """Run one command; return it with the time it took and the means of every cell."""
    done = command(arguments)
    return done | {"rows": [_shortened(row) for row in done["rows"]]}


def _shortened(row: dict[str, Any]) -> dict[str, Any]:
    """Return what the page is about, each figure as mean, low and high with five digits."""
    short = {name: row[name] for name in ("preset", "entrant", "seeds")}
    for name in KEPT:
        values = [row.get(f"{name}{end}") for end in ("", "_low", "_high")]
        short[name] = [None if value is None else float(f"{value:.5g}") for value in values]
    return short


def figure(row: dict[str, Any], name: str) -> str:
    """Return one cell: the mean and half the width of its interval, or a dash."""
    mean, low, high = row[name]
    if mean is None:
        return "–"
    digits = 1 if name in COUNTS else 2
    if low is None:
        return f"{mean:.{digits}f}"
    return f"{mean:.{digits}f} ± {(high - low) / 2:.{digits}f}"


def figures(rows: list[dict[str, Any]], columns: dict[str, str], *heads: str) -> str:
    """Return a table of rows, without columns that are empty everywhere."""
    if not rows:
        return "Not measured yet."
    shown = {
        name: head
        for name, head in columns.items()
        if any(row[name][0] is not None for row in rows)
    }
    lines = [[*("method" if head == "entrant" else head for head in heads), *shown.values()]]
    lines += [
        [*(row[head] for head in heads), *(figure(row, name) for name in shown)] for row in rows
    ]
    return table(lines)


def sections(parts: dict[str, Any]) -> dict[str, str]:
    """Return the text of every block of the page, without what was not measured."""
    rows = {name: part["rows"] for name, part in parts.items()}
    presets = {name: rows[name] for name in PRESETS if name in rows}
    everything = [row for some in presets.values() for row in some]
    crosscoders = [row for row in everything if row["tuned_only"][0] is not None]
    small = [
        row | {"k": "auto" if name == "undercomplete-auto" else "planted"}
        for name in ("undercomplete-ratio", "undercomplete", "undercomplete-auto")
        for row in rows.get(name, [])
        if row["entrant"] == "diff-sae"
    ]
    few = {name: COLUMNS[name] for name in ("recall_new", "recall_removed", "precision", "fve")}
    return {
        "grid": "\n\n".join(
            f"### {name}\n\n{figures(some, COLUMNS, 'entrant')}" for name, some in presets.items()
        )
        or "Not measured yet.",
        "crosscoders": figures(crosscoders, OF_CROSSCODERS, "preset", "entrant"),
        "undercomplete": figures(small, few, "preset", "k"),
        **{
            name: figures(rows.get(name, []), COLUMNS, "preset", "entrant")
            for name in ("ratio", "frequency")
        },
        "commands": "\n".join(["```sh", *(part["command"] for part in parts.values()), "```"]),
    }


def main() -> None:
    """Measure unless told otherwise, and write the page's tables."""
    if "--page" not in sys.argv:
        measure()
    numbers = read_json(NUMBERS)
    parts = numbers["parts"]
    minutes = sum(part["processor_seconds"] for part in parts.values()) / 60
    spent = (
        f"There are {numbers['seeds']} seeds per cell. The tables took {minutes:.0f} minutes of\n"
        f"processor time on one thread ({numbers['machine']['cpu']}), scoring included."
    )
    fill(PAGE, time=spent, **sections(parts))


if __name__ == "__main__":
    main()
