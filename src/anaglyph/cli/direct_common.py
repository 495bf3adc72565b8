"""What the commands without a dictionary share: naming a pair, keeping and printing tables."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from anaglyph.cli.terminal import say, table_text
from anaglyph.core.errors import InputError

if TYPE_CHECKING:
    import polars as pl

    from anaglyph.corpus import TokenCorpus
    from anaglyph.pair import ModelPair
    from anaglyph.run import RunFolder
    from anaglyph.store import PairedStore

BaseOrRun = Annotated[
    str, typer.Argument(help="base model (a folder, a hub id or a .gguf file), or a run folder")
]
MaybeTuned = Annotated[
    str | None,
    typer.Argument(help="its fine-tune: the same, or a PEFT adapter folder; not with a run folder"),
]
MaybeData = Annotated[
    list[str] | None,
    typer.Option(help="text, JSONL of chats, a folder of these, or builtin:NAME; repeatable"),
]
Tables = Annotated[
    Path | None,
    typer.Option("--out", help="folder for the tables (parquet); a run keeps them in direct/"),
]
Prompts = Annotated[
    Path | None,
    typer.Option(help='prompts: one a line, or JSONL with "prompt" or "messages"'),
]
NewTokens = Annotated[int, typer.Option(min=1, help="longest reply, in tokens")]


@dataclass
class Subject:
    """The pair that a command looks at, with or without a run folder behind it."""

    base: str
    tuned: str
    run: "RunFolder | None"

    @classmethod
    def of(cls, base: str, tuned: str | None, threads: int | None = None) -> "Subject":
        """Tell a run folder from a pair of models.

        Raises:
            InputError: One name is given and it is no run folder, or a run is given a second name.
        """
        from anaglyph.core.threads import set_threads
        from anaglyph.run import RunFolder

        is_run = (Path(base) / "run.json").is_file()
        if is_run and tuned is not None:
            raise InputError(f"{base} is a run folder, which names both models: leave out {tuned}")
        if not is_run and tuned is None:
            raise InputError(f"{base} is not a run folder: name two models, BASE and TUNED")
        set_threads(threads)
        if tuned is not None:
            return cls(base, tuned, None)
        run = RunFolder.open(base)
        return cls(run.state.base, run.state.tuned, run)

    @cached_property
    def pair(self) -> "ModelPair":
        """Both models, loaded when first needed."""
        from anaglyph.pair import ModelPair

        if self.run is None:
            return ModelPair.load(self.base, self.tuned)
        return self._bench.pair

    @property
    def store(self) -> "PairedStore":
        """The run's activations."""
        return self._bench.store

    def corpus(self, data: Sequence[str] | None, max_tokens: int | None) -> "TokenCorpus":
        """Return the text to read: the run's own where none is named.

        Raises:
            InputError: There is neither a run nor data, or the data cannot be read.
        """
        from anaglyph.corpus import load_corpus

        if data:
            return load_corpus(data, self.pair.tokenizer, max_tokens=max_tokens)
        if self.run is None:
            raise InputError("--data is missing: name the text to read")
        corpus = self._bench.corpus
        return corpus if max_tokens is None else corpus.limited(max_tokens)

    def keep(
        self,
        name: str,
        settings: dict[str, Any],
        make: Callable[[], "dict[str, pl.DataFrame]"],
        out: Path | None,
    ) -> "dict[str, pl.DataFrame]":
        """Make the tables, or take them from the run where they were made before."""
        from anaglyph.run import keep_tables, write_tables

        tables = make() if self.run is None else keep_tables(self.run, name, settings, make)
        if out is not None:
            write_tables(out, tables)
        return tables

    def with_text(self, table: "pl.DataFrame", *columns: str) -> "pl.DataFrame":
        """Put the tokens as people read them beside columns of token ids: X beside X_id."""
        import polars as pl

        for column in columns:
            ids = table[column].to_list()
            known = sorted({token for token in ids if token is not None})
            text = dict(zip(known, self.pair.token_strings(known), strict=True))
            texts = [None if token is None else text[token] for token in ids]
            name = column.removesuffix("_id") if column.endswith("_id") else f"{column}_text"
            place = table.columns.index(column) + 1
            table = table.insert_column(place, pl.Series(name, texts, dtype=pl.String))
        return table

    @cached_property
    def _bench(self) -> Any:
        from anaglyph.run import Run

        if self.run is None:
            raise InputError("there is no run folder")
        return Run.reopen(self.run.path).subject


def file_key(path: Path | None) -> str | None:
    """Return a digest of a file's bytes, or None where there is no file.

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


def show(as_json: bool, parts: "dict[str, pl.DataFrame]") -> None:
    """Print tables, each under its title; as JSON one object with the rows of each."""
    if as_json:
        say(json.dumps({title: table.to_dicts() for title, table in parts.items()}))
        return
    for title, table in parts.items():
        say(f"\n{title}\n{table_text([_short(row) for row in table.to_dicts()])}")


def _short(row: dict[str, Any]) -> dict[str, Any]:
    """Show text on one line: tokens are often line breaks, replies may be long."""
    shown = {}
    for name, value in row.items():
        if isinstance(value, list):
            value = " ".join(json.dumps(item, ensure_ascii=False) for item in value)
        elif isinstance(value, str):
            value = value if value.isprintable() else json.dumps(value, ensure_ascii=False)[1:-1]
            value = value if len(value) <= 90 else value[:89] + "…"
        shown[name] = value
    return shown
