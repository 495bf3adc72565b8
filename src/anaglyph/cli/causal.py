"""What a run's dictionaries carry of the behaviour: patching."""

from typing import Annotated, Any

import typer

from anaglyph.cli.app import app
from anaglyph.cli.common import parse_layer, print_table, reopen
from anaglyph.cli.options import AsJson, Names, Run, Verify, with_settings
from anaglyph.cli.terminal import Bars
from anaglyph.core.settings import CausalSettings, Settings

SHOWN = (
    *("intervention", "n_latents", "l0", "push", "kl", "recovered", "recovered_low"),
    *("recovered_high", "kl_other", "nll", "top1"),
)
"""Columns of the printed table; --json and the run folder have them all."""


@app.command("causal")
@with_settings(CausalSettings, Settings)
def causal_command(
    run: Run,
    given: dict[str, Any],
    name: Names = None,
    layers: Annotated[
        list[str] | None,
        typer.Option(help="Also patch at these layers without a dictionary, such as 5,10,15."),
    ] = None,
    verify: Verify = False,
    as_json: AsJson = False,
) -> None:
    """Measure how much of the behavioural difference each dictionary carries (KL recovered).

    Recovered is 1 - KL / KL of the base activation; kl, kl_other and nll are in nats a token, l0 in
    latents a token, push in units of the activations.
    """
    from anaglyph.run.stages import causal, sweep

    named = [name for text in layers or [] for name in text.split(",")]
    swept = [layer for layer in map(parse_layer, named) if layer is not None]
    with Bars() as progress:
        opened = reopen(run, progress, verify, **given)
        tables = causal(opened, opened.names(name))
        found = sweep(opened, swept) if swept else None
    for dictionary, table in tables.items():
        print_table(dictionary, table if as_json else table.select(SHOWN), as_json)
    if found is not None:
        first = found.filter(positions=opened.settings.causal.positions[0])
        print_table("layers", found if as_json else first.select("layer", *SHOWN), as_json)
