"""The command that makes a change larger than it is, and looks for rare behaviour by it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from anaglyph.cli.app import app
from anaglyph.cli.common import parse_layer
from anaglyph.cli.direct_common import (
    BaseOrRun,
    MaybeTuned,
    NewTokens,
    Subject,
    Tables,
    file_key,
    show,
)
from anaglyph.cli.options import AsJson, Seed, Threads
from anaglyph.cli.terminal import Bars
from anaglyph.core.errors import InputError

if TYPE_CHECKING:
    import polars as pl
    from torch import Tensor


@app.command("amplify")
def amplify_command(
    base: BaseOrRun,
    tuned: MaybeTuned = None,
    *,
    prompts: Annotated[
        Path, typer.Option(help='prompts: one a line, or JSONL with "prompt" or "messages"')
    ],
    alpha: Annotated[
        list[float] | None,
        typer.Option(help="0 base, 1 tuned, above 1 amplified, below 0 reversed; repeatable"),
    ] = None,
    kind: Annotated[str, typer.Option(help="what is scaled: weights or logits")] = "weights",
    layer: Annotated[
        int | None, typer.Option(help="scale this block's change alone, the rest stays tuned")
    ] = None,
    search: Annotated[
        int,
        typer.Option(min=0, help="answer so many prompts only: those whose reply changes most"),
    ] = 0,
    depth: Annotated[
        int, typer.Option(min=1, help="first tokens of the reply by which prompts are ranked")
    ] = 1,
    direction: Annotated[
        str | None,
        typer.Option(help="add a direction instead: FILE.parquet:ROW with a column direction"),
    ] = None,
    at: Annotated[
        str | None, typer.Option(help="block after which the direction is added: index or fraction")
    ] = None,
    strength: Annotated[
        list[float] | None,
        typer.Option(help="how much of the direction, in its own lengths; repeatable"),
    ] = None,
    new_tokens: NewTokens = 40,
    temperature: Annotated[
        float, typer.Option(min=0, help="of sampling; 0 takes the likeliest token")
    ] = 0.0,
    seed: Seed = 0,
    out: Tables = None,
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Answer prompts with the fine-tune's change scaled, or with a direction added."""
    from anaglyph.behaviour.prompts import read_prompts
    from anaglyph.direct import amplify as room

    subject = Subject.of(base, tuned, threads)
    asked = read_prompts(prompts)
    if search and (direction or layer is not None or kind != "weights"):
        raise InputError("--search scales the whole model's weights: leave out the other kinds")
    if search and alpha and len(alpha) > 1:
        raise InputError("--search takes one --alpha")
    settings = {"prompts": file_key(prompts), "alpha": alpha, "kind": kind, "layer": layer,
                "search": search, "depth": depth, "direction": direction, "at": at,
                "strength": strength, "new_tokens": new_tokens, "temperature": temperature,
                "seed": seed}  # fmt: skip
    steering = None if direction is None else _read_direction(direction)
    if steering is not None:
        settings["direction"] = [file_key(steering[1]), direction]

    def make() -> "dict[str, pl.DataFrame]":
        pair = subject.pair
        if steering is not None:
            where = parse_layer(at)
            found = room.steered_replies(
                pair,
                asked,
                0.5 if where is None else where,
                steering[0],
                strengths=strength or [0.0, 1.0],
                new_tokens=new_tokens,
                progress=progress,
            )
            return {"amplify-steered": found}
        if search:
            found = room.search(
                pair,
                asked,
                generations=search,
                alpha=alpha[0] if alpha else 2.0,
                depth=depth,
                new_tokens=new_tokens,
                progress=progress,
            )
            return {"amplify-search": found}
        found = room.amplified_replies(
            pair,
            asked,
            kind=kind,
            alphas=alpha or [0.0, 1.0, 2.0],
            layer=layer,
            new_tokens=new_tokens,
            temperature=temperature,
            seed=seed or 0,
            progress=progress,
        )
        return {"amplify-replies": found}

    with Bars() as progress:
        tables = subject.keep("amplify", settings, make, out)
    ((name, table),) = tables.items()
    shown = table.head(search).drop("index") if search else table
    show(as_json, {name.removeprefix("amplify-"): shown})


def _read_direction(text: str) -> "tuple[Tensor, Path]":
    """Read one row of a table of directions, as the other commands keep them."""
    import polars as pl
    import torch

    path, _, row = text.rpartition(":")
    file = Path(path)
    if not path or not row.isdigit() or not file.is_file():
        raise InputError(f"--direction takes FILE.parquet:ROW of an existing file, not {text!r}")
    try:
        column = pl.read_parquet(file, columns=["direction"])["direction"]
    except (pl.exceptions.PolarsError, OSError) as error:
        raise InputError(f"{file} holds no column of directions: {error}") from error
    if int(row) >= len(column):
        raise InputError(f"{file} has {len(column)} rows, not a row {row}")
    vector = column[int(row)]
    if vector is None:
        raise InputError(f"row {row} of {file} has no direction")
    return torch.tensor(vector.to_list()), file
