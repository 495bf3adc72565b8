"""The numbers in a stranger's configuration, held against the tensors before memory is taken.

`num_hidden_layers: 10000000` in a file of two kilobytes makes a loader build ten million layers.
But a model has at least one tensor a layer, and no width that none of its tensors has; so what the
files can hold bounds what the configuration may ask for. Only the headers of the files are read.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from anaglyph.core.errors import ModelError
from anaglyph.pair.patterns import check_patterns
from anaglyph.pair.quiet import first_line
from anaglyph.pair.sources import Source
from anaglyph.pair.weight_files import read_config

_COUNTS = ("expert", "block", "head", "group")
_WIDTHS = ("size", "dim", "width", "embd", "inner", "rank", "state", "conv")
_PLACES = ("position", "ctx", "max_seq", "window", "length")
_MOST_PLACES = 2**26
"""Positions that a configuration may name: no tensor bounds them in most models."""
_FEW, _WIDE = 4096, 2**26
"""Small numbers are let through: they may count what has no tensor, or be a width that this model
does not use. What a model has of its widths is bounded by `check_model_size`."""
_LAYERS = 512
"""Layers that may share tensors, or have no files yet; each takes time to plan."""
_PACKED = 8
"""Codes in a byte, at most: of quantised weights a width is that much smaller in the files."""


def check_model_numbers(source: Source) -> None:
    """Check the numbers in a whole model's configuration.

    Raises:
        ModelError: One is larger than the files allow, or is not finite; the message names it.
    """
    tensors, largest, _ = _extent(source)
    check_numbers(read_config(source.weights.config), str(source.weights.config), tensors, largest)


def check_numbers(config: Any, where: str, tensors: int = 0, largest: int = 0) -> None:
    """Check the numbers in a configuration, before anything is built as they say.

    Args:
        config: The configuration.
        where: Its file, for the message.
        tensors: How many tensors the model's files have; 0 if there are no files.
        largest: Their largest dimension.

    Raises:
        ModelError: One is too large, or is not finite; the message names it.
    """
    for field, value in _numbers(config):
        name = field.rsplit(".", 1)[-1]
        if any(word in name for word in _PLACES):
            most = _MOST_PLACES
        elif any(word in name for word in _WIDTHS):
            most = max(_PACKED * largest, _WIDE)
        elif "layer" in name:
            most = max(tensors, _LAYERS)
        elif any(word in name for word in _COUNTS):
            most = max(tensors, largest, _FEW)
        else:
            continue
        if value > most:
            files = f"its {tensors} tensors allow (the largest dimension is {largest})"
            allowed = files if tensors else f"the {most} that we plan for"
            raise ModelError(f"{where}: {field} is {value}, more than {allowed}")


def check_model_size(model: torch.nn.Module, source: Source) -> None:
    """Check that a model on the meta device has no more values than its files.

    Raises:
        ModelError: It has.
    """
    _, _, size = _extent(source)
    parts = {id(part): part for part in (*model.parameters(), *model.buffers())}
    values = sum(part.numel() for part in parts.values())
    # Buffers of positions and masks come on top.
    if values > _PACKED * size + 2**26:
        raise ModelError(
            f"{source.weights.config} describes a model of {values:,} values, but its weights have"
            f" {size:,} bytes"
        )


def check_adapter(source: Source) -> dict[str, Any]:
    """Check an adapter's configuration, and return it.

    Raises:
        ModelError: A pattern may never end, a scale is not a finite number, or a rank is none that
            its tensors have.
    """
    config = read_config(source.weights.config)
    check_patterns(config, source.name)
    where, largest = source.weights.config, _extent(source)[1]
    for _ in _numbers(config):
        pass  # refuses NaN and inf anywhere
    for field in ("lora_alpha", "alpha"):
        scales = {field: config[field]} if config.get(field) is not None else {}
        scales |= _prefixed("alpha_pattern", config)
        for name, value in scales.items():
            if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > 1e9:
                raise ModelError(f"{where}: {name} is {value!r}, not a scale")
    # OFT states its blocks instead and leaves r at 0.
    is_stated = config.get("r") not in (None, 0) or config.get("lora_alpha") is not None
    ranks = {"r": config["r"]} if "r" in config and is_stated else {}
    for name, value in (ranks | _prefixed("rank_pattern", config)).items():
        if type(value) is not int or not 0 < value <= max(largest, 1):
            raise ModelError(f"{where}: {name} is {value!r}, not the rank of one of its factors")
    if config.get("layer_replication"):
        raise ModelError(
            f"{where}: layer_replication repeats layers, so that adapter and base have no layers in"
            " common: merge the adapter with peft, save the model and name that folder"
        )
    return config


def _prefixed(field: str, config: Mapping[str, Any]) -> dict[str, Any]:
    values = config.get(field) or {}
    if not isinstance(values, dict):
        raise ModelError(f"{field} of an adapter is {type(values).__name__}, not an object")
    return {f"{field}.{name}": value for name, value in values.items()}


def _numbers(value: Any, field: str = "") -> Iterator[tuple[str, int]]:
    """Yield every whole number in a configuration with its place; a float must be finite."""
    waiting = [(field, value)]
    while waiting:  # not by recursion: a configuration may be nested deeply
        field, value = waiting.pop()
        if isinstance(value, dict):
            waiting += [(f"{field}.{name}".lstrip("."), each) for name, each in value.items()]
        elif isinstance(value, list):
            waiting += [(field, each) for each in value]
        elif isinstance(value, float) and not math.isfinite(value):
            raise ModelError(f"{field} in a configuration is {value}: it must be a number")
        elif isinstance(value, int) and not isinstance(value, bool):
            yield field, value


def _extent(source: Source) -> tuple[int, int, int]:
    """Return how many tensors the files have, the largest dimension and their bytes."""
    tensors, largest, size = 0, 0, 0
    for file in source.weights.files:
        try:
            with safe_open(file, framework="pt") as opened:
                names = list(opened.keys())
                for name in names:
                    largest = max(largest, *opened.get_slice(name).get_shape(), 1)
            tensors += len(names)
            size += file.stat().st_size
        except (SafetensorError, OSError) as error:
            raise ModelError(f"cannot load {source.name}: {file}: {first_line(error)}") from error
    return tensors, largest, size
