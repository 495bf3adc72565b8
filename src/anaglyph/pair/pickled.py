"""Pickled weights (``.bin``), converted once to safetensors without running what they contain.

A pickle is a program. `torch.load` with ``weights_only=True`` builds tensors and nothing else, and
refuses a file that wants more. It is done only where the user asks for it.
"""

import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from anaglyph.core.errors import ModelError
from anaglyph.core.files import digest, file_digest, write_json
from anaglyph.pair.cache import cache_root, made_once
from anaglyph.pair.quiet import first_line
from anaglyph.pair.weight_files import ADAPTER, INDEX, SINGLE, pickled_files

# Part of the cache key: raise it whenever the conversion changes.
_FORMAT = 1
_KEPT = (".json", ".txt", ".model", ".jinja")
"""Endings of the files that go along: configurations, tokenizers and templates."""


def converted(folder: Path, name: str) -> Path:
    """Return a folder with the same model or adapter in safetensors files.

    Args:
        folder: With pickled weights; it stays as it is.
        name: The model as the user named it, for errors.

    Raises:
        ModelError: A file is damaged, or holds more than tensors by name.
    """
    files = pickled_files(folder, name)
    others = [f for f in sorted(folder.iterdir()) if f.suffix in _KEPT and f.is_file()]
    key = digest({"files": {f.name: file_digest(f) for f in (*files, *others)}, "as": _FORMAT})
    return made_once(cache_root() / "pickled" / key, partial(_convert, files, others))


def _convert(files: tuple[Path, ...], others: list[Path], place: Path) -> None:
    for file in others:
        if not file.name.endswith(".index.json"):
            shutil.copyfile(file, place / file.name)
    weight_map: dict[str, str] = {}
    for file in files:
        tensors = _tensors(file)
        single = ADAPTER if file.name.startswith("adapter") else SINGLE
        name = single if len(files) == 1 else f"{file.stem}.safetensors"
        # Weights that share memory become two: the configuration says whether they are tied.
        plain = {key: value.detach().clone().contiguous() for key, value in tensors.items()}
        save_file(plain, place / name, {"format": "pt"})
        weight_map |= dict.fromkeys(plain, name)
    if len(files) > 1:
        write_json(place / INDEX, {"metadata": {}, "weight_map": weight_map})


def _tensors(file: Path) -> dict[str, torch.Tensor]:
    try:
        found: Any = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged or hostile pickle raises anything
        raise ModelError(
            f"{file} cannot be read as weights and nothing else: {first_line(error)}"
        ) from error
    if not isinstance(found, Mapping) or not all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in found.items()
    ):
        raise ModelError(f"{file} is not a table of tensors by name: save the model again")
    return dict(found)
