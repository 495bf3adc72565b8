"""Steps that several gloo processes share equal the steps of one."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("step_in_processes.py")


@pytest.mark.parametrize("size", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_shared_steps_equal_those_of_one_process(size: int):
    """Dead latents, two budgets, ties at the border of the selection, learned thresholds."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    done = subprocess.run(
        [*torchrun, "--nproc-per-node", str(size), SCRIPT], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    cases = json.loads(done.stdout)
    assert len(cases) == 7
    for method, sparsity, count, expected, difference, silent, moved in cases:
        assert count == expected > 0, (method, sparsity)
        assert difference < 1e-5 < 1e-2 < moved, (method, sparsity)
        assert silent == 0, (method, sparsity)
