"""How long work tells the caller where it is, without knowing about terminals.

Every function that may take over two seconds accepts ``progress: Progress = silent``. Only the
command line turns the calls into a bar.
"""

from typing import Protocol, runtime_checkable


@runtime_checkable
class Progress(Protocol):
    """Called with the task's name and how much of it is done."""

    def __call__(self, task: str, done: int, total: int, unit: str = "tokens") -> None:
        """Report that ``done`` of ``total`` ``unit`` of ``task`` are finished."""
        ...


def silent(task: str, done: int, total: int, unit: str = "tokens") -> None:
    """Report nothing."""


@runtime_checkable
class Tell(Protocol):
    """Called with a sentence that is worth reading before the work is over."""

    def __call__(self, text: str) -> None:
        """Show ``text``."""
        ...


def unheard(text: str) -> None:
    """Show nothing."""


def within(progress: Progress, stage: str) -> Progress:
    """Return progress that names the stage before each of its tasks.

    Example:
        >>> within(silent, "2/9 behave")("replies, base", 5, 10)
    """

    def report(task: str, done: int, total: int, unit: str = "tokens") -> None:
        progress(f"{stage}: {task}", done, total, unit)

    return report
