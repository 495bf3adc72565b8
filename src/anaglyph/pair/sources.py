"""Where a model's files are, and the digests that identify them.

A model is named by a folder, a hub id or a GGUF file. All three end as a folder that transformers
can read, with fingerprints made from file contents: two names for the same files agree, and the
second fine-tune in one place never passes for the first.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import LocalEntryNotFoundError

from anaglyph.core.errors import ModelError
from anaglyph.core.files import digest, file_digest
from anaglyph.pair.gguf import converted
from anaglyph.pair.quiet import first_line

_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
    "tokenizer_config.json",
)
# Any one of these is enough to build a tokenizer; the others only add to it.
_VOCABULARY_FILES = _TOKENIZER_FILES[:3]


@dataclass(frozen=True)
class Source:
    """The files of one model or adapter.

    Attributes:
        name: The model as the user named it.
        folder: Folder with its files.
        fingerprint: Digest of the configuration and all weights.
        tokenizer_fingerprint: Digest of the tokenizer's files, or None where there are none.
        is_adapter: Whether it is a PEFT adapter, to be laid over a base.
    """

    name: str
    folder: Path
    fingerprint: str
    tokenizer_fingerprint: str | None
    is_adapter: bool


def locate(name: str | Path) -> Source:
    """Find a model's files and identify them by content.

    Raises:
        ModelError: Nothing is there under that name, or it lacks a configuration or safetensors
            weights.
    """
    path = Path(name).expanduser()
    if path.is_file():
        if path.suffix != ".gguf":
            raise ModelError(f"{path} is neither a model folder nor a .gguf file")
        key = file_digest(path)
        print_of_file = digest({"gguf": key})
        return Source(str(name), converted(path, key), print_of_file, print_of_file, False)
    folder = path if path.is_dir() else _from_hub(name)
    is_adapter = (folder / "adapter_config.json").is_file()
    return Source(
        name=str(name),
        folder=folder,
        fingerprint=_fingerprint(str(name), folder, is_adapter),
        tokenizer_fingerprint=_tokenizer_fingerprint(folder),
        is_adapter=is_adapter,
    )


def _from_hub(name: str | Path) -> Path:
    is_id = isinstance(name, str) and _HUB_ID.fullmatch(name) and not name.endswith(".gguf")
    if not is_id or str(name).startswith("."):
        raise ModelError(f"{name} does not exist")
    try:
        # Subfolders hold other formats of the same weights (ONNX, original checkpoints).
        return Path(
            huggingface_hub.snapshot_download(
                str(name),
                allow_patterns=["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"],
                ignore_patterns=["*/*"],
            )
        )
    except LocalEntryNotFoundError as error:
        raise ModelError(
            f"{name} is neither a folder here nor in the local hub cache, and the hub cannot be"
            " reached"
        ) from error
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{name} is no folder here and cannot be had from the hub: {first_line(error)}"
        ) from error


def _fingerprint(name: str, folder: Path, is_adapter: bool) -> str:
    config = folder / ("adapter_config.json" if is_adapter else "config.json")
    if not config.is_file():
        hint = next(iter(sorted(folder.glob("*.gguf"))), None)
        raise ModelError(
            f"{name} holds no model: config.json is missing"
            + (f"; name the file itself to use {hint.name}" if hint else "")
        )
    pattern = "adapter_model.safetensors" if is_adapter else "*.safetensors"
    weights = sorted(file for file in folder.glob(pattern) if file.is_file())
    if not weights:
        raise ModelError(f"{name} holds no safetensors weights (pickled ones are never loaded)")
    return digest({file.name: file_digest(file) for file in [config, *weights]})


def _tokenizer_fingerprint(folder: Path) -> str | None:
    if not any((folder / file).is_file() for file in _VOCABULARY_FILES):
        return None
    files = [folder / file for file in _TOKENIZER_FILES if (folder / file).is_file()]
    return digest({file.name: file_digest(file) for file in files})
