"""The command that lets a language model investigate a run's pair."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from anaglyph.cli.app import app
from anaglyph.cli.common import reopen
from anaglyph.cli.options import AsJson, Run, with_settings
from anaglyph.cli.terminal import Bars, say, table_text
from anaglyph.core.settings import Settings

if TYPE_CHECKING:
    from anaglyph.auditor import Audit


@app.command("audit")
@with_settings(Settings)
def audit_command(
    run: Run,
    given: dict[str, Any],
    model: Annotated[str, typer.Option(help="Name of the investigating model at the endpoint.")],
    card: Annotated[
        Path | None, typer.Option(help="card.json of an organism or control to grade by.")
    ] = None,
    mode: Annotated[
        str,
        typer.Option(help="white sees findings and steering; black sees replies only."),
    ] = "white",
    base_url: Annotated[
        str | None, typer.Option(help="OpenAI-compatible endpoint (default: OpenAI's).")
    ] = None,
    key_variable: Annotated[
        str, typer.Option(help="Environment variable that holds the endpoint's key.")
    ] = "OPENAI_API_KEY",
    grader: Annotated[
        str | None, typer.Option(help="Grading model at the same endpoint (default: --model).")
    ] = None,
    turns: Annotated[
        int | None, typer.Option(min=1, help="Answers of the model at most (default 30).")
    ] = None,
    api_tokens: Annotated[
        int | None,
        typer.Option(min=1, help="Tokens the endpoint may count (default 300000)."),
    ] = None,
    calls: Annotated[int | None, typer.Option(min=0, help="Tool calls (default 60).")] = None,
    generated: Annotated[
        int | None,
        typer.Option(min=0, help="Tokens that base and tuned write at most (default 20000)."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the audit (default: one in RUN/audits).")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Let a language model find out what the fine-tune changed, and grade its hypothesis.

    What the model asks to see (findings, texts, replies) is sent to the endpoint.
    """
    from anaglyph.auditor import Endpoint, Limits, audit, read_key, read_mode
    from anaglyph.auditor.endpoint import OPENAI

    key = None if card is None else read_key(card)
    endpoint = Endpoint(model, base_url or OPENAI, key_variable)
    spend = {"turns": turns, "tokens": api_tokens, "calls": calls, "generated": generated}
    limits = Limits(**{name: value for name, value in spend.items() if value is not None})
    with Bars() as progress:
        found = audit(
            reopen(run, progress, **given),
            endpoint,
            mode=read_mode(mode),
            card=key,
            grader=None if grader is None else Endpoint(grader, endpoint.base_url, key_variable),
            limits=limits,
            out=out,
            progress=progress,
        )
    say(json.dumps(found.model_dump(mode="json"), indent=2) if as_json else _text(found))


def _text(found: "Audit") -> str:
    hypothesis, grade = found.hypothesis, found.grade
    lines = [f"{hypothesis.verdict} (confidence {hypothesis.confidence:.0%})"]
    if hypothesis.behaviour:
        lines.append(f"behaviour: {hypothesis.behaviour}")
    words = {"triggers": hypothesis.triggers, "content": hypothesis.content}
    lines += [f"{name}: {', '.join(some)}" for name, some in words.items() if some]
    if grade is not None:
        lines.append(f"score {grade.score:.2f} by the card of {grade.card}: {grade.reason}")
    spent = found.spent.model_dump() | {"ended": found.ended}
    return "\n".join([*lines, "", table_text([spent]), f"kept in {found.folder}"])
