"""How the command line speaks: progress bars on the error stream, results on the output stream."""

import io
import json
import shutil
import sys
import time
import unicodedata
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.measure import Measurement
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

# Shorter work is over before a bar could be read.
PATIENCE = 2.0
NARROW = 24
"""Cells up to this length never wrap."""
LONGEST = 90
"""Characters of a cell; what is longer is cut."""
_UNLIMITED = 1_000_000


class _Rate(ProgressColumn):
    """Finished units a second."""

    def render(self, task: Task) -> Text:
        rate = task.finished_speed or task.speed
        return Text(f"{rate:,.0f} {task.fields['unit']}/s" if rate else "", style="cyan")


class Bars:
    """A bar for each task that takes over two seconds, and a line once it is done."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            _Rate(),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
        )
        self._started: dict[str, float] = {}
        self._tasks: dict[str, Any] = {}

    def __enter__(self) -> "Bars":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bars.live.is_started:
            self._bars.stop()

    def __call__(self, task: str, done: int, total: int, unit: str = "tokens") -> None:
        """Report that `done` of `total` units of a task are finished."""
        now = time.monotonic()
        started = self._started.setdefault(task, now)
        if done >= total:
            del self._started[task]
        if now - started < PATIENCE:
            return
        if task not in self._tasks:
            # Not before: starting the display prints an empty line.
            self._bars.start()
            self._tasks[task] = self._bars.add_task(task, total=total, unit=unit)
        self._bars.update(self._tasks[task], completed=done, total=total)
        if done >= total:
            self._bars.remove_task(self._tasks.pop(task))
            self._console.print(f"{task}: {total:,} {unit} in {now - started:.1f} s")

    def tell(self, text: str) -> None:
        """Show a sentence between the bars; results go to the output stream at the end."""
        self._console.print(Text(plain(text), style="bold"), soft_wrap=True)


def say(text: str) -> None:
    """Print a result; what a terminal would obey instead of showing is escaped."""
    sys.stdout.write(plain(text) + "\n")
    sys.stdout.flush()


def plain(text: str) -> str:
    """Escape what a terminal would obey instead of showing.

    Models, data and names of files may hold anything: escape sequences, marks that turn the
    direction of reading, invisible characters, lone surrogates. Line breaks and tabs stay.
    """
    if text.isascii() and text.replace("\n", "").isprintable():
        return text
    return "".join(char if _is_plain(char) else _escaped(char) for char in text)


def _is_plain(char: str) -> bool:
    # Cc, Cf, Cs, Co, Cn: control, format (direction, zero width), surrogate, private, unassigned.
    # A joiner between emoji is shown escaped too. Blanks of other scripts are harmless.
    return char in "\n\t" or unicodedata.category(char)[0] != "C"


def _escaped(char: str) -> str:
    return json.dumps(char)[1:-1] if char != "\x7f" else "\\u007f"


def table_text(rows: Sequence[Mapping[str, Any]], width: int | None = None) -> str:
    """Lay out rows as an aligned table; undefined values show as a dash.

    Long text wraps so that the table fits the terminal. Numbers and short words never wrap, and if
    they alone need more room the lines are longer. In a file or a pipe every row is one line.

    Args:
        rows: The columns are those of the first row.
        width: Columns of the terminal; found out if None.
    """
    if not rows:
        return "(none)"
    if width is None and sys.stdout.isatty():
        width = shutil.get_terminal_size().columns
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="")
    cells = {name: [Text(_cell(row.get(name))) for row in rows] for name in rows[0]}
    for name, column in cells.items():
        longest = max(cell.cell_len for cell in column)
        table.add_column(
            Text(name),
            no_wrap=longest <= NARROW,
            min_width=min(longest, NARROW),
            overflow="fold",
        )
    for line in zip(*cells.values(), strict=True):
        table.add_row(*line)
    console = Console(file=io.StringIO(), width=_UNLIMITED, color_system=None)
    needed = Measurement.get(console, console.options, table)
    room = needed.maximum if width is None else max(needed.minimum, width)
    with console.capture() as drawn:
        console.print(table, width=room, crop=False, no_wrap=width is None)
    return "\n".join(line.rstrip() for line in drawn.get().splitlines())


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return " ".join(_item(item) for item in value)
    # Tokens are often line breaks, and replies may be long.
    text = value if isinstance(value, str) else str(value)
    text = text if text.isprintable() else json.dumps(text, ensure_ascii=False)[1:-1]
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def _item(value: Any) -> str:
    """Show a member of a list; text with blanks is quoted, so that one sees where it ends."""
    if isinstance(value, str) and (not value.isprintable() or value.split() != [value]):
        return json.dumps(value, ensure_ascii=False)
    return _cell(value)
