"""What commands share: opening a run, and printing what it holds."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from anaglyph.cli.terminal import say, table_text
from anaglyph.core.errors import InputError

if TYPE_CHECKING:
    from anaglyph.core.schemas import Behaviour, Claim, Verdict
    from anaglyph.run import Run

SHOWN_CLAIMS = 3
"""Claims that the terminal lists in full."""
SHOWN_WORDS = 8
LINE = 90
"""Characters of a reply that the terminal shows."""
SHOWN_FINDINGS = 10
"""Findings that the terminal lists; `--json` and the page have all."""


def parse_layer(text: str | None) -> int | float | None:
    """Read an index such as 15 or a fraction such as 0.5."""
    if text is None:
        return None
    try:
        return float(text) if "." in text else int(text)
    except ValueError:
        raise typer.BadParameter(
            f"a layer is an index such as 15 or a fraction such as 0.5, not {text!r}"
        ) from None


def reopen(run: Path, progress: Any = None, verify: bool = False, **changes: Any) -> "Run":
    """Open a run folder, after a check of all its bytes if asked.

    Changes that are not None replace its settings.
    """
    from anaglyph.core.progress import silent
    from anaglyph.run import Run
    from anaglyph.run.verify import check

    if verify:
        check(run, progress or silent)
    return Run.reopen(run, progress or silent, **changes)


def run_or_pair(base: str, tuned: str | None, **of_a_pair: Any) -> Path | None:
    """Return the run folder that ``base`` names; None if it and ``tuned`` are a pair of models.

    Args:
        base: The base model, or a run folder.
        tuned: Its fine-tune; None with a run folder.
        **of_a_pair: Options that a run folder has itself, by name.

    Raises:
        InputError: Neither is named, or a run folder with what it has itself.
    """
    if (Path(base) / "run.json").is_file():
        if tuned is not None:
            raise InputError(f"{base} is a run folder, which names both models: leave out {tuned}")
        for name, value in of_a_pair.items():
            if value:
                raise InputError(f"--{name} is for two models; {base} is a run folder")
        return Path(base)
    if tuned is None:
        raise InputError(
            f"{base} is not a run folder (no run.json): name two models, BASE and TUNED"
        )
    return None


def print_facts(facts: dict[str, Any], as_json: bool) -> None:
    """Print one row of named values."""
    say(json.dumps(facts, indent=2) if as_json else table_text([facts]))


def print_table(name: str, table: Any, as_json: bool) -> None:
    """Print a data frame under a title."""
    if as_json:
        say(json.dumps({"dictionary": name, "rows": table.to_dicts()}))
    else:
        say(f"\n{name}\n{table_text(table.to_dicts())}")


def reading_text(run: "Run") -> str:
    """Return what was read, as a table, and what to know of the pair and the text."""
    read = run.reading
    parts = [f"note: {note}" for note in run.folder.state.notes]
    if read is None:
        return "\n".join(parts)
    documents = ", ".join(f"{n} {kind}s" for kind, n in read["documents"].items() if n)
    skipped = sum(read["skipped"].values())
    parts.append(f"\nread: {read['rows']} rows, {documents}; {skipped} rows skipped")
    rows = [
        {
            "role": role,
            "tokens read": count,
            "cut": read["tokens_cut"].get(role, 0),
        }
        for role, count in read["tokens_read"].items()
    ]
    parts.append(table_text(rows))
    parts += [f"warning: {line}" for line in read["warnings"]]
    if read["skipped_rows"]:
        first = read["skipped_rows"][0]
        parts.append(
            f"first row skipped: {first['source']}: {first['detail']} (all are in reading.json)"
        )
    return "\n".join(parts)


def asked_prompts(prompt: list[str] | None, prompts: Path | None) -> list[str]:
    """Return the user turns of ``--prompt`` and of the file of ``--prompts``.

    Raises:
        InputError: There are none, or the file cannot be read.
    """
    from anaglyph.behaviour.prompts import read_prompts

    asked = [*(prompt or []), *(read_prompts(prompts) if prompts else [])]
    if not asked:
        raise InputError("name a --prompt, or a file of --prompts")
    return asked


def print_verdict(run: "Run", as_json: bool) -> None:
    """Print what a run found."""
    verdict, said, page = run.verdict, run.behaviour, run.report_path
    if as_json:
        facts = verdict.model_dump(mode="json") | {"report": str(page) if page.exists() else None}
        facts["behaviour"] = None if said is None else said.model_dump(mode="json")
        say(json.dumps(facts, indent=2))
        return
    if said is not None:
        say(behaviour_text(said))
    say(verdict_text(verdict))
    if run.is_page_current:
        say(f"report: {page}")
    elif page.exists():
        say(f"report: {page} is of earlier stages; renew it with: anaglyph report {run.path}")


def behaviour_text(said: "Behaviour") -> str:
    """Return the claims as people read them, each with a reply of either model."""
    parts = ["\nWhat the tuned model does differently"]
    for number, claim in enumerate(said.claims[:SHOWN_CLAIMS], 1):
        parts += [f"{number}. {claim.text}", *_side_by_side(claim)]
        parts += [f"     {claim.link}"] if claim.link else []
    if len(said.claims) > SHOWN_CLAIMS:
        parts.append(f"{len(said.claims) - SHOWN_CLAIMS} more claims are in behaviour.json.")
    if not said.claims:
        parts.append(said.headline)
    if said.favoured:
        words = ", ".join(said.favoured[:SHOWN_WORDS])
        parts.append(f"Words that the fine-tune favours on any text: {words}.")
    if said.unverified:
        parts.append("Seen, but not verified:")
        for claim in said.unverified[: SHOWN_CLAIMS if not said.claims else 2]:
            parts += [f"- {claim.text}", *_side_by_side(claim)]
    parts += [f"Note: {note}." for note in said.notes]
    return "\n".join(parts)


def _side_by_side(claim: "Claim") -> list[str]:
    """Return one prompt that shows a claim, with both replies, each on one line."""
    if not claim.replies:
        return []
    shown = claim.replies[0]
    rows = {"asked": shown.prompt, "base": shown.base, "tuned": shown.tuned}
    quoted = claim.feature.partition('"')[2].rstrip('"')
    return [f"     {name:6}{_one_line(text, quoted)}" for name, text in rows.items()]


def _one_line(text: str, quoted: str = "") -> str:
    """Return a text on one line, cut so that a phrase that it holds can be read."""
    line = " ".join(text.split())
    line = "".join(c if c.isprintable() else "\ufffd" for c in line)
    if len(line) <= LINE:
        return line
    end = line.lower().find(quoted) + len(quoted)
    start = max(0, end + 10 - LINE) if quoted and end >= LINE else 0
    cut = line[start : start + LINE - 2]
    return ("…" if start else "") + cut + ("…" if start + len(cut) < len(line) else "")


def verdict_text(verdict: "Verdict") -> str:
    """Return a verdict as people read it: how far apart, what was named, what could be seen."""
    parts = [f"\n{verdict.headline}."]
    if verdict.advice:
        parts.append(f"What would help: {verdict.advice}.")
    rows = [
        {
            "#": number,
            "kind": finding.kind,
            "effect": finding.effect,
            **({"layers": ", ".join(map(str, sorted(finding.layers)))} if finding.depth else {}),
            "q": finding.q_value,
            "KL recovered": finding.kl_recovered,
            "base freq.": finding.frequency_base,
            "tuned freq.": finding.frequency_tuned,
            "strongest at": _strongest(finding.examples),
        }
        for number, finding in enumerate(verdict.findings[:SHOWN_FINDINGS], 1)
    ]
    if rows:
        parts.append(table_text(rows))
    left = len(verdict.findings) - len(rows)
    if left > 0:
        parts.append(f"{left} more findings are on the page and in findings.json")
    limit = verdict.detection_limit
    if limit is not None:
        parts.append(
            f"This run finds a new feature of strength {limit.size:.3g} ({limit.relative:.1%} of a "
            f"typical activation) at {limit.frequency:.1%} of tokens with probability "
            f"{limit.probability:.0%} (we planted {limit.trials} test features; "
            f"{limit.found} were found)."
        )
    parts += [f"Skipped: {reason}." for reason in verdict.skipped]
    return "\n".join(parts)


def _strongest(examples: Any) -> str:
    """Return the token at which a finding is strongest, with the ones before it."""
    if not examples or "tokens" not in examples[0]:
        return "-"
    window = examples[0]
    end = window["position"] + 1
    return repr("".join(window["tokens"][max(0, end - 4) : end]))
