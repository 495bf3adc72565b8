"""What commands share: opening a run, and printing what it holds."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from anaglyph.cli.terminal import say, table_text

if TYPE_CHECKING:
    from anaglyph.run import Workbench


def parse_layer(text: str | None) -> int | float | None:
    """Read an index such as 15 or a fraction such as 0.5."""
    if text is None:
        return None
    try:
        return float(text) if "." in text else int(text)
    except ValueError:
        raise typer.BadParameter(
            f"--layer takes an index such as 15 or a fraction such as 0.5, not {text!r}"
        ) from None


def parse_k(text: str | None) -> float | str | None:
    """Read a number or the word auto."""
    if text is None or text == "auto":
        return text
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(f"--k takes a number or auto, not {text!r}") from None


def parse_options(texts: list[str] | None) -> dict[str, Any] | None:
    """Read options given as NAME=VALUE; a value that is a JSON number or boolean becomes one."""
    if not texts:
        return None
    options = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise typer.BadParameter(f"--option takes NAME=VALUE, not {text!r}")
        try:
            options[name] = json.loads(value)
        except json.JSONDecodeError:
            options[name] = value
    return options


def reopen(run: Path, progress: Any = None, **overrides: Any) -> "Workbench":
    """Open a run folder; overrides that are not None replace its settings."""
    from anaglyph.core.progress import silent
    from anaglyph.run import Workbench

    return Workbench.reopen(run, progress or silent, **overrides)


def print_facts(facts: dict[str, Any], as_json: bool) -> None:
    """Print one row of named values."""
    say(json.dumps(facts, indent=2) if as_json else table_text([facts]))


def print_table(name: str, table: Any, as_json: bool) -> None:
    """Print a data frame under a title."""
    if as_json:
        say(json.dumps({"dictionary": name, "rows": table.to_dicts()}))
    else:
        say(f"\n{name}\n{table_text(table.to_dicts())}")


def print_verdict(bench: "Workbench", as_json: bool) -> None:
    """Print what a run found."""
    verdict = bench.verdict
    page = bench.report_path
    if as_json:
        facts = verdict.model_dump(mode="json") | {"report": str(page) if page.exists() else None}
        say(json.dumps(facts, indent=2))
        return
    say(f"\n{verdict.verdict}: {verdict.reason}")
    rows = [
        {
            "#": number,
            "kind": finding.kind,
            "effect": finding.effect,
            "q": finding.q_value,
            "KL recovered": finding.kl_recovered,
            "base freq.": finding.frequency_base,
            "tuned freq.": finding.frequency_tuned,
            "shown by": ", ".join(f"{name}/{index}" for name, index in finding.latents[:3]),
        }
        for number, finding in enumerate(verdict.findings, 1)
    ]
    if rows:
        say(table_text(rows))
    limit = verdict.detection_limit
    if limit is not None:
        say(
            f"would have seen a new feature of strength {limit.size:.3g} ({limit.relative:.1%} of "
            f"a typical activation) at {limit.frequency:.1%} of tokens with probability "
            f"{limit.probability:.0%} ({limit.found} of {limit.trials} planted ones came back)"
        )
    if page.exists():
        say(f"report: {page}")
