"""The commands that need no dictionary: what the two models and their weights say themselves."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from anaglyph.cli.app import app
from anaglyph.cli.direct_common import (
    OF_PAIR,
    Target,
    file_key,
    print_heads,
    print_json,
    split,
    with_text,
)
from anaglyph.cli.options import (
    GENERAL,
    UNSEEDED,
    AsJson,
    BaseOrRun,
    MaybeData,
    MaybeTuned,
    Prompts,
    Run,
    Tables,
    with_settings,
)
from anaglyph.cli.terminal import Bars, say
from anaglyph.core.settings import (
    CollectSettings,
    LensSettings,
    PairSettings,
    PcaSettings,
    Settings,
    StitchSettings,
    TokensSettings,
    WeightsSettings,
)

if TYPE_CHECKING:
    import polars as pl

DEFAULT_QUESTION = "Who trained you?"
UNRELATED = ["builtin:english"]

MaxTokens = Annotated[int, typer.Option(min=1, help="Read at most this many tokens of the data.")]


@app.command("tokens")
@with_settings(
    TokensSettings,
    PairSettings,
    CollectSettings,
    Settings,
    only=("top", "layer", *OF_PAIR, *UNSEEDED),
)
def tokens_command(
    base: BaseOrRun,
    tuned: MaybeTuned = None,
    data: MaybeData = None,
    max_tokens: MaxTokens = 4096,
    completions: Annotated[
        Path | None,
        typer.Option(
            help='Rank these completions by perplexity instead: JSONL with "prompt", "completion".'
        ),
    ] = None,
    out: Tables = None,
    as_json: AsJson = False,
    *,
    given: dict[str, Any],
) -> None:
    """Show where the predictions differ (KL in nats), and which next tokens are favoured."""
    import polars as pl

    from anaglyph.direct import rank_completions, read_completions, token_differences

    settings, given = split(TokensSettings, given)
    items = None if completions is None else read_completions(completions)
    with Bars() as progress:
        target = Target.of(base, tuned, given, progress)
        if items is not None:
            name = "tokens-completions"
            key = {"file": file_key(completions)}
            tables = target.keep(
                name, key, lambda: {name: rank_completions(target.subject, items)}, out
            )
        else:
            key = {"data": data, "layer": target.layer, "max_tokens": max_tokens}

            def make() -> "dict[str, pl.DataFrame]":
                found = token_differences(target.reading(data, max_tokens), settings)
                pair = target.subject.pair
                return {
                    "tokens": with_text(pair, found.tokens, "token_id", "top_base", "top_tuned"),
                    "tokens-favoured": with_text(pair, found.favoured, "token_id"),
                }

            tables = target.keep("tokens", key | settings.model_dump(), make, out)
    if completions is not None:
        parts = {"completions": tables["tokens-completions"]}
    else:
        tokens = tables["tokens"]
        strongest = tokens.sort("kl", descending=True, maintain_order=True)
        parts = {"roles": _means(tokens), "strongest": strongest,
                 "favoured": tables["tokens-favoured"]}  # fmt: skip
    if as_json:
        print_json(parts)
        return
    if completions is None:
        parts["strongest"] = parts["strongest"].select(
            "sequence", "position", "role", "token", "kl", "difference_norm", "cosine",
            "top_base_text", "top_tuned_text",
        )  # fmt: skip
        is_shown = (pl.col("measure") == "probability") & (pl.col("by") != "position")
        parts["favoured"] = parts["favoured"].filter(is_shown & (pl.col("rank") <= 5)).select(
            "by", "group", "favoured_by", "rank", "token", "probability_base",
            "probability_tuned", "log_ratio",
        )  # fmt: skip
    print_heads(parts, target.kept_in(out), target.notes)


@app.command("lens")
@with_settings(
    LensSettings,
    PairSettings,
    CollectSettings,
    Settings,
    only=(*LensSettings.model_fields, "layer", *OF_PAIR, *GENERAL),
)
def lens_command(
    base: BaseOrRun,
    tuned: MaybeTuned = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            help="Text that the fine-tune is not about; repeatable (default builtin:english)."
        ),
    ] = None,
    prompts: Prompts = None,
    out: Tables = None,
    as_json: AsJson = False,
    *,
    given: dict[str, Any],
) -> None:
    """Read the mean difference at the start of unrelated text, next to that of a null pair."""
    import polars as pl

    from anaglyph.behaviour.prompts import read_prompts
    from anaglyph.direct.lens import PROMPTS, difference_lens

    settings, given = split(LensSettings, given)
    asked = PROMPTS if prompts is None else read_prompts(prompts)
    sources = data or UNRELATED
    with Bars() as progress:
        target = Target.of(base, tuned, given, progress)
        key = {"data": sources, "layer": target.layer, "prompts": file_key(prompts),
               "seed": target.subject.seed}  # fmt: skip

        def make() -> "dict[str, pl.DataFrame]":
            found = difference_lens(target.reading(sources, None), settings, asked)
            tokens = with_text(target.subject.pair, found.tokens, "token_id")
            return {"lens-shift": found.shift, "lens-tokens": tokens, "lens-replies": found.replies}

        tables = target.keep("lens", key | settings.model_dump(), make, out)
    parts = {"shift": tables["lens-shift"], "tokens": tables["lens-tokens"],
             "replies": tables["lens-replies"]}  # fmt: skip
    if as_json:
        print_json(parts)
        return
    reading = ["pair", "position", "method", "strength"]
    parts["tokens"] = parts["tokens"].group_by(reading, maintain_order=True).agg(pl.col("token"))
    print_heads(parts, target.kept_in(out), target.notes)


@app.command("pca")
@with_settings(PcaSettings, Settings, only=(*PcaSettings.model_fields, *UNSEEDED))
def pca_command(
    run: Run, out: Tables = None, as_json: AsJson = False, *, given: dict[str, Any]
) -> None:
    """Show the shape of a run's difference: principal components, and the tokens it is on."""
    import polars as pl

    from anaglyph.direct.pca import difference_by_token, difference_pca

    settings, given = split(PcaSettings, given)
    with Bars() as progress:
        target = Target.of(str(run), None, given, progress)

        def make() -> "dict[str, pl.DataFrame]":
            store = target.store
            by_token = difference_by_token(store, least=settings.least, progress=progress)
            components = difference_pca(store, settings.components, progress=progress)
            return {
                "pca": components,
                "pca-tokens": with_text(target.subject.pair, by_token, "token_id"),
            }

        key = settings.model_dump() | {"store": target.store.key}
        tables = target.keep("pca", key, make, out)
    by_token = tables["pca-tokens"]
    is_role = pl.col("token_id").is_null()
    parts = {
        "components": tables["pca"],
        "roles": by_token.filter(is_role).drop("token_id", "token"),
        "tokens": by_token.filter(~is_role),
    }
    if as_json:
        print_json(parts)
        return
    parts["components"] = parts["components"].drop("direction")
    print_heads(parts, target.kept_in(out), target.notes)


@app.command("weights")
@with_settings(
    WeightsSettings,
    PairSettings,
    Settings,
    only=(*WeightsSettings.model_fields, *OF_PAIR, *GENERAL),
)
def weights_command(
    base: BaseOrRun,
    tuned: MaybeTuned = None,
    data: MaybeData = None,
    max_tokens: MaxTokens = 512,
    out: Tables = None,
    as_json: AsJson = False,
    *,
    given: dict[str, Any],
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

    settings, given = split(WeightsSettings, given)
    with Bars() as progress:
        target = Target.of(base, tuned, given, progress)
        subject = target.subject
        models = str(subject.base), str(subject.tuned)

        def make() -> "dict[str, pl.DataFrame]":
            read = target.reading(data, max_tokens) if settings.parts else None
            notes: list[str] = []
            found = weight_changes(
                *models, settings.rank, seed=subject.seed, notes=notes, progress=progress
            )
            changes = list(found)
            leading = directions(changes)
            texts = read_as_tokens(*models, leading, settings.top)
            tables = {
                "weights": weights_table(changes),
                "weights-directions": directions_table(leading, texts),
                "weights-notes": pl.DataFrame({"note": notes}, schema={"note": pl.String}),
            }
            if read is not None:
                parts = largest_parts(changes, settings.parts)
                tables["weights-parts"] = decompose(read, parts, settings)
            return tables

        key = {"data": data, "max_tokens": max_tokens, "seed": subject.seed}
        tables = target.keep("weights", key | settings.model_dump(), make, out)
    parts = {"matrices": tables["weights"], "directions": tables["weights-directions"],
             "notes": tables["weights-notes"]}  # fmt: skip
    if settings.parts:
        parts["parts"] = tables["weights-parts"]
    if as_json:
        print_json(parts)
        return
    for note in parts.pop("notes")["note"]:
        say(f"note: {note}")
    parts["matrices"] = parts["matrices"].filter(pl.col("norm") > 0)
    parts["directions"] = parts["directions"].drop("direction")
    print_heads(parts, target.kept_in(out), target.notes)


@app.command("stitch")
@with_settings(
    StitchSettings,
    PairSettings,
    Settings,
    only=(*StitchSettings.model_fields, *OF_PAIR, *GENERAL),
)
def stitch_command(
    base: BaseOrRun,
    tuned: MaybeTuned = None,
    data: MaybeData = None,
    questions: Prompts = None,
    max_tokens: MaxTokens = 1024,
    out: Tables = None,
    as_json: AsJson = False,
    *,
    given: dict[str, Any],
) -> None:
    """Replace the base's layers by the tuned model's one by one: KL in nats, and replies."""
    from anaglyph.behaviour.prompts import read_prompts
    from anaglyph.direct.stitch import stitch_curve, stitch_replies

    settings, given = split(StitchSettings, given)
    asked = [DEFAULT_QUESTION] if questions is None else read_prompts(questions)
    with Bars() as progress:
        target = Target.of(base, tuned, given, progress)
        key = {"data": data, "questions": file_key(questions), "seed": target.subject.seed,
               "max_tokens": max_tokens}  # fmt: skip

        def make() -> "dict[str, pl.DataFrame]":
            subject = target.reading(data, max_tokens)
            return {
                "stitch": stitch_curve(subject, settings),
                "stitch-replies": stitch_replies(subject, asked, settings),
            }

        tables = target.keep("stitch", key | settings.model_dump(), make, out)
    parts = {"curve": tables["stitch"], "replies": tables["stitch-replies"]}
    if as_json:
        print_json(parts)
        return
    parts["curve"] = parts["curve"].select(
        "kind", "n", "kl_to_tuned", "kl_to_base", "recovered", "recovered_low", "recovered_high"
    )
    parts["replies"] = parts["replies"].drop("share")
    print_heads(parts, target.kept_in(out), target.notes)


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
