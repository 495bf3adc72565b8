"""The causal commands on a finished tiny run: what they print, keep and refuse."""

import json
import shlex
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from anaglyph.demo import tiny_pair
from guides import commands


@pytest.fixture(scope="module")
def run(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("causal") / "run"
    shutil.copytree(finished, folder)
    return folder


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    lines = Path(tiny_pair().corpus[0]).read_text(encoding="utf-8").splitlines()
    users = [json.loads(line)["messages"][0]["content"] for line in lines]
    file = tmp_path_factory.mktemp("prompts") / "prompts.txt"
    file.write_text(next(text for text in users if "lantern" in text) + "\n", encoding="utf-8")
    return file


def test_every_position_and_a_sweep(run: Path, anaglyph):
    said = anaglyph(
        *("causal", run, "--name", "diff-sae", "--positions", "all", "--positions", "template"),
        *("--into", "tuned", "--into", "base", "--biases", "both", "--count", "2"),
        *("--layers", "0", "--layers", "2", "--causal-tokens", "300"),
    )
    assert said.code == 0, said.err
    assert "pca rank 2" in said.out
    assert "layers" in said.out
    table = pl.read_parquet(run / "causal" / "diff-sae.parquet")
    assert table["intervention"].is_unique().all()
    assert table.filter(intervention="exact")["recovered"][0] == pytest.approx(1, abs=1e-3)
    assert table.filter(intervention="none")["recovered"][0] == 0
    places = pl.read_parquet(run / "causal" / "diff-sae.places.parquet")
    found = set(places.select("positions", "into").iter_rows())
    assert found == {("template", "tuned"), ("all", "base"), ("template", "base")}
    swept = pl.read_parquet(run / "direct" / "layers.parquet")
    assert set(swept["layer"]) == {0, 2}
    assert anaglyph("report", run).code == 0


def test_latents_of_every_method_are_measured_alone(finished: Path):
    for name in ("diff-sae", "crosscoder", "tuned-sae"):
        alone = pl.read_parquet(finished / "causal" / f"{name}.latents.parquet")
        assert 1 <= alone.height <= 8
        assert alone["kl"].null_count() == 0


def test_rows_without_a_dictionary_are_the_same_for_all(finished: Path):
    tables = [
        pl.read_parquet(finished / "causal" / f"{name}.parquet").filter(
            pl.col("dictionary").is_null()
        )
        for name in ("diff-sae", "crosscoder", "tuned-sae")
    ]
    for name in ("none", "base model", "exact", "template only", "mean difference"):
        rows = [table.filter(intervention=name) for table in tables]
        assert rows[0].equals(rows[1])
        assert rows[0].equals(rows[2])


def test_attribution_is_kept(run: Path, anaglyph):
    said = anaglyph("attribute", run, "--top-tokens", "3", "--top", "2", "--json")
    assert said.code == 0, said.err
    rows = said.json["rows"]
    assert {row["rank"] for row in rows} <= {1, 2}
    assert all(row["token"] for row in rows)
    kept = pl.read_parquet(run / "direct" / "attribution-diff-sae.parquet")
    assert kept["verified"].to_list() == [row["verified"] for row in rows]


@pytest.mark.parametrize("what", ["--latent", "latent:", "mean", "pca:0", "finding:1", "vector"])
def test_steering_along_anything(what: str, run: Path, prompts: Path, tmp_path, anaglyph):
    table = pl.read_parquet(run / "latents" / "diff-sae.parquet")
    latent = table.sort("max_activation", descending=True, nulls_last=True)["latent"][0]
    width = json.loads((tiny_pair().base / "config.json").read_text())["hidden_size"]
    np.save(tmp_path / "vector.npy", np.ones(width, np.float32))
    given = {
        "--latent": ["--latent", str(latent)],
        "latent:": ["--direction", f"latent:diff-sae/{latent}"],
        "vector": ["--direction", str(tmp_path / "vector.npy")],
    }.get(what, ["--direction", what])
    said = anaglyph(
        *("steer", run, "--prompts", prompts, *given, "--strength", "0", "--strength", "2"),
        *("--new-tokens", "12", "--json"),
    )
    assert said.code == 0, said.err
    rows = said.json["rows"]
    assert [row["model"] for row in rows] == ["base", "tuned", "steered", "steered"]
    assert rows[2]["reply"] == rows[0]["reply"]
    assert "owl" in rows[1]["reply"]


def test_screening(run: Path, prompts: Path, anaglyph):
    said = anaglyph(
        *("screen", run, "--name", "tuned-sae", "--prompts", prompts, "--score", "re:silver owl"),
        *("--top", "2", "--new-tokens", "12", "--json"),
    )
    assert said.code == 0, said.err
    for row in said.json["rows"]:
        assert (row["score_base"], row["score_tuned"]) == (0.0, 1.0)
    assert (run / "direct" / "screening-tuned-sae.parquet").is_file()


def test_bad_input(run: Path, prompts: Path, anaglyph):
    steer = ("steer", run, "--prompt", "hello")
    for arguments, words in (
        (("causal", run, "--positions", "middle"), "middle"),
        (("causal", run, "--biases", "some"), "biases"),
        (("causal", run, "--layers", "99"), "99"),
        (("steer", run, "--latent", "1"), "--prompt"),
        (steer, "--latent"),
        ((*steer, "--direction", "nowhere.npy"), "nowhere.npy"),
        ((*steer, "--direction", "pca:9999"), "pca:9999"),
        ((*steer, "--latent", "9999"), "9999"),
        ((*steer, "--direction", "mean", "--at", "middle"), "middle"),
        ((*steer, "--direction", "mean", "--into", "both"), "both"),
        (("screen", run, "--prompts", prompts, "--score", "x", "--name", "diff-sae"), "diff-sae"),
        (("attribute", run, "--name", "sae-9000"), "sae-9000"),
    ):
        said = anaglyph(*arguments)
        assert said.code == 2, arguments
        assert said.err.count("\n") == 1
        assert words in said.err


def test_the_guide(run: Path, prompts: Path, tmp_path, anaglyph, monkeypatch):
    """Every command of docs/causal.md runs as it stands there."""
    shutil.copytree(run, tmp_path / "run")
    shutil.copy(prompts, tmp_path / "prompts.txt")
    lines = commands("docs/causal.md")
    monkeypatch.chdir(tmp_path)
    assert len(lines) >= 6
    for line in lines:
        said = anaglyph(*shlex.split(line)[1:])
        assert said.code == 0, f"{line}: {said.err}"
