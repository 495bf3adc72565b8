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
_CONVERT = (
    "give --convert (convert=True) to convert them once to safetensors, without running any code"
    " that they contain"
)


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
        further = _adapters_below(folder)
        note = f"{name} has further adapters in {', '.join(further)}, which are not read"
        return WeightFiles(True, adapter_config, (folder / ADAPTER,), (note,) if further else ())
    if whole:
        found = _whole(folder, name)
        note = f"{ADAPTER_CONFIG} of {name} is ignored: the folder holds a whole model"
        return WeightFiles(False, found.config, found.files, (*found.ignored, note))
    if (folder / _PICKLED_ADAPTER).is_file():
        raise ModelError(f"{name} holds a pickled adapter only: {_CONVERT}")
    raise ModelError(f"{name} holds no safetensors weights: {ADAPTER} is missing")


def pickled_files(folder: Path, name: str) -> tuple[Path, ...]:
    """Return the pickled files of a folder that has no other weights; none where it has.

    Raises:
        ModelError: Their index is damaged, names a missing file or points out of the folder.
    """
    if (folder / ADAPTER_CONFIG).is_file():
        files = (ADAPTER, SINGLE, INDEX), folder / _PICKLED_ADAPTER
    else:
        files = (SINGLE, INDEX), folder / _PICKLED[0]
    if any((folder / file).is_file() for file in files[0]):
        return ()
    if files[1].is_file():
        return (files[1],)
    index = folder / _PICKLED[1]
    return _shards(index, name) if index.is_file() else ()


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
        if adapters := _adapters_below(folder):
            listed = ", ".join(f"{name}/{adapter}" for adapter in adapters)
            raise ModelError(
                f"{name} is a folder of adapters: name the one that you mean: {listed}"
            )
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
        raise ModelError(f"{name} holds no safetensors weights, only pickled ones: {_CONVERT}")
    others = sorted(file.name for file in folder.glob("*.safetensors"))
    raise ModelError(
        f"{name} holds no safetensors weights: neither {SINGLE} nor {INDEX} is there"
        + (f" ({others[0]} is not read: rename it or write an index)" if others else "")
    )


def _adapters_below(folder: Path) -> list[str]:
    """Return the adapters in folders of their own, as peft saves all but the default one."""
    return sorted(file.parent.name for file in folder.glob(f"*/{ADAPTER_CONFIG}"))


def not_finite(model: str, name: str, bad: int, of: int) -> ModelError:
    """Return the error of a weight with values that are NaN or infinite."""
    return ModelError(
        f"{model} is damaged: {bad} of the {of} values of {name} are NaN or infinite; take another"
        " copy, or set them to numbers and save the model again"
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
