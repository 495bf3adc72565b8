"""docs/run-folder.md names every file of a finished run and every column of its tables."""

import re
from pathlib import Path

import polars as pl
import pytest

from anaglyph.core.columns import FILES, TABLES, columns_of
from anaglyph.corpus import ROLES


def test_every_file_of_a_run_is_listed(finished: Path):
    for file in finished.rglob("*"):
        name = file.relative_to(finished).as_posix()
        patterns = (re.escape(each).replace("NAME", "[^/]+") for each in FILES)
        listed = any(re.match(pattern, name + "/" * file.is_dir()) for pattern in patterns)
        assert listed or file.is_dir(), name


@pytest.mark.parametrize("table", list(TABLES))
def test_every_column_of_a_table_is_described(finished: Path, table: str):
    files = [finished / table.replace("NAME", name) for name in ("diff-sae", "crosscoder")]
    for file in files:
        assert set(pl.read_parquet(file).columns) == set(columns_of(table, ROLES))
