"""What latents do to the model's behaviour: attribution, steering, screening."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from anaglyph.cli.app import app
from anaglyph.cli.common import asked_prompts, print_table, reopen
from anaglyph.cli.options import GENERAL, AsJson, OneName, Prompts, Run, with_settings
from anaglyph.cli.terminal import Bars
from anaglyph.core.errors import InputError
from anaglyph.core.files import check_writable
from anaglyph.core.settings import (
    DIRECTIONS,
    AttributeSettings,
    ScreenSettings,
    Settings,
    SteerSettings,
    section_of,
)

if TYPE_CHECKING:
    from anaglyph.run import Run as OneRun


@app.command("attribute")
@with_settings(AttributeSettings, Settings)
def attribute_command(
    run: Run, given: dict[str, Any], name: OneName = None, as_json: AsJson = False
) -> None:
    """Name the latents behind the tokens of highest KL (nats), and verify each by adding it."""
    from anaglyph.causal import attribute
    from anaglyph.run import keep_tables

    own, general = _split(given)
    settings = section_of(AttributeSettings, own)
    with Bars() as progress:
        opened = reopen(run, progress, **general)
        dictionary, subject = _only(opened, name), opened.subject
        tokens = opened.settings.causal.causal_tokens

        def make() -> dict[str, Any]:
            found = attribute(subject, opened.dictionary(dictionary), settings, max_tokens=tokens)
            strings = subject.pair.token_strings(found["token_id"].to_list())
            place = found.columns.index("token_id")
            table = found.insert_column(place, _series("token", strings))
            return {f"attribution-{dictionary}": table}

        key = settings.model_dump() | {
            "dictionary": opened.folder.key_of(f"train/{dictionary}"),
            "seed": opened.settings.seed,
            "computed": opened.subject.computed,
            "max_tokens": tokens,
        }
        (table,) = keep_tables(opened.folder, f"attribution-{dictionary}", key, make).values()
    print_table(dictionary, table, as_json)


@app.command("steer")
@with_settings(SteerSettings, Settings)
def steer_command(
    run: Run,
    given: dict[str, Any],
    prompt: Annotated[list[str] | None, typer.Option(help="A user turn; repeatable.")] = None,
    prompts: Prompts = None,
    name: OneName = None,
    direction: Annotated[str | None, typer.Option(help=f"What to add: {DIRECTIONS}.")] = None,
    latent: Annotated[
        int | None, typer.Option(help="Short for --direction latent:NAME/LATENT.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Let base, tuned and a steered model answer the same prompts, side by side."""
    from anaglyph.behaviour.directions import read_direction
    from anaglyph.causal import steer

    own, general = _split(given)
    settings = section_of(SteerSettings, own)
    asked = asked_prompts(prompt, prompts)
    if (latent is None) == (direction is None):
        raise InputError("name either a --latent or a --direction")
    with Bars() as progress:
        opened = reopen(run, progress, **general)
        text = direction or f"latent:{_only(opened, name)}/{latent}"
        along = read_direction(text, opened.subject.layer, opened.held, into=settings.into)
        table = steer(opened.subject, asked, along, settings)
    print_table("steering", table, as_json)


@app.command("screen")
@with_settings(ScreenSettings, Settings)
def screen_command(
    run: Run,
    given: dict[str, Any],
    prompts: Annotated[
        Path, typer.Option(help='Prompts: one a line, or JSONL with "prompt" or "messages".')
    ],
    score: Annotated[
        str, typer.Option(help="Text that a reply contains, re:PATTERN or py:MODULE:FUNCTION.")
    ],
    name: Annotated[str, typer.Option(help="SAE of one model in the run.")] = "base-sae",
    as_json: AsJson = False,
) -> None:
    """Find latents of an SAE that the fine-tune turned up, and steer them both ways."""
    from anaglyph.behaviour.prompts import read_prompts
    from anaglyph.causal import make_scorer, screen
    from anaglyph.run import write_tables

    own, general = _split(given)
    settings = section_of(ScreenSettings, own)
    asked, scorer = read_prompts(prompts), make_scorer(score)
    with Bars() as progress:
        opened = reopen(run, progress, **general)
        with opened.folder.writing():
            check_writable(run)
            dictionary = _only(opened, name)
            table = screen(
                opened.subject,
                opened.dictionary(dictionary),
                asked,
                scorer,
                settings,
                table=opened.table(dictionary),
            )
            # Made each time that it is asked for: a scorer may be code, which no key vouches for.
            part = f"screening-{dictionary}"
            with opened.folder.stage(f"direct/{part}", "", [f"direct/{part}.parquet"]):
                write_tables(run / "direct", {part: table})
    print_table(dictionary, table, as_json)


def _split(given: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the command's own options and those of the run, such as the seed."""
    general = {name: given[name] for name in GENERAL if name in given}
    return {name: value for name, value in given.items() if name not in general}, general


def _only(run: "OneRun", name: str | None) -> str:
    names = run.names([name] if name else None)
    return "diff-sae" if name is None and "diff-sae" in names else names[0]


def _series(name: str, values: list[str]) -> Any:
    import polars as pl

    return pl.Series(name, values, pl.String)
