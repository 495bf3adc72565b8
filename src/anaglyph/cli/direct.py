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
from anaglyph.cli.options import AsJson, Layer, MaxTokens, Run, Seed, Threads
from anaglyph.cli.terminal import Bars, say

if TYPE_CHECKING:
    import polars as pl

_TOKENS = 4096
_SHOWN = 15
"""Rows of a table that the terminal shows."""
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


@app.command("lens")
def lens_command(
    base: BaseOrRun,
    tuned: MaybeTuned = None,
    data: Annotated[
        list[str] | None,
        typer.Option(help="text that the fine-tune is not about; left out, builtin:english"),
    ] = None,
    layer: Layer = None,
    positions: Annotated[
        int, typer.Option(min=2, help="first positions of a text that are read")
    ] = 5,
    texts: Annotated[int, typer.Option(min=2, help="texts that are averaged over, at most")] = 256,
    top: Annotated[int, typer.Option(min=1, help="tokens listed for each reading")] = 10,
    strength: Annotated[
        list[float] | None,
        typer.Option(help="length of the shift in mean activation norms; repeatable; 0.5, 1 and 2"),
    ] = None,
    prompts: Prompts = None,
    new_tokens: NewTokens = 30,
    seed: Seed = 0,
    out: Tables = None,
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Read the mean difference at the start of unrelated text, beside that of a null pair."""
    import polars as pl

    from anaglyph.behaviour.prompts import read_prompts
    from anaglyph.direct.lens import PROMPTS, difference_lens

    subject = Subject.of(base, tuned, threads)
    asked = PROMPTS if prompts is None else read_prompts(prompts)
    where, sources = _layer(subject, layer), data or ["builtin:english"]
    strengths = tuple(strength or (0.5, 1.0, 2.0))
    settings = {"data": sources, "layer": where, "positions": positions, "texts": texts,
                "top": top, "strengths": strengths, "prompts": file_key(prompts),
                "new_tokens": new_tokens, "seed": seed}  # fmt: skip

    def make() -> "dict[str, pl.DataFrame]":
        found = difference_lens(
            subject.pair,
            subject.corpus(sources, None),
            where,
            positions=positions,
            texts=texts,
            top=top,
            strengths=strengths,
            prompts=asked,
            new_tokens=new_tokens,
            seed=seed or 0,
            progress=progress,
        )
        tokens = subject.with_text(found.tokens, "token_id")
        return {"lens-shift": found.shift, "lens-tokens": tokens, "lens-replies": found.replies}

    with Bars() as progress:
        tables = subject.keep("lens", settings, make, out)
    reading = ["pair", "position", "method", "strength"]
    tokens = tables["lens-tokens"].group_by(reading, maintain_order=True).agg(pl.col("token"))
    shown = {"shift": tables["lens-shift"], "tokens": tokens, "replies": tables["lens-replies"]}
    show(as_json, shown)


@app.command("pca")
def pca_command(
    run: Run,
    components: Annotated[int, typer.Option(min=1, help="principal components kept")] = 16,
    least: Annotated[
        int, typer.Option(min=1, help="leave out tokens that come up less often in their role")
    ] = 5,
    out: Tables = None,
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Show the shape of a run's difference: principal components, and the tokens it sits on."""
    import polars as pl

    from anaglyph.direct.pca import difference_by_token, difference_pca

    subject = Subject.of(str(run), None, threads)

    def make() -> "dict[str, pl.DataFrame]":
        store = subject.store
        by_token = difference_by_token(store, least=least, progress=progress)
        return {
            "pca": difference_pca(store, components, progress=progress).table(),
            "pca-tokens": subject.with_text(by_token, "token_id"),
        }

    with Bars() as progress:
        settings = {"components": components, "least": least, "store": subject.store.key}
        tables = subject.keep("pca", settings, make, out)
    by_token = tables["pca-tokens"]
    is_role = pl.col("token_id").is_null()
    shown = {
        "components": tables["pca"].drop("direction"),
        "roles": by_token.filter(is_role).drop("token_id", "token"),
        "tokens": by_token.filter(~is_role).head(15),
    }
    show(as_json, shown)


@app.command("weights")
def weights_command(
    base: BaseOrRun,
    tuned: MaybeTuned = None,
    rank: Annotated[int, typer.Option(min=1, help="singular directions kept of a matrix")] = 8,
    top: Annotated[int, typer.Option(min=1, help="tokens shown at each end of a direction")] = 6,
    parts: Annotated[
        int,
        typer.Option(min=0, help="rank-one parts to score by the KL they account for; needs text"),
    ] = 0,
    orders: Annotated[
        int, typer.Option(min=1, help="random orders of removal for the Shapley values")
    ] = 4,
    greedy: Annotated[int, typer.Option(min=0, help="parts that are removed greedily")] = 4,
    data: MaybeData = None,
    max_tokens: MaxTokens = 512,
    seed: Seed = 0,
    out: Tables = None,
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Take the change of every weight matrix apart.

    Models are loaded only with --parts, or for an adapter that is not a plain LoRA.
    """
    import polars as pl

    from anaglyph.direct.decomposition import decompose, largest_parts
    from anaglyph.direct.token_reading import read_as_tokens
    from anaglyph.direct.weights import (
        directions,
        directions_table,
        weight_changes,
        weights_table,
    )

    subject = Subject.of(base, tuned, threads)
    settings = {"rank": rank, "top": top, "parts": parts, "orders": orders, "greedy": greedy,
                "data": data, "max_tokens": max_tokens, "seed": seed}  # fmt: skip

    def make() -> "dict[str, pl.DataFrame]":
        corpus = subject.corpus(data, max_tokens) if parts else None
        notes: list[str] = []
        found = weight_changes(
            subject.base, subject.tuned, rank, seed=seed or 0, notes=notes, progress=progress
        )
        changes = list(found)
        leading = directions(changes)
        texts = read_as_tokens(subject.base, subject.tuned, leading, top)
        tables = {
            "weights": weights_table(changes),
            "weights-directions": directions_table(leading, texts),
            "weights-notes": pl.DataFrame({"note": notes}, schema={"note": pl.String}),
        }
        if corpus is not None:
            tables["weights-parts"] = decompose(
                subject.pair,
                corpus,
                largest_parts(changes, parts),
                greedy_steps=greedy,
                orders=orders,
                seed=seed or 0,
                progress=progress,
            )
        return tables

    with Bars() as progress:
        tables = subject.keep("weights", settings, make, out)
    matrices, leading = tables["weights"], tables["weights-directions"].drop("direction")
    shown = {"matrices": matrices, "directions": leading, "notes": tables["weights-notes"]}
    if not as_json:
        changed = matrices.filter(pl.col("norm") > 0)
        shown = {_head("matrices", changed): changed.head(_SHOWN),
                 _head("directions", leading): leading.head(_SHOWN)}  # fmt: skip
        for note in tables["weights-notes"]["note"]:
            say(f"note: {note}")
    if parts:
        shown["parts"] = tables["weights-parts"]
    show(as_json, shown)


def _head(title: str, table: "pl.DataFrame") -> str:
    """Say in a table's title how many of its rows are shown."""
    more = len(table) - _SHOWN
    return f"{title} ({more} more with --json or --out)" if more > 0 else title


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
    from anaglyph.behaviour.prompts import read_prompts
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
