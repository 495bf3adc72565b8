"""The command that makes a change larger than it is, and looks for rare behaviour by it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from anaglyph.cli.app import app
from anaglyph.cli.common import parse_layer
from anaglyph.cli.direct_common import OF_PAIR, Target, file_key, print_heads, print_json, split
from anaglyph.cli.options import GENERAL, AsJson, BaseOrRun, MaybeTuned, Tables, with_settings
from anaglyph.cli.terminal import Bars
from anaglyph.core.errors import InputError
from anaglyph.core.files import digest
from anaglyph.core.settings import DIRECTIONS, AmplifySettings, PairSettings, Settings

if TYPE_CHECKING:
    import polars as pl


@app.command("amplify")
@with_settings(
    AmplifySettings,
    PairSettings,
    Settings,
    only=(*AmplifySettings.model_fields, *OF_PAIR, *GENERAL),
)
def amplify_command(
    base: BaseOrRun,
    tuned: MaybeTuned = None,
    *,
    prompts: Annotated[
        Path, typer.Option(help='Prompts: one a line, or JSONL with "prompt" or "messages".')
    ],
    direction: Annotated[
        str | None,
        typer.Option(help=f"Add a direction instead: {DIRECTIONS}."),
    ] = None,
    at: Annotated[
        str | None,
        typer.Option(help="Add it after this block: an index or a fraction (default: the run's)."),
    ] = None,
    strength: Annotated[
        list[float] | None,
        typer.Option(help="How much of the direction to add; repeatable (default 0 1)."),
    ] = None,
    out: Tables = None,
    as_json: AsJson = False,
    given: dict[str, Any],
) -> None:
    """Answer prompts with the fine-tune's change scaled, or with a direction added."""
    from anaglyph.behaviour.directions import read_direction
    from anaglyph.behaviour.prompts import read_prompts
    from anaglyph.direct import amplify as room

    settings, given = split(AmplifySettings, given)
    asked = read_prompts(prompts)
    if settings.search and direction:
        raise InputError("--search scales the whole model's weights: leave out --direction")
    if at is not None:
        given["layer"] = parse_layer(at)
    with Bars() as progress:
        target = Target.of(base, tuned, given, progress)
        subject = target.subject
        key = {"prompts": file_key(prompts), "strength": strength, "layer": target.layer,
               "direction": None, "seed": subject.seed}  # fmt: skip
        along = None
        if direction is not None:
            along = read_direction(direction, subject.layer, target.held, into="tuned")
            key["direction"] = [direction, digest(along.vector.tolist())]

        def make() -> "dict[str, pl.DataFrame]":
            if along is not None:
                strengths = strength or [0.0, 1.0]
                tokens = settings.new_tokens
                steered = room.steered_replies(
                    subject, asked, along.vector, strengths, new_tokens=tokens
                )
                return {"amplify-steered": steered}
            if settings.search:
                return {"amplify-search": room.search(subject, asked, settings)}
            return {"amplify-replies": room.amplified_replies(subject, asked, settings)}

        tables = target.keep("amplify", key | settings.model_dump(), make, out)
    ((name, table),) = tables.items()
    title = name.removeprefix("amplify-")
    if as_json:
        print_json({title: table})
        return
    answered = table.filter(table["reply"].is_not_null()) if settings.search else table
    print_heads({title: answered}, target.kept_in(out), target.notes)
