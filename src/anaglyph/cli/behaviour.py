"""What latents do to the model's behaviour: attribution, steering, screening."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from anaglyph.cli.app import app
from anaglyph.cli.common import print_table, reopen
from anaglyph.cli.options import AsJson, Run, Seed, Threads
from anaglyph.cli.terminal import Bars
from anaglyph.core.errors import InputError
from anaglyph.core.settings import AttributeSettings, ScreenSettings

if TYPE_CHECKING:
    from anaglyph.causal import Direction
    from anaglyph.run import Workbench

OneName = Annotated[str | None, typer.Option("--name", help="dictionary in the run")]
Prompts = Annotated[Path, typer.Option(help="one prompt a line, or JSONL with prompt or messages")]
NewTokens = Annotated[int, typer.Option(min=1, help="most tokens of a reply")]


@app.command("attribute")
def attribute_command(
    run: Run,
    name: OneName = None,
    tokens: Annotated[int, typer.Option(min=1, help="tokens of highest KL to look at")] = 20,
    top: Annotated[int, typer.Option(min=1, help="latents a token")] = 5,
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Name the latents behind the tokens of highest KL (nats), and verify each by adding it."""
    from anaglyph.causal import attribute
    from anaglyph.run.direct import keep_tables

    with Bars() as progress:
        bench = reopen(run, progress, threads=threads)
        own = _only(bench, name)
        settings = {"tokens": tokens, "top": top, "seed": bench.config.seed}
        settings["max_tokens"] = bench.config.causal_tokens

        def make() -> dict[str, Any]:
            found = attribute(
                bench.subject,
                bench.dictionary(own),
                AttributeSettings(top_tokens=tokens, top=top),
                max_tokens=bench.config.causal_tokens,
            )
            strings = bench.pair.token_strings(found["token_id"].to_list())
            place = found.columns.index("token_id")
            return {f"attribution-{own}": found.insert_column(place, _series("token", strings))}

        key = settings | {"dictionary": bench.run.key_of(f"train/{own}")}
        (table,) = keep_tables(bench.run, f"attribution-{own}", key, make).values()
    print_table(own, table, as_json)


@app.command("steer")
def steer_command(
    run: Run,
    prompt: Annotated[list[str] | None, typer.Option(help="a user turn; repeatable")] = None,
    prompts: Annotated[Path | None, typer.Option(help="a file of prompts")] = None,
    name: OneName = None,
    latent: Annotated[int | None, typer.Option(help="steer along this latent")] = None,
    direction: Annotated[
        str | None, typer.Option(help="or along: mean, pca:NUMBER (0 is the first), or a .npy file")
    ] = None,
    strength: Annotated[
        list[float] | None,
        typer.Option(help="repeatable; a latent's unit is its maximum activation"),
    ] = None,
    into: Annotated[str, typer.Option(help="the model that is steered: base or tuned")] = "base",
    at: Annotated[str, typer.Option(help="all, prompt, reply, or positions such as 0,5,6")] = "all",
    new_tokens: NewTokens = 60,
    temperature: Annotated[float, typer.Option(min=0, help="0: the likeliest token")] = 0.0,
    seed: Seed = None,
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Let base, tuned and a steered model answer the same prompts, side by side."""
    from anaglyph.causal import steer
    from anaglyph.direct import read_prompts

    if into not in ("base", "tuned"):
        raise InputError(f"--into is {into!r}: use base or tuned")
    asked = [*(prompt or []), *(read_prompts(prompts) if prompts else [])]
    if not asked:
        raise InputError("name a --prompt, or a file of --prompts")
    with Bars() as progress:
        bench = reopen(run, progress, seed=seed, threads=threads)
        table = steer(
            bench.pair,
            asked,
            _direction(bench, name, latent, direction),
            strength or [1.0],
            into=into,
            at=_positions(at),
            new_tokens=new_tokens,
            temperature=temperature,
            seed=bench.config.seed,
            progress=progress,
        )
    print_table("steering", table, as_json)


@app.command("screen")
def screen_command(
    run: Run,
    prompts: Prompts,
    score: Annotated[
        str, typer.Option(help="text a reply contains, re:PATTERN or py:MODULE:FUNCTION")
    ],
    name: Annotated[str, typer.Option(help="an SAE of one model in the run")] = "base-sae",
    top: Annotated[int, typer.Option(min=1, help="latents to steer")] = 10,
    strength: Annotated[float, typer.Option(help="in units of the maximum activation")] = 1.0,
    new_tokens: NewTokens = 60,
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Find latents of an SAE that the fine-tune turned up, and steer them both ways."""
    from anaglyph.causal import make_scorer, screen
    from anaglyph.direct import read_prompts
    from anaglyph.run.direct import write_tables

    asked, scorer = read_prompts(prompts), make_scorer(score)
    with Bars() as progress:
        bench = reopen(run, progress, threads=threads)
        own = _only(bench, name)
        table = screen(
            bench.subject,
            bench.dictionary(own),
            asked,
            scorer,
            ScreenSettings(top=top, strength=strength, new_tokens=new_tokens),
            table=bench.score(own),
        )
    # Not kept as a finished stage: a scorer may be code, which no key can vouch for.
    write_tables(run / "direct", {f"screening-{own}": table})
    print_table(own, table, as_json)


def _only(bench: "Workbench", name: str | None) -> str:
    names = bench.names([name] if name else None)
    return "diff-sae" if name is None and "diff-sae" in names else names[0]


def _direction(
    bench: "Workbench", name: str | None, latent: int | None, text: str | None
) -> "Direction":
    import numpy as np
    import torch

    from anaglyph.causal import Direction

    if (latent is None) == (text is None):
        raise InputError("name either a --latent or a --direction")
    layer = bench.run.state.layer
    if latent is not None:
        own = _only(bench, name)
        dictionary, table = bench.dictionary(own), bench.score(own)
        largest = table["max_activation"][latent] if 0 <= latent < table.height else 1.0
        return Direction.latent(dictionary, layer, latent, largest or 0.0)
    text = str(text)
    if text == "mean":
        return Direction.mean_shift(bench.difference_space, layer)
    kind, _, number = text.partition(":")
    if kind == "pca" and number.isdigit():
        return Direction.component(bench.difference_space, layer, int(number))
    try:
        values = np.load(text, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise InputError(
            f"--direction {text!r} is not mean, pca:NUMBER or a .npy file of one vector"
        ) from error
    if values.ndim != 1:
        raise InputError(f"{text} holds an array of shape {values.shape}, not one vector")
    return Direction(text, layer, torch.from_numpy(values.astype(np.float32)))


def _positions(text: str) -> str | tuple[int, ...]:
    parts = text.split(",")
    return tuple(int(part) for part in parts) if all(p.isdigit() for p in parts) else text


def _series(name: str, values: list[str]) -> Any:
    import polars as pl

    return pl.Series(name, values, pl.String)
