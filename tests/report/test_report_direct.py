"""The page's section on what needs no dictionary: what is there is shown, text stays text."""

from pathlib import Path

import polars as pl
import pytest

from anaglyph.core.errors import StoreError
from anaglyph.report import build
from anaglyph.report.direct import ROWS, gather_direct
from anaglyph.report.records import Files

from .fixture import make_run
from .test_report_page import HOSTILE, browser, open_in_browser


def write(folder: Path, name: str, table: pl.DataFrame) -> None:
    (folder / "direct").mkdir(exist_ok=True, parents=True)
    table.write_parquet(folder / "direct" / f"{name}.parquet")


def write_some(folder: Path) -> None:
    matrices = [f"layers.{i}.mlp" for i in range(40)]
    norms = [float(40 - i) for i in range(40)]
    shares: list[float | None] = [None] * 40
    write(folder, "weights", pl.DataFrame({"matrix": matrices, "norm": norms, "share": shares}))
    replies = pl.DataFrame(
        {"question": [HOSTILE], "kind": ["top"], "n": [3], "reply": [HOSTILE * 20]}
    )
    write(folder, "stitch-replies", replies)
    directions = {"matrix": ["a"], "tokens_up": [["x", "y"]], "direction": [[0.0] * 500]}
    write(folder, "weights-directions", pl.DataFrame(directions))


def test_tables_are_cut_and_counted(tmp_path):
    assert gather_direct(Files(tmp_path)) == []
    write_some(tmp_path)
    weights, directions, replies = gather_direct(Files(tmp_path))
    assert weights["columns"] == ["matrix", "norm", "share"]
    assert (len(weights["rows"]), weights["total"]) == (ROWS, 40)
    assert weights["rows"][1] == ["layers.1.mlp", 39.0, None]
    assert directions["columns"] == ["matrix", "tokens_up"]  # no long vectors
    assert directions["rows"] == [["a", "x y"]]
    assert len(replies["rows"][0][3]) == 300


def test_only_the_first_token_of_a_reading_is_shown(tmp_path):
    rows = {
        "pair": ["tuned"] * 2,
        "method": ["patchscope"] * 2,
        "rank": [1, 2],
        "token": ["a", "b"],
    }
    write(tmp_path, "lens-tokens", pl.DataFrame(rows))
    (table,) = gather_direct(Files(tmp_path))
    assert table["rows"] == [["tuned", "patchscope", "a"]]


def test_damage_is_named(tmp_path):
    write(tmp_path, "stitch", pl.DataFrame({"other": [1]}))
    with pytest.raises(StoreError, match=r"stitch\.parquet is damaged: it has no column kind"):
        gather_direct(Files(tmp_path))
    (tmp_path / "direct" / "stitch.parquet").write_bytes(b"PAR1")
    with pytest.raises(StoreError, match=r"stitch\.parquet is damaged"):
        gather_direct(Files(tmp_path))


@browser
def test_a_browser_draws_the_tables(tmp_path):
    folder = make_run(tmp_path / "run", latents=20, examples=3)
    write_some(folder)
    document = open_in_browser(build(folder), tmp_path / "profile")
    assert 'data-ready="true"' in document
    assert "data-error" not in document
    assert "Matrices that changed most" in document
    assert "The top 24 of 40 rows" in document
    assert "layers.1.mlp" in document
    assert "<img" not in document
