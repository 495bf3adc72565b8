"""A run that is killed, wherever it stands, and run again leaves the bytes of an unbroken one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "kill_everywhere.py"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")
@pytest.mark.parametrize("step", [37, pytest.param(1, marks=pytest.mark.slow)])
def test_a_kill_at_every_line_is_survived(tmp_path: Path, folders: tuple[Path, Path], step: int):
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(step), str(tmp_path), *map(str, folders)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout)
    assert counts["lines"] > 300
    assert counts["tokens"] == 72
