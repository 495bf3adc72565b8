"""Tables of the commands without a dictionary, kept as `direct/NAME.parquet`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import torch

from anaglyph.core.files import check_writable, digest, read_parquet, write_parquet
from anaglyph.run.folder import RunFolder

Tables = dict[str, pl.DataFrame]

# Raised by hand when a command's code changes what it writes for the same settings.
_VERSION = 2


def keep_tables(
    run: RunFolder, name: str, settings: dict[str, Any], make: Callable[[], Tables]
) -> Tables:
    """Return a command's tables from the run folder, where they are first put if need be.

    Args:
        run: The run.
        name: The command.
        settings: All that determines the tables beside the run's models and text.
        make: Makes them; its keys are file names without their ending, each of which begins with
            ``name``.
    """
    stage, folder = f"direct/{name}", run.path / "direct"
    state = run.state
    key = digest(
        {
            "models": state.fingerprints,
            "corpus": state.corpus.get("fingerprint"),
            "settings": settings,
            "threads": torch.get_num_threads(),
            "code": _VERSION,
        }
    )
    if run.is_done(stage, key):
        files = [run.path / output for output in state.stages[stage].outputs]
        return {file.stem: read_parquet(file) for file in files}
    # Locked before the work: a second command is refused at once, not when it has its tables.
    with run.writing():
        check_writable(run.path)
        # The names of the outputs are known only now; nothing counts before they are recorded.
        tables = make()
        with run.stage(stage, key, [f"direct/{table}.parquet" for table in tables]):
            write_tables(folder, tables)
    return tables


def write_tables(folder: Path, tables: Tables) -> None:
    """Write each table as `NAME.parquet`."""
    for name, table in tables.items():
        write_parquet(folder / f"{name}.parquet", table)
