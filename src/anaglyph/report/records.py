"""What the page reads of examples and dictionaries: each JSON artifact, checked field by field.

Only what the page uses is checked; other fields pass through, so that an artifact may grow without
its page breaking. A file that does not fit is damaged, and the error names the file and the field.
"""

from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, FiniteFloat, RootModel
from pydantic import model_validator as validator

from anaglyph.core.errors import StoreError
from anaglyph.core.files import read_json
from anaglyph.core.validation import validate

Record = TypeVar("Record", bound=BaseModel)


@dataclass(frozen=True)
class Files:
    """A run folder's files, or those of them that may be shown.

    Attributes:
        folder: The run folder.
        only: Names of the files that may be shown, relative to the folder; all if None.
    """

    folder: Path
    only: Set[str] | None = None

    def find(self, name: str) -> Path | None:
        """Return a file's path; None if it is not there or may not be shown."""
        path = self.folder / name
        return path if (self.only is None or name in self.only) and path.is_file() else None

    def stems(self, pattern: str) -> set[str]:
        """Return the names without ending of the files that a pattern finds."""
        names = (path.relative_to(self.folder).as_posix() for path in self.folder.glob(pattern))
        return {Path(name).stem for name in names if self.find(name) is not None}


class _Record(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True)


class Window(_Record):
    """A stretch of text around one firing of a latent.

    `base` and `tuned` are the strengths of the latent's direction in the two models, in the same
    units; `code` is what the dictionary itself says. One number a token.
    """

    sequence: int | None = None
    position: int
    tokens: list[str]
    roles: list[str]
    code: list[FiniteFloat | None]
    base: list[FiniteFloat | None]
    tuned: list[FiniteFloat | None]

    @validator(mode="after")
    def _check_lengths(self) -> "Window":
        n = len(self.tokens)
        for name in ("roles", "code", "base", "tuned"):
            length = len(getattr(self, name))
            if length != n:
                raise ValueError(f"{name} has {length} entries for {n} tokens")
        if not 0 <= self.position < n:
            raise ValueError(f"position {self.position} is outside the window of {n} tokens")
        return self


class LatentExamples(_Record):
    """The windows in which one latent is strongest."""

    latent: int
    examples: list[Window]


class ExamplesRecord(RootModel[list[LatentExamples]]):
    """The contents of `examples/NAME.json`."""


class DictionaryRecord(_Record):
    """A trained dictionary's settings and how well it fits held-out text."""

    stats: dict[str, Any] = {}


def read(path: Path | None, kind: type[Record]) -> Record | None:
    """Read a JSON artifact as a record, or return None where there is none.

    Raises:
        StoreError: The file is not JSON, or a field the page needs is missing or malformed.
    """
    if path is None:
        return None
    return validate(kind, read_json(path), f"{path} is damaged", StoreError)
