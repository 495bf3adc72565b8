"""Quantised weights on disk, put together as the loader would: one float matrix from its parts.

A quantised folder stores a matrix as codes, scales and more, each a tensor of its own. Here the
parts are found by name, so that no scale passes for a matrix, and folded into the weight that the
model computes with. Methods that are not read are refused by name.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from anaglyph.core.errors import ModelError
from anaglyph.core.files import parse_json

Parts = dict[str, str]
"""A weight's tensors: the part ("scale", "packed", ...) and the tensor's name in the files."""

_PARTS = {
    "fp8": re.compile(r"(?P<of>.+?)_(?P<part>scale_inv|scale)"),
    "compressed-tensors": re.compile(
        r"(?P<of>.+\.weight)_(?P<part>packed|scale|zero_point|shape|g_idx|global_scale)"
    ),
    "bitsandbytes": re.compile(
        r"(?P<of>.+)\.(?P<part>weight\.(?:absmax|quant_map|nested_absmax|nested_quant_map"
        r"|quant_state\.\w+)|SCB|weight_format)"
    ),
}
_SCALE = re.compile(r"(?P<of>.+?)[._](?:weight_)?(?:scale_inv|scale|scales|absmax|SCB|qzeros)")
# Scales of activations and of the key-value cache are settings of a run, not weights.
_NOT_WEIGHTS = re.compile(
    r".+[._](input_scale|input_global_scale|input_zero_point|activation_scale|output_scale"
    r"|[kqv]_scale|[kqv]_zero_point)"
)


def quantisation_settings(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what a configuration, or that of the text model inside, says of quantisation."""
    for part in (config, config.get("text_config")):
        for name in ("quantization_config", "compression_config"):
            found = part.get(name) if isinstance(part, Mapping) else None
            if isinstance(found, dict) and found:
                return found
    return None


def unnamed_scale(names: Iterable[str]) -> str | None:
    """Return a tensor that scales a weight next to it, in files whose weights are called plain."""
    everything = set(names)
    for name in sorted(everything):
        part = _SCALE.fullmatch(name)
        if part and everything & {part["of"], f"{part['of']}.weight", f"{part['of']}_packed"}:
            return name
    return None


@dataclass(frozen=True)
class Quantisation:
    """How a folder's weights are quantised.

    Attributes:
        method: As the configuration names it.
        settings: The configuration's quantization_config.
    """

    method: str
    settings: Mapping[str, Any]

    @classmethod
    def of(cls, config: Mapping[str, Any], name: str) -> "Quantisation | None":
        """Return the quantisation that a model's configuration names; None for plain weights.

        Raises:
            ModelError: It is a method that is not read.
        """
        settings = quantisation_settings(config)
        if not settings:
            return None
        method = str(settings.get("quant_method", "unknown")).lower()
        if method not in _PARTS:
            raise ModelError(
                f"{name} is quantised by {method}, which is not read (only"
                f" {', '.join(sorted(_PARTS))}): load it with transformers, save it in float and"
                " name that folder"
            )
        return cls(method, settings)

    def parts(self, names: Iterable[str]) -> tuple[dict[str, Parts], set[str]]:
        """Return the quantised weights, each with its parts, and names that are no weights."""
        everything = set(names)
        found: dict[str, Parts] = {}
        for name in sorted(everything):
            part = _PARTS[self.method].fullmatch(name)
            if part is None:
                continue
            of = f"{part['of']}.weight" if self.method == "bitsandbytes" else part["of"]
            if of in everything or f"{of}_packed" in everything:
                found.setdefault(of, {})[part["part"].removeprefix("weight.")] = name
        for of in found.keys() & everything:
            found[of][""] = of
        codes = [part for parts in found.values() for part in parts.values()]
        others = {name for name in everything if _NOT_WEIGHTS.fullmatch(name)}
        return found, (set(codes) | others) - found.keys()

    def decode(self, parts: Parts, read: Callable[[str], Tensor], weight: str) -> Tensor:
        """Return a weight in float32 from its parts.

        Args:
            parts: From `parts`.
            read: Gives a tensor by its name.
            weight: The weight's name, for errors.

        Raises:
            ModelError: The parts do not fit, or the package that reads them is missing.
        """
        tensors = {part: read(name) for part, name in parts.items()}
        decode = {
            "fp8": _fp8,
            "bitsandbytes": _bitsandbytes,
            "compressed-tensors": _compressed_tensors,
        }[self.method]
        try:
            return decode(tensors, self.settings, weight).float()
        except ImportError as error:
            raise ModelError(
                f"reading {weight}, quantised by {self.method}, needs the quantised extra:"
                " pip install 'anaglyph[quantised]'"
            ) from error
        except (ValueError, KeyError, RuntimeError, AttributeError) as error:
            line = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ModelError(f"{weight}, quantised by {self.method}, is damaged: {line}") from error

    def shape(
        self,
        parts: Parts,
        read: Callable[[str], Tensor],
        stored: Callable[[str], tuple[int, ...]],
        weight: str,
    ) -> tuple[int, ...]:
        """Return a weight's shape from its smallest part that tells it."""
        if "shape" in parts:
            return tuple(int(size) for size in read(parts["shape"]))
        state = next((name for part, name in parts.items() if part.startswith("quant_state")), None)
        if state is not None:
            return tuple(_quant_state(read(state))["shape"])
        if "" not in parts:  # packed without a word on how much
            return tuple(self.decode(parts, read, weight).shape)
        return stored(parts[""])


def _fp8(tensors: dict[str, Tensor], settings: Mapping[str, Any], weight: str) -> Tensor:
    codes = tensors[""].float()
    scale = tensors["scale_inv"] if "scale_inv" in tensors else tensors["scale"]
    # One byte a scale is an exponent (E8M0).
    scale = torch.exp2(scale.float() - 127) if scale.dtype == torch.uint8 else scale.float()
    if scale.numel() == 1 or scale.ndim != codes.ndim:
        return codes * scale.reshape(*scale.shape, *[1] * (codes.ndim - scale.ndim))
    return codes * _spread(scale, codes.shape, settings.get("weight_block_size"))


def _spread(
    scale: Float[Tensor, "..."], shape: torch.Size, block: list[int] | None
) -> Float[Tensor, "..."]:
    """Repeat each block's scale over the rows and columns of the block; the last may be cut."""
    for axis in (-2, -1):
        size, blocks = shape[axis], scale.shape[axis]
        each = block[axis] if block and -(-size // block[axis]) == blocks else size // blocks
        if -(-size // each) != blocks:
            raise ValueError(f"{blocks} scales do not divide {size}")
        scale = scale.repeat_interleave(each, dim=axis).narrow(axis, 0, size)
    return scale


def _bitsandbytes(tensors: dict[str, Tensor], settings: Mapping[str, Any], weight: str) -> Tensor:
    if "SCB" in tensors:
        return tensors[""].float() * tensors["SCB"].float()[:, None] / 127
    functional: Any = import_module("bitsandbytes.functional")
    parts = {part: tensor for part, tensor in tensors.items() if part}
    state = functional.QuantState.from_dict(parts, device=torch.device("cpu"))
    state.dtype = torch.float32
    return functional.dequantize_4bit(tensors[""], state)


def _quant_state(packed: Tensor) -> dict[str, Any]:
    try:
        state = parse_json(bytes(packed.tolist()))
    except (ValueError, TypeError) as error:
        raise ModelError(f"the quantisation state of a weight is damaged: {error}") from error
    return state


def _compressed_tensors(
    tensors: dict[str, Tensor], settings: Mapping[str, Any], weight: str
) -> Tensor:
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationScheme

    group = _group(settings.get("config_groups") or {}, weight)
    scheme = QuantizationScheme.model_validate({"targets": ["Linear"], **group})
    compressor: Any = BaseCompressor.get_value_from_registry(scheme.format or settings["format"])
    state = {f"weight_{part}" if part else "weight": tensor for part, tensor in tensors.items()}
    return compressor.decompress(state, scheme)["weight"]


def _group(groups: Mapping[str, Any], weight: str) -> dict[str, Any]:
    """Return the settings of the group that a weight belongs to: one that names it, or Linear's."""
    module, of_class = weight.removesuffix(".weight"), None
    for group in groups.values():
        for target in group.get("targets", []):
            pattern = target.removeprefix("re:")
            if (target != pattern and re.match(pattern, module)) or target == module:
                return group
            of_class = group if target == pattern and of_class is None else of_class
    if of_class is None:
        raise KeyError(f"no group of config_groups has {module} among its targets")
    return of_class
