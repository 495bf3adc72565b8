"""A dictionary on disk: ``config.json`` and ``weights.safetensors``, never a pickle."""

import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, field_validator, model_validator
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from anaglyph.core.errors import StoreError
from anaglyph.core.files import atomic_path, file_digest, os_error_text, read_json, write_json
from anaglyph.core.seals import signed, unsigned
from anaglyph.core.validation import validate
from anaglyph.dictionaries.weights import Weights

FORMAT = 1

# Strict but for this: JSON has lists only.
_Positive = Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(strict=False)]


class Selection(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    """How a dictionary selects its active latents.

    Attributes:
        k: Mean number of active latents a token in training; None for a sparsity without k.
        sparsity: Name of the sparsity.
        threshold: What a score has to exceed; None where inference selects as training does, or
            each latent has a threshold of its own.
        source_weights: w_m of each source in the score; None for 1 each.
        radii: Distance from the decoder bias, for each source, beyond which a token is pulled in
            (``outliers.py``); None to pull none.
    """

    k: Annotated[int | float, Field(gt=0)] | None
    sparsity: str = "batchtopk"
    threshold: float | None = Field(default=None, ge=0)
    source_weights: _Positive | None = None
    radii: _Positive | None = None


class Saved(Selection, frozen=True, strict=True):
    """What ``config.json`` says.

    ``options`` is absent in dictionaries from before methods had options, ``weights_digest`` in
    those from before weights were bound to their config.
    """

    format: int = FORMAT
    method: str
    latents: int = Field(ge=1)
    widths: Annotated[tuple[Annotated[int, Field(gt=0)], ...], Field(strict=False)]
    weights_digest: str | None = None
    config: dict[str, Any]
    stats: dict[str, Any]
    options: dict[str, Any] = Field(default_factory=dict)

    @field_validator("config", "stats", "options")
    @classmethod
    def _finite(cls, value: dict[str, Any]) -> dict[str, Any]:
        json.dumps(value, allow_nan=False)
        return value

    @model_validator(mode="after")
    def _fits(self) -> "Saved":
        for name in Selection.model_fields:
            if name not in self.model_fields_set:
                raise ValueError(f"{name}: is missing")
        if self.k is not None and self.k > self.latents:
            raise ValueError(f"k={self.k} exceeds latents={self.latents}")
        for name in ("source_weights", "radii"):
            values = getattr(self, name)
            if values is not None and len(values) != len(self.widths):
                raise ValueError(f"{name}: {len(values)} values for {len(self.widths)} sources")
        return self


def write(folder: Path, weights: Weights, settings: dict[str, Any]) -> None:
    """Write the weights, then ``config.json`` with ``settings``.

    A folder with a config is therefore complete; the config carries the weights' digest.
    """
    path = folder / "weights.safetensors"
    with atomic_path(path) as temporary:
        save_file(weights.named(), temporary)
    shape = {
        "latents": len(weights.encoder_bias),
        "widths": [len(bias) for bias in weights.decoder_bias],
        "weights_digest": file_digest(path),
    }
    write_json(folder / "config.json", signed({"format": FORMAT, **shape, **settings}))


def read(folder: Path) -> tuple[Weights, Saved]:
    """Return weights and settings.

    Raises:
        StoreError: A file is missing or damaged, or the two do not belong together; the message
            names the file and the field.
    """
    file, path = folder / "config.json", folder / "weights.safetensors"
    value = read_json(file)
    version = value.get("format") if isinstance(value, dict) else None
    if version != FORMAT:
        raise StoreError(f"{file}: format is {version!r}; this version reads format {FORMAT}")
    content = {name: field for name, field in value.items() if name != "digest"}
    saved = validate(Saved, content, str(file), StoreError)
    # After the fields: a bad one is named.
    unsigned(value, file)
    if not path.is_file():
        raise StoreError(f"{path} is missing")
    try:
        if saved.weights_digest not in (None, file_digest(path)):
            raise StoreError(
                f"{path} is damaged: its digest is not the weights_digest in config.json"
            )
        tensors = load_file(path)
    except OSError as error:
        raise StoreError(f"cannot read {os_error_text(error, path)}") from error
    except SafetensorError as error:
        raise StoreError(f"{path} is damaged: {error}") from error
    expected = Weights.shapes(saved.latents, saved.widths)
    if "threshold" in tensors:
        expected["threshold"] = (saved.latents,)
    for name in sorted(expected.keys() | tensors.keys()):
        found = tuple(tensors[name].shape) if name in tensors else None
        if found != expected.get(name):
            raise StoreError(
                f"{path}: tensor {name} has shape {found}, config.json says {expected.get(name)}"
            )
        if not bool(tensors[name].isfinite().all()):
            raise StoreError(f"{path}: tensor {name} has NaN or inf")
    sources = range(len(saved.widths))
    weights = Weights(
        tuple(tensors[f"encoder.{source}"] for source in sources),
        tensors["encoder_bias"],
        tuple(tensors[f"decoder.{source}"] for source in sources),
        tuple(tensors[f"decoder_bias.{source}"] for source in sources),
        tensors.get("threshold"),
    )
    return weights, saved
