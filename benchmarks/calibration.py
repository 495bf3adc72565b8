"""Write the table of docs/findings.md from what `anaglyph calibrate --out DIR` measured.

    python benchmarks/calibration.py DIR

Keeps the numbers in docs/performance/calibration.json. Without DIR only the table is written anew.
"""

import shutil
import sys
from pathlib import Path
from typing import Any

from bench import fill

from anaglyph.files import read_json

DOCS = Path(__file__).parents[1] / "docs"
NUMBERS = DOCS / "performance" / "calibration.json"
KINDS = ("new", "removed", "scaled", "rotated", "retriggered", "mean-shift")


def percent(value: float | None) -> str:
    """Return a share in percent, or a dash."""
    return "–" if value is None else f"{100 * value:.1f}"


def table(rows: list[dict[str, Any]]) -> str:
    """Return the numbers as Markdown."""
    head = ["preset", "pairs", "findings a pair", "false %", "pairs without a false one %"]
    head += ["recall %", "right kind %", "interval holds the truth %"]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for row in rows:
        false = percent(row["false_share"])
        if row["false_share_high"] is not None:
            bounds = (percent(row["false_share_low"]), percent(row["false_share_high"]))
            false += f" ({bounds[0]} to {bounds[1]})"
        cells = [row["preset"], str(row["pairs"]), f"{row['findings']:.1f}", false]
        cells += [percent(row[name]) for name in ("silent", "recall", "right_kind", "covered")]
        lines.append(f"| {' | '.join(cells)} |")
    head = ["interval holds the truth %, by kind", *KINDS]
    lines += ["", f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for row in rows:
        cells = [row["preset"], *(percent(row.get(f"covered_{kind}")) for kind in KINDS)]
        if any(cell != "–" for cell in cells[1:]):
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Copy the numbers, if a folder is given, and write the table."""
    if len(sys.argv) > 1:
        NUMBERS.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(Path(sys.argv[1]) / "summary.json", NUMBERS)
    fill(DOCS / "findings.md", calibration=table(read_json(NUMBERS)))


if __name__ == "__main__":
    main()
