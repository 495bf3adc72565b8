"""The account of what was read: documents, tokens by role, what was cut, skipped or left out.

Nothing is lost silently: every row that a reader skips and every token that is cut is counted here.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl

from anaglyph.core.errors import InputError

SKIP_BAD = 0.01
"""Share of the rows that may be bad before the corpus is refused."""

_LISTED = 1000  # bad rows that are listed one by one; all are counted
_EARLY = 200  # after this many rows a corpus that is mostly bad is refused at once


class BadRowError(InputError):
    """One row that cannot be read.

    Attributes:
        source: Where it is ("file:line").
        reason: The kind of fault, in a few words; rows are counted by it.
        detail: The fault itself.
    """

    def __init__(self, source: str, reason: str, detail: str) -> None:
        super().__init__(f"{source}: {detail}")
        self.source, self.reason, self.detail = source, reason, detail


@dataclass(frozen=True)
class SkippedRow:
    """A row that was skipped: where, the kind of fault, and the fault."""

    source: str
    reason: str
    detail: str


@dataclass
class Reading:
    """What was read, filled while reading.

    Attributes:
        skip_bad: Share of the rows that may be bad.
        rows: Rows met, good or bad.
        documents: Documents read, by kind ("chat", "text").
        columns: Documents by the columns that they were read from.
        skipped: Rows skipped, by reason.
        skipped_rows: The first thousand of them, one by one.
        left_out: Files of a folder and parts of messages that were not read, by name.
        notes: What else was done to the chats, with how often.
        tokens_read: Tokens before anything was cut, by role.
        tokens_cut: Tokens beyond the context, by role.
        stopped: True where reading stopped because enough tokens were read.
    """

    skip_bad: float = SKIP_BAD
    rows: int = 0
    documents: Counter[str] = field(default_factory=Counter)
    columns: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    skipped_rows: list[SkippedRow] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)
    tokens_read: Counter[str] = field(default_factory=Counter)
    tokens_cut: Counter[str] = field(default_factory=Counter)
    stopped: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.skip_bad <= 1:
            raise InputError(f"skip_bad must be a share between 0 and 1, got {self.skip_bad}")

    def skip(self, fault: BadRowError) -> None:
        """Note a bad row.

        Raises:
            InputError: Most rows so far are bad, or none may be.
        """
        self.skipped[fault.reason] += 1
        if len(self.skipped_rows) < _LISTED:
            self.skipped_rows.append(SkippedRow(fault.source, fault.reason, fault.detail))
        if self.skip_bad == 0 or (self.rows >= _EARLY and self.share_bad > max(0.5, self.skip_bad)):
            self.check()

    @property
    def n_skipped(self) -> int:
        """Number of rows skipped."""
        return self.skipped.total()

    @property
    def share_bad(self) -> float:
        """Share of the rows that were skipped."""
        return self.n_skipped / max(self.rows, self.n_skipped, 1)

    def check(self) -> None:
        """Refuse the corpus if too many rows are bad.

        Raises:
            InputError: More than the share `skip_bad`; the message is that of the first bad row.
        """
        if not self.n_skipped or self.share_bad <= self.skip_bad:
            return
        first = self.skipped_rows[0]
        rows, most = max(self.rows, self.n_skipped), f"{100 * self.skip_bad:.4g}%"
        more = (
            f" ({self.n_skipped} of {rows} rows are bad, more than the {most} that may be skipped; "
            "mend them or raise skip_bad, --skip-bad)"
        )
        raise InputError(f"{first.source}: {first.detail}{more if rows > 1 else ''}")

    @property
    def warnings(self) -> list[str]:
        """What a reader of the results should know, a line each."""
        found = []
        for role, read in self.tokens_read.items():
            cut = self.tokens_cut[role]
            if cut == read > 0:
                found.append(
                    f"all {read} {role} tokens lie beyond the context and were cut: raise the "
                    "context to read them"
                )
            elif role == "assistant" and cut > read / 2:
                found.append(
                    f"{cut} of {read} assistant tokens lie beyond the context and were cut: raise "
                    "the context to read them"
                )
        if self.tokens_cut:
            roles = ", ".join(f"{role} {n}" for role, n in self.tokens_cut.most_common())
            found.append(f"tokens of chats beyond the context were cut: {roles}")
        if self.n_skipped:
            reasons = ", ".join(f"{reason} ({n})" for reason, n in self.skipped.most_common())
            found.append(f"{self.n_skipped} of {self.rows} rows were skipped: {reasons}")
        if self.left_out:
            names = ", ".join(f"{name} ({n})" for name, n in self.left_out.most_common(5))
            found.append(f"left out: {names}{', ...' if len(self.left_out) > 5 else ''}")
        found += [f"{note} ({n})" for note, n in self.notes.items()]
        if self.stopped:
            found.append("reading stopped before the end: max_tokens needs no more text")
        return found

    def table(self) -> pl.DataFrame:
        """Return the account as a table: ``what`` was counted, its ``name``, and the ``count``."""
        groups = {
            "documents": self.documents,
            "columns": self.columns,
            "tokens read": self.tokens_read,
            "tokens cut": self.tokens_cut,
            "rows skipped": self.skipped,
            "left out": self.left_out,
            "notes": self.notes,
        }
        rows = [("rows", "all", self.rows)]
        rows += [(what, name, n) for what, group in groups.items() for name, n in group.items()]
        schema = {"what": pl.String, "name": pl.String, "count": pl.Int64}
        return pl.DataFrame(rows, schema=schema, orient="row")

    def as_json(self) -> dict[str, Any]:
        """Return all of it as plain data."""
        counters = {
            name: dict(value) for name, value in vars(self).items() if isinstance(value, Counter)
        }
        return {
            "skip_bad": self.skip_bad,
            "rows": self.rows,
            "stopped": self.stopped,
            **counters,
            "skipped_rows": [vars(row) for row in self.skipped_rows],
            "warnings": self.warnings,
        }


def add_by_role(counts: Counter[str], names: tuple[str, ...], roles: "np.ndarray") -> None:
    """Add tokens to counts, by the name of their role code."""
    for code, number in enumerate(np.bincount(roles, minlength=len(names)).tolist()):
        if number:
            counts[names[code]] += number
