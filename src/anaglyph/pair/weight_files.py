"""Which files are a folder's weights: asked by the loader, by fingerprints and by `weights`.

The rule is the one of transformers and peft: a single file comes before an index. A folder in which
two models could be meant is refused.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anaglyph.core.errors import ModelError
from anaglyph.core.files import parse_json, read_input

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
ADAPTER, ADAPTER_CONFIG = "adapter_model.safetensors", "adapter_config.json"
_PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json")
_PICKLED_ADAPTER = "adapter_model.bin"


@dataclass(frozen=True)
class WeightFiles:
    """The weights of one folder.

    Attributes:
        is_adapter: Whether they are a PEFT adapter's.
        config: The configuration that belongs to them.
        files: The safetensors files, in the order of the index if there is one.
        ignored: Files that look like weights and are not read, and why: one line each.
    """

    is_adapter: bool
    config: Path
    files: tuple[Path, ...]
    ignored: tuple[str, ...] = ()


def weight_files(folder: Path, name: str) -> WeightFiles:
    """Return the files that hold a folder's weights.

    Args:
        folder: A model's or an adapter's folder.
        name: The model as the user named it, for errors.

    Raises:
        ModelError: There are none, they are pickled, a whole model and an adapter are both there,
            or the index is damaged, names a missing file or points out of the folder.
    """
    config, adapter_config = folder / "config.json", folder / ADAPTER_CONFIG
    whole = config.is_file() and any((folder / file).is_file() for file in (SINGLE, INDEX))
    if not adapter_config.is_file():
        return _whole(folder, name)
    if (folder / ADAPTER).is_file():
        if whole:
            raise ModelError(
                f"{name} holds a whole model and an adapter: move {ADAPTER_CONFIG} and {ADAPTER}"
                " to a folder of their own and name the folder that you mean"
            )
        return WeightFiles(True, adapter_config, (folder / ADAPTER,))
    if whole:
        found = _whole(folder, name)
        note = f"{ADAPTER_CONFIG} of {name} is ignored: the folder holds a whole model"
        return WeightFiles(False, found.config, found.files, (*found.ignored, note))
    if (folder / _PICKLED_ADAPTER).is_file():
        raise ModelError(
            f"{name} holds a pickled adapter, which is never loaded. Convert it once:"
            ' python -c "import torch, safetensors.torch as s;'
            f" s.save_file(torch.load('{_PICKLED_ADAPTER}', weights_only=True), '{ADAPTER}')\""
        )
    raise ModelError(f"{name} holds no safetensors weights: {ADAPTER} is missing")


def read_config(file: Path) -> dict[str, Any]:
    """Return the settings in a model's or an adapter's JSON file.

    Raises:
        ModelError: It cannot be read or is not an object.
    """
    try:
        values = parse_json(read_input(file, ModelError))
    except ValueError as error:
        raise ModelError(f"{file} cannot be read: {error}") from error
    if not isinstance(values, dict):
        raise ModelError(f"{file} must hold one JSON object, not {type(values).__name__}")
    return values


def _whole(folder: Path, name: str) -> WeightFiles:
    config, index = folder / "config.json", folder / INDEX
    if not config.is_file():
        hint = next(iter(sorted(folder.glob("*.gguf"))), None)
        raise ModelError(
            f"{name} holds no model: config.json is missing"
            + (f"; name the file itself to use {hint.name}" if hint else "")
        )
    if (folder / SINGLE).is_file():
        stale = f"{INDEX} of {name} is ignored: {SINGLE} is there as well and comes first"
        ignored = (stale,) if index.is_file() else ()
        return WeightFiles(False, config, (folder / SINGLE,), ignored)
    if index.is_file():
        return WeightFiles(False, config, _shards(index, name))
    if any((folder / file).is_file() for file in _PICKLED):
        raise ModelError(
            f"{name} holds no safetensors weights, only pickled ones, which are never loaded."
            ' Convert them once: python -c "from transformers import AutoModelForCausalLM as M;'
            f" M.from_pretrained('{folder}', dtype='auto').save_pretrained('{folder}')\""
        )
    others = sorted(file.name for file in folder.glob("*.safetensors"))
    raise ModelError(
        f"{name} holds no safetensors weights: neither {SINGLE} nor {INDEX} is there"
        + (f" ({others[0]} is not read: rename it or write an index)" if others else "")
    )


def _shards(index: Path, name: str) -> tuple[Path, ...]:
    place = read_config(index).get("weight_map")
    if not isinstance(place, dict) or not all(isinstance(file, str) for file in place.values()):
        raise ModelError(f"{index} has no weight_map from weights to files: write the index again")
    names = sorted(set(place.values()))
    for file in names:
        # Links are followed: the hub's cache is made of them.
        path = Path(file)
        if path.is_absolute() or ".." in path.parts or "\\" in file:
            raise ModelError(
                f"{index} points out of its folder, to {file}: only files next to it are read"
            )
        if not (index.parent / file).is_file():
            raise ModelError(f"{name} lacks {file}, which its index names")
    return tuple(index.parent / file for file in names)
