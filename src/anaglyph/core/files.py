"""Digests that key every artifact, and writes that are whole or absent.

A file appears under its final name only after its bytes are synced: a killed run leaves temporary
files behind, never a half-written artifact.
"""

import hashlib
import json
import os
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anaglyph.core.errors import InputError, StoreError

if TYPE_CHECKING:
    import polars as pl


def digest(value: Any) -> str:
    """Return 32 hex digits that identify a JSON-serialisable value, independent of key order."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def file_digest(path: Path) -> str:
    """Return 32 hex digits that identify a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success sync it and rename it to ``path``.

    On an exception the temporary file is removed and ``path`` is left as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path``, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, whole or not at all; NaN and inf are refused."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def write_parquet(path: Path, table: "pl.DataFrame") -> None:
    """Write a table as Parquet, whole or not at all; folders are made as needed."""
    with atomic_path(path) as temporary:
        table.write_parquet(temporary)


def read_json(path: Path) -> Any:
    """Read a JSON file that anaglyph wrote.

    Raises:
        StoreError: The file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise StoreError(f"{path} is missing") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise StoreError(f"{path} is damaged: {error}") from error


def read_settings(file: Path) -> dict[str, Any]:
    """Read a JSON or TOML file of settings.

    Raises:
        InputError: The file cannot be read, or holds no object.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot read the settings file {file}: {error.strerror}") from error
    try:
        values = tomllib.loads(text) if file.suffix == ".toml" else json.loads(text)
    except (tomllib.TOMLDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{file} is neither JSON nor TOML as its name says: {error}") from error
    if not isinstance(values, dict):
        raise InputError(f"{file} must hold one object of settings, not {type(values).__name__}")
    return values
