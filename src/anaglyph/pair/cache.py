"""Folders that are made once from a user's files and kept: converted models."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path


def cache_root() -> Path:
    """Return the folder for converted models: ``$ANAGLYPH_CACHE``, else ``~/.cache/anaglyph``."""
    return Path(os.environ.get("ANAGLYPH_CACHE") or Path.home() / ".cache" / "anaglyph")


def made_once(folder: Path, write: Callable[[Path], None]) -> Path:
    """Return a folder, written if it is not there; it gets its name only when it is complete.

    Args:
        folder: Named after all that determines its content.
        write: Fills an empty folder with files.
    """
    if folder.is_dir():
        return folder
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        write(temporary)
        for written in temporary.iterdir():
            with written.open("rb+") as opened:
                os.fsync(opened.fileno())
        try:
            temporary.rename(folder)
        except OSError:
            # Another process may have finished the same file meanwhile; its copy is equal.
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder
