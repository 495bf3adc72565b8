"""What goes into the page: the right rows, nothing undefined, and a clear error for damage."""

import json
import math
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anaglyph.core.errors import InputError, StoreError
from anaglyph.core.files import read_json, write_json
from anaglyph.report import data
from anaglyph.report.data import gather

from .fixture import METHODS, make_run


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("run"), latents=60, examples=9)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run", latents=20, examples=4)


def by_name(gathered: dict[str, Any], name: str) -> dict[str, Any]:
    return next(item for item in gathered["dictionaries"] if item["name"] == name)


def test_everything_of_a_finished_run_is_there(finished: Path):
    gathered = gather(finished)
    assert gathered["run"]["tuned"] == "adapters/eiffel-in-rome"
    verdict = gathered["verdict"]
    assert (verdict["verdict"], verdict["rate"], verdict["seed"]) == ("difference found", 0.1, 0)
    assert verdict["headline"] == f"The models differ: {verdict['reason']}"
    assert (verdict["detection_limit"], verdict["found"]) == (None, 3)
    assert [finding["kind"] for finding in gathered["findings"]] == ["new", "scaled", "mean-shift"]
    assert "direction_tuned" not in gathered["findings"][0]
    assert len(gathered["findings"][0]["windows"]) == 6
    assert gathered["findings"][1]["windows"] == []
    # The tables of single latents are no dictionaries of their own.
    assert [item["name"] for item in gathered["dictionaries"]] == list(METHODS)
    crosscoder = by_name(gathered, "crosscoder")
    assert crosscoder["stats"]["fve_tuned"] == 0.887
    assert len(crosscoder["causal"]) == 14
    assert {row["positions"] for row in crosscoder["places"]} == {"first nine"}
    assert crosscoder["with_examples"] == 9


def test_only_living_latents_are_shown_and_the_largest_come_first(finished: Path):
    table = pl.read_parquet(finished / "latents" / "diff-sae.parquet")
    alive = table.filter("alive").sort("difference_share", descending=True)
    shown = by_name(gather(finished), "diff-sae")["latents"]
    assert (shown["total"], shown["alive"]) == (60, alive.height)
    assert shown["alive"] < 60
    assert shown["ranked_by"] == "difference_share"
    assert shown["columns"]["latent"] == alive["latent"].to_list()


def test_columns_without_any_value_and_bounds_of_beta_stay_on_disk(finished: Path):
    columns = by_name(gather(finished), "crosscoder")["latents"]["columns"]
    assert "angle" not in columns  # the fixture has no value in it
    assert "beta_act_tuned" in columns
    assert "beta_act_tuned_low" not in columns
    assert "nu_act_low" in columns
    assert len({len(values) for values in columns.values()}) == 1


def test_a_latent_patched_alone_carries_its_effect(finished: Path):
    columns = by_name(gather(finished), "diff-sae")["latents"]["columns"]
    at = columns["latent"].index(7)
    assert columns["recovered"][at] == 0.412
    assert columns["recovered"][columns["latent"].index(9)] is None


def test_the_rest_is_cut_but_never_what_a_finding_cites(run: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(data, "MAX_ROWS", 3)
    for name in METHODS:
        (run / "examples" / f"{name}.json").unlink()
        (run / "causal" / f"{name}.latents.parquet").unlink()
    table = pl.DataFrame(
        {
            "latent": range(6),
            "alive": [True] * 5 + [False],
            "frequency": [0.5, 0.4, 0.3, 0.2, 0.1, 0],
        }
    )
    table.write_parquet(run / "latents" / "diff-sae.parquet")
    findings = read_json(run / "findings.json")
    findings["findings"] = [findings["findings"][1] | {"latents": [["diff-sae", 4]]}]
    write_json(run / "findings.json", findings)
    shown = by_name(gather(run), "diff-sae")["latents"]
    assert shown["columns"]["latent"] == [0, 1, 4]
    assert (shown["total"], shown["alive"], shown["ranked_by"]) == (6, 5, "frequency")


def test_what_is_like_noise_is_kept_apart(run: Path):
    verdict = read_json(run / "findings.json")
    first, *others = verdict["findings"]
    write_json(run / "findings.json", verdict | {"findings": [first], "like_noise": others})
    gathered = gather(run)
    assert gathered["verdict"]["found"] == len(gathered["findings"]) == 1
    assert [f["kind"] for f in gathered["like_noise"]] == [f["kind"] for f in others]
    assert "like_noise" not in gathered["verdict"]


def test_examples_that_do_not_fit_are_left_out_from_the_end(
    run: Path, monkeypatch: pytest.MonkeyPatch
):
    everything = gather(run)
    size = len(json.dumps(everything["findings"][0]["windows"], ensure_ascii=False))
    # Room for about one latent of each dictionary: none may take what the next one needs.
    one = json.dumps(by_name(everything, "diff-sae")["examples"]["3"], ensure_ascii=False)
    monkeypatch.setattr(data, "EXAMPLE_BYTES", size + 4 * len(one))
    gathered = gather(run)
    assert gathered["findings"][0]["windows"] == everything["findings"][0]["windows"]
    kept = [len(item["examples"]) for item in gathered["dictionaries"]]
    assert all(0 < count < 4 for count in kept)


def test_a_finding_whose_examples_do_not_fit_says_so(run: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(data, "EXAMPLE_BYTES", 10)
    assert gather(run)["findings"][0]["windows"] is None


@pytest.mark.parametrize("absent", ["run.json", "findings.json", "dictionaries", "latents"])
def test_absent_artifacts_are_none(run: Path, absent: str):
    path = run / absent
    for file in [path] if path.is_file() else sorted(path.rglob("*.*")):
        if file.is_file():
            file.unlink()
    gathered = gather(run)
    first = gathered["dictionaries"][0]
    values = {
        "run.json": gathered["run"],
        "findings.json": gathered["findings"],
        "dictionaries": first["stats"],
        "latents": first["latents"],
    }
    assert [name for name, value in values.items() if value is None] == [absent]


def test_undefined_numbers_become_null(run: Path):
    path = run / "latents" / "crosscoder.parquet"
    table = pl.read_parquet(path)
    wrong = pl.Series("nu_act", [math.nan, math.inf, *[0.5] * (table.height - 2)])
    table.with_columns(wrong).write_parquet(path)
    columns = by_name(gather(run), "crosscoder")["latents"]["columns"]
    values = dict(zip(columns["latent"], columns["nu_act"], strict=True))
    assert (values[0], values[1], values[2]) == (None, None, 0.5)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    "name",
    [
        "run.json",
        "findings.json",
        "dictionaries/crosscoder/config.json",
        "examples/crosscoder.json",
        "latents/crosscoder.parquet",
        "causal/crosscoder.parquet",
        "causal/crosscoder.latents.parquet",
    ],
)
def test_a_damaged_artifact_is_named(run: Path, name: str):
    truncate(run / name)
    with pytest.raises(StoreError) as caught:
        gather(run)
    assert str(run / name) in str(caught.value)


def test_a_missing_column_is_named(run: Path):
    path = run / "causal" / "diff-sae.parquet"
    pl.read_parquet(path).drop("recovered").write_parquet(path)
    with pytest.raises(StoreError, match=r"diff-sae\.parquet is damaged: .* no column recovered"):
        gather(run)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"code": [1.0]}, r"code has 1 entries for \d+ tokens"),
        ({"position": 999}, "position 999 is outside the window"),
        ({"base": "x"}, "base"),
    ],
)
def test_a_malformed_window_is_named(run: Path, change: dict[str, Any], complaint: str):
    path = run / "examples" / "diff-sae.json"
    listed = read_json(path)
    listed[1]["examples"][0] |= change
    write_json(path, listed)
    with pytest.raises(StoreError, match=rf"diff-sae\.json .*: 1\.examples\.0.*{complaint}"):
        gather(run)


def test_an_undefined_effect_is_damage(run: Path):
    path = run / "findings.json"
    path.write_text(
        path.read_text(encoding="utf-8").replace('"effect": 0.94', '"effect": NaN'),
        encoding="utf-8",
    )
    with pytest.raises(StoreError, match=r"findings\.json is damaged: findings\.0\.effect"):
        gather(run)


def test_a_folder_without_a_run_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match="it has no file of a run"):
        gather(tmp_path)
    with pytest.raises(InputError, match="is not a folder"):
        gather(tmp_path / "nowhere")


@given(st.floats())
def test_numbers_are_cut_to_four_digits_or_null(value: float):
    short = data._clean(value)
    if not math.isfinite(value):
        assert short is None
    else:
        assert math.isclose(short, value, rel_tol=5.001e-4, abs_tol=1e-300)
        assert len(f"{short:e}".split("e")[0].rstrip("0").replace("-", "")) <= 5
