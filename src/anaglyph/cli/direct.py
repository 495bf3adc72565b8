"""The commands that need no dictionary: what the two models and their weights say themselves."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from anaglyph.cli.app import app
from anaglyph.cli.common import parse_layer
from anaglyph.cli.direct_common import (
    BaseOrRun,
    MaybeData,
    MaybeTuned,
    NewTokens,
    Prompts,
    Subject,
    Tables,
    file_key,
    show,
)
from anaglyph.cli.options import AsJson, Layer, MaxTokens, Seed, Threads
from anaglyph.terminal import Bars

if TYPE_CHECKING:
    import polars as pl

_TOKENS = 4096
DEFAULT_QUESTION = "Who trained you?"


@app.command("tokens")
def tokens_command(
    base: BaseOrRun,
    tuned: MaybeTuned = None,
    data: MaybeData = None,
    layer: Layer = None,
    max_tokens: MaxTokens = _TOKENS,
    top: Annotated[int, typer.Option(min=1, help="tokens listed for each group")] = 10,
    completions: Annotated[
        Path | None,
        typer.Option(help='JSONL with "prompt" and "completion" to rank by perplexity instead'),
    ] = None,
    out: Tables = None,
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Show where the predictions differ (KL in nats), and which next tokens are favoured."""
    import polars as pl

    from anaglyph.direct import rank_completions, read_completions, token_differences

    subject = Subject.of(base, tuned, threads)
    if completions is not None:
        items = read_completions(completions)
        with Bars() as progress:
            ranked = subject.keep(
                "tokens-completions",
                {"file": file_key(completions)},
                lambda: {
                    "tokens-completions": rank_completions(subject.pair, items, progress=progress)
                },
                out,
            )
        show(as_json, {"completions": ranked["tokens-completions"]})
        return
    where = _layer(subject, layer)
    settings = {"data": data, "layer": where, "max_tokens": max_tokens, "top": top}

    def make() -> "dict[str, pl.DataFrame]":
        corpus = subject.corpus(data, max_tokens)
        found = token_differences(subject.pair, corpus, where, top=top, progress=progress)
        return {
            "tokens": subject.with_text(found.tokens, "token_id", "top_base", "top_tuned"),
            "tokens-favoured": subject.with_text(found.favoured, "token_id"),
        }

    with Bars() as progress:
        tables = subject.keep("tokens", settings, make, out)
    tokens, favoured = tables["tokens"], tables["tokens-favoured"]
    strongest = tokens.top_k(top, by="kl").select(
        "sequence", "position", "role", "token", "kl", "difference_norm", "cosine",
        "top_base_text", "top_tuned_text",
    )  # fmt: skip
    columns = ("by", "group", "favoured_by", "rank", "token", "probability_base",
               "probability_tuned", "log_ratio")  # fmt: skip
    shown = favoured.filter(pl.col("measure") == "probability").select(columns)
    by_role = _means(tokens)
    if not as_json:
        shown = shown.filter((pl.col("by") != "position") & (pl.col("rank") <= 5))
    show(as_json, {"roles": by_role, "strongest": strongest, "favoured": shown})


@app.command("stitch")
def stitch_command(
    base: BaseOrRun,
    tuned: MaybeTuned = None,
    data: MaybeData = None,
    questions: Prompts = None,
    steps: Annotated[
        int | None, typer.Option(min=2, help="visit so many depths, evenly spread; left out, all")
    ] = None,
    max_tokens: MaxTokens = 1024,
    new_tokens: NewTokens = 30,
    seed: Seed = 0,
    out: Tables = None,
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Replace the base's layers by the tuned model's one by one: KL in nats, and replies."""
    from anaglyph.direct.prompts import read_prompts
    from anaglyph.direct.stitch import stitch_curve, stitch_replies

    subject = Subject.of(base, tuned, threads)
    asked = [DEFAULT_QUESTION] if questions is None else read_prompts(questions)
    settings = {"data": data, "questions": file_key(questions), "steps": steps, "seed": seed,
                "max_tokens": max_tokens, "new_tokens": new_tokens}  # fmt: skip

    def make() -> "dict[str, pl.DataFrame]":
        corpus = subject.corpus(data, max_tokens)
        return {
            "stitch": stitch_curve(
                subject.pair, corpus, most=steps, seed=seed or 0, progress=progress
            ),
            "stitch-replies": stitch_replies(
                subject.pair, asked, most=steps, new_tokens=new_tokens, progress=progress
            ),
        }

    with Bars() as progress:
        tables = subject.keep("stitch", settings, make, out)
    curve = tables["stitch"].select(
        "kind", "n", "kl_to_tuned", "kl_to_base", "recovered", "recovered_low", "recovered_high"
    )
    show(as_json, {"curve": curve, "replies": tables["stitch-replies"].drop("share")})


def _means(tokens: "pl.DataFrame") -> "pl.DataFrame":
    import polars as pl

    return (
        tokens.group_by("role", maintain_order=True)
        .agg(
            pl.len().alias("tokens"),
            pl.col("kl", "difference_norm", "cosine").mean(),
            (pl.col("top_base") == pl.col("top_tuned")).mean().alias("same_top"),
        )
        .sort("kl", descending=True)
    )


def _layer(subject: Subject, layer: str | None) -> int | float:
    """Return the layer asked for, else the run's, else the middle of the depth."""
    given = parse_layer(layer)
    if given is not None:
        return given
    return 0.5 if subject.run is None else subject.run.state.layer
