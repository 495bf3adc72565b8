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
from anaglyph.core.files import as_path, digest, file_digest
from anaglyph.pair import pickled
from anaglyph.pair.gguf import converted
from anaglyph.pair.quiet import first_line
from anaglyph.pair.weight_files import WeightFiles, pickled_files, read_config, weight_files

_HUB_ID = re.compile(r"(?P<id>[\w.-]+(/[\w.-]+)?)(@(?P<revision>[\w./-]+))?")
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
    "tokenizer_config.json",
)
_WANTED = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja")
_ASKED: set[str] = set()
"""What the user of this process asked for once and for all: "convert"."""
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
        weights: Which of the files hold the weights.
    """

    name: str
    folder: Path
    fingerprint: str
    tokenizer_fingerprint: str | None
    weights: WeightFiles

    @property
    def is_adapter(self) -> bool:
        """Whether it is a PEFT adapter, to be laid over a base."""
        return self.weights.is_adapter


def stay_local() -> None:
    """Take hub models from the local cache only, from here on in this process."""
    huggingface_hub.constants.HF_HUB_OFFLINE = True


def convert_pickled() -> None:
    """Convert pickled weights to safetensors, from here on in this process."""
    _ASKED.add("convert")


def locate(name: str | Path, *, local_files_only: bool = False, convert: bool = False) -> Source:
    """Find a model's files and identify them by content.

    Args:
        name: A folder, a ``.gguf`` file or a hub id; the id may name a branch, tag or commit after
            an ``@``.
        local_files_only: Do not ask the hub for what is not in its local cache.
        convert: Convert pickled weights once to safetensors, in ``$ANAGLYPH_CACHE``; they are read
            as weights and nothing else.

    Raises:
        ModelError: Nothing is there under that name, or it lacks a configuration or safetensors
            weights.
    """
    path = as_path(name).expanduser()
    if path.is_file():
        if path.suffix != ".gguf":
            raise ModelError(f"{path} is neither a model folder nor a .gguf file")
        key = file_digest(path)
        print_of_file, folder = digest({"gguf": key}), converted(path, key)
        weights = weight_files(folder, str(name))
        return Source(str(name), folder, print_of_file, print_of_file, weights)
    convert = convert or "convert" in _ASKED
    folder = path if path.is_dir() else _from_hub(name, local_files_only, convert)
    if convert and pickled_files(folder, str(name)):
        folder = pickled.converted(folder, str(name))
    weights = weight_files(folder, str(name))
    return Source(
        name=str(name),
        folder=folder,
        fingerprint=digest({f.name: file_digest(f) for f in (weights.config, *weights.files)}),
        tokenizer_fingerprint=_tokenizer_fingerprint(folder),
        weights=weights,
    )


def pair_notes(base: Source, tuned: Source) -> list[str]:
    """Return what a reader should know of the files of a pair: a line each.

    Files that were ignored, and an adapter that was made for a base of another name.
    """
    notes = [*base.weights.ignored, *tuned.weights.ignored]
    if tuned.is_adapter:
        config = read_config(tuned.weights.config)
        start, named = config.get("init_lora_weights"), config.get("base_model_name_or_path")
        if isinstance(start, str) and start.startswith("pissa_niter"):
            notes.append(
                f"adapter {tuned.name} starts from a randomised decomposition of the base ({start})"
                " that is repeated here with another seed: convert it to a LoRA"
                " (path_initial_model_for_weight_conversion) for exact numbers"
            )
        if isinstance(named, str) and named and not _is_named(base, named):
            notes.append(
                f"adapter {tuned.name} names the base {named}, not {base.name}: the results hold"
                " only if the two are the same model"
            )
    return notes


def _is_named(base: Source, named: str) -> bool:
    """Say whether a base may be the one of that name: by its path, or its last parts."""
    if Path(named).is_dir() and base.folder.is_dir():
        return Path(named).resolve() == base.folder.resolve()
    last = _letters(named.rstrip("/").split("/")[-1])
    places = (base.name, base.folder.absolute(), Path(base.name).stem)
    cached = f"models--{named.replace('/', '--')}" in base.folder.parts
    return cached or any(_letters(place).endswith(last) for place in places)


def _letters(text: object) -> str:
    return re.sub(r"[^a-z0-9]", "", str(text).lower())


def _from_hub(name: str | Path, local_files_only: bool, convert: bool) -> Path:
    found = _HUB_ID.fullmatch(name) if isinstance(name, str) else None
    if found is None or str(name).endswith(".gguf") or str(name).startswith("."):
        raise ModelError(f"{name} does not exist")
    try:
        # Subfolders hold other formats of the same weights (ONNX, original checkpoints).
        return Path(
            huggingface_hub.snapshot_download(
                found["id"],
                revision=found["revision"],
                local_files_only=local_files_only,
                allow_patterns=[*_WANTED, *(["*.bin"] if convert else [])],
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


def _tokenizer_fingerprint(folder: Path) -> str | None:
    if not any((folder / file).is_file() for file in _VOCABULARY_FILES):
        return None
    files = [folder / file for file in _TOKENIZER_FILES if (folder / file).is_file()]
    return digest({file.name: file_digest(file) for file in files})
