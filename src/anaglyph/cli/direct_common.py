"""What the commands without a dictionary share: naming a pair, keeping and printing tables."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anaglyph.cli.common import run_or_pair
from anaglyph.cli.terminal import say, table_text
from anaglyph.core.errors import InputError
from anaglyph.core.lock import reserved
from anaglyph.core.settings import Section, load_settings, section_of

if TYPE_CHECKING:
    import polars as pl

    from anaglyph.behaviour.directions import Held
    from anaglyph.core.progress import Progress
    from anaglyph.pair import ModelPair
    from anaglyph.run import RunFolder
    from anaglyph.store import PairedStore
    from anaglyph.subject import Subject

Tables = dict[str, "pl.DataFrame"]
OF_PAIR = ("tokenizer", "chat_template")
"""Settings of how both models read."""
SHOWN = 15
"""Rows of a table that the terminal shows; `--json` prints all."""


@dataclass
class Target:
    """What a command looks at: a subject, and the run it is of, if any.

    Attributes:
        subject: The models, and the layer.
        folder: The run folder, which keeps the tables.
        held: What named directions are taken from.
    """

    subject: "Subject"
    folder: "RunFolder | None" = None
    held: "Held | None" = None

    @classmethod
    def of(
        cls, base: str, tuned: str | None, given: dict[str, Any], progress: "Progress"
    ) -> "Target":
        """Tell a run folder from a pair of models.

        Args:
            base: The base model, or a run folder.
            tuned: Its fine-tune; None with a run folder.
            given: Options of `Settings` that were given, such as layer, seed and threads.
            progress: Told how far each measurement is.

        Raises:
            InputError: One name is given and it is not a run folder, a run is given a second name,
                or an option has a bad value.
        """
        from anaglyph.core.threads import set_threads
        from anaglyph.subject import Subject

        if run_or_pair(base, tuned) is not None:
            return cls._of_run(base, given, progress)
        settings = load_settings(**given)
        set_threads(settings.threads)
        return cls(Subject(base, tuned, settings=settings, progress=progress))

    @classmethod
    def _of_run(cls, path: str, given: dict[str, Any], progress: "Progress") -> "Target":
        from anaglyph.run import Run

        run = Run.reopen(path, progress, **given)
        if "layer" in given:
            # The run's activations are of its own layer; these commands run the models at any.
            vars(run.subject).pop("layer")
            vars(run.subject).pop("layers")
        return cls(run.subject, run.folder, run.held)

    @property
    def layer(self) -> int | float:
        """The layer asked for, else the run's, else the middle of the depth; loads nothing."""
        return vars(self.subject).get("layer", self.subject.settings.collect.layer)

    @property
    def notes(self) -> list[str]:
        """What to know of the pair: as the run has it, or as it was found while loading."""
        if self.folder is not None:
            return self.folder.state.notes
        return list(self.subject.pair.notes) if "pair" in vars(self.subject) else []

    @property
    def store(self) -> "PairedStore":
        """The run's activations."""
        if self.folder is None:
            raise InputError("there is no run folder, and so no activations")
        self.folder.key_of("collect")
        return self.subject.store

    def reading(self, data: Sequence[str] | None, max_tokens: int | None) -> "Subject":
        """Return the subject with the text to read: the run's own if none is named.

        Raises:
            InputError: There is neither a run nor data, or the data cannot be read.
        """
        from anaglyph.corpus import load_corpus
        from anaglyph.subject import Subject

        subject = self.subject
        if data:
            corpus = load_corpus(data, subject.pair.tokenizer, max_tokens=max_tokens)
        elif self.folder is None:
            raise InputError("--data is missing: name the text to read")
        else:
            corpus = subject.corpus
            corpus = corpus if max_tokens is None else corpus.limited(max_tokens)
        return Subject.of(
            pair=subject.pair,
            corpus=corpus,
            layer=subject.layer,
            settings=subject.settings,
            progress=subject.progress,
        )

    def keep(
        self, name: str, settings: dict[str, Any], make: Callable[[], Tables], out: Path | None
    ) -> Tables:
        """Make the tables, or take them from the run if they were made before."""
        from anaglyph.run import keep_tables, write_tables

        folder, settings = self.folder, settings | {"computed": self.subject.computed}
        with reserved(out):
            tables = make() if folder is None else keep_tables(folder, name, settings, make)
            if out is not None:
                write_tables(out, tables)
        return tables

    def kept_in(self, out: Path | None) -> Path | None:
        """Return the folder in which `keep` leaves the tables, if any."""
        return out if self.folder is None or out is not None else self.folder.path / "direct"


def split(kind: type[Section], given: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Return a command's own settings from the options given, and the other options.

    Raises:
        InputError: One of its own has a bad value.
    """
    own = {name: value for name, value in given.items() if name in kind.model_fields}
    return section_of(kind, own), {name: given[name] for name in given if name not in own}


def with_text(pair: "ModelPair", table: "pl.DataFrame", *columns: str) -> "pl.DataFrame":
    """Put the tokens as people read them after columns of token ids: X after X_id."""
    import polars as pl

    for column in columns:
        ids = table[column].to_list()
        known = sorted({token for token in ids if token is not None})
        text = dict(zip(known, pair.token_strings(known), strict=True))
        texts = [None if token is None else text[token] for token in ids]
        name = column.removesuffix("_id") if column.endswith("_id") else f"{column}_text"
        place = table.columns.index(column) + 1
        table = table.insert_column(place, pl.Series(name, texts, dtype=pl.String))
    return table


def file_key(path: Path | None) -> str | None:
    """Return a digest of a file's bytes, or None if there is no file.

    Raises:
        InputError: It cannot be read.
    """
    from anaglyph.core.files import file_digest

    if path is None:
        return None
    try:
        return file_digest(path)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error


def print_json(parts: Tables) -> None:
    """Print tables as one JSON object with all rows and columns of each."""
    say(json.dumps({title: table.to_dicts() for title, table in parts.items()}))


def print_heads(parts: Tables, kept: Path | None, notes: Sequence[str] = ()) -> None:
    """Print notes and the head of each table, and how many more rows there are and where."""
    for note in notes:
        say(f"note: {note}")
    where = f"in {kept}" if kept is not None else "with --json or --out DIR"
    for title, table in parts.items():
        say(f"\n{title}\n{table_text(table.head(SHOWN).to_dicts())}")
        if len(table) > SHOWN:
            say(f"({len(table) - SHOWN} more rows {where})")
