"""The run folder: which stages of a run are finished, and under which key.

`run.json` is the only file here that changes; it is replaced whole after each stage. A stage's
artifacts count as finished only if its key, a digest of all that determines them, is the one asked
for and every file it wrote is still there.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from anaglyph.core.errors import InputError
from anaglyph.core.files import write_json
from anaglyph.core.schemas import RunState, StageState, read_state

PACKAGES = ("anaglyph", "torch", "transformers", "peft", "numpy", "numba", "polars", "safetensors")

ELICITED = "elicited.jsonl"
"""Text that both models wrote, in a run that was given none; written before run.json is."""


class RunFolder:
    """A folder that holds one run's artifacts."""

    def __init__(self, path: Path, state: RunState) -> None:
        self.path = path
        self.state = state

    @classmethod
    def open(cls, path: str | Path) -> "RunFolder":
        """Open an existing run.

        Raises:
            InputError: There is no run in the folder.
            StoreError: `run.json` is damaged.
        """
        path = Path(path)
        if not (path / "run.json").is_file():
            raise InputError(f"{path} is not a run folder: it has no run.json")
        return cls(path, read_state(path / "run.json"))

    @staticmethod
    def check(path: str | Path) -> None:
        """Check that a run can live in `path`.

        Raises:
            InputError: It is a file, or a folder that holds other files than a run's.
        """
        path = Path(path)
        if path.exists() and not (path / "run.json").exists():
            if not path.is_dir():
                raise InputError(f"{path} is a file; name a folder")
            if any(file.name != ELICITED for file in path.iterdir()):
                raise InputError(
                    f"{path} holds files that are not a run's; name a new or empty folder"
                )

    @classmethod
    def begin(cls, path: str | Path, **facts: Any) -> "RunFolder":
        """Open the run at `path`, or start one there; the facts of the run are brought up to date.

        Stages that an earlier run finished are kept: their keys decide whether they are reused. An
        earlier run's record is replaced only when the first stage of this one has ended well.

        Raises:
            InputError: As `check`.
        """
        path = Path(path)
        cls.check(path)
        created, stages = datetime.now(UTC).isoformat(timespec="seconds"), {}
        started = (path / "run.json").exists()
        if started:
            earlier = cls.open(path).state
            created, stages = earlier.created, earlier.stages
        versions = {name: version(name) for name in PACKAGES}
        state = RunState(
            anaglyph=versions["anaglyph"],
            created=created,
            stages=stages,
            versions=versions,
            **facts,
        )
        run = cls(path, state)
        if not started:
            run._save()
        return run

    def is_done(self, stage: str, key: str) -> bool:
        """Tell whether the stage's artifacts are there and were made under this key."""
        state = self.state.stages.get(stage)
        return (
            state is not None
            and state.key == key
            and all((self.path / output).exists() for output in state.outputs)
        )

    @contextmanager
    def stage(self, name: str, key: str, outputs: list[str]) -> Iterator[None]:
        """Run a stage's body and, if it ends well, record it as finished under `key`."""
        # Its old record goes first: the body replaces the artifacts that the record vouches for.
        if self.state.stages.pop(name, None) is not None:
            self._save()
        start = time.monotonic()
        yield
        self.record(name, key, time.monotonic() - start, outputs)

    def record(self, name: str, key: str, seconds: float, outputs: list[str]) -> None:
        """Record that a stage's artifacts are finished under `key`."""
        earlier = self.state.stages.get(name)
        if earlier is not None and earlier.key == key:
            # Its artifacts were found finished: the time it once took stays the true one.
            seconds = earlier.seconds
        self.state.stages[name] = StageState(key=key, seconds=round(seconds, 3), outputs=outputs)
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

    def _save(self) -> None:
        write_json(self.path / "run.json", self.state.model_dump(mode="json"))
