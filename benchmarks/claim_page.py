"""The claims page: the post's claims tested on planted pairs, made from the JSON."""

from pathlib import Path
from typing import Any

from anaglyph.core.files import read_json, write_text

INTRO = """# The post's claims on planted data

This page tests nine claims of the post (Dumas, Minder and Nanda, 2025) on planted pairs, where the
right answer is known. This command makes it:

```
{command}
```

All numbers come from [`claims.json`](claims.json). Each is a mean over {seeds} seeds (from {first}
on) with its 95% interval (Student's t). Every seed has its own pairs and trainings. "n" is given if
a number is undefined for some seeds. We chose the settings on seed 0, where we also tried other mu,
ratios and lengths of training. {trainings} trainings of {tokens:,} tokens in batches of {batch}
took {minutes:.1f} minutes of processor time, scoring included.

Each claim has checks. A check is a difference that is above zero if the claim holds; both sides
share a seed. It passes if its whole interval is above zero. *Reproduced* means that all checks
pass, *partly* that some pass, *not reproduced* that none passes.

Planted pairs are not language models. A claim that fails here may hold there, and the reverse.
"""


def build_claims(source: Path, out: Path) -> Path:
    """Write the page.

    Args:
        source: The JSON of `measure_claims`, with `command`, which a reader can run.
        out: The Markdown file to write.
    """
    result = read_json(source)
    parts = [
        INTRO.format(
            command=result["command"],
            seeds=len(result["seeds"]),
            first=result["seeds"][0],
            trainings=result["trainings"],
            tokens=result["tokens"],
            batch=result["batch"],
            minutes=result["seconds"] / 60,
        ),
        _table(
            ["", "claim", "verdict"],
            [
                [str(number), claim["says"], f"**{claim['verdict']}**"]
                for number, claim in enumerate(result["claims"], 1)
            ],
        ),
    ]
    seeds = len(result["seeds"])
    for number, claim in enumerate(result["claims"], 1):
        parts += [
            f"\n## {number}. {claim['says']}\n\nVerdict: **{claim['verdict']}**\n",
            _table(
                ["measured", "mean [95% interval]"],
                [[figure["name"], _shown(figure, seeds)] for figure in claim["figures"]],
            ),
            "",
            _table(
                ["check: above zero", "mean [95% interval]", "passes"],
                [
                    [check["name"], _shown(check, seeds), "yes" if check["holds"] else "no"]
                    for check in claim["checks"]
                ],
            ),
        ]
    parts += [_search(result, seeds), _settings(result)]
    write_text(out, "\n".join(parts) + "\n")
    return out


def _search(result: dict[str, Any], seeds: int) -> str:
    rows = [
        [
            row["norm"] if row["entrant"] == "l1" else "",
            f"{row['mu']:g}" if row["entrant"] == "l1" else "",
            {"l1": "L1", "batchtopk": "BatchTopK"}[row["entrant"]],
            *(
                _shown(row[name], seeds)
                for name in (
                    *("l0", "fve", "tuned_only", "false_tuned_only", "false_share"),
                    *("shrunk", "recall_new", "auroc_nu_error", "auroc_delta_norm"),
                )
            ),
        ]
        for row in result["search"]
    ]
    head = [
        *("norm", "mu", "crosscoder", "L0", "FVE", "tuned-only", "false", "false share"),
        *("nu_error >= 0.2", "new found", "AUROC nu_error", "AUROC Delta_norm"),
    ]
    best = result["best"]
    return (
        "\n## The search over mu\n\nL1 crosscoders with the squared and the unsquared norm. Below "
        "each is the BatchTopK crosscoder of the same size; its k is the L0 of the L1 crosscoder "
        f"on held-out sequences. The planted L0 is {_shown(result['true_l0'], seeds)}.\n\n"
        f'- "Default mu" is {result["default_mu"]:g} with the squared norm.\n'
        f'- "mu best for L1" is {best["mu"]:g} with the {best["norm"]} norm. It has the best F1 of '
        "new features found and true share of the tuned-only latents. We picked it with the truth "
        "of the same seeds, which favours L1.\n"
        f"- The false share of L1 is above {result['factor']} times that of BatchTopK, with the "
        f"whole interval of the difference, at {_points(result['exceeding'])}.\n\n"
        + _table(head, rows)
    )


def _points(points: list[dict[str, Any]]) -> str:
    named = [f"mu={point['mu']:g} ({point['norm']})" for point in points]
    return ", ".join(named) or "no penalty of the search"


def _settings(result: dict[str, Any]) -> str:
    rows = [
        [
            name,
            ", ".join(f"{field}={value}" for field, value in settings.items()),
            f"{result['ratios'][name]:g}",
        ]
        for name, settings in result["pairs"].items()
    ]
    return (
        "\n## The pairs\n\nClaims 1, 2, 4 and 5 are tested on `shrinkage`, claim 3 and the second "
        "half of 5 on `decoupling`, the others on `scarce`. Settings that are not listed are those "
        "of the preset `easy`. Apart from the crosscoders of the search, every method has the "
        "planted L0 of what it reads as k.\n\n"
        + _table(["pair", "settings", "latents over true features"], rows)
    )


def _shown(figure: dict[str, Any], seeds: int) -> str:
    if figure["mean"] is None:
        return "undefined"
    text = f"{figure['mean']:.3g}"
    if figure["low"] is not None:
        text += f" [{figure['low']:.3g}, {figure['high']:.3g}]"
    return text if figure["seeds"] == seeds else f"{text} (n={figure['seeds']})"


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
