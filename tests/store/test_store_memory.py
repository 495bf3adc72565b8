"""A store larger than the buffer is read in the memory of the buffer."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from anaglyph.store import PairedStore

SCRIPT = Path(__file__).parent / "read_with_little_memory.py"
MIB = 2**20


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_reading_holds_the_buffer_and_a_few_batches(tmp_path: Path):
    tokens, width, buffer = 273_000, 576, 16_384
    side = torch.randn(tokens, width, generator=torch.Generator().manual_seed(0)).bfloat16()
    store = PairedStore.from_arrays(
        side, side, tmp_path / "s", sequence_ids=np.arange(tokens) // 256, dtype="bfloat16"
    )
    assert sum(file.stat().st_size for file in store.path.iterdir()) > 600 * MIB
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(store.path), "3000", str(buffer)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    # the buffer takes 36 MiB, a float32 batch 9 MiB; the C library keeps up to 64 MiB of freed ones
    assert json.loads(done.stdout)["grown"] < 160 * MIB
