"""The command line: parse, call, print. All work is done by the rooms that it calls.

Exit codes: 0 done, 2 input that cannot be used (one line says what), 130 stopped by Ctrl-C, with
the finished stages kept.
"""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from anaglyph.errors import AnaglyphError
from anaglyph.files import atomic_path, write_json
from anaglyph.terminal import Bars, say, table_text

if TYPE_CHECKING:
    from anaglyph.run import Workbench

# What needs torch is imported inside the commands, so that `--help` answers at once.
app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

Base = Annotated[str, typer.Argument(help="base model: a folder, a hub id or a .gguf file")]
Tuned = Annotated[str, typer.Argument(help="its fine-tune: the same, or a PEFT adapter folder")]
Run = Annotated[Path, typer.Argument(help="a run folder, as `diff` or `collect` made it")]
Data = Annotated[
    list[str],
    typer.Option(help="text, JSONL of chats, a folder of these, or builtin:NAME; repeatable"),
]
Out = Annotated[Path, typer.Option(help="run folder; an unfinished run in it is continued")]
Config = Annotated[
    Path | None, typer.Option(help="JSON or TOML file of settings; options given here win")
]
AsJson = Annotated[bool, typer.Option("--json", help="print one JSON object for machines")]
Layer = Annotated[
    str | None, typer.Option(help="block whose output is read: an index (15) or a fraction (0.5)")
]
Method = Annotated[
    list[str] | None, typer.Option(help="dictionary method, repeatable; `methods` lists them")
]
Sparsity = Annotated[str | None, typer.Option(help="activation function of the latents")]
Latents = Annotated[int | None, typer.Option(help="dictionary size, in latents")]
K = Annotated[int | None, typer.Option(help="active latents per token")]
Tokens = Annotated[int | None, typer.Option(help="training tokens per dictionary, with repeats")]
MaxTokens = Annotated[int | None, typer.Option(help="read at most so many tokens of the data")]
Context = Annotated[int | None, typer.Option(help="longest sequence, in tokens")]
Pack = Annotated[
    bool | None, typer.Option("--pack/--no-pack", help="fill every sequence up to the context")
]
Dtype = Annotated[str | None, typer.Option(help="stored activations: float32 or bfloat16")]
Seed = Annotated[int | None, typer.Option(help="seed of every random choice")]
Threads = Annotated[int | None, typer.Option(help="processor threads")]
Name = Annotated[
    list[str] | None, typer.Option("--name", help="dictionary in the run, repeatable; all of them")
]


@app.command()
def diff(
    base: Base,
    tuned: Tuned,
    data: Data,
    out: Out,
    layer: Layer = None,
    method: Method = None,
    sparsity: Sparsity = None,
    latents: Latents = None,
    k: K = None,
    tokens: Tokens = None,
    max_tokens: MaxTokens = None,
    context: Context = None,
    pack: Pack = None,
    dtype: Dtype = None,
    seed: Seed = None,
    threads: Threads = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Say what the fine-tune TUNED changed inside BASE: the whole way, from models to a report."""
    from anaglyph.run import diff as run_diff
    from anaglyph.run import load_config

    settings = load_config(
        config,
        layer=_layer(layer),
        methods=method or None,
        sparsity=sparsity,
        latents=latents,
        k=k,
        tokens=tokens,
        max_tokens=max_tokens,
        context=context,
        pack=pack,
        dtype=dtype,
        seed=seed,
        threads=threads,
    )
    with Bars() as progress:
        bench = run_diff(base, tuned, data, out, config=settings, progress=progress)
    _print_verdict(bench, as_json)


@app.command()
def demo(
    tiny: Annotated[
        bool, typer.Option("--tiny", help="a tiny pair that ships inside, in under a minute")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="run folder; left out, demo or demo-tiny")
    ] = None,
    seed: Seed = None,
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Diff a model against a fine-tune with a planted quirk whose right answer is known."""
    from anaglyph.demo import demo_pair, tiny_pair
    from anaglyph.run import diff as run_diff
    from anaglyph.run import load_config

    pair = tiny_pair() if tiny else demo_pair()
    settings = load_config(None, **pair.settings, seed=seed, threads=threads)
    folder = out or Path("demo-tiny" if tiny else "demo")
    with Bars() as progress:
        bench = run_diff(
            pair.base, pair.tuned, pair.corpus, folder, config=settings, progress=progress
        )
    _print_verdict(bench, as_json)


@app.command("collect")
def collect_command(
    base: Base,
    tuned: Tuned,
    data: Data,
    out: Out,
    layer: Layer = None,
    max_tokens: MaxTokens = None,
    context: Context = None,
    pack: Pack = None,
    dtype: Dtype = None,
    threads: Threads = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Run both models over the data and store their activations at one layer."""
    from anaglyph.run import Workbench, load_config

    settings = load_config(
        config,
        layer=_layer(layer),
        max_tokens=max_tokens,
        context=context,
        pack=pack,
        dtype=dtype,
        threads=threads,
    )
    with Bars() as progress:
        bench = Workbench.begin(base, tuned, data, out, settings, progress)
        store = bench.collect()
    facts = {"path": str(store.path), "tokens": store.n_tokens, "sequences": store.n_sequences}
    facts |= {"layer": store.layer, "d_base": store.d_base, "d_tuned": store.d_tuned}
    _print_facts(facts, as_json)


@app.command("train")
def train_command(
    run: Run,
    method: Annotated[
        str, typer.Option(help="dictionary method; `methods` lists them")
    ] = "diff-sae",
    sparsity: Sparsity = None,
    latents: Latents = None,
    k: K = None,
    tokens: Tokens = None,
    seed: Seed = None,
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Train one dictionary on the activations of a run."""
    settings = {"sparsity": sparsity, "latents": latents, "k": k, "tokens": tokens, "seed": seed}
    with Bars() as progress:
        bench = _reopen(run, progress, threads=threads, **settings)
        dictionary = bench.train(method)
    _print_facts({"name": bench.name_of(method), **dictionary.stats}, as_json)


@app.command("score")
def score_command(run: Run, name: Name = None, as_json: AsJson = False) -> None:
    """Make the latent table of a run's dictionaries: norms, Latent Scaling, usage, examples."""
    with Bars() as progress:
        bench = _reopen(run, progress)
        for dictionary in bench.names(name):
            table = bench.score(dictionary)
            _print_table(dictionary, table.sort("frequency", descending=True).head(20), as_json)


@app.command("causal")
def causal_command(run: Run, name: Name = None, as_json: AsJson = False) -> None:
    """Measure how much of the behavioural difference each dictionary carries (KL recovered)."""
    with Bars() as progress:
        bench = _reopen(run, progress)
        for dictionary in bench.names(name):
            _print_table(dictionary, bench.causal(dictionary), as_json)


@app.command("find")
def find_command(run: Run, as_json: AsJson = False) -> None:
    """Say what differs, as findings; "no difference found" is a possible answer."""
    with Bars() as progress:
        bench = _reopen(run, progress)
        bench.find()
    _print_verdict(bench, as_json)


@app.command("report")
def report_command(run: Run) -> None:
    """Write the run's page, report/index.html, from what the run folder holds."""
    say(str(_reopen(run).report()))


@app.command()
def planted(
    preset: Annotated[list[str], typer.Option(help="preset of the generator; repeatable")],
    method: Annotated[
        list[str], typer.Option("--methods", help="METHOD or METHOD:SPARSITY, repeatable, or all")
    ] = ["all"],  # noqa: B006 - typer copies defaults
    seeds: Annotated[int, typer.Option(min=1, help="pairs and trainings of each entrant")] = 3,
    first_seed: Annotated[int, typer.Option(min=0, help="the first of the seeds")] = 0,
    ratio: Annotated[float, typer.Option(help="dictionary size over true features")] = 2.0,
    k: K = None,
    tokens: Annotated[int, typer.Option(min=1, help="training tokens, with repeats")] = 1_000_000,
    out: Annotated[
        Path | None, typer.Option(help="folder for runs.parquet, summary.json and index.html")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Let dictionary methods play on synthetic pairs whose right answer is known."""
    import polars as pl

    from anaglyph.report import build_benchmark
    from anaglyph.truth.planted import PRESETS, planted_settings, run_planted, summarise

    presets = list(PRESETS) if preset == ["all"] else preset
    for name in presets:
        planted_settings(name)
    numbers = range(first_seed, first_seed + seeds)
    with Bars() as progress:
        runs = pl.concat(
            [
                run_planted(
                    name, method, numbers, ratio=ratio, k=k, tokens=tokens, progress=progress
                )
                for name in presets
            ],
            how="diagonal_relaxed",
        )
    summary = summarise(runs)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / "summary.json", summary.to_dicts())
        with atomic_path(out / "runs.parquet") as temporary:
            runs.write_parquet(temporary)
        command = " ".join(["anaglyph", *sys.argv[1:]])
        build_benchmark(summary, command, out / "index.html")
    if as_json:
        say(json.dumps(summary.to_dicts()))
    else:
        say(table_text(_main_figures(summary)))


@app.command("methods")
def methods_command(as_json: AsJson = False) -> None:
    """List the dictionary methods, those of installed plug-ins included."""
    from anaglyph.dictionaries import describe_methods

    rows = describe_methods()
    if as_json:
        say(json.dumps(rows, indent=2))
    else:
        say(table_text(rows))


def _main_figures(summary: Any) -> list[dict[str, Any]]:
    from anaglyph.report.benchmark import FIGURES

    shown = [name for name in FIGURES if name in summary.columns and summary[name].count() > 0]
    return summary.select("preset", "entrant", "seeds", *shown).to_dicts()


def _layer(text: str | None) -> int | float | None:
    if text is None:
        return None
    try:
        return float(text) if "." in text else int(text)
    except ValueError:
        raise typer.BadParameter(
            f"--layer takes an index such as 15 or a fraction such as 0.5, not {text!r}"
        ) from None


def _reopen(run: Path, progress: Any = None, **overrides: Any) -> "Workbench":
    from anaglyph.progress import silent
    from anaglyph.run import Workbench

    return Workbench.reopen(run, progress or silent, **overrides)


def _print_facts(facts: dict[str, Any], as_json: bool) -> None:
    say(json.dumps(facts, indent=2) if as_json else table_text([facts]))


def _print_table(name: str, table: Any, as_json: bool) -> None:
    if as_json:
        say(json.dumps({"dictionary": name, "rows": table.to_dicts()}))
    else:
        say(f"\n{name}\n{table_text(table.to_dicts())}")


def _print_verdict(bench: "Workbench", as_json: bool) -> None:
    verdict = bench.verdict
    page = bench.report_path
    if as_json:
        facts = verdict.model_dump(mode="json") | {"report": str(page) if page.exists() else None}
        say(json.dumps(facts, indent=2))
        return
    say(f"\n{verdict.verdict}: {verdict.reason}")
    rows = [
        {
            "#": number,
            "kind": finding.kind,
            "effect": finding.effect,
            "KL recovered": finding.kl_recovered,
            "frequency": finding.frequency_tuned,
            "rests on": ", ".join(f"{name}/{index}" for name, index in finding.latents),
        }
        for number, finding in enumerate(verdict.findings, 1)
    ]
    if rows:
        say(table_text(rows))
    if page.exists():
        say(f"report: {page}")


def main() -> None:
    """Run the command line; the only place where an exception becomes an exit code."""
    try:
        code = app(standalone_mode=False)
    except typer.TyperException as error:
        message = getattr(error, "format_message", lambda: str(error))()
        sys.stderr.write(f"error: {message}\n")
        code = 2
    except AnaglyphError as error:
        sys.stderr.write(f"error: {error}\n")
        code = 2
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    if code == 130:
        sys.stderr.write("stopped; the same command goes on where this one was\n")
    sys.exit(code if isinstance(code, int) else 0)
