"""The benchmark's page: a table of methods by scores, with a dot and its interval per cell."""

import html
from importlib.resources import files
from pathlib import Path

import polars as pl

from anaglyph.core.files import write_text

# In the order of interest; scores that no method has are left out.
FIGURES = {
    "recall_new": "new features found",
    "recall_removed": "removed features found",
    "recall_scaled": "scaled features found",
    "recall_rotated": "rotated features found",
    "recall_retriggered": "retriggered features found",
    "recall_shared": "shared features found",
    "class_new": "new features in the right class",
    "class_removed": "removed features in the right class",
    "flagged": "latents flagged as a change",
    "precision": "precision: share of flagged latents that are true changes",
    "tuned_only": "latents of class tuned-only",
    "rotated_tuned_only": "of these, new directions of rotated features",
    "false_tuned_only": "of these, false (neither new nor rotated)",
    "auroc_delta_norm": "AUROC of Δ-norm",
    "auroc_nu_error": "AUROC of ν error",
    "auroc_nu_recon": "AUROC of ν reconstruction",
    "auroc_nu_act": "AUROC of ν activation",
    "ratio_error": "median |log ratio error|, scaled features",
    "difference_recovered": "FVE of the difference",
    "fve": "FVE, held out",
    "l0": "L0, held out",
    "dead_share": "dead latents",
    "seconds": "training, seconds",
    "peak_mib": "training, peak memory above the start, MiB",
}
WIDTH, PAD = 150, 8


def build_benchmark(summary: pl.DataFrame, command: str, out: Path) -> Path:
    """Write the page of a benchmark.

    Args:
        summary: One row per preset and method, each score with `_low` and `_high`.
        command: The command that gives the same scores.
        out: The file to write.
    """
    parts = [
        "<!doctype html><html lang='en'><meta charset='utf-8'><title>planted benchmark</title>",
        f"<style>{_style()}</style><main class='bench'><h1>Planted benchmark</h1>",
        "<p>Planted pairs, whose right answer is known. Dots are means over seeds, bars are 95% "
        f"intervals (Student's t). Made by <code>{html.escape(command)}</code></p>",
    ]
    for (preset,), rows in summary.group_by(["preset"], maintain_order=True):
        shown = [name for name in FIGURES if name in rows.columns and rows[name].count() > 0]
        seeds = rows["seeds"].max()
        parts.append(f"<h2>{html.escape(str(preset))} <small>{seeds} seeds</small></h2>")
        entrants = [html.escape(name) for name in rows["entrant"]]
        head = "".join(f"<th scope='col'>{name}</th>" for name in entrants)
        parts.append(f"<table><thead><tr><th></th>{head}</tr></thead><tbody>")
        for name in shown:
            parts.append(f"<tr><th scope='row'>{html.escape(FIGURES[name])}</th>")
            parts.extend(f"<td>{cell}</td>" for cell in _cells(rows, name))
            parts.append("</tr>")
        parts.append("</tbody></table>")
    parts.append("</main></html>")
    write_text(out, "\n".join(parts))
    return out


def _cells(rows: pl.DataFrame, name: str) -> list[str]:
    """Draw one score of every method on a shared scale."""
    triples = rows.select(name, f"{name}_low", f"{name}_high").rows()
    largest = max((v for triple in triples for v in triple if v is not None), default=1.0)
    top = 1.0 if largest <= 1 else largest

    def at(value: float) -> float:
        return PAD + (WIDTH - 2 * PAD) * min(max(value / top, 0.0), 1.0)

    cells = []
    for mean, low, high in triples:
        if mean is None:
            cells.append("–")
            continue
        bar = ""
        if low is not None and high is not None:
            bar = f"<path d='M{at(low):.1f} 9H{at(high):.1f}' class='bar'/>"
        cells.append(
            f"<span>{mean:.3g}</span><svg viewBox='0 0 {WIDTH} 18' width='{WIDTH}' height='18'>"
            f"<path d='M{PAD} 9H{WIDTH - PAD}' class='axis'/>{bar}"
            f"<circle cx='{at(mean):.1f}' cy='9' r='4'/></svg>"
        )
    return cells


def _style() -> str:
    return (files("anaglyph.report") / "page" / "benchmark.css").read_text(encoding="utf-8")
