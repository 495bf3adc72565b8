"""Check every byte of a run folder, and say what is damaged and which command repairs it."""

from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from anaglyph.core.errors import InputError, StoreError
from anaglyph.core.files import as_path, json_text
from anaglyph.core.lock import LOCK, locked
from anaglyph.core.progress import Progress, silent
from anaglyph.core.schemas import RunState, read_state
from anaglyph.core.seals import signed
from anaglyph.run.folder import AGAIN, RECORD, is_of_a_run, repair
from anaglyph.store.format import MANIFEST, read_manifest


class Damage(BaseModel):
    """One damaged or missing file."""

    model_config = ConfigDict(frozen=True)

    file: str = Field(description="File, relative to the run folder.")
    problem: str = Field(description="What is wrong.")
    repair: str = Field(description="Command that makes it again.")


class Verification(BaseModel):
    """What `anaglyph verify` found."""

    model_config = ConfigDict(frozen=True)

    path: str = Field(description="The run folder.")
    intact: bool = Field(description="Whether every file that the run vouches for is as written.")
    files: int = Field(description="Files checked, byte for byte.")
    bytes: int = Field(description="Their size in all.")
    damage: tuple[Damage, ...] = Field(description="Damaged or missing files.")
    unknown: tuple[str, ...] = Field(
        description="Files that no finished stage wrote: of unfinished stages, or not of the run."
    )


def verify(run: str | Path, progress: Progress = silent) -> Verification:
    """Compare every file of a run folder with what was written. Nothing is changed.

    Args:
        run: A run folder.
        progress: Told of stages.

    Raises:
        InputError: The folder has no run.json.
        StoreError: Another process writes to the folder.

    Example:
        >>> verify("run").intact                                 # doctest: +SKIP
        True
    """
    path = as_path(run)
    if not ((path / RECORD).is_file() or is_of_a_run(path)):
        raise InputError(f"{path} is not a run folder: it has no {RECORD}")
    with locked(path):
        checked = {RECORD}
        try:
            state = read_state(path / RECORD)
            damage = list(_of_record(path, state))
        except StoreError as error:
            state, damage = None, [Damage(file=RECORD, problem=str(error), repair=AGAIN)]
        stages = {} if state is None else state.stages
        for number, (name, stage) in enumerate(stages.items()):
            progress("verify", number, len(stages), "stages")
            for output in stage.outputs:
                one = stage.model_copy(update={"outputs": [output]})
                problem = one.problem(path, whole=True)
                if problem is not None:
                    damage.append(Damage(file=output, problem=problem, repair=repair(name, path)))
            checked |= set(stage.outputs)
        progress("verify", len(stages), len(stages), "stages")
        if "collect" in stages:
            for shard, problem in _of_shards(path / "activations"):
                checked.add(f"activations/{shard}")
                if problem is not None:
                    command = repair("collect", path) + " --verify"
                    damage.append(
                        Damage(file=f"activations/{shard}", problem=problem, repair=command)
                    )
        found = {
            file.relative_to(path).as_posix(): file.stat().st_size
            for file in path.rglob("*")
            if file.is_file() and file.name != LOCK
        }
    known = checked & found.keys()
    return Verification(
        path=str(path),
        intact=not damage,
        files=len(known),
        bytes=sum(found[name] for name in known),
        damage=tuple(damage),
        unknown=tuple(sorted(found.keys() - checked)),
    )


def check(run: str | Path, progress: Progress = silent) -> None:
    """Check every byte of a run folder before a stage reads it; arguments as for `verify`.

    Raises:
        InputError: The folder has no run.json.
        StoreError: A file is damaged: the message names it and the command that repairs it. Or
            another process writes to the folder.
    """
    damage = verify(run, progress).damage
    if damage:
        raise StoreError(f"{damage[0].problem}; repair it with: {damage[0].repair}")


def _of_record(path: Path, state: RunState) -> Iterator[Damage]:
    """Compare run.json with how the same fields are written."""
    text = json_text(signed(state.model_dump(mode="json")))
    if (path / RECORD).read_bytes() != text.encode("utf-8", "backslashreplace"):
        problem = f"{path / RECORD} is damaged: it is not written as anaglyph writes it"
        yield Damage(file=RECORD, problem=problem, repair=AGAIN)


def _of_shards(folder: Path) -> Iterator[tuple[str, str | None]]:
    """Compare the shards with the manifest's checksums; a damaged manifest is told of elsewhere."""
    try:
        manifest = read_manifest(folder)
    except StoreError:
        return
    if not manifest.complete:
        yield MANIFEST, f"the store at {folder} is unfinished"
    for shard in manifest.shards:
        yield shard.name, shard.problem(folder, whole=True)
