"""What k does to a dictionary on planted pairs, and what `k="auto"` chooses: docs/planted.md.

    python benchmarks/choosing_k.py [--page]

Trains with a grid of k and with "auto", keeps the rows in docs/performance/choosing_k.json and
writes the page's tables from them. --page only writes the tables.
"""

import statistics
import sys
import time
from pathlib import Path
from typing import Any

from bench import fill, table

from anaglyph.core.files import read_json, write_json
from anaglyph.truth.planted import planted_settings, run_planted

DOCS = Path(__file__).parents[1] / "docs"
NUMBERS = DOCS / "performance" / "choosing_k.json"
PAGE = DOCS / "planted.md"
GRID = {
    "easy": (0.25, 0.5, 0.707, 1.0, 2.0, 4.0),
    "realistic": (0.25, 0.354, 0.5, 1.0, 2.0),
    "undercomplete": (0.0625, 0.125, 0.177, 0.5, 1.0),
    "rare": (0.0625, 0.088, 0.125, 0.25, 1.0),
}
OTHERS = {
    "easy": {"crosscoder": (1.41, 2.0, 2.83), "tuned-sae": (1.0, 1.41, 2.0)},
    "realistic": {"crosscoder": (8.0, 11.3, 16.0), "tuned-sae": (8.0, 11.3, 16.0)},
}
SEEDS = tuple(range(10))
CHANGED = ("new", "removed", "scaled", "rotated", "retriggered")
KEPT = ("k", "fve", "precision", "seconds", "k_seconds", *(f"recall_{kind}" for kind in CHANGED))


def measure() -> list[dict[str, Any]]:
    """Run every cell; one row per training."""
    cells = [("diff-sae", preset, k) for preset, grid in GRID.items() for k in (*grid, "auto")]
    for preset, methods in OTHERS.items():
        cells += [(method, preset, k) for method, grid in methods.items() for k in (*grid, "auto")]
    rows = []
    for method, preset, k in cells:
        runs = run_planted(preset, [method], SEEDS, k=k)
        for run in runs.iter_rows(named=True):
            row = {"method": method, "preset": preset, "asked": k, "seed": run["seed"]}
            rows.append(row | {name: run[name] for name in KEPT})
    return rows


def recall(row: dict[str, Any]) -> float:
    """Return the share of all changed features found."""
    settings = planted_settings(row["preset"])
    counts = {kind: getattr(settings, kind) for kind in CHANGED}
    found = sum((row[f"recall_{kind}"] or 0.0) * count for kind, count in counts.items())
    return found / sum(counts.values())


def cost(row: dict[str, Any]) -> float:
    """Return what choosing and training took over the training alone."""
    return row["seconds"] / (row["seconds"] - (row["k_seconds"] or 0.0))


def page_table(rows: list[dict[str, Any]], diff: bool) -> str:
    """Return the mean over seeds of every cell of the diff-SAE, or of the other methods."""
    lines = [["preset" if diff else "method", "k", "recall", "precision", "FVE", "trainings"]]
    cells: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        if (row["method"] == "diff-sae") == diff:
            name = row["preset"] if diff else f"{row['method']}, {row['preset']}"
            cells.setdefault((name, str(row["asked"])), []).append(row)
    for (name, asked), runs in cells.items():
        chosen = [run["k"] for run in runs]
        recalls = statistics.fmean(recall(run) for run in runs)
        precisions = [run["precision"] for run in runs if run["precision"] is not None]
        lines.append(
            [
                name,
                f"auto: {min(chosen):.3g} to {max(chosen):.3g}" if asked == "auto" else asked,
                f"{recalls:.2f}",
                f"{statistics.fmean(precisions):.2f}" if precisions else "-",
                f"{statistics.fmean(run['fve'] for run in runs):.3f}",
                f"{statistics.median(cost(run) for run in runs):.2f}",
            ]
        )
    return table(lines)


def main() -> None:
    """Measure unless told otherwise, and write the page's tables."""
    if "--page" not in sys.argv:
        start = time.perf_counter()
        rows = measure()
        write_json(NUMBERS, {"seconds": time.perf_counter() - start, "rows": rows})
    rows = read_json(NUMBERS)["rows"]
    fill(PAGE, difference=page_table(rows, True), others=page_table(rows, False))


if __name__ == "__main__":
    main()
