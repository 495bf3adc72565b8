"""The planted benchmark as it is published: docs/performance/planted_grid.json and docs/planted.md.

    python benchmarks/planted_grid.py [--page]

Every part is one `anaglyph planted` command, kept under .bench as soon as it is done: a run that
was killed goes on with the part it was at. With --page the page's tables alone are written.
"""

import resource
import shlex
import subprocess
import sys
import time
from typing import Any

from bench import CACHE, ROOT

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
CHANGED = ("new", "removed", "scaled", "rotated", "retriggered")
"""Kinds of change that a preset plants; each has a column."""
KEPT = (
    *(f"recall_{kind}" for kind in (*CHANGED, "shared")),
    *("class_new", "class_removed", "tuned_only", "false_tuned_only", "flagged", "precision"),
    *("auroc_delta_norm", "auroc_nu_error", "auroc_nu_recon", "auroc_nu_act", "ratio_error"),
    *("shared_leakage", "difference_recovered", "fve", "l0", "dead_share", "seconds", "peak_mib"),
)


def measure() -> dict[str, Any]:
    """Play every part that is not there yet and join them all."""
    parts = {}
    for name, options in PARTS.items():
        done = PARTS_FOLDER / f"{name}.json"
        if not done.exists():
            write_json(done, play(name, f"planted {options} {COMMON}"))
        parts[name] = read_json(done)
    return {
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


def main() -> None:
    """Measure unless told otherwise, and write the page's tables."""
    if "--page" not in sys.argv:
        write_json(NUMBERS, measure())


if __name__ == "__main__":
    main()
