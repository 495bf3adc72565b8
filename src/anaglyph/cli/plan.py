"""What a run will cost, before it starts."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from anaglyph.cli.app import app
from anaglyph.cli.options import AsJson, Base, Config, MaybeData, Tuned, with_settings
from anaglyph.cli.terminal import say, table_text
from anaglyph.core.settings import (
    BehaveSettings,
    CausalSettings,
    CollectSettings,
    FindSettings,
    Settings,
    TrainSettings,
    load_settings,
)


@app.command("plan")
@with_settings(
    CollectSettings, BehaveSettings, TrainSettings, CausalSettings, FindSettings, Settings
)
def plan_command(
    base: Base,
    tuned: Tuned,
    given: dict[str, Any],
    data: MaybeData = None,
    text_tokens: Annotated[
        int | None, typer.Option(min=1, help="Tokens of the text (default: from the data).")
    ] = None,
    gpus: Annotated[int, typer.Option(help="GPUs of the described machine.")] = 1,
    gpu: Annotated[
        str | None,
        typer.Option(
            help="Describe a machine with these GPUs (default: this machine): h200, h100, a100, "
            "a100-40, l40s, a6000 or 4090."
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Where the run would be written.")] = Path("."),
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Print time, peak memory and disk of every stage of `diff`.

    Reads the models' config.json only; BASE and TUNED may be folders that hold nothing else.
    """
    from anaglyph.run.plan import described, plan, rows, shapes_of, this_machine, tokens_of

    settings = load_settings(config, **given)
    shapes, one_copy = shapes_of(base, tuned)
    tokens = text_tokens or tokens_of(data or [], settings.collect.max_tokens)
    machine = this_machine(out, settings) if gpu is None else described(gpu, gpus, settings)
    found = plan(shapes, tokens, settings, machine, one_copy=one_copy)
    if as_json:
        say(json.dumps(found.as_json()))
        return
    say(f"{tokens:,} tokens on {machine.name}")
    say(table_text(rows(found)))
    for note in (*found.notes, found.problem()):
        if note:
            say(f"note: {note}")
