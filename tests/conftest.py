"""Settings of the whole suite: shapes are checked, threads are few, nothing reaches a network."""

import os
import shutil
from pathlib import Path

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


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give whole files to a worker, and all that look at the finished run to one that makes it.

    These go first, for they take longest: last, they would leave the other workers idle.
    """
    looking = {item.path for item in items if "finished" in getattr(item, "fixturenames", ())}
    for item in items:
        group = "finished" if item.path in looking else item.path.relative_to(TESTS).as_posix()
        item.add_marker(pytest.mark.xdist_group(group))
    items.sort(key=lambda item: item.path not in looking)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Let torch and numba use one thread: a worker has one core."""
    from anaglyph.dictionaries.threads import set_threads

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
