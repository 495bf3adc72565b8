"""Read a corpus from files, folders or the hub, or take one that is shipped.

Documents come one at a time. A few bad rows are skipped, counted and listed; more than a few refuse
the corpus, because one that silently lost a tenth of its chats would change every number after it.
"""

import glob
from collections.abc import Iterator
from importlib import resources
from itertools import islice
from pathlib import Path

from anaglyph.core.errors import InputError
from anaglyph.corpus.account import SKIP_BAD, BadRowError, Reading
from anaglyph.corpus.documents import Document
from anaglyph.corpus.files import KINDS, Row, kind_of, pieces, rows_of
from anaglyph.corpus.hub import hub_rows, is_hub_name
from anaglyph.corpus.rows import document_of

BUILTIN = ("chats", "demo", "english")
"""Names of the shipped corpora; ``data/SOURCES.md`` says where each came from."""

DEMO_CHATS, DEMO_PASSAGES = 60, 6
"""How much of "chats" and of "english" the demo reads, from the top of each file."""

LONGEST_CHAT = 4_000_000
"""Most characters of one chat."""

# What describes a data set rather than being one.
_ABOUT = (
    "readme", "license", "licence", "changelog", "contributing", "citation", "dataset_card",
    "dataset_info", "dataset_infos", "dataset_dict", "state", "sources",
)  # fmt: skip


def read_documents(
    source: str | Path,
    column: str | None = None,
    skip_bad: float = SKIP_BAD,
    reading: Reading | None = None,
) -> list[Document]:
    """Read a whole corpus from a file, a folder, the hub or the package itself.

    Args:
        source: What to read. A text (``.txt``, ``.md``: one document); rows (``.jsonl``, ``.json``,
            ``.csv``, ``.tsv``, ``.parquet``, ``.arrow``: one document a row); any of the former
            with ``.gz`` or ``.zst`` after it; a folder (all such files below it, sorted by path,
            without hidden ones, README and the like); a pattern with ``*``; a data set of the hub
            (``OWNER/NAME``, see `hub_rows`); or a shipped corpus: "builtin:chats" (short questions
            on many topics, answered by SmolLM2-135M-Instruct), "builtin:english" (prose in the
            public domain) or "builtin:demo" (a part of both, mostly chats).
        column: The column that holds the text or the chat; None finds one that is known.
        skip_bad: Share of the rows that may be bad; they are skipped and counted.
        reading: Filled with the account of what was read; its ``skip_bad`` then holds.

    Returns:
        At least one document, in the order of the files.

    Raises:
        InputError: Something cannot be read, or too many rows; the message names file, line and
            field.

    Example:
        >>> len(read_documents("builtin:demo"))
        66
    """
    reading = Reading(skip_bad) if reading is None else reading
    documents = list(stream_documents(source, column, reading))
    reading.check()
    if not documents:
        raise InputError(f"{source}: the corpus is empty: it holds no document")
    return documents


def stream_documents(
    source: str | Path, column: str | None, reading: Reading
) -> Iterator[Document]:
    """Read documents one at a time, as `read_documents` does.

    The caller checks the account at the end (`Reading.check`): only then is the share of bad rows
    known.

    Raises:
        InputError: A file cannot be read at all, or most rows are bad.
    """
    if str(source).startswith("builtin:"):
        for document in _builtin(str(source).removeprefix("builtin:")):
            reading.rows += 1
            reading.documents["text" if document.messages is None else "chat"] += 1
            yield document
        return
    for place, row in _rows(source, reading):
        reading.rows += 1
        try:
            yield from _documents(row, place, column, reading)
        except BadRowError as fault:
            reading.skip(fault)


def _documents(row: object, place: str, column: str | None, reading: Reading) -> Iterator[Document]:
    if isinstance(row, BadRowError):
        raise row
    if isinstance(row, str):
        document = Document(text=row, source=place)
        reading.columns["whole file"] += 1
    else:
        document = document_of(row, place, column, reading)
    if document.text is None:
        if document.n_characters > LONGEST_CHAT:
            raise BadRowError(
                place, "too long", f"the chat has more than {LONGEST_CHAT:,} characters; split it"
            )
        reading.documents["chat"] += 1
        yield document
        return
    for text in pieces(document.text):
        if text.strip():
            reading.documents["text"] += 1
            yield document if len(text) == len(document.text) else Document(text, source=place)


def _rows(source: str | Path, reading: Reading) -> Iterator[Row]:
    files = files_of(source, reading)
    if not files:
        yield from hub_rows(str(source))
    for file in files:
        empty = True
        for row in rows_of(file):
            empty = False
            yield row
        if empty:
            yield str(file), BadRowError(str(file), "empty file", "the file is empty")


def files_of(source: str | Path, reading: Reading) -> list[Path]:
    """Return the files that a source names: a file, those in a folder, those of a pattern.

    Args:
        source: As for `read_documents`, but for a shipped corpus.
        reading: Told which files of a folder are left out.

    Returns:
        None at all if the source is a data set of the hub.

    Raises:
        InputError: There are none.
    """
    path = Path(source)
    try:
        if path.is_dir():
            return _files_of(path, reading)
        if path.exists():
            return [path]
        found = sorted(glob.glob(str(source), recursive=True)) if "*" in str(source) else []
        files = [Path(name) for name in found if Path(name).is_file()]
    except InputError:
        raise
    except (OSError, ValueError) as error:  # too long a name, a null byte
        raise InputError(f"{source}: no such file or folder ({error})") from error
    if not files and not is_hub_name(str(source)):
        raise InputError(f"{source}: no such file or folder")
    return files


def _files_of(folder: Path, reading: Reading) -> list[Path]:
    files = []
    for file in sorted(folder.rglob("*")):
        inner = file.relative_to(folder)
        if any(part.startswith(".") for part in inner.parts) or file.is_dir():
            continue
        about = file.name.lower().split(".")[0] in _ABOUT
        if file.is_file() and kind_of(file) is not None and not about:
            files.append(file)
        else:
            reading.left_out[f"file {inner}"] += 1
    if not files:
        raise InputError(f"{folder}: the folder holds no {', '.join(KINDS)} file")
    return files


def _builtin(name: str) -> list[Document]:
    if name not in BUILTIN:
        shipped = ", ".join(BUILTIN)
        raise InputError(f"builtin:{name}: there is no such corpus; shipped are {shipped}")
    if name == "demo":
        return _shipped("chats", DEMO_CHATS) + _shipped("english", DEMO_PASSAGES)
    return _shipped(name)


def _shipped(name: str, most: int | None = None) -> list[Document]:
    file = resources.files("anaglyph.corpus") / "data" / f"{name}.jsonl"
    with resources.as_file(file) as path:
        return list(islice(stream_documents(path, None, Reading(skip_bad=0.0)), most))
