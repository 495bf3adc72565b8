"""Many runs of one pair on a cluster: a job for each layer, method and seed, and one that reports.

Each job is one `anaglyph diff` in a run folder of its own. A run resumes by itself, so a job that
was preempted, killed or lost is simply started again: submitit queues it again on a signal, and
`submit` on the same folder starts whatever is not finished. What is finished is read from the run
folders, never from submitit's files (pickles, in `jobs/`), which only submitit's own jobs load.
"""

import shutil
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from anaglyph.core.command import POLL, Command
from anaglyph.core.errors import InputError, StoreError
from anaglyph.core.files import first_line, read_json, write_json
from anaglyph.core.lock import locked
from anaglyph.core.progress import Progress, silent
from anaglyph.core.schemas import read_behaviour, read_verdict
from anaglyph.core.settings import Settings, SubmitSettings
from anaglyph.core.validation import validate
from anaglyph.corpus.hub import is_hub_name
from anaglyph.dictionaries import Dictionary, get_method
from anaglyph.run.folder import RECORD, RunFolder

RUNS = "runs.json"
SETTINGS = "settings.json"
REPORT = "report.json"
JOBS = "jobs"
WAITING = ("PENDING", "RUNNING", "CONFIGURING", "COMPLETING", "REQUEUED", "SUSPENDED", "RESIZING")
"""States of a Slurm job that will still run or is running."""


class OneRun(BaseModel):
    """One run of a sweep."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    layer: int | float
    method: str
    seed: int
    job: str | None = None
    """Number of its Slurm job, once it has one."""

    @property
    def name(self) -> str:
        """The name of its run folder."""
        return f"layer-{self.layer}.{self.method}.seed-{self.seed}"


class Sweep(BaseModel):
    """Runs of one pair under the same settings: the contents of `runs.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    base: str
    tuned: str
    data: tuple[str, ...]
    settings: Settings
    runs: tuple[OneRun, ...]


def begin_sweep(
    out: Path,
    pair: tuple[str, str],
    data: Sequence[str],
    settings: Settings,
    layers: Sequence[int | float] = (),
    seeds: Sequence[int] = (),
) -> None:
    """Write which runs there are to `out/runs.json`; runs may be added to a folder that has some.

    Args:
        out: Folder of the sweep.
        pair: Base model and its fine-tune, as for `diff`.
        data: Sources of text, as for `diff`; none for what the models themselves say.
        settings: Of all runs; each of ``settings.train.methods`` gets runs of its own.
        layers: A run for each; that of the settings if empty.
        seeds: A run for each; that of the settings if empty.

    Raises:
        InputError: A method or source is unknown, or the folder holds something else.
        StoreError: `runs.json` is damaged, or another process writes to the folder.
    """
    methods = settings.train.methods
    for method in methods:
        get_method(method, settings.train.options)
    if out.exists() and not (out / RUNS).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} holds files that are not a sweep's; name a new or empty folder")
    common = settings.changed(
        layer=Settings().collect.layer, methods=Settings().train.methods, seed=Settings().seed
    )
    wanted = Sweep(
        base=_anchored(pair[0]),
        tuned=_anchored(pair[1]),
        data=tuple(_source(name) for name in data),
        settings=common,
        runs=tuple(
            OneRun(layer=layer, method=method, seed=seed)
            for layer in dict.fromkeys(layers or [settings.collect.layer])
            for method in dict.fromkeys(methods)
            for seed in dict.fromkeys(seeds or [settings.seed])
        ),
    )
    with locked(out):
        if (out / RUNS).is_file():
            there = read_sweep(out)
            if there.model_copy(update={"runs": ()}) != wanted.model_copy(update={"runs": ()}):
                raise InputError(
                    f"{out} holds runs of other models, data or settings: name another folder, or "
                    f"resume them with: anaglyph submit {out}"
                )
            known = {run.name: run for run in (*wanted.runs, *there.runs)}
            wanted = there.model_copy(update={"runs": tuple(known.values())})
        write_json(out / SETTINGS, wanted.settings.model_dump(mode="json"))
        _write(out, wanted)


def read_sweep(out: Path) -> Sweep:
    """Read `runs.json`.

    Raises:
        StoreError: It is missing or damaged.
    """
    path = out / RUNS
    return validate(Sweep, read_json(path), f"{path} is damaged", StoreError)


def submit(
    out: Path, how: SubmitSettings, *, local: bool = False, progress: Progress = silent
) -> list[str]:
    """Start a job for each run that is neither finished nor under way, and one that reports.

    Args:
        out: Folder of a sweep that `begin_sweep` wrote.
        how: What each job gets of the cluster.
        local: Use submitit's local executor instead of Slurm, and wait for the jobs.
        progress: Told of runs that are over.

    Returns:
        Names of the runs that got a job.

    Raises:
        InputError: submitit or Slurm is not here, or refuses the settings.
        StoreError: `runs.json` is damaged, or another process writes to the folder.
    """
    executor = _executor(out, how, local)
    with locked(out):
        sweep = read_sweep(out)
        live = set() if local else _live(out, sweep.runs)
        wanted = [
            run
            for run in sweep.runs
            if run.name not in live and state_of(out / run.name) not in ("finished", "running")
        ]
        commands = [Command(_words(out, sweep, run, how), _log(out, run.name)) for run in wanted]
        report = Command(
            (sys.executable, "-m", "anaglyph", "submit", str(out.resolve()), "--status"),
            _log(out, "report"),
        )
        if local:
            _run_here(executor, commands, how.at_once or 1, progress)
            _run_here(executor, [report], 1, silent)
        elif commands:
            numbers = _queue(executor, commands)
            jobs = dict(zip((run.name for run in wanted), numbers, strict=True))
            runs = tuple(
                run.model_copy(update={"job": jobs.get(run.name, run.job)}) for run in sweep.runs
            )
            _write(out, sweep.model_copy(update={"runs": runs}))
            array = numbers[0].partition("_")[0]
            others = {run.job.partition("_")[0] for run in runs if run.name in live and run.job}
            ids = ":".join(sorted({array, *others}))
            last = _executor(out, how.model_copy(update={"gpus": 0}), local, f"afterany:{ids}")
            _queue(last, [report])
    return [run.name for run in wanted]


def status(out: Path) -> list[dict[str, Any]]:
    """Return a row for each run: how far it is, and what it says; kept as `report.json`.

    Raises:
        StoreError: `runs.json` is damaged.
    """
    rows = [_row(out, run) for run in read_sweep(out).runs]
    write_json(out / REPORT, rows)
    return rows


def state_of(path: Path) -> str:
    """Return "not begun", "running", "unfinished" or "finished" for one run folder."""
    if not path.exists():
        return "not begun"
    try:
        with locked(path):
            pass
    except StoreError:
        return "running"
    try:
        folder = RunFolder.open(path)
    except (InputError, StoreError):  # killed before its first save, or damaged: `diff` mends it
        return "unfinished"
    page = folder.state.stages.get("report")
    finished = page is not None and page.key == folder.key_of_page()
    return "finished" if finished else "unfinished"


def _row(out: Path, run: OneRun) -> dict[str, Any]:
    path = out / run.name
    row: dict[str, Any] = {
        **{"run": run.name, "layer": run.layer, "method": run.method, "seed": run.seed},
        **{"state": state_of(path), "seconds": None, "fve": None, "findings": None},
        **{"claims": None, "says": _last_error(Path(_log(out, run.name)))},
    }
    if not (path / RECORD).is_file():
        return row
    with suppress(StoreError):  # what is damaged says nothing; the next `submit` mends it
        stages = RunFolder.open(path).state.stages
        row["seconds"] = round(sum(stage.seconds for stage in stages.values()), 1)
        for stage in stages:
            if stage.startswith("train/"):
                name = stage.removeprefix("train/")
                row["fve"] = Dictionary.load(path / "dictionaries" / name).stats.get("fve")
        if "behave" in stages:
            row["claims"] = len(read_behaviour(path / "behaviour.json").claims)
        if "find" in stages:
            verdict = read_verdict(path / "findings.json")
            row |= {"findings": len(verdict.findings), "says": verdict.headline}
    return row


def _last_error(log: Path) -> str | None:
    """Return the last line of a log that is an error of ours."""
    if not log.is_file():
        return None
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return next((line for line in reversed(lines) if line.startswith("error: ")), None)


def _words(out: Path, sweep: Sweep, run: OneRun, how: SubmitSettings) -> tuple[str, ...]:
    """Return the command of one run: of a process for each GPU."""
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(how.gpus))
    data = [word for name in sweep.data for word in ("--data", name)]
    return (
        *(sys.executable, *(torchrun if how.gpus > 1 else ())),
        *("-m", "anaglyph", "diff", sweep.base, sweep.tuned, *data),
        *("--out", str((out / run.name).resolve())),
        *("--config", str((out / SETTINGS).resolve())),
        *("--layer", str(run.layer), "--method", run.method, "--seed", str(run.seed)),
    )


def _log(out: Path, name: str) -> str:
    return str((out / JOBS / f"{name}.log").resolve())


def _write(out: Path, sweep: Sweep) -> None:
    write_json(out / RUNS, sweep.model_dump(mode="json"))


def _anchored(model: str) -> str:
    """Return a path that means the same in every folder; names of a hub stay."""
    return str(Path(model).resolve()) if Path(model).exists() else model


def _source(name: str) -> str:
    if name.startswith("builtin:"):
        return name
    if Path(name).exists() or "*" in name:
        return str(Path(name).absolute())
    if is_hub_name(name):
        return name
    raise InputError(f"{name}: no such file or folder")


def _executor(out: Path, how: SubmitSettings, local: bool, dependency: str | None = None) -> Any:
    try:
        import submitit
    except ImportError:
        raise InputError(
            "submit needs the extra cluster: pip install 'anaglyph[cluster]'"
        ) from None
    if local and how.slurm:
        raise InputError("slurm: these are parameters of Slurm; leave them out with --local")
    if not local and shutil.which("srun") is None:
        raise InputError(
            "there is no Slurm here (no srun): run this where jobs are submitted, or use --local"
        )
    cluster = "local" if local else "slurm"
    executor = submitit.AutoExecutor(
        out.resolve() / JOBS, cluster=cluster, **{f"{cluster}_max_num_timeout": how.requeues}
    )
    executor.update_parameters(  # None leaves a parameter out
        name="anaglyph",
        timeout_min=max(1, round(60 * how.hours)),
        gpus_per_node=how.gpus or None,
        cpus_per_task=how.cpus,
        mem_gb=how.memory,
        slurm_array_parallelism=how.at_once,
        slurm_dependency=dependency,
        slurm_additional_parameters=how.slurm,
    )
    return executor


def _queue(executor: Any, commands: Sequence[Command]) -> list[str]:
    """Submit commands as one array; return the numbers of their jobs."""
    try:
        jobs = executor.submit_array(list(commands))
    except Exception as error:  # sbatch and submitit have errors of their own
        raise InputError(f"Slurm refused the jobs: {first_line(error)}") from error
    return [job.job_id for job in jobs]


def _live(out: Path, runs: Sequence[OneRun]) -> set[str]:
    """Return the runs whose Slurm job waits or runs."""
    from submitit import SlurmJob

    jobs = {run.name: SlurmJob(out.resolve() / JOBS, run.job) for run in runs if run.job}
    return {name for name, job in jobs.items() if job.state.upper().startswith(WAITING)}


def _run_here(executor: Any, commands: Sequence[Command], at_once: int, progress: Progress) -> None:
    """Run commands as jobs of this machine, a few at a time, and wait for all."""
    waiting, running, total = list(commands), [], len(commands)
    while waiting or running:
        running = [job for job in running if not job.done()]
        while waiting and len(running) < at_once:
            running.append(executor.submit(waiting.pop(0)))
        progress("runs", total - len(waiting) - len(running), total, "runs")
        time.sleep(POLL)
