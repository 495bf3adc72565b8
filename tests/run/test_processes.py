"""A diff in one, two and four gloo processes: the same store, dictionaries and findings."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from anaglyph.core.schemas import read_verdict

SCRIPT = Path(__file__).with_name("in_processes.py")
METHODS = ("diff-sae", "crosscoder")
SMALL = [
    *("--latents", "64", "--tokens", "20000", "--batch", "512", "--threads", "1", "--layer", "1"),
    *("--method", "diff-sae", "--method", "crosscoder", "--no-behaviour", "--trials", "1"),
    *("--candidates", "1", "--find-tokens", "256", "--causal-tokens", "128"),
    *("--single-latents", "1"),
]
TOLERANCE = 1e-5
"""Largest difference of a weight, of weights up to about 1."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def run(size: int, *words: str | Path, kill: str = "-1:nowhere:0") -> subprocess.CompletedProcess:
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(size)]
    command = [sys.executable, *(torchrun if size > 1 else []), SCRIPT, *words]
    environment = os.environ | {"KILL": kill, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment)


@pytest.fixture(scope="module")
def diff_words(tiny_arguments) -> list[str | Path]:
    return ["diff", *tiny_arguments, *SMALL]


@pytest.fixture(scope="module")
def one(diff_words, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("one") / "run"
    done = run(1, *diff_words, "--out", out)
    assert done.returncode == 0, done.stderr
    return out


def check_equal(found: Path, expected: Path) -> None:
    names = sorted(path.name for path in (expected / "activations").iterdir())
    assert len(names) > 5  # shards of 1000 tokens, so that each process has some
    for name in names:
        file = Path("activations") / name
        assert (found / file).read_bytes() == (expected / file).read_bytes()
    for method in METHODS:
        file = Path("dictionaries") / method / "weights.safetensors"
        weights, others = load_file(found / file), load_file(expected / file)
        for name, values in others.items():
            np.testing.assert_allclose(weights[name], values, rtol=0, atol=TOLERANCE)
    verdicts = [read_verdict(each / "findings.json").findings for each in (found, expected)]
    assert [each.kind for each in verdicts[0]] == [each.kind for each in verdicts[1]] != []
    for ours, theirs in zip(*verdicts, strict=True):
        assert ours.effect == pytest.approx(theirs.effect, rel=1e-4)


@pytest.mark.parametrize("size", [2, 4])
def test_several_processes_give_what_one_gives(size, one, diff_words, tmp_path):
    done = run(size, *diff_words, "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("report: ") == 1  # process 0 alone speaks
    check_equal(tmp_path / "run", one)


@pytest.mark.parametrize("kill", ["0:shard:2", "1:step:12"])
def test_a_run_that_lost_a_process_resumes(kill, one, diff_words, tmp_path):
    """By the same command in two processes, and the result is that of an unbroken run."""
    words = [*diff_words, "--out", tmp_path / "run"]
    done = run(2, *words, kill=kill)
    assert done.returncode != 0
    ours = [line for line in done.stderr.splitlines() if "same command again" in line]
    assert len(ours) == 1, done.stderr
    assert str(signal.SIGKILL.value) in done.stderr
    done = run(2, *words)
    assert done.returncode == 0, done.stderr
    check_equal(tmp_path / "run", one)


def test_what_the_processes_cannot_use_is_one_line(tmp_path, diff_words):
    done = run(2, *diff_words, "--out", tmp_path / "run", "--lr", "1e30")
    assert done.returncode != 0
    assert any(line.startswith("error: training diverged") for line in done.stderr.splitlines())
    done = run(2, *diff_words, "--out", tmp_path / "stream", "--store", "stream")
    assert "a stream trains in one process" in done.stderr
    done = run(2, "diff", "BASE", "TUNED", "--out", tmp_path / "none", "--data", "builtin:demo")
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, done.stderr
