"""Weights read from safetensors files one matrix at a time; no model is loaded.

The two folders are opened, not read: a tensor comes off the disk when it is asked for, large ones
in slices of rows, so that two models of any size are compared in the memory of one matrix.
"""

import re
from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor

from anaglyph.core.errors import ModelError
from anaglyph.pair.names import is_text
from anaglyph.pair.quantised import Quantisation, unnamed_scale
from anaglyph.pair.sources import Source
from anaglyph.pair.weight_files import not_finite, read_config

_ROWS = 4096
_BLOCK = re.compile(r"(?:^|\.)(?:layers|h|blocks|block)\.(\d+)\.")
# Kept in files, though they are no weights: frequencies of positions, masks, tables of routing.
_BUFFERS = re.compile(
    r"(^|\.)(rotary_emb\.inv_freq|masked_bias|attn\.bias|attention\.bias|position_ids|tid2eid)$"
)
_EMBEDDING = re.compile(r"(^|\.)(embed_tokens|wte|embed_in|word_embeddings|embeddings)\.weight$")
_UNEMBEDDING = re.compile(r"((^|\.)(lm_head|embed_out|output_projection)|^head)\.weight$")
_LAST_NORM = re.compile(
    r"(^|\.)(norm|norm_f|ln_f|ln_out|final_layer_norm|final_layernorm)\.weight$"
)


class TensorFiles:
    """The named tensors of a folder's safetensors files, as they are stored."""

    def __init__(self, source: Source) -> None:
        """Open the files.

        Raises:
            ModelError: A file is damaged.
        """
        self.name = source.name
        self._handles: dict[str, Any] = {}
        for file in source.weights.files:
            try:
                handle: Any = safe_open(file, framework="pt")
                self._handles |= dict.fromkeys(handle.keys(), handle)
            except (SafetensorError, OSError) as error:
                raise ModelError(f"{file} of {self.name} cannot be read: {error}") from error

    @property
    def names(self) -> list[str]:
        """Names of all tensors, those of one block together."""
        return sorted(self._handles, key=_natural)

    def __contains__(self, name: str) -> bool:
        return name in self._handles

    def shape(self, name: str) -> tuple[int, ...]:
        """Return a tensor's shape without reading it."""
        return tuple(self._slice(name).get_shape())

    def read(self, name: str) -> Tensor:
        """Return a tensor as it is stored."""
        self._slice(name)
        return self._handles[name].get_tensor(name)

    def _slice(self, name: str) -> Any:
        if name not in self._handles:
            raise ModelError(f"{self.name} has no weight {name}")
        return self._handles[name].get_slice(name)


class ModelFiles(TensorFiles):
    """A whole model's weights, dequantised, with what its configuration says of them.

    Attributes:
        source: Where they are.
        width: Length of the residual stream's vectors.
        depth: Number of decoder blocks; None if the configuration does not say.
        transposed: Whether its linear layers are stored [in, out], as GPT-2's are.
    """

    def __init__(self, source: Source) -> None:
        """Open the files and read the configuration.

        Raises:
            ModelError: A file is damaged, or quantised by a method that is not read.
        """
        super().__init__(source)
        self.source = source
        config = read_config(source.weights.config)
        text = config.get("text_config") or config
        width = next((text[key] for key in ("hidden_size", "n_embd", "d_model") if key in text), 0)
        if not isinstance(width, int) or width < 1:
            raise ModelError(f"{source.weights.config} names no hidden_size")
        depth = next(
            (text[k] for k in ("num_hidden_layers", "n_layer", "n_layers") if k in text), 0
        )
        self.width = width
        self.depth = depth if isinstance(depth, int) and depth > 0 else None
        self.transposed = text.get("model_type") in ("gpt2", "openai-gpt")
        self._is_gemma = str(text.get("model_type", "")).startswith(("gemma", "recurrent_gemma"))
        self._quantisation = Quantisation.of(config, source.name)
        self._packed: dict[str, dict[str, str]] = {}
        hidden = {name for name in self._handles if _BUFFERS.search(name)}
        if self._quantisation is not None:
            self._packed, parts = self._quantisation.parts(self._handles)
            hidden |= parts
        self._names = sorted((self._handles.keys() | self._packed) - hidden, key=_natural)
        self._known = frozenset(self._names)

    @property
    def names(self) -> list[str]:
        """Names of all weights, those of one block together; no parts of quantised ones."""
        return self._names

    def __contains__(self, name: str) -> bool:
        return name in self._known

    def shape(self, name: str) -> tuple[int, ...]:
        """Return a weight's shape, of a quantised one that of the whole matrix."""
        if name in self._packed and self._quantisation is not None:
            parts = self._packed[name]
            return self._quantisation.shape(parts, super().read, super().shape, name)
        return super().shape(name)

    def read(self, name: str) -> Tensor:
        """Return a weight, dequantised if it is stored so.

        Raises:
            ModelError: It is missing, damaged, not finite, or of integers that are no weights.
        """
        if name in self._packed and self._quantisation is not None:
            weight = self._quantisation.decode(self._packed[name], super().read, name)
        else:
            weight = super().read(name)
        if not weight.is_floating_point():
            raise ModelError(
                f"{self.name} stores {name} as {str(weight.dtype).removeprefix('torch.')}, packed"
                " in a way that its config.json does not name: save the model in float and name"
                " that folder"
            )
        if weight.element_size() == 1 and name not in self._packed:
            self._check_unscaled(name)
        return self._finite(name, weight.float() if weight.element_size() == 1 else weight)

    def _check_unscaled(self, name: str) -> None:
        if self._quantisation is None and (scale := unnamed_scale(self._handles)) is not None:
            raise ModelError(
                f"{self.name} stores {name} in 8 bits and has scales ({scale}), but its config.json"
                " has no quantization_config that says how they belong together: add it, or save"
                " the model in float and name that folder"
            )

    def row_slices(self, name: str) -> Iterator[Float[Tensor, "rows columns"]]:
        """Yield a matrix in float32, some rows at a time."""
        packed = name in self._packed
        whole = self.read(name) if packed else self._slice(name)
        for start in range(0, self.shape(name)[0], _ROWS):
            yield self._finite(name, whole[start : start + _ROWS].float())

    def find(self, path: str) -> str | None:
        """Return the tensor of a module's path, whatever prefix the file leaves out or adds."""
        return self.find_weight(f"{path}.weight")

    def find_weight(self, wanted: str) -> str | None:
        """Return the tensor of a parameter's name, whatever prefix the file leaves out or adds."""
        if wanted in self:
            return wanted
        ends = [name for name in self.names if name.endswith(f".{wanted}")]
        starts = [name for name in self.names if wanted.endswith(f".{name}")]
        found = ends or starts
        return found[0] if len(found) == 1 else None

    @property
    def embedding(self) -> str | None:
        """Name of the input embedding's matrix [vocabulary, width]."""
        return self._first(_EMBEDDING)

    @property
    def head(self) -> str | None:
        """Name of the output embedding's own matrix; None where it is stored as the input's."""
        return self._first(_UNEMBEDDING)

    @property
    def unembedding(self) -> str | None:
        """Name of the output embedding's matrix; the input embedding's where they are tied."""
        return self.head or self.embedding

    def final_gain(self) -> Float[Tensor, " d"]:
        """Return the factors of the norm before the output embedding; ones if there are none."""
        name = self._first(_LAST_NORM)
        if name is None:
            return torch.ones(self.width)
        gain = self.read(name).float()
        return 1 + gain if self._is_gemma else gain

    def _first(self, pattern: re.Pattern[str]) -> str | None:
        outside = (n for n in self.names if block_of(n) is None and is_text(n))
        return next((name for name in outside if pattern.search(name)), None)

    def _finite(self, name: str, weight: Tensor) -> Tensor:
        finite = weight.isfinite()
        if not finite.all():
            raise not_finite(self.name, name, int((~finite).sum()), weight.numel())
        return weight


def block_of(name: str) -> int | None:
    """Return the decoder block that a tensor belongs to, read off its name; None outside."""
    found = _BLOCK.search(name)
    return int(found[1]) if found and is_text(name) else None


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in name.split(".")]
