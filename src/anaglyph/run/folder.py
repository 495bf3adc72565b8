"""The run folder: which stages of a run are finished, and under which key.

`run.json` is replaced whole after each stage. A stage's artifacts count as finished only if its
key, a digest of all that determines them, is the one asked for, and every file it wrote is still as
it was written. One process writes at a time: `writing` locks the folder and reads `run.json` again,
because another process may have finished stages since it was opened.
"""

import shlex
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from anaglyph.core.errors import InputError, StoreError
from anaglyph.core.files import (
    as_path,
    atomic_path,
    check_writable,
    digest,
    is_temporary,
    remove_temporaries,
)
from anaglyph.core.lock import LOCK, locked
from anaglyph.core.schemas import FormatError, RunState, StageState, read_state, write_state
from anaglyph.core.seals import Seal
from anaglyph.dictionaries import get_method
from anaglyph.store.format import MANIFEST

PACKAGES = ("anaglyph", "torch", "transformers", "peft", "numpy", "numba", "polars", "safetensors")

ELICITED = "elicited.jsonl"
"""Text that both models wrote, in a run that was given none; written before run.json is."""
LAYERS = "layers.json"
"""The layers of a run that chose them; written before run.json is."""
RECORD = "run.json"
DAMAGED = "run.json.damaged"
AGAIN = "the anaglyph diff command that made the run, with the same --out"


def is_of_a_run(path: Path) -> bool:
    """Tell whether a folder without a record that can be read is a run's: it has activations."""
    return (path / "activations" / MANIFEST).is_file()


class RunFolder:
    """A folder that holds one run's artifacts.

    Attributes:
        path: The folder.
        state: What `run.json` says, and after `begin` what it will say.
        thorough: Whether finished files are checked byte for byte, instead of by samples.
    """

    def __init__(self, path: Path, state: RunState, thorough: bool = False) -> None:
        self.path = path
        self.state = state
        self.thorough = thorough
        self._on_disk = _facts(state)
        self._is_writing = False

    @classmethod
    def open(cls, path: str | Path, thorough: bool = False) -> "RunFolder":
        """Open an existing run.

        Raises:
            InputError: There is no run in the folder.
            StoreError: `run.json` is damaged.
        """
        path = as_path(path)
        if not (path / RECORD).is_file():
            lost = f"; it has lost it: run {AGAIN}" if is_of_a_run(path) else ""
            raise InputError(f"{path} is not a run folder: it has no {RECORD}{lost}")
        return cls(path, read_state(path / RECORD), thorough)

    @staticmethod
    def check(path: str | Path) -> None:
        """Check that a run can live in `path`.

        What a killed run left there before its first save is no obstacle, and neither is a run that
        has lost its record.

        Raises:
            InputError: It is a file, or a folder that holds other files than a run's.
        """
        path = as_path(path)
        if path.exists() and not (path / RECORD).exists():
            if not path.is_dir():
                raise InputError(f"{path} is a file; name a folder")
            ours = (ELICITED, LAYERS, LOCK)
            others = (f for f in path.iterdir() if f.name not in ours and not is_temporary(f))
            if any(others) and not is_of_a_run(path):
                raise InputError(
                    f"{path} holds files that are not a run's; name a new or empty folder"
                )

    @classmethod
    def begin(cls, path: str | Path, thorough: bool = False, **facts: Any) -> "RunFolder":
        """Open the run at `path`, or start one there; the facts of the run are brought up to date.

        Stages that an earlier run finished are kept: their keys decide whether they are reused. An
        earlier run's record is replaced only when the first stage of this one has ended well. A
        damaged record vouches for nothing: every stage is made again, but for the activations,
        which have a record of their own.

        Raises:
            InputError: As `check`.
            StoreError: Another process writes to the folder.
        """
        path = as_path(path)
        cls.check(path)
        with locked(path):
            remove_temporaries(path)
            earlier = _earlier(path / RECORD)
            versions = {name: version(name) for name in PACKAGES}
            state = RunState(
                anaglyph=versions["anaglyph"],
                created=earlier.created
                if earlier is not None
                else datetime.now(UTC).isoformat(timespec="seconds"),
                stages=earlier.stages if earlier is not None else {},
                versions=versions,
                **facts,
            )
            run = cls(path, state, thorough)
            if earlier is None:
                run._save()
            else:
                run._on_disk = _facts(earlier)
        return run

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Lock the folder and bring the stages up to date; a thread may do so within itself.

        Raises:
            StoreError: Another process writes to the folder, or has changed what the run is of
                since this one opened it.
        """
        if self._is_writing:
            yield
            return
        with locked(self.path):
            now = RunFolder.open(self.path).state
            if _facts(now) != self._on_disk:
                raise StoreError(
                    f"another command has changed the settings in {self.path / RECORD}; run this "
                    "one again"
                )
            self.state.stages = now.stages
            remove_temporaries(self.path)
            self._is_writing = True
            try:
                yield
            finally:
                self._is_writing = False

    def is_done(self, stage: str, key: str) -> bool:
        """Tell whether the stage's artifacts are as written and were made under this key."""
        state = self.state.stages.get(stage)
        return (
            state is not None
            and state.key == key
            and state.problem(self.path, self.thorough) is None
        )

    def check_stage(self, stage: str) -> None:
        """Check the artifacts of a finished stage before they are read.

        Raises:
            InputError: The stage was never finished; the message names the command to run first.
            StoreError: An artifact is missing or damaged; the message names it and the command
                that repairs it.
        """
        self.key_of(stage)
        problem = self.state.stages[stage].problem(self.path, self.thorough)
        if problem is not None:
            raise StoreError(f"{problem}; repair it with: {repair(stage, self.path)}")

    @contextmanager
    def stage(self, name: str, key: str, outputs: list[str]) -> Iterator[None]:
        """Run a stage's body and, if it ends well, record it as finished under `key`.

        Raises:
            StoreError: Another process writes to the folder, or it cannot be written to.
        """
        with self.writing():
            check_writable(self.path)
            # Its old record goes first: the body replaces the artifacts that it vouches for. So do
            # those of what was made from them, unless the new ones will be the same.
            earlier = self.state.stages.pop(name, None)
            if earlier is not None:
                if earlier.key != key:
                    self._drop_made_from(name)
                self._save()
            start = time.monotonic()
            yield
            self.record(name, key, time.monotonic() - start, outputs)

    def record(self, name: str, key: str, seconds: float, outputs: Sequence[str]) -> None:
        """Record that a stage's artifacts are finished under `key`, with a seal for each file."""
        with self.writing():
            earlier = self.state.stages.get(name)
            if earlier is not None and earlier.key == key:
                # Its artifacts were found finished: the time it once took stays the true one.
                seconds = earlier.seconds
            elif earlier is not None:
                self._drop_made_from(name)
            state = StageState(
                key=key,
                seconds=round(seconds, 3),
                outputs=list(outputs),
                seals={output: Seal.of(self.path / output) for output in outputs},
            )
            if state != earlier or _facts(self.state) != self._on_disk:
                self.state.stages[name] = state
                self._save()

    def key_of(self, stage: str) -> str:
        """Return the key of a finished stage.

        Raises:
            InputError: The stage was never finished; the message names the command to run first.
        """
        state = self.state.stages.get(stage)
        if state is None:
            raise InputError(f"{self.path} has no finished stage {stage!r}; run that stage first")
        return state.key

    def key_of_page(self) -> str:
        """Return the key of a page of all other stages."""
        stages = {name: each for name, each in self.state.stages.items() if name != "report"}
        return digest({name: each.model_dump(mode="json") for name, each in stages.items()})

    def _drop_made_from(self, stage: str) -> None:
        """Drop the records of stages that read what a stage has replaced, or is about to."""
        for name in [name for name in self.state.stages if _is_made_from(name, stage)]:
            if self.state.stages.pop(name, None) is not None:
                self._drop_made_from(name)

    def _save(self) -> None:
        write_state(self.path / RECORD, self.state)
        self._on_disk = _facts(self.state)


_COMMANDS = {"attribution": "attribute", "screening": "screen", "layers": "causal"}
"""Commands whose tables in `direct/` are called otherwise."""


def repair(stage: str, path: Path) -> str:
    """Return the command that makes a stage's artifacts again."""
    command, _, name = stage.partition("/")
    run = shlex.quote(str(path))
    if command == "train":
        method, _, sparsity = name.partition(":")
        options = f" --method {method}" + (f" --sparsity {sparsity}" if sparsity else "")
        return f"anaglyph train {run}{options}"
    if command in ("score", "causal"):
        return f"anaglyph {command} {run} --name {name}"
    if command == "link":
        return f"anaglyph diff {run}"
    if command == "audits":
        return f"anaglyph audit {run}, with the options that it was made with"
    if command == "direct":
        kind, _, dictionary = name.partition("-")
        named = f" --name {dictionary}" if kind in ("attribution", "screening") else ""
        made = f"anaglyph {_COMMANDS.get(kind, kind)} {run}{named}"
        return f"{made}, with the options that it was made with"
    return f"anaglyph {command} {run}"


def _is_made_from(stage: str, source: str) -> bool:
    """Tell whether a stage reads what another one writes."""
    kind = stage.partition("/")[0]
    made, _, read = source.partition("/")
    if made == "collect":
        return kind != "behave"
    if made == "train":
        if kind == "find":
            return _is_of_difference(read.partition(":")[0])
        tables = f"direct/attribution-{read}", f"direct/screening-{read}"
        return stage in (f"score/{read}", f"causal/{read}", *tables)
    if made == "score":
        return stage in (f"causal/{read}", f"direct/screening-{read}")
    return kind == "link" and made in ("find", "behave")


def _is_of_difference(method: str) -> bool:
    """Tell whether findings may start from a method's dictionaries."""
    try:
        return get_method(method).sources == ("difference",)
    except InputError:  # of a plug-in that is gone
        return True


def _facts(state: RunState) -> dict[str, Any]:
    """Return all that a record says but for its stages."""
    return state.model_dump(mode="json", exclude={"stages"})


def _earlier(path: Path) -> RunState | None:
    """Read an earlier run's record; None if there is none or it is damaged.

    A damaged record is kept as `run.json.damaged`.

    Raises:
        StoreError: The record is of another version, or of another program.
    """
    if not path.exists():
        return None
    try:
        return read_state(path)
    except FormatError:
        raise
    except StoreError:
        content = path.read_bytes()
        if b'"anaglyph"' not in content and not is_of_a_run(path.parent):
            raise
        with atomic_path(path.with_name(DAMAGED)) as temporary:
            temporary.write_bytes(content)
        return None
