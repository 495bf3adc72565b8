"""Runs as jobs: submitit's local executor does them, a pretended Slurm is asked for them."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from anaglyph.core.command import Command
from anaglyph.core.errors import InputError
from anaglyph.core.schemas import read_verdict
from anaglyph.core.settings import Settings, SubmitSettings
from anaglyph.run import submit as sweeps
from anaglyph.run.submit import begin_sweep, read_sweep, state_of, status, submit
from guides import commands_in_tables

SMALL = ["--latents", "32", "--tokens", "4096", "--batch", "256", "--threads", "1"]
SMALL += ["--no-behaviour", "--trials", "0", "--candidates", "0", "--causal-tokens", "128"]
GUIDE = "docs/scale.md"


def sbatch_text(folder: Path, number: int) -> str:
    return (folder / f"{number}.sh").read_text()


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch) -> Path:
    """Programs called sbatch, srun and sacct; what sbatch is given is kept, numbered from 1."""
    folder = tmp_path / "slurm"
    folder.mkdir()
    programs = {
        "srun": "exit 1",
        "sbatch": f'cd {folder}; n=$(($(ls | grep -c "^[0-9]*.sh") + 1)); cp "$1" $n.sh\n'
        "echo Submitted batch job $n",
        "sacct": f"cat {folder}/states",
    }
    for name, body in programs.items():
        (folder / name).write_text(f"#!/bin/sh\n{body}\n")
        (folder / name).chmod(0o755)
    (folder / "states").write_text("JobID|State|NodeList\n")
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return folder


def two_seeds(out: Path, **changes) -> None:
    settings = Settings().changed(methods=["diff-sae"], **changes)
    begin_sweep(out, ("BASE", "TUNED"), ["builtin:demo"], settings, seeds=[0, 1])


def test_an_array_and_a_job_that_waits_for_it(tmp_path, slurm):
    out = tmp_path / "out"
    two_seeds(out)
    how = SubmitSettings(gpus=1, hours=2, slurm={"partition": "gpu"}, requeues=3)
    begun = submit(out, how)
    assert begun == ["layer-0.5.diff-sae.seed-0", "layer-0.5.diff-sae.seed-1"]
    array, report = sbatch_text(slurm, 1), sbatch_text(slurm, 2)
    for flag in ("array=0-1%", "time=120", "gpus-per-node=1", "partition=gpu", "signal=USR2@"):
        assert f"#SBATCH --{flag}" in array
    assert "#SBATCH --dependency=afterany:1" in report
    assert "gpus" not in report
    assert "#SBATCH --array" not in report
    assert [run.job for run in read_sweep(out).runs] == ["1_0", "1_1"]


def test_a_job_that_waits_is_left_and_a_lost_one_is_submitted_again(tmp_path, slurm):
    out = tmp_path / "out"
    two_seeds(out)
    submit(out, SubmitSettings())
    states = "JobID|State|NodeList\n1_0|PENDING|\n1_1|NODE_FAIL|n1\n2|PENDING|\n"
    (slurm / "states").write_text(states)
    assert submit(out, SubmitSettings()) == ["layer-0.5.diff-sae.seed-1"]
    assert "#SBATCH --dependency=afterany:1:3" in sbatch_text(slurm, 4)
    assert [run.job for run in read_sweep(out).runs] == ["1_0", "3"]


def test_what_slurm_refuses_is_one_line(tmp_path, slurm):
    two_seeds(tmp_path / "out")
    (slurm / "sbatch").write_text("#!/bin/sh\necho sbatch: invalid partition >&2; exit 1\n")
    with pytest.raises(InputError, match="Slurm refused the jobs: ") as refused:
        submit(tmp_path / "out", SubmitSettings())
    assert "\n" not in str(refused.value)


def test_runs_are_added_but_other_settings_are_refused(tmp_path):
    out = tmp_path / "out"
    two_seeds(out)
    settings = Settings().changed(methods=["crosscoder"], seed=5)
    begin_sweep(out, ("BASE", "TUNED"), ["builtin:demo"], settings)
    added = "layer-0.5.crosscoder.seed-5"
    assert {run.name for run in read_sweep(out).runs} == {
        *(f"layer-0.5.diff-sae.seed-{seed}" for seed in (0, 1)),
        added,
    }
    with pytest.raises(InputError, match="runs of other models, data or settings"):
        two_seeds(out, latents=99)


def test_bad_input_is_one_line(tmp_path, anaglyph, monkeypatch):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    monkeypatch.setenv("PATH", str(tmp_path))
    pair, out = ["BASE", "TUNED", "--data", "builtin:demo"], tmp_path / "out"
    cases = {
        "--out is missing": pair,
        "holds files that are not a sweep's": [*pair, "--out", tmp_path / "full"],
        "unknown method 'sea'": [*pair, "--out", out, "--method", "sea"],
        "chats.jsonl: no such file": [*pair[:2], "--data", "./chats.jsonl", "--out", out],
        "no Slurm here": [*pair, "--out", out],
        "--slurm": [*pair, "--out", out, "--local", "--slurm", "partition=gpu"],
        "--hours": [*pair, "--out", out, "--hours", "0"],
        "is not a folder of runs": [tmp_path],
        "--latents is for two models": [out, "--latents", "64"],
        "which names both models": [out, "TUNED"],
    }
    for line, words in cases.items():
        said = anaglyph("submit", *words)
        assert said.code == 2, (line, said)
        assert line in said.err
        assert said.err.count("\n") == 1


def test_the_state_of_a_run(tmp_path, finished):
    assert state_of(finished) == "finished"
    assert state_of(tmp_path / "none") == "not begun"
    (tmp_path / "begun").mkdir()
    assert state_of(tmp_path / "begun") == "unfinished"
    holder = "import sys, time; from anaglyph.core.lock import locked; from pathlib import Path\n"
    holder += "with locked(Path(sys.argv[1])): print('x', flush=True); time.sleep(60)"
    command = [sys.executable, "-c", holder, tmp_path / "begun"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        assert state_of(tmp_path / "begun") == "running"
        other.kill()


def test_a_report_says_what_each_run_said(tmp_path, finished):
    out = tmp_path / "out"
    two_seeds(out)
    (out / "layer-0.5.diff-sae.seed-0").symlink_to(finished)
    (out / "jobs").mkdir()
    log = out / "jobs" / "layer-0.5.diff-sae.seed-1.log"
    log.write_text("bar\nerror: first\nerror: no such layer\nbye\n")
    first, second = status(out)
    verdict = read_verdict(finished / "findings.json")
    assert (first["state"], first["says"]) == ("finished", verdict.headline)
    assert first["findings"] == len(verdict.findings)
    assert 0 < first["fve"] <= 1
    assert (second["state"], second["says"]) == ("not begun", "error: no such layer")
    assert json.loads((out / "report.json").read_text()) == [first, second]


def test_a_preempted_job_is_queued_again_and_its_command_ended(tmp_path):
    """On the signal the command is terminated; the second time it finds its work and ends."""
    import submitit

    code = (
        "import os, sys, time; from pathlib import Path; here = Path(sys.argv[1])\n"
        "if (here / 'begun').exists(): (here / 'done').touch(); sys.exit()\n"
        "(here / 'begun.new').write_text(f'{os.getppid()} {os.getpid()}')\n"
        "(here / 'begun.new').rename(here / 'begun'); time.sleep(600)"
    )
    command = Command((sys.executable, "-c", code, str(tmp_path)), str(tmp_path / "log"))
    executor = submitit.AutoExecutor(tmp_path / "jobs", cluster="local")
    executor.update_parameters(timeout_min=10)
    job = executor.submit(command)
    until(tmp_path / "begun")
    task, running = map(int, (tmp_path / "begun").read_text().split())
    os.kill(task, signal.SIGUSR2)
    until(tmp_path / "done")
    while not job.done():
        time.sleep(0.1)
    with pytest.raises(ProcessLookupError):
        os.kill(running, 0)


def until(path: Path) -> None:
    end = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.slow
def test_three_jobs_run_here_and_one_that_failed_is_taken_up(
    tmp_path, monkeypatch, tiny_arguments, anaglyph
):
    """The commands of the guide, on the tiny pair; at first the second run cannot begin."""
    base, tuned, _, data, *_ = map(str, tiny_arguments)
    for name, path in {"BASE": base, "TUNED": tuned, "chats.jsonl": data}.items():
        (tmp_path / name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    lines = [line for line in commands_in_tables(GUIDE) if "submit" in line]
    line, again, *_ = [line.split()[1:] for line in lines if "--local" in line]
    with monkeypatch.context() as nothing:
        nothing.setattr(sweeps, "submit", lambda *_, **__: [])
        assert anaglyph(*line, *SMALL).code == 0
    foreign = tmp_path / "sweep" / "layer-0.5.diff-sae.seed-1" / "foreign.txt"
    foreign.parent.mkdir()
    foreign.touch()

    said = anaglyph(*line, *SMALL, "--json")
    assert said.code == 0, said.err
    assert [row["state"] for row in said.json] == ["finished", "unfinished", "finished"]
    assert "holds files that are not a run's" in said.json[1]["says"]
    assert json.loads(Path("sweep/report.json").read_text()) == said.json
    weights = [
        Path(f"sweep/layer-0.5.diff-sae.seed-{seed}/dictionaries/diff-sae/weights.safetensors")
        for seed in (0, 1, 2)
    ]
    assert weights[0].read_bytes() != weights[2].read_bytes()
    made = weights[0].stat().st_mtime_ns

    foreign.unlink()
    said = anaglyph(*again, "--json")
    assert [row["state"] for row in said.json] == ["finished"] * 3
    assert weights[1].is_file()
    assert weights[0].stat().st_mtime_ns == made
