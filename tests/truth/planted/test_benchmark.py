"""The benchmark: known answers come back, figures are averaged over seeds, mistakes are named."""

import json

import numpy as np
import polars as pl
import pytest

from anaglyph import cli
from anaglyph.core.errors import InputError
from anaglyph.report import build_benchmark
from anaglyph.truth.planted import generate, planted_settings, run_planted, summarise
from anaglyph.truth.planted.benchmark import true_l0


@pytest.fixture(scope="module")
def runs() -> pl.DataFrame:
    methods = ["diff-sae", "crosscoder", "tuned-sae", "base-sae"]
    return run_planted("easy", methods, [0, 1], tokens=400_000)


def of(runs: pl.DataFrame, entrant: str, figure: str) -> np.ndarray:
    return runs.filter(entrant=entrant)[figure].to_numpy()


def test_the_difference_sae_finds_what_changed(runs):
    # Six features of each kind and seed: 36 in all.
    kinds = ("new", "removed", "rotated")
    assert np.mean([of(runs, "diff-sae", f"recall_{kind}") for kind in kinds]) >= 0.95
    assert (of(runs, "diff-sae", "shared_leakage") == 0).all()


def test_the_crosscoder_puts_new_and_removed_in_the_right_class(runs):
    for kind in ("new", "removed"):
        assert of(runs, "crosscoder", f"recall_{kind}").mean() >= 0.95
        assert of(runs, "crosscoder", f"class_{kind}").mean() >= 0.95
    assert (of(runs, "crosscoder", "auroc_nu_error") > 0.95).all()


def test_an_sae_of_one_model_cannot_see_what_only_the_other_has(runs):
    assert of(runs, "tuned-sae", "recall_new").mean() >= 0.95
    assert (of(runs, "tuned-sae", "recall_removed") == 0).all()
    assert (of(runs, "base-sae", "recall_new") == 0).all()


def test_the_mean_and_interval_over_seeds_by_hand():
    table = pl.DataFrame(
        {"preset": "p", "entrant": "e", "seed": [0, 1], "fve": [0.5, 0.7], "gap": [None, 1.0]}
    )
    row = summarise(table).row(0, named=True)
    assert row["fve"] == pytest.approx(0.6)
    # t(0.975, 1) = 12.706; the standard error of two values is half their distance.
    assert row["fve_high"] - row["fve"] == pytest.approx(12.706 * 0.1, rel=1e-3)
    assert row["gap"] == 1.0
    assert row["gap_low"] is None


def test_the_planted_l0_counts_what_the_method_reads():
    settings = planted_settings("easy", retriggered=0, frequency=(0.1, 0.1), tokens=20_000)
    pair = generate(settings, 0)
    changed = settings.new + settings.removed + settings.scaled + settings.rotated
    assert true_l0(pair, ("difference",)) == pytest.approx(0.1 * changed, rel=0.05)
    everything = 0.1 * (changed + settings.shared)
    assert true_l0(pair, ("base", "tuned")) == pytest.approx(everything, rel=0.05)
    assert true_l0(pair, ("tuned",)) == pytest.approx(everything - 0.6, rel=0.05)


def test_the_page_shows_every_entrant_and_no_number_that_is_not_there(runs, tmp_path):
    page = build_benchmark(summarise(runs), "anaglyph planted <x>", tmp_path / "index.html")
    text = page.read_text(encoding="utf-8")
    for name in ("diff-sae", "crosscoder", "tuned-sae", "base-sae"):
        assert f">{name}<" in text
    assert "&lt;x&gt;" in text
    assert "nan" not in text


def test_the_command_writes_runs_summary_and_page(tmp_path, monkeypatch, capsys):
    out = tmp_path / "bench"
    line = ["anaglyph", "planted", "--preset", "easy", "--methods", "diff-sae", "--seeds", "1"]
    monkeypatch.setattr("sys.argv", [*line, "--tokens", "20000", "--out", str(out)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 0
    assert "diff-sae" in capsys.readouterr().out
    assert pl.read_parquet(out / "runs.parquet").height == 1
    assert json.loads((out / "summary.json").read_text())[0]["entrant"] == "diff-sae"
    assert (out / "index.html").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"preset": "hard"}, "unknown preset"),
        ({"methods": ["magic"]}, "magic"),
        ({"methods": []}, "methods"),
        ({"seeds": []}, "seeds"),
        ({"ratio": 0.0}, "ratio"),
    ],
)
def test_mistakes_are_named(arguments, message):
    right = {"preset": "easy", "methods": ["diff-sae"], "seeds": [0]}
    with pytest.raises(InputError, match=message):
        run_planted(**(right | arguments))
