"""Settings of the whole suite: shapes are checked, threads are few, nothing reaches a network."""

import os
import re
import shutil
from functools import cache
from pathlib import Path
from typing import Any

# The pairs are tiny, and the suite runs a worker on each core (`make test`).
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
from hypothesis import settings
from jaxtyping import install_import_hook

TESTS = Path(__file__).parent
SOURCE = TESTS.parent / "src" / "anaglyph"


def _checked_modules() -> list[str]:
    """Name every module whose annotations are enforced.

    Packages are left out because naming one would take in all below it; numba cannot compile a
    function that the hook has wrapped, so kernels are left out too; typer reads signatures.
    """
    names = []
    for file in SOURCE.rglob("*.py"):
        parts = file.relative_to(SOURCE.parent).with_suffix("").parts
        if file.stem != "__init__" and not {"cli", "kernels"} & set(parts):
            names.append(".".join(parts))
    return sorted(names)


install_import_hook(_checked_modules(), "beartype.beartype")

settings.register_profile("anaglyph", deadline=None, derandomize=True, max_examples=40)
settings.load_profile("anaglyph")


SHARED = ("finished", "game_folder")
"""Fixtures that take long and that several files look at: a run, a game."""


@cache
def _group(file: Path) -> str:
    """Return a shared fixture's name for a file that asks for it, the file itself for another."""
    text = file.read_text(encoding="utf-8")
    asked = (name for name in SHARED if re.search(rf"def [^)]*\b{name}\b", text))
    return next(asked, str(file))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let those that look at a shared fixture go first.

    They take longest: last, they would leave the other workers idle.
    """
    groups = {path: _group(path) for path in {item.path for item in items}}
    items.sort(key=lambda item: groups[item.path] not in SHARED)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give a worker whole files, and all that look at a shared fixture to the one that makes it.

    The groups of ``--dist loadgroup`` are gone without a word where pytest makes its node ids
    itself (from 9.2 on; xdist 3.8 writes them into the items).
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByGroup(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return _group(TESTS.parent / nodeid.split("::")[0])

    return ByGroup(config, log)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Let torch and numba use one thread: a worker has one core."""
    from anaglyph.core.threads import set_threads

    set_threads(1)


@pytest.fixture(scope="session")
def rounded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny base with its weights rounded: nothing was learned, and every activation differs."""
    import torch
    from safetensors.torch import load_file, save_file

    from anaglyph.demo import tiny_pair

    base, folder = tiny_pair().base, tmp_path_factory.mktemp("rounded") / "model"
    shutil.copytree(base, folder)
    # Five bits of mantissa: bfloat16 has seven, and these weights are stored as that already.
    coarse = {
        name: (weight.float().view(torch.int32) + 2**17 >> 18 << 18).view(torch.float32)
        for name, weight in load_file(str(base / "model.safetensors")).items()
    }
    save_file(coarse, str(folder / "model.safetensors"), {"format": "pt"})
    return folder
