"""The whole way from models to a report, and each stage of it alone."""

from pathlib import Path
from typing import Annotated

import typer

from anaglyph.cli.app import app
from anaglyph.cli.common import (
    parse_k,
    parse_layer,
    parse_options,
    print_facts,
    print_table,
    print_verdict,
    reopen,
)
from anaglyph.cli.options import (
    Anneal,
    AsJson,
    Base,
    Config,
    Context,
    Data,
    Dtype,
    K,
    Latents,
    Layer,
    MaxTokens,
    Method,
    MethodOptions,
    Mu,
    Name,
    Out,
    Pack,
    Run,
    Seed,
    Sparsity,
    Threads,
    Tokens,
    Tuned,
)
from anaglyph.cli.terminal import Bars, say, table_text


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
    mu: Mu = None,
    anneal: Anneal = None,
    option: MethodOptions = None,
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
        layer=parse_layer(layer),
        methods=method or None,
        sparsity=sparsity,
        latents=latents,
        k=parse_k(k),
        mu=mu,
        anneal=anneal,
        options=parse_options(option),
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
    print_verdict(bench, as_json)


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
    print_verdict(bench, as_json)


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
        layer=parse_layer(layer),
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
    print_facts(facts, as_json)


@app.command("train")
def train_command(
    run: Run,
    method: Annotated[
        str, typer.Option(help="dictionary method; `methods` lists them")
    ] = "diff-sae",
    sparsity: Sparsity = None,
    latents: Latents = None,
    k: K = None,
    mu: Mu = None,
    anneal: Anneal = None,
    option: MethodOptions = None,
    tokens: Tokens = None,
    seed: Seed = None,
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Train one dictionary on the activations of a run."""
    settings = {
        "sparsity": sparsity,
        "latents": latents,
        "k": parse_k(k),
        "mu": mu,
        "anneal": anneal,
        "options": parse_options(option),
        "tokens": tokens,
        "seed": seed,
    }
    with Bars() as progress:
        bench = reopen(run, progress, threads=threads, **settings)
        dictionary = bench.train(method)
    stats = dict(dictionary.stats)
    curve = [] if as_json else stats.pop("k_curve", [])
    print_facts({"name": bench.name_of(method), **stats}, as_json)
    if curve:
        say(f"\nhow k was chosen\n{table_text(curve)}")


@app.command("score")
def score_command(run: Run, name: Name = None, as_json: AsJson = False) -> None:
    """Make the latent table of a run's dictionaries: norms, Latent Scaling, usage, examples."""
    with Bars() as progress:
        bench = reopen(run, progress)
        for dictionary in bench.names(name):
            table = bench.score(dictionary)
            print_table(dictionary, table.sort("frequency", descending=True).head(20), as_json)


@app.command("find")
def find_command(run: Run, as_json: AsJson = False) -> None:
    """Say what differs, as findings; "no difference found" is a possible answer."""
    with Bars() as progress:
        bench = reopen(run, progress)
        bench.find()
    print_verdict(bench, as_json)


@app.command("report")
def report_command(run: Run) -> None:
    """Write the run's page, report/index.html, from what the run folder holds."""
    say(str(reopen(run).report()))
