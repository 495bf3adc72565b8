"""Digests that key every artifact, and writes that are whole or absent.

A file appears under its final name only after its bytes are synced: a killed run leaves temporary
files behind, never a half-written artifact.
"""

import errno
import hashlib
import json
import os
import re
import shutil
import tomllib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from anaglyph.core.errors import AnaglyphError, InputError, StoreError

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


_WAYS_OUT = {
    errno.ENOSPC: "free some space and run the same command again",
    errno.EDQUOT: "free some of your quota and run the same command again",
    errno.EROFS: "name a folder that can be written to",
    errno.EACCES: "change its permissions, or name another one",
    errno.EPERM: "change its permissions, or name another one",
    errno.ENOENT: "if it was just there, run the same command again",
    errno.EISDIR: "move that folder away",
    errno.ENOTDIR: "a part of its path is a file: name another one",
    errno.ELOOP: "its links lead in a circle: name another one",
    errno.ENAMETOOLONG: "use a shorter name",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
}

# How libraries written in Rust (safetensors, polars) report an error of the system.
_OF_RUST = re.compile(r"\(os error (\d+)\)")


def os_error_text(error: OSError, path: str | Path | None = None) -> str:
    """Return one line for an error of the file system: what failed, why, and the way out."""
    place = error.filename if path is None else path
    of_rust = _OF_RUST.search(str(error)) if error.errno is None else None
    number = error.errno or (int(of_rust[1]) if of_rust is not None else 0)
    reason = error.strerror or (os.strerror(number) if number else first_line(error))
    way_out = _WAYS_OUT.get(number)
    text = reason if place is None else f"{os.fsdecode(place)}: {reason}"
    return f"{text}; {way_out}" if way_out else text


@contextmanager
def told(path: Path) -> Iterator[None]:
    """Turn an error of the file system in the block, which writes ``path``, into one clear line.

    Raises:
        StoreError: The file cannot be written; the message names it, the reason and the way out.
    """
    try:
        yield
    except AnaglyphError:
        raise
    except OSError as error:
        raise StoreError(f"cannot write {os_error_text(error, path)}") from error
    except Exception as error:
        if _OF_RUST.search(str(error)) is None:
            raise
        raise StoreError(f"cannot write {os_error_text(OSError(str(error)), path)}") from error


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success sync it and rename it to ``path``.

    On an exception the temporary file is removed and ``path`` is left as it was.

    Raises:
        StoreError: The file cannot be written, for example because the disk is full.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with told(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _unfinished.add(temporary)
        try:
            yield temporary
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            _unfinished.discard(temporary)


def check_writable(folder: Path) -> None:
    """Write a file into a folder and remove it, before hours of work end there.

    Raises:
        StoreError: It cannot be written to; the message names it, the reason and the way out.
    """
    probe = folder / f".probe.{os.getpid()}.tmp"
    with told(folder):
        try:
            probe.write_bytes(b"anaglyph")
        finally:
            with suppress(OSError):
                probe.unlink(missing_ok=True)


_unfinished: set[Path] = set()
_TEMPORARY = re.compile(r"\..+\.\d+\.tmp")


def is_temporary(path: Path) -> bool:
    """Tell whether a file is what `atomic_path` leaves behind in a killed process."""
    return _TEMPORARY.fullmatch(path.name) is not None


def remove_temporaries(folder: Path) -> None:
    """Remove what killed writers left in a folder of ours, at any depth; it must be locked."""
    for path in folder.rglob(".*.tmp"):
        if is_temporary(path):
            with suppress(OSError):  # a folder of that name, or one that is read-only
                path.unlink(missing_ok=True)


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Yield a folder in the system's place for temporary files; it goes with the block.

    It goes with the process too, unless that is killed by SIGKILL.
    """
    # A signal may end the process while the folder is being removed: it stays listed until then.
    folder = TemporaryDirectory(prefix="anaglyph-", ignore_cleanup_errors=True)
    path = Path(folder.name)
    _unfinished.add(path)
    try:
        yield path
    finally:
        folder.cleanup()
        _unfinished.discard(path)


def remove_unfinished() -> None:
    """Remove this process's temporary files; it is about to end without cleaning up."""
    for path in list(_unfinished):
        with suppress(OSError):
            if not path.is_dir():
                path.unlink(missing_ok=True)
            for _ in range(3):  # another thread may still write to it
                shutil.rmtree(path, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path``, whole or not at all."""
    # Lone surrogates, which broken tokenizers emit, have no UTF-8.
    content = text.encode("utf-8", "backslashreplace")
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def json_text(value: Any) -> str:
    """Return ``value`` as the text that `write_json` writes; NaN and inf are refused."""
    return json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, whole or not at all; NaN and inf are refused."""
    write_text(path, json_text(value))


def write_parquet(path: Path, table: "pl.DataFrame") -> None:
    """Write a table as Parquet, whole or not at all; folders are made as needed."""
    # In memory first: where a disk is full, the library raises what does not say so.
    content = BytesIO()
    table.write_parquet(content)
    with atomic_path(path) as temporary:
        temporary.write_bytes(content.getbuffer())


def read_parquet(path: Path) -> "pl.DataFrame":
    """Read a table that anaglyph wrote.

    Raises:
        StoreError: The file is missing, cannot be read or is not Parquet.
    """
    import polars as pl

    check_regular(path, StoreError)
    check_name(str(path))
    try:
        return pl.read_parquet(path)
    except FileNotFoundError as error:
        raise StoreError(f"{path} is missing") from error
    except OSError as error:
        raise StoreError(f"cannot read {os_error_text(error, path)}") from error
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise StoreError(f"{path} is damaged: {first_line(error)}") from error


def check_name(text: str) -> None:
    """Refuse the name of a file that libraries written in Rust or C cannot open.

    Raises:
        InputError: It is not UTF-8, or has a null byte; the message shows it.
    """
    if not text.isprintable() and any(c == "\0" or "\ud800" <= c <= "\udfff" for c in text):
        raise InputError(
            f"the name {ascii(text)[1:-1]} is not UTF-8; rename it or name another one"
        )


def as_path(name: str | Path) -> Path:
    """Return a name as a path; what is there, if anything, is not looked at.

    Raises:
        InputError: It cannot be the name of a file.
    """
    try:
        path = Path(name)
        check_name(str(path))
        path.exists()
    except (TypeError, ValueError) as error:
        raise InputError(f"{name!r} is not the name of a file or folder") from error
    except OSError as error:
        raise InputError(os_error_text(error, str(name)[:200])) from error
    return path


def check_regular(path: Path, error: type[AnaglyphError]) -> None:
    """Refuse a path at which there is something, but no regular file: reading might never end.

    Raises:
        AnaglyphError: Of the type ``error``; the message names the path.
    """
    try:
        regular = path.is_file() or not path.exists()
    except (OSError, ValueError):  # no permission, or no name: opening it tells why
        return
    if not regular:
        raise error(f"{path} is not a regular file")


def first_line(error: BaseException) -> str:
    """Return the first line of an error of a library, for an error of ours that is one line."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:300]


def read_json(path: Path) -> Any:
    """Read a JSON file that anaglyph wrote.

    Raises:
        StoreError: The file is missing, cannot be read or is not JSON.
    """
    check_regular(path, StoreError)
    try:
        return parse_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise StoreError(f"{path} is missing") from error
    except OSError as error:
        raise StoreError(f"cannot read {os_error_text(error, path)}") from error
    except ValueError as error:
        raise StoreError(f"{path} is damaged: {error}") from error


def parse_json(text: str | bytes, *, unique: bool = False) -> Any:
    """Parse JSON, where everything that can be wrong with the text is a `ValueError`.

    `json.loads` raises `RecursionError` for deep nesting.

    Args:
        text: What was read.
        unique: Refuse an object that has a name twice, in what people write: the last would win.
    """
    try:
        return json.loads(text, object_pairs_hook=_unique if unique else None)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    twice = twice_in(name for name, _ in pairs)
    if twice is not None:
        raise ValueError(f"{twice!r} is there twice; remove one")
    return dict(pairs)


def twice_in(names: Iterable[str]) -> str | None:
    """Return the first name that is there a second time."""
    seen: set[str] = set()
    return next((name for name in names if name in seen or seen.add(name)), None)


LARGEST_INPUT = 64 * 2**20
"""Bytes of a small file that a user names: settings, recipes, prompts, a model's config."""


def read_input(file: Path, error: type[AnaglyphError] = InputError) -> str:
    """Read a small text file that a user or a stranger wrote; a mark of its encoding is left out.

    Raises:
        AnaglyphError: Of the type ``error``: it cannot be read, is no regular file, has over
            64 MiB or is not UTF-8.
    """
    check_regular(file, error)
    try:
        if file.stat().st_size > LARGEST_INPUT:
            raise error(f"{file} has over {LARGEST_INPUT >> 20} MiB, too much for such a file")
        return file.read_text(encoding="utf-8-sig")
    except OSError as problem:
        raise error(f"cannot read {os_error_text(problem, file)}") from problem
    except ValueError as problem:  # not UTF-8, or a null byte in the name
        raise error(f"{file} is not UTF-8 text: {problem}") from problem


def read_settings(file: Path) -> dict[str, Any]:
    """Read a JSON or TOML file of settings.

    Raises:
        InputError: The file cannot be read, or holds no object.
    """
    text = read_input(file)
    try:
        values = tomllib.loads(text) if file.suffix == ".toml" else parse_json(text, unique=True)
    except RecursionError:
        raise InputError(f"{file} is nested too deeply") from None
    except ValueError as error:
        raise InputError(f"{file} is neither JSON nor TOML as its name says: {error}") from error
    if not isinstance(values, dict):
        raise InputError(f"{file} must hold one object of settings, not {type(values).__name__}")
    return values
