"""Rows and texts out of files of every kind, one at a time: memory does not grow with the file.

A row that cannot be read is handed on as the fault it is; only a file that is unreadable as a whole
raises.
"""

import codecs
import csv
import gzip
import io
import json
import re
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl
import zstandard

from anaglyph.core.errors import InputError
from anaglyph.core.files import check_name
from anaglyph.corpus.account import BadRowError

TEXTS = (".txt", ".md")
LINES, VALUES = (".jsonl", ".ndjson"), (".json",)
TABLES = {".csv": ",", ".tsv": "\t"}
COLUMNAR = (".parquet", ".arrow")
PACKED = (".gz", ".zst")
KINDS = (*TEXTS, *LINES, *VALUES, *TABLES, *COLUMNAR)

LONGEST_ROW = 128 * 2**20
"""Most bytes of one row."""

PIECE = 1_000_000
"""A text with more characters than this is read as several documents."""

_BLOCK = 2**20
_ROWS = 1024  # rows of a columnar file that are decoded at once
_SPACE = re.compile(r"[\s,\ufeff]*")

# A panic of polars is no Exception.
_POLARS = (pl.exceptions.PolarsError, pl.exceptions.PanicException)

Row = tuple[str, Any]
"""Where a row is, and the row, a `BadRowError` or a string (a plain text)."""


def kind_of(path: Path) -> str | None:
    """Return a file's kind (".jsonl"), seen through ``.gz`` and ``.zst``; None if unknown."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    packed = suffixes[-1:] and suffixes[-1] in PACKED
    kind = (suffixes[:-1] if packed else suffixes)[-1:]
    if not kind or kind[0] not in KINDS or (packed and kind[0] in COLUMNAR):
        return None
    return kind[0]


def checked_kind(path: Path) -> str:
    """Return the kind of a file that can be read.

    Raises:
        InputError: It is not a regular file, or its kind is unknown.
    """
    kind = kind_of(path)
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: {getattr(error, 'strerror', None) or error}") from error
    if not stat.S_ISREG(mode):
        raise InputError(f"{path}: not a regular file (a pipe or a device); write it to a file")
    if kind is None:
        known = ", ".join(KINDS)
        raise InputError(f"{path}: a corpus file ends in one of {known} (with .gz or .zst or not)")
    return kind


def rows_of(path: Path) -> Iterator[Row]:
    """Read a file row by row.

    Raises:
        InputError: It is not a regular file, its kind is unknown, or it is damaged as a whole.
    """
    kind = checked_kind(path)
    if kind in COLUMNAR:
        yield from _columnar(path, kind)
        return
    with _opened(path) as file:
        if kind in TEXTS:
            yield from _text(path, file)
        elif kind in TABLES:
            yield from _table(path, file, TABLES[kind])
        elif _is_spread(path, kind, file):
            yield from _Values(path, file).rows()
        else:
            yield from _lines(path, file)


def pieces(text: str) -> Iterator[str]:
    """Cut a text at white space into pieces of at most `PIECE` characters."""
    start = 0
    while len(text) - start > PIECE:
        end = max(text.rfind(space, start + PIECE // 2, start + PIECE) for space in "\n ") + 1
        end = end or start + PIECE
        yield text[start:end]
        start = end
    yield text[start:]


class _Opened:
    """Bytes of a file, unpacked; read line by line or in blocks, and looked ahead into."""

    def __init__(self, raw: io.BufferedIOBase) -> None:
        self._raw = raw
        self._ahead = b""

    def peek(self, size: int) -> bytes:
        """Return the first bytes without consuming them; only at the start."""
        self._ahead = self.read(size)
        return self._ahead

    def read(self, size: int) -> bytes:
        """Return up to ``size`` bytes, none at the end."""
        if self._ahead:
            found, self._ahead = self._ahead[:size], self._ahead[size:]
            return found
        return self._raw.read(size)

    def readline(self, size: int) -> bytes:
        """Return a line, or its first ``size`` bytes."""
        ahead, self._ahead = self._ahead, b""
        end = ahead.find(b"\n") + 1
        if end:
            self._ahead = ahead[end:]
            return ahead[:end]
        return ahead + self._raw.readline(size - len(ahead))


@contextmanager
def _opened(path: Path) -> Iterator[_Opened]:
    try:
        with path.open("rb") as raw:
            suffix = path.suffix.lower()
            if suffix == ".gz":
                with gzip.open(raw) as unpacked:
                    yield _Opened(unpacked)
            elif suffix == ".zst":
                reader = zstandard.ZstdDecompressor(max_window_size=2**27)
                with reader.stream_reader(raw, read_across_frames=True) as stream:
                    yield _Opened(io.BufferedReader(stream, 2**20))
            else:
                yield _Opened(raw)
    except (gzip.BadGzipFile, zlib.error, zstandard.ZstdError, EOFError) as error:
        raise InputError(f"{path}: damaged or not a {path.suffix} file ({error})") from error
    except (OSError, MemoryError) as error:
        cause = getattr(error, "strerror", None) or error or type(error).__name__
        raise InputError(f"{path}: {cause}") from error


def _text(path: Path, file: _Opened) -> Iterator[Row]:
    """One document, or several pieces of a long one."""
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    line, text, number = 1, "", 0
    while True:
        block = file.read(_BLOCK)
        try:
            new = decoder.decode(block, final=not block)
        except UnicodeDecodeError as error:
            line += error.object.count(b"\n", 0, error.start)
            fault = BadRowError(f"{path}:{line}", "not UTF-8", f"not UTF-8 ({error.reason})")
            if number:
                raise fault from error
            yield fault.source, fault
            return
        line += new.count("\n")
        text += new
        if not block:
            break
        # A "\r" at the end may be half of a line's end, so at least a piece stays behind.
        *whole, text = pieces(text.replace("\r\n", "\n")) if len(text) > 2 * PIECE else (text,)
        for piece in whole:
            if piece.strip():
                yield (f"{path} (part {number + 1})"), piece
            number += 1
    for piece in pieces(text.replace("\r\n", "\n")):
        if piece.strip() or not number:
            yield (f"{path} (part {number + 1})" if number else str(path)), piece
        number += 1


def _lines(path: Path, file: _Opened) -> Iterator[Row]:
    """One JSON value a line."""
    number = 0
    while line := file.readline(LONGEST_ROW):
        number += 1
        source = f"{path}:{number}"
        if len(line) >= LONGEST_ROW and not line.endswith(b"\n"):
            while (rest := file.readline(_BLOCK)) and not rest.endswith(b"\n"):
                pass
            yield (
                source,
                BadRowError(source, "too long", f"the line has more than {LONGEST_ROW} bytes"),
            )
            continue
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        if line.strip():
            yield source, _value(line, source)


def _value(line: bytes, source: str) -> Any:
    try:
        return json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        return BadRowError(source, "not UTF-8", f"not UTF-8 ({error.reason})")
    except (ValueError, RecursionError, MemoryError) as error:
        return BadRowError(source, "not JSON", f"not JSON ({_short(error)})")


def _is_spread(path: Path, kind: str, file: _Opened) -> bool:
    """Whether values span lines: an array, or objects written over several lines."""
    head = file.peek(_BLOCK).removeprefix(codecs.BOM_UTF8).lstrip()
    first, newline, _ = head.partition(b"\n")
    if first.strip() == b"{" or (head.startswith(b"[") and head[1:].lstrip().startswith(b"{")):
        return True
    # ".json" may hold a value a line as well.
    return kind in VALUES and (not newline or isinstance(_value(first, str(path)), BadRowError))


class _Values:
    """JSON values one after the other, or the elements of one array, over several lines."""

    def __init__(self, path: Path, file: _Opened) -> None:
        self._path, self._file = path, file
        self._utf8 = codecs.getincrementaldecoder("utf-8-sig")()
        self._text, self._at, self._line = "", 0, 1
        self._ended = False

    def rows(self) -> Iterator[Row]:
        """Read them; a fault ends the file, because nothing says where the next value begins."""
        decoder, inside, block = json.JSONDecoder(), False, _BLOCK
        while True:
            gap = _SPACE.match(self._text, self._at)
            self._advance(gap.end() if gap else self._at)
            first = self._text[self._at : self._at + 1]
            if first and first == ("]" if inside else "["):
                self._advance(self._at + 1)
                inside = not inside
                continue
            fault: Exception | None = None
            if first:
                try:
                    value, end = decoder.raw_decode(self._text, self._at)
                except (ValueError, RecursionError, MemoryError) as error:
                    fault = error
                else:
                    if end < len(self._text) or self._ended:  # else a number may go on
                        source = f"{self._path}:{self._line}"
                        self._advance(end)
                        yield from _elements(source, value)
                        continue
            if self._ended and not first and not inside:
                return
            if self._ended or isinstance(fault, RecursionError):
                raise self._fault(
                    f"not JSON ({_short(fault)})" if fault else "the array has no end"
                )
            # A value that is longer than the block is tried again with twice as much.
            block = min(2 * block, LONGEST_ROW) if fault else _BLOCK
            self._read(block)

    def _advance(self, to: int) -> None:
        self._line += self._text.count("\n", self._at, to)
        self._at = to

    def _read(self, size: int) -> None:
        if len(self._text) - self._at > LONGEST_ROW:
            raise self._fault(f"a value has more than {LONGEST_ROW} bytes")
        block = self._file.read(size)
        self._ended = not block
        try:
            new = self._utf8.decode(block, final=self._ended)
        except UnicodeDecodeError as error:
            raise self._fault(f"not UTF-8 ({error.reason})") from error
        self._text, self._at = self._text[self._at :] + new, 0

    def _fault(self, detail: str) -> InputError:
        return InputError(f"{self._path}:{self._line}: {detail}")


def _elements(source: str, value: Any) -> Iterator[Row]:
    """A value, or the rows inside ``{"data": [...]}``."""
    if isinstance(value, dict) and len(value) <= 3:
        lists = [inner for inner in value.values() if isinstance(inner, list)]
        rows = lists[0] if len(lists) == 1 else []
        if rows and all(isinstance(row, dict) for row in rows) and "data" in value:
            yield from ((source, row) for row in rows)
            return
    yield source, value


def _table(path: Path, file: _Opened, delimiter: str) -> Iterator[Row]:
    """Rows of a CSV file whose first line names the columns."""
    csv.field_size_limit(LONGEST_ROW)  # the module's own limit is 128 kB
    faults: list[BadRowError] = []
    reader = csv.reader(_decoded(path, file, faults), delimiter=delimiter, strict=True)
    names: list[str] = []
    while True:
        try:
            row = next(reader, None)
        except csv.Error as error:  # nothing says where the next row begins
            raise InputError(f"{path}:{reader.line_num}: not CSV ({error})") from error
        yield from ((fault.source, fault) for fault in faults)
        faults.clear()
        if row is None:
            return
        source = f"{path}:{reader.line_num}"
        if not names:
            names = row
        elif row and len(row) != len(names):
            detail = f"{len(row)} fields for {len(names)} columns"
            yield source, BadRowError(source, "not CSV", detail)
        elif row:
            yield source, {n: v if v != "" else None for n, v in zip(names, row, strict=True)}


def _decoded(path: Path, file: _Opened, faults: list[BadRowError]) -> Iterator[str]:
    number = 0
    while line := file.readline(LONGEST_ROW):
        number += 1
        if len(line) >= LONGEST_ROW:
            raise InputError(f"{path}:{number}: the line has more than {LONGEST_ROW} bytes")
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            source = f"{path}:{number}"
            faults.append(BadRowError(source, "not UTF-8", f"not UTF-8 ({error.reason})"))


def _columnar(path: Path, kind: str) -> Iterator[Row]:
    """Rows of a parquet file, or of an Arrow file as `datasets` writes it."""
    check_name(str(path))
    number = 0
    try:
        for frame in _frames(path, kind):
            for row in frame.iter_rows(named=True):
                number += 1
                yield f"{path}:{number}", row
    except (*_POLARS, OSError, MemoryError, ValueError, TypeError) as error:
        raise InputError(f"{path}: damaged or not a {kind} file ({_short(error)})") from error


def _frames(path: Path, kind: str) -> Iterator[pl.DataFrame]:
    if kind == ".arrow":
        # `datasets` writes the stream format, other programs the file format.
        with path.open("rb") as file:
            is_file = file.read(6) == b"ARROW1"
        frame = pl.read_ipc(path) if is_file else pl.read_ipc_stream(path)
        yield from frame.iter_slices(_ROWS)
        return
    table = pl.scan_parquet(path, glob=False)
    if hasattr(table, "collect_batches"):
        yield from table.collect_batches(chunk_size=_ROWS, maintain_order=True)
        return
    start = 0
    while len(frame := table.slice(start, _ROWS).collect()):
        yield frame
        start += _ROWS


def _short(error: BaseException) -> str:
    lines = str(error).splitlines()
    return lines[0][:200] if lines else type(error).__name__
