"""How the command line speaks: progress bars on the error stream, results on the output stream."""

import sys
import time
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

# Shorter work is over before a bar could be read.
PATIENCE = 2.0


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


def say(text: str) -> None:
    """Print a result."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def table_text(rows: list[dict[str, Any]]) -> str:
    """Lay out rows as an aligned table; undefined values show as a dash."""
    if not rows:
        return "(none)"
    header = list(rows[0])
    body = [[_cell(row.get(name)) for name in header] for row in rows]
    widths = [max(len(line[i]) for line in [header, *body]) for i in range(len(header))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in [header, *body]
    ]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return " ".join(_cell(item) for item in value)
    return str(value)
