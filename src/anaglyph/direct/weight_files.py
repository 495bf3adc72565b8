"""Weights read from safetensors files one matrix at a time; no model is loaded.

The two folders are opened, not read: a tensor comes off the disk when it is asked for, large ones
in slices of rows, so that two models of any size are compared in the memory of one matrix.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor

from anaglyph.core.errors import ModelError
from anaglyph.core.files import read_json
from anaglyph.pair.sources import Source

_ROWS = 4096


class TensorFiles:
    """The named tensors of a folder's safetensors files."""

    def __init__(self, folder: Path, name: str) -> None:
        """Open the files.

        Args:
            folder: Where they are.
            name: The model as the user named it, for errors.

        Raises:
            ModelError: A file is damaged or missing.
        """
        self._name = name
        self._handles: dict[str, Any] = {}
        for file in _files(folder, name):
            try:
                handle: Any = safe_open(file, framework="pt")
                self._handles |= dict.fromkeys(handle.keys(), handle)
            except (SafetensorError, OSError) as error:
                raise ModelError(f"{file} of {name} cannot be read: {error}") from error

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

    def row_slices(self, name: str) -> Iterator[Float[Tensor, "rows columns"]]:
        """Yield a matrix in float32, some rows at a time."""
        whole = self._slice(name)
        for start in range(0, whole.get_shape()[0], _ROWS):
            yield whole[start : start + _ROWS].float()

    def _slice(self, name: str) -> Any:
        if name not in self._handles:
            raise ModelError(f"{self._name} has no weight {name}")
        return self._handles[name].get_slice(name)


class ModelFiles(TensorFiles):
    """A whole model's weights, with what its configuration says of them.

    Attributes:
        width: Length of the residual stream's vectors.
        transposed: Whether its linear layers are stored [in, out], as GPT-2's are.
    """

    def __init__(self, source: Source) -> None:
        super().__init__(source.folder, source.name)
        config = _config(source.folder / "config.json")
        text = config.get("text_config") or config
        width = text.get("hidden_size", text.get("n_embd"))
        if not isinstance(width, int):
            raise ModelError(f"the configuration of {source.name} names no hidden_size")
        self.width = width
        self.transposed = text.get("model_type") == "gpt2"
        self._is_gemma = str(text.get("model_type", "")).startswith("gemma")

    def find(self, path: str) -> str | None:
        """Return the tensor of a module's path, whatever prefix the file leaves out or adds."""
        wanted = f"{path}.weight"
        if wanted in self:
            return wanted
        ends = [name for name in self.names if name.endswith(f".{wanted}")]
        starts = [name for name in self.names if wanted.endswith(f".{name}")]
        found = ends or starts
        return found[0] if len(found) == 1 else None

    @property
    def embedding(self) -> str | None:
        """Name of the input embedding's matrix [vocabulary, width]."""
        return self._first(r"(embed_tokens|wte|embed_in|word_embeddings)\.weight$")

    @property
    def unembedding(self) -> str | None:
        """Name of the output embedding's matrix; the input embedding's where they are tied."""
        return self._first(r"(lm_head|embed_out)\.weight$") or self.embedding

    def final_gain(self) -> Float[Tensor, " d"]:
        """Return the factors of the norm before the output embedding; ones if there are none."""
        name = self._first(r"(^|\.)(norm|ln_f|final_layer_norm|final_layernorm)\.weight$")
        if name is None:
            return torch.ones(self.width)
        gain = self.read(name).float()
        return 1 + gain if self._is_gemma else gain

    def _first(self, pattern: str) -> str | None:
        outside = (name for name in self.names if block_of(name) is None)
        return next((name for name in outside if re.search(pattern, name)), None)


def block_of(name: str) -> int | None:
    """Return the decoder block that a tensor belongs to, read off its name; None outside."""
    found = re.search(r"(?:^|\.)(?:layers|h|blocks|block)\.(\d+)\.", name)
    return int(found[1]) if found else None


def _files(folder: Path, name: str) -> list[Path]:
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        files = [folder / file for file in sorted(set(read_json(index)["weight_map"].values()))]
        for file in files:
            if not file.is_file():
                raise ModelError(f"{name} lacks {file.name}, which its index names")
        return files
    for only in ("model.safetensors", "adapter_model.safetensors"):
        if (folder / only).is_file():
            return [folder / only]
    return sorted(folder.glob("*.safetensors"))


def _config(file: Path) -> dict[str, Any]:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{file} cannot be read: {error}") from error


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in name.split(".")]
