"""One number of threads for all libraries, and the same bytes whatever the environment says."""

import os
import subprocess
import sys

import numba
import pytest
import torch

from anaglyph.core.errors import InputError
from anaglyph.core.threads import blas_threads, set_threads, use_threads

SCRIPT = """
import hashlib
import numpy as np
import scipy.linalg
import torch
from anaglyph.core.threads import set_threads
set_threads(1)
draw = np.random.default_rng(0)
matrix = draw.normal(size=(700, 600))
parts = [matrix @ matrix.T, matrix.T @ matrix[:, 0], np.linalg.svd(matrix)[1]]
parts += [scipy.linalg.qr(matrix)[0], np.linalg.eigh(matrix.T @ matrix)[1]]
other = torch.from_numpy(matrix).float()
parts += [(other @ other.T).numpy(), other.log_softmax(-1).sum(0).numpy()]
print(hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest())
"""


@pytest.fixture(autouse=True)
def restored():
    yield
    set_threads(1)


def test_all_libraries_use_the_same_number(monkeypatch: pytest.MonkeyPatch):
    set_threads(1)
    assert blas_threads() == {1}
    from numba.core import config

    if vars(config)["NUMBA_NUM_THREADS"] < 2:
        pytest.skip("numba was started with one thread")
    with use_threads(2):
        assert (torch.get_num_threads(), numba.get_num_threads()) == (2, 2)
        assert blas_threads() == {2}
    assert (torch.get_num_threads(), numba.get_num_threads()) == (1, 1)
    assert blas_threads() == {1}


@pytest.mark.parametrize("threads", [0, -1, 10**6])
def test_a_number_out_of_range_is_refused(threads: int):
    with pytest.raises(InputError, match="threads="):
        set_threads(threads)


def test_one_thread_gives_the_same_bytes_whatever_the_environment_says():
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
    found = set()
    for number in ("1", "2", None):
        environment = {name: value for name, value in os.environ.items() if name not in names}
        if number is not None:
            environment |= dict.fromkeys(names, number)
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        found.add(done.stdout)
    assert len(found) == 1
