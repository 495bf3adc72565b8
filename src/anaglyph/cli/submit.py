"""Many runs of one pair on a cluster."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from anaglyph.cli.app import app
from anaglyph.cli.common import parse_layer
from anaglyph.cli.options import AsJson, Config, MaybeData, option_of, with_settings
from anaglyph.cli.terminal import Bars, say, table_text
from anaglyph.core.errors import InputError
from anaglyph.core.settings import OF_A_RUN, SubmitSettings, load_settings, section_of


@app.command("submit")
@with_settings(SubmitSettings, *OF_A_RUN, leave=("layer", "layers", "seed"))
def submit_command(
    base: Annotated[str, typer.Argument(help="Base model, or a folder of such runs.")],
    given: dict[str, Any],
    tuned: Annotated[
        str | None, typer.Argument(help="Its fine-tune; not with a folder of runs.")
    ] = None,
    data: MaybeData = None,
    out: Annotated[Path | None, typer.Option(help="Folder of all runs.")] = None,
    layer: Annotated[
        list[str] | None,
        typer.Option(help="Layer to diff: an index or a fraction (repeatable; default 0.5)."),
    ] = None,
    seed: Annotated[
        list[int] | None, typer.Option(min=0, help="Seed of a run (repeatable; default 0).")
    ] = None,
    local: Annotated[
        bool, typer.Option("--local", help="Run the jobs on this machine, and wait for them.")
    ] = False,
    status: Annotated[
        bool, typer.Option("--status", help="Say how far the runs are; start nothing.")
    ] = False,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Diff a pair in many runs on a Slurm cluster: one for each layer, method and seed.

    Each run is a job and has its own folder in --out; a last job reports. Of such a folder, runs
    that are not finished are submitted again. A job that is preempted is queued again and resumes.
    """
    from anaglyph.run import submit as sweeps

    jobs = {name: given[name] for name in SubmitSettings.model_fields if name in given}
    of_runs = {name: value for name, value in given.items() if name not in jobs}
    how: SubmitSettings = section_of(SubmitSettings, jobs)
    if (Path(base) / sweeps.RUNS).is_file():
        of_a_pair = {"data": data, "out": out, "layer": layer, "seed": seed, "config": config}
        for name, value in (of_a_pair | of_runs).items():
            if value not in (None, []):
                raise InputError(f"{option_of(name)} is for two models; {base} is a folder of runs")
        if tuned is not None:
            raise InputError(f"{base} is a folder of runs, which names both models: omit {tuned}")
        out = Path(base)
    elif tuned is None:
        raise InputError(f"{base} is not a folder of runs: name two models, BASE and TUNED")
    elif out is None:
        raise InputError("--out is missing: name the folder of the runs")
    elif not status:
        layers = [each for each in map(parse_layer, layer or []) if each is not None]
        settings = load_settings(config, **of_runs)
        sweeps.begin_sweep(out, (base, tuned), data or [], settings, layers, seed or [])
    if not status:
        with Bars() as progress:
            begun = sweeps.submit(out, how, local=local, progress=progress)
        if not local:
            said = {"folder": str(out), "submitted": begun}
            say(json.dumps(said) if as_json else f"{len(begun)} jobs submitted; see {out}")
            return
    rows = sweeps.status(out)
    say(json.dumps(rows, indent=2) if as_json else table_text(rows))
