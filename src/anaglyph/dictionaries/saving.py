"""A dictionary on disk: ``config.json`` and ``weights.safetensors``, never a pickle."""

from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from anaglyph.core.errors import StoreError
from anaglyph.core.files import atomic_path, file_digest, read_json, write_json
from anaglyph.dictionaries.weights import Weights

FORMAT = 1
SETTINGS = (
    "method",
    "k",
    "sparsity",
    "threshold",
    "source_weights",
    "radii",
    "config",
    "stats",
)


def write(folder: Path, weights: Weights, settings: dict[str, Any]) -> None:
    """Write weights and ``settings`` (``SETTINGS`` and the method's ``options``), config last.

    A folder with a config is therefore complete; the config carries the weights' checksum.
    """
    path = folder / "weights.safetensors"
    with atomic_path(path) as temporary:
        save_file(weights.named(), temporary)
    shape = {
        "latents": len(weights.encoder_bias),
        "widths": [len(bias) for bias in weights.decoder_bias],
        "weights_digest": file_digest(path),
    }
    write_json(folder / "config.json", {"format": FORMAT, **shape, **settings})


def read(folder: Path) -> tuple[Weights, dict[str, Any]]:
    """Return weights and settings.

    Raises:
        StoreError: A file is missing or damaged, or the two do not belong together.
    """
    config = read_json(folder / "config.json")
    path = folder / "weights.safetensors"
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise StoreError(f"{folder / 'config.json'} is no dictionary of format {FORMAT}")
    if not path.is_file():
        raise StoreError(f"{path} is missing")
    try:
        if file_digest(path) != config["weights_digest"]:
            raise StoreError(f"{path} is damaged: its checksum is not the one in config.json")
        tensors = load_file(path)
        widths = config["widths"]
        threshold = tensors.get("threshold")
        weights = Weights(
            tuple(tensors[f"encoder.{source}"] for source in range(len(widths))),
            tensors["encoder_bias"],
            tuple(tensors[f"decoder.{source}"] for source in range(len(widths))),
            tuple(tensors[f"decoder_bias.{source}"] for source in range(len(widths))),
            threshold,
        )
        settings = {name: config[name] for name in SETTINGS}
        # Absent in dictionaries from before methods had options.
        settings["options"] = config.get("options", {})
        expected = Weights.shapes(config["latents"], tuple(widths))
        if threshold is not None:
            expected["threshold"] = (config["latents"],)
    except (KeyError, SafetensorError) as error:
        raise StoreError(f"{folder} is damaged: {error}") from error
    found = {name: tuple(tensor.shape) for name, tensor in weights.named().items()}
    if found != expected:
        raise StoreError(f"{folder} is damaged: shapes {found}, config.json says {expected}")
    return weights, settings
