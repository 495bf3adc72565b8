"""The planted benchmark as it is published: docs/performance/planted_grid.json and docs/planted.md.

    python benchmarks/planted_grid.py [--page]

Every part is one `anaglyph planted` command, kept under .bench as soon as it is done: a run that
was killed goes on with the part it was at. With --page the page's tables alone are written, from
the parts that the JSON has.
"""

import resource
import shlex
import shutil
import subprocess
import sys
import time
from typing import Any

from bench import CACHE, ROOT, fill, machine, table

from anaglyph.files import read_json, write_json

NUMBERS = ROOT / "docs" / "performance" / "planted_grid.json"
PAGE = ROOT / "docs" / "planted.md"
PARTS_FOLDER = CACHE / "planted-grid"
SEEDS = 10
COMMON = f"--seeds {SEEDS} --tokens 300000 --batch 512"
POST = "--methods crosscoder --methods tuned-sae --methods base-sae --methods diff-sae"
FREQUENCIES = "0.0005,0.001,0.002,0.005,0.01,0.05"
PRESETS = ("easy", "realistic", "undercomplete", "rare", "null")
SMALL = "--preset undercomplete --methods diff-sae --sweep"
PARTS = {
    "undercomplete-ratio": f"{SMALL} ratio=0.25,0.5,1",
    "undercomplete-auto": f"{SMALL} ratio=0.25,2 --k auto",
    **{preset: f"--preset {preset} --methods all" for preset in PRESETS},
    "ratio": f"--preset easy {POST} --sweep ratio=0.5,1,2,4,8,16",
    "frequency": f"--preset easy {POST} --sweep changed_frequency={FREQUENCIES}",
}
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
    "false_tuned_only": "false ones",
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
"""Figures that are no shares: shown with one digit."""


def measure() -> dict[str, Any]:
    """Play every part that is not there yet and join them all."""
    parts = {}
    for name, options in PARTS.items():
        done = PARTS_FOLDER / f"{name}.json"
        if not done.exists():
            write_json(done, play(name, f"planted {options} {COMMON}"))
            print(f"{name}: {read_json(done)['seconds']:.0f} s", flush=True)
        parts[name] = read_json(done)
    return {
        "machine": machine(),
        "seeds": SEEDS,
        "minutes": sum(part["seconds"] for part in parts.values()) / 60,
        "processor_minutes": sum(part["processor_seconds"] for part in parts.values()) / 60,
        "parts": parts,
    }


def play(name: str, arguments: str) -> dict[str, Any]:
    """Run one command; return it with the time it took and the means of every cell."""
    out = PARTS_FOLDER / name
    start, before = time.perf_counter(), _processor_seconds()
    command = [sys.executable, "-m", "anaglyph", *shlex.split(arguments), "--out", str(out)]
    subprocess.run(command, check=True)
    return {
        "command": f"anaglyph {arguments}",
        "seconds": time.perf_counter() - start,
        "processor_seconds": _processor_seconds() - before,
        "rows": [_shortened(row) for row in read_json(out / "summary.json")],
    }


def _processor_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


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
    """Lay out rows; columns that are empty everywhere are left out."""
    shown = {
        name: head
        for name, head in columns.items()
        if any(row[name][0] is not None for row in rows)
    }
    lines = [[*heads, *shown.values()]]
    lines += [
        [*(row[head] for head in heads), *(figure(row, name) for name in shown)] for row in rows
    ]
    return table(lines)


def sections(parts: dict[str, Any]) -> dict[str, str]:
    """Return the text of every block of the page."""
    presets = {name: parts[name]["rows"] for name in PRESETS}
    crosscoders = [
        row for rows in presets.values() for row in rows if row["tuned_only"][0] is not None
    ]
    text = {
        "grid": "\n\n".join(
            f"### {name}\n\n{figures(rows, COLUMNS, 'entrant')}" for name, rows in presets.items()
        ),
        "crosscoders": figures(crosscoders, OF_CROSSCODERS, "preset", "entrant"),
    }
    for name in ("ratio", "frequency"):
        text[name] = figures(parts[name]["rows"], COLUMNS, "preset", "entrant")
    few = {name: COLUMNS[name] for name in ("recall_new", "recall_removed", "precision", "fve")}
    right = [*parts["undercomplete-ratio"]["rows"], *presets["undercomplete"]]
    rows = [("planted", row) for row in right if row["entrant"] == "diff-sae"]
    rows += [("auto", row) for row in parts["undercomplete-auto"]["rows"]]
    text["undercomplete"] = figures([row | {"k": k} for k, row in rows], few, "preset", "k")
    return text


def main() -> None:
    """Measure unless told otherwise, and write the page's tables."""
    if "--page" not in sys.argv:
        write_json(NUMBERS, measure())
        shutil.rmtree(PARTS_FOLDER)  # the next run starts anew
    numbers = read_json(NUMBERS)
    commands = "\n".join(part["command"] for part in numbers["parts"].values())
    time_taken = (
        f"{numbers['seeds']} seeds a cell; {numbers['processor_minutes']:.0f} minutes of processor "
        f"time on one thread ({numbers['machine']['cpu']}), with generation and scoring."
    )
    fill(PAGE, time=time_taken, commands=f"```\n{commands}\n```", **sections(numbers["parts"]))


if __name__ == "__main__":
    main()
