"""GGUF files, converted once to a float32 folder that loads in a tenth of a second.

De-quantising takes seconds to a minute, so the result is kept under a name made from the file's
digest. The folder gets that name only when it is complete.
"""

import importlib.util
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from anaglyph.core.errors import ModelError
from anaglyph.pair.cache import cache_root, made_once
from anaglyph.pair.quiet import first_line, quiet

# Part of the cache key: raise it whenever the conversion changes.
_FORMAT = 1


def converted(file: Path, digest: str) -> Path:
    """Return a folder with the float32 model, tokenizer and chat template of a GGUF file.

    Args:
        file: The GGUF file.
        digest: Digest of its bytes, the key of the conversion.

    Raises:
        ModelError: The file is not a GGUF file, its architecture is unknown to transformers, or the
            ``gguf`` package is missing.
    """
    folder = cache_root() / "gguf" / f"{digest}-{_FORMAT}"
    if folder.is_dir():
        return folder
    with file.open("rb") as opened:
        if opened.read(4) != b"GGUF":
            raise ModelError(f"{file} is not a GGUF file")
    if importlib.util.find_spec("gguf") is None:
        raise ModelError(f"reading {file} needs the gguf extra: pip install 'anaglyph[gguf]'")
    return made_once(folder, lambda place: _convert(file, place))


def _convert(file: Path, folder: Path) -> None:
    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
            model: Any = AutoModelForCausalLM.from_pretrained(
                file.parent, gguf_file=file.name, dtype=torch.float32, trust_remote_code=False
            )
            # The copy has plain numbers; with these marks transformers would refuse to save it.
            model.config.__dict__.pop("quantization_config", None)
            model.hf_quantizer = None
            model.is_quantized = False
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
    except Exception as error:  # parsers of damaged bytes raise anything
        raise ModelError(f"cannot read {file}: {first_line(error)}") from error
