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
