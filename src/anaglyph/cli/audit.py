"""The command that lets a language model investigate a run's pair."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from anaglyph.cli.app import app
from anaglyph.cli.common import reopen
from anaglyph.cli.options import AsJson, Run, Threads
from anaglyph.cli.terminal import Bars, say, table_text

if TYPE_CHECKING:
    from anaglyph.auditor import Audit


@app.command("audit")
def audit_command(
    run: Run,
    model: Annotated[str, typer.Option(help="the investigating model's name at the endpoint")],
    card: Annotated[
        Path | None, typer.Option(help="card.json of an organism or control, to grade by")
    ] = None,
    mode: Annotated[
        str, typer.Option(help="white: findings, examples, steering; black: replies only")
    ] = "white",
    base_url: Annotated[
        str | None, typer.Option(help="OpenAI-compatible endpoint; left out, OpenAI's own")
    ] = None,
    key_variable: Annotated[
        str, typer.Option(help="environment variable that holds the endpoint's key")
    ] = "OPENAI_API_KEY",
    grader: Annotated[
        str | None, typer.Option(help="grading model at the same endpoint; left out, --model")
    ] = None,
    turns: Annotated[
        int | None, typer.Option(min=1, help="most answers of the model; left out, 30")
    ] = None,
    tokens: Annotated[
        int | None,
        typer.Option(min=1, help="most tokens, as the endpoint counts them; left out, 300000"),
    ] = None,
    calls: Annotated[int | None, typer.Option(min=0, help="most tool calls; left out, 60")] = None,
    generated: Annotated[
        int | None,
        typer.Option(min=0, help="most tokens that base and tuned write; left out, 20000"),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="folder of the audit; left out, one in RUN/audits")
    ] = None,
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Let a language model find out what the fine-tune changed, and grade its hypothesis.

    What the model asks to see (findings, texts, replies) is sent to the endpoint.
    """
    from anaglyph.auditor import Endpoint, Limits, audit, read_key, read_mode
    from anaglyph.auditor.endpoint import OPENAI

    key = None if card is None else read_key(card)
    endpoint = Endpoint(model, base_url or OPENAI, key_variable)
    given = {"turns": turns, "tokens": tokens, "calls": calls, "generated": generated}
    limits = Limits(**{name: value for name, value in given.items() if value is not None})
    with Bars() as progress:
        found = audit(
            reopen(run, progress, threads=threads),
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
