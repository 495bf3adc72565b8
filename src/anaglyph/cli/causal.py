"""What a run's dictionaries carry of the behaviour: patching."""

from typing import Annotated, Any

import typer

from anaglyph.cli.app import app
from anaglyph.cli.common import parse_layer, print_table, reopen
from anaglyph.cli.options import AsJson, Name, Run, Seed, Threads
from anaglyph.cli.terminal import Bars

SHOWN = (
    *("intervention", "n_latents", "l0", "push", "kl", "recovered", "recovered_low"),
    *("recovered_high", "kl_other", "nll", "top1"),
)
"""Columns of the printed table; --json and the run folder have them all."""


@app.command("causal")
def causal_command(
    run: Run,
    name: Name = None,
    positions: Annotated[
        list[str] | None,
        typer.Option(help="judge predictions there: all, assistant, 'first nine', template"),
    ] = None,
    edit_at: Annotated[
        list[str] | None, typer.Option(help="put the whole difference in there too (as above)")
    ] = None,
    into: Annotated[
        list[str] | None, typer.Option(help="the model that is patched: tuned, base; repeatable")
    ] = None,
    biases: Annotated[
        str | None, typer.Option(help="subsets without or with the constant: out, in, both")
    ] = None,
    nu: Annotated[list[float] | None, typer.Option(help="threshold on nu; repeatable")] = None,
    count: Annotated[
        list[int] | None, typer.Option(help="latents of a subset, by share of difference")
    ] = None,
    layers: Annotated[
        list[str] | None,
        typer.Option(help="also sweep these layers without a dictionary; repeatable"),
    ] = None,
    tokens: Annotated[int | None, typer.Option(help="held-out tokens to measure on")] = None,
    seed: Seed = None,
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Measure how much of the behavioural difference each dictionary carries (KL recovered).

    Recovered is 1 - KL / KL of the base activation; kl, kl_other and nll are in nats a token, l0 in
    latents a token, push in units of the activations.
    """
    from anaglyph.run.causal import sweep

    given = map(parse_layer, layers or [])
    swept: list[int | float] = [layer for layer in given if layer is not None]
    changes: dict[str, Any] = {
        "positions": positions,
        "edit_at": edit_at,
        "into": into,
        "biases": biases,
        "nu": nu,
        "counts": count,
        "causal_tokens": tokens,
        "seed": seed,
        "threads": threads,
    }
    with Bars() as progress:
        bench = reopen(run, progress, **{k: v or None for k, v in changes.items()})
        tables = {dictionary: bench.causal(dictionary) for dictionary in bench.names(name)}
        found = sweep(bench, swept) if swept else None
    for dictionary, table in tables.items():
        print_table(dictionary, table if as_json else table.select(SHOWN), as_json)
    if found is not None:
        first = found.filter(positions=bench.config.positions[0])
        print_table("layers", found if as_json else first.select("layer", *SHOWN), as_json)
