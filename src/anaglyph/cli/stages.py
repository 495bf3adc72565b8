"""The whole way from models to a report, and each stage of it alone."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from anaglyph.cli.app import app
from anaglyph.cli.common import (
    behaviour_text,
    print_facts,
    print_table,
    print_verdict,
    reading_text,
    reopen,
    run_or_pair,
)
from anaglyph.cli.options import (
    AsJson,
    BaseOrRun,
    Config,
    MaybeData,
    MaybeOut,
    MaybeTuned,
    Names,
    Prompts,
    Run,
    Verify,
    with_settings,
)
from anaglyph.cli.terminal import Bars, say, table_text
from anaglyph.core.errors import InputError
from anaglyph.core.settings import (
    OF_A_RUN,
    BehaveSettings,
    CollectSettings,
    FindSettings,
    PairSettings,
    ReportSettings,
    Settings,
    TrainSettings,
    load_settings,
)

_OF_FINDINGS = tuple(name for name in FindSettings.model_fields if name != "rate")


@app.command()
@with_settings(*OF_A_RUN)
def diff(
    base: BaseOrRun,
    given: dict[str, Any],
    tuned: MaybeTuned = None,
    out: MaybeOut = None,
    data: MaybeData = None,
    verify: Verify = False,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Say what the fine-tune TUNED does differently and what changed inside, down to a report.

    Without --data, both models answer shipped questions and read these chats. Of a run folder, what
    is missing or damaged is made again.
    """
    from anaglyph.run import Run as OneRun
    from anaglyph.run import diff as run_diff
    from anaglyph.run.plan import before_running, rows
    from anaglyph.run.stages import diff as again

    fixed = {name: given.get(name) for name in ("layer", "layers")}
    folder = run_or_pair(base, tuned, out=out, data=data, config=config, **fixed)
    with Bars() as progress:
        if folder is not None:
            run = OneRun.reopen(folder, progress, verify=verify, **given)
            again(run, progress.tell)
        else:
            settings = load_settings(config, **given)
            expected = before_running(base, str(tuned), data or [], _needed(out), settings)
            if expected is not None:
                sys.stderr.write(f"{table_text(rows(expected))}\n")
            run = run_diff(
                base,
                str(tuned),
                data,
                _needed(out),
                settings=settings,
                verify=verify,
                progress=progress,
                tell=progress.tell,
            )
    if not as_json:
        say(reading_text(run))
    print_verdict(run, as_json)


@app.command()
@with_settings(Settings)
def demo(
    given: dict[str, Any],
    tiny: Annotated[
        bool, typer.Option("--tiny", help="Use a tiny pair that ships inside, in under a minute.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="Run folder (default: demo, or demo-tiny).")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Diff a model against a fine-tune with a planted quirk whose right answer is known."""
    from anaglyph.demo import demo_pair, tiny_pair
    from anaglyph.run import diff as run_diff

    pair = tiny_pair() if tiny else demo_pair()
    settings = load_settings(None, **(pair.settings | given))
    folder = out or Path("demo-tiny" if tiny else "demo")
    with Bars() as progress:
        run = run_diff(
            pair.base,
            pair.tuned,
            pair.corpus,
            folder,
            settings=settings,
            progress=progress,
            tell=progress.tell,
        )
    print_verdict(run, as_json)


@app.command("collect")
@with_settings(PairSettings, CollectSettings, Settings)
def collect_command(
    base: BaseOrRun,
    given: dict[str, Any],
    tuned: MaybeTuned = None,
    data: MaybeData = None,
    out: MaybeOut = None,
    verify: Verify = False,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Run both models over the data and store their activations at one layer or several.

    Of a run folder, what is missing or damaged of them is made again.
    """
    from anaglyph.run import Run as OneRun
    from anaglyph.run.stages import collect
    from anaglyph.subject import Subject

    fixed = {name: given.get(name) for name in ("layer", "layers")}
    folder = run_or_pair(base, tuned, out=out, data=data, config=config, **fixed)
    if folder is None and not data:
        raise InputError("--data is missing: name the text to read")
    with Bars() as progress:
        if folder is not None:
            run = OneRun.reopen(folder, progress, verify=verify, **given)
        else:
            settings = load_settings(config, **given)
            subject = Subject(base, tuned, data or (), settings=settings, progress=progress)
            run = OneRun.begin(subject, _needed(out), verify)
        store = collect(run)
    facts = {"path": str(store.path), "tokens": store.n_tokens, "sequences": store.n_sequences}
    facts |= {"layer": store.layer, "d_base": store.d_base, "d_tuned": store.d_tuned}
    if len(run.subject.layers) > 1:
        facts["layers"] = list(run.subject.layers)
    if not as_json:
        say(reading_text(run))
    print_facts(facts, as_json)


@app.command("train")
@with_settings(TrainSettings, Settings, leave=("methods",))
def train_command(
    run: Run,
    given: dict[str, Any],
    method: Annotated[
        str, typer.Option(help="Dictionary method; `anaglyph methods` lists them.")
    ] = "diff-sae",
    verify: Verify = False,
    as_json: AsJson = False,
) -> None:
    """Train one dictionary on the activations of a run."""
    from anaglyph.run.run import name_of
    from anaglyph.run.stages import train_one

    with Bars() as progress:
        opened = reopen(run, progress, verify, **given)
        dictionary = train_one(opened, method)
    stats = dict(dictionary.stats)
    curve = [] if as_json else stats.pop("k_curve", [])
    print_facts({"name": name_of(method, opened.settings.train.sparsity), **stats}, as_json)
    if curve:
        say(f"\nhow k was chosen\n{table_text(curve)}")


@app.command("score")
@with_settings(ReportSettings, Settings)
def score_command(
    run: Run,
    given: dict[str, Any],
    name: Names = None,
    verify: Verify = False,
    as_json: AsJson = False,
) -> None:
    """Make the latent table of a run's dictionaries: norms, Latent Scaling, usage, examples."""
    from anaglyph.run.stages import score_one

    with Bars() as progress:
        opened = reopen(run, progress, verify, **given)
        tables = {each: score_one(opened, each) for each in opened.names(name)}
    for dictionary, table in tables.items():
        ordered = table.sort("frequency", descending=True)
        print_table(dictionary, ordered if as_json else ordered.head(20), as_json)
        if not as_json and len(ordered) > 20:
            say(f"{len(ordered) - 20} more rows are in latents/{dictionary}.parquet")


@app.command("find")
@with_settings(FindSettings, Settings)
def find_command(
    run: Run, given: dict[str, Any], verify: Verify = False, as_json: AsJson = False
) -> None:
    """Say how far apart the models are and which changes can be named; needs `collect` alone."""
    from anaglyph.run.stages import find, link_claims

    with Bars() as progress:
        opened = reopen(run, progress, verify, **given)
        find(opened)
        link_claims(opened)
    print_verdict(opened, as_json)


@app.command("behave")
@with_settings(
    PairSettings, BehaveSettings, FindSettings, Settings, leave=("behaviour", *_OF_FINDINGS)
)
def behave_command(
    base: BaseOrRun,
    given: dict[str, Any],
    tuned: MaybeTuned = None,
    prompts: Prompts = None,
    verify: Verify = False,
    as_json: AsJson = False,
) -> None:
    """Say in words what the tuned model does differently; needs no data and no dictionary."""
    from anaglyph.behaviour.behave import behaviour_of
    from anaglyph.behaviour.prompts import read_prompts
    from anaglyph.core.threads import set_threads
    from anaglyph.pair import ModelPair
    from anaglyph.run.stages import behave, link_claims

    asked = None if prompts is None else read_prompts(prompts)
    folder = run_or_pair(base, tuned)
    with Bars() as progress:
        if folder is not None:
            opened = reopen(folder, progress, verify, **given)
            said = behave(opened, asked)
            link_claims(opened)
            said = opened.behaviour or said  # with its links
        else:
            settings = load_settings(None, **given)
            set_threads(settings.threads)
            pair = ModelPair.load(
                base,
                str(tuned),
                device=settings.device,
                dtype=settings.model_dtype,
                local_files_only=settings.local_files_only,
                convert=settings.convert,
                **settings.pair.model_dump(),
            )
            said = behaviour_of(
                pair,
                settings.behave,
                asked,
                rate=settings.find.rate,
                seed=settings.seed,
                progress=progress,
            )
    say(json.dumps(said.model_dump(mode="json"), indent=2) if as_json else behaviour_text(said))


@app.command("report")
def report_command(run: Run, verify: Verify = False) -> None:
    """Write the run's page, report/index.html, from what the run folder holds."""
    from anaglyph.run.stages import report

    say(str(report(reopen(run, verify=verify))))


def _needed(out: Path | None) -> Path:
    if out is None:
        raise InputError("--out is missing: name the run folder")
    return out
