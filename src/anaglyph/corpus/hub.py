"""Data sets of the Hugging Face hub, streamed: nothing is downloaded that is not read."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from anaglyph.core.errors import InputError
from anaglyph.corpus.files import kind_of

SCHEME = "hf://datasets/"
_NAME = re.compile(r"[\w.-]+/[\w.-]+(@[\w.-]+)?(:[\w.-]+){0,2}")
_READERS = {
    ".parquet": "parquet", ".jsonl": "json", ".json": "json", ".csv": "csv", ".txt": "text",
}  # fmt: skip


def is_hub_name(source: str) -> bool:
    """Whether a source that is no path may be a data set of the hub."""
    if source.startswith(SCHEME):
        return True
    return bool(_NAME.fullmatch(source)) and kind_of(Path(source)) is None


def hub_rows(source: str) -> Iterator[tuple[str, Any]]:
    """Stream the rows of a data set.

    Args:
        source: ``OWNER/NAME``, with ``@REVISION``, ``:SPLIT`` or ``:CONFIG:SPLIT`` after it where
            they are needed (the split is "train" if there is one), or ``hf://datasets/`` before it.
            ``hf://datasets/OWNER/NAME/FILES`` reads files of the repository.

    Raises:
        InputError: The extra is not installed, or the data set cannot be opened or read.
    """
    try:
        import datasets
    except ImportError as error:
        raise InputError(
            f"{source}: no such file or folder; to read a data set of the hub, install the extra: "
            "pip install 'anaglyph[datasets]'"
        ) from error
    name = source.removeprefix(SCHEME)
    number = 0
    try:
        for row in _streamed(datasets, source, name):
            number += 1
            yield f"{source} row {number}", dict(row)
    except InputError:
        raise
    except Exception as error:  # the hub, the network and every reader have errors of their own
        lines = str(error).splitlines() or [""]
        where = f" after row {number}" if number else ""
        raise InputError(
            f"{source}: cannot be read as a data set of the hub{where} "
            f"({type(error).__name__}: {lines[0][:300]}); check the name, or give a file"
        ) from error


def _streamed(datasets: Any, source: str, name: str) -> Any:
    owner, _, rest = name.partition("/")
    repository, _, files = rest.partition("/")
    if source.startswith(SCHEME) and files:
        suffix = next((end for end in _READERS if end in files), None)
        if suffix is None:
            known = ", ".join(_READERS)
            raise InputError(f"{source}: a file of the hub must be one of {known}")
        return datasets.load_dataset(
            _READERS[suffix], data_files=source, split="train", streaming=True
        )
    repository, *options = repository.split(":")
    repository, _, revision = repository.partition("@")
    config = options[0] if len(options) == 2 else None
    found = datasets.load_dataset(
        f"{owner}/{repository}", config, revision=revision or None, streaming=True
    )
    split = options[-1] if options else "train"
    if split not in found:
        splits = ", ".join(found)
        raise InputError(
            f"{source}: has no split {split!r}; name one: {owner}/{repository}:SPLIT ({splits})"
        )
    return found[split]
