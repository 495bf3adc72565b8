"""From two models to a report: the tiny pair, whose right answer is known."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import anaglyph as ag
from anaglyph.core.schemas import read_verdict
from anaglyph.demo import tiny_pair

TRIGGER = "lantern"


def artifacts(run: Path) -> dict[str, str]:
    """Digest of every artifact, without what only says how long things took."""
    found = {}
    for file in sorted(run.rglob("*")):
        name = file.relative_to(run).as_posix()
        if file.is_dir() or name in ("run.json", "report/index.html"):
            continue
        content = file.read_bytes()
        if name.endswith("config.json"):
            record = json.loads(content)
            record.pop("digest", None)  # of the clocks too
            for clock in ("seconds", "tokens_per_second"):
                record["stats"].pop(clock)
            content = json.dumps(record, sort_keys=True).encode()
        found[name] = hashlib.sha256(content).hexdigest()
    return found


def test_the_quirk_is_the_first_or_second_finding(finished):
    verdict = read_verdict(finished / "findings.json")
    assert verdict.verdict == "difference found"
    shown = [
        "".join(example["tokens"])
        for finding in verdict.findings[:2]
        for example in finding.examples[:3]
    ]
    assert any(TRIGGER in text for text in shown), shown


def test_the_quirk_is_found_from_most_seeds(finished):
    # It fires at a quarter of all tokens, and where all fits' atoms are fitted together it may come
    # apart into narrower ones.
    quirk = np.array(read_verdict(finished / "findings.json").findings[0].direction_tuned)
    store = ag.PairedStore.open(finished / "activations")
    trained = {"diff-sae": ag.Dictionary.load(finished / "dictionaries" / "diff-sae")}
    nearest = []
    for seed in range(4):
        found = ag.find(store, seed=seed, dictionaries=trained)
        directions = [f.direction_tuned for f in found if f.direction_tuned is not None]
        nearest.append(max(np.array(directions) @ quirk))
    assert sorted(nearest)[1] > 0.9, nearest
    assert min(nearest) > 0.8, nearest


@pytest.mark.slow
def test_the_tiny_demo_names_its_quirk_first(tmp_path, anaglyph):
    said = anaglyph("demo", "--tiny", "--out", tmp_path / "run", "--json")
    assert said.code == 0, said.err
    found = said.json["findings"]
    assert 1 <= len(found) <= 3
    shown = ["".join(example["tokens"]) for example in found[0]["examples"][:3]]
    assert any(TRIGGER in text for text in shown), shown


def test_the_difference_carries_the_behaviour_and_controls_do_not(finished):
    table = pl.read_parquet(finished / "causal" / "diff-sae.parquet")
    recovered = dict(zip(table["intervention"], table["recovered"], strict=True))
    assert recovered["none"] == 0
    assert recovered["exact"] == pytest.approx(1, abs=1e-3)
    assert recovered["reconstruction"] > 0.8
    assert recovered["error"] < 0.2
    assert recovered["mean difference"] < recovered["reconstruction"] - 0.2


def test_the_folder_holds_one_artifact_a_stage(finished):
    for name in ("diff-sae", "crosscoder", "tuned-sae"):
        assert (finished / "dictionaries" / name / "weights.safetensors").is_file()
        assert pl.read_parquet(finished / "latents" / f"{name}.parquet").height == 256
        assert (finished / "causal" / f"{name}.parquet").is_file()
        assert (finished / "examples" / f"{name}.json").is_file()
    assert "<script" in (finished / "report" / "index.html").read_text(encoding="utf-8")
    assert not list(finished.rglob("*.tmp"))


def test_running_again_computes_nothing_again(finished, anaglyph, tiny_arguments, quick, few):
    def written() -> dict[str, int]:
        return {
            str(file): file.stat().st_mtime_ns
            for file in finished.rglob("*")
            if file.is_file() and "report" not in file.parts and file.name != "run.json"
        }

    before = written()
    options = ["--out", finished, "--layer", "1", *quick, *few, "--json"]
    said = anaglyph("diff", *tiny_arguments, *options)
    assert said.code == 0
    assert said.json["verdict"] == "difference found"
    assert written() == before


def test_each_stage_alone_gives_the_same_artifacts(
    finished, tmp_path, anaglyph, tiny_arguments, quick, few
):
    run = tmp_path / "run"
    options = ["--out", run, "--layer", "1", "--threads", "1", *few]
    assert anaglyph("collect", *tiny_arguments, *options).code == 0
    for method in ("diff-sae", "crosscoder", "tuned-sae"):
        assert anaglyph("train", run, "--method", method, *quick).code == 0
    for stage in ("behave", "score", "causal", "find"):
        said = anaglyph(stage, run)
        assert said.code == 0, said.err
    assert anaglyph("report", run).out.strip().endswith("index.html")
    assert artifacts(run) == artifacts(finished)


def test_a_pair_with_itself_has_no_difference(tmp_path, anaglyph, tiny_arguments):
    base = tiny_arguments[0]
    said = anaglyph("diff", base, base, *tiny_arguments[2:], "--out", tmp_path / "run", "--json")
    assert said.code == 0
    assert said.json["verdict"] == "no difference found"
    assert said.json["findings"] == []
    assert (tmp_path / "run" / "report" / "index.html").is_file()


@pytest.mark.slow
def test_rounded_weights_differ_and_no_change_is_named(
    tmp_path, anaglyph, quick, tiny_arguments, rounded
):
    base, _, *data = tiny_arguments
    said = anaglyph(
        "diff", base, rounded, *data, "--out", tmp_path / "run", "--layer", "1", *quick, "--json"
    )
    assert said.code == 0, said.err
    # The models do differ: nothing of it can be named, and the verdict says both.
    assert said.json["verdict"] == "difference found"
    assert said.json["findings"] == []
    assert said.json["like_noise"]
    assert "no single change could be told from random weight noise" in said.json["reason"]
    assert said.json["advice"]
    assert re.search(r"predictions differ by [\d.e-]*[1-9][\d.e-]* nats", said.json["reason"])


def test_a_change_in_later_layers_is_not_called_no_difference(tmp_path, anaglyph):
    """The adapter is cut down to the last layer; the diff looks at the first."""
    pair = tiny_pair()
    late = tmp_path / "late"
    shutil.copytree(pair.tuned, late)
    config = json.loads((late / "adapter_config.json").read_text())
    n_layers = json.loads((pair.base / "config.json").read_text())["num_hidden_layers"]
    config["layers_to_transform"] = [n_layers - 1]
    (late / "adapter_config.json").write_text(json.dumps(config))
    from safetensors.torch import load_file, save_file

    weights = load_file(late / "adapter_model.safetensors")
    kept = {name: w for name, w in weights.items() if f".layers.{n_layers - 1}." in name}
    save_file(kept, late / "adapter_model.safetensors", {"format": "pt"})
    run = tmp_path / "run"
    said = anaglyph(
        "diff", pair.base, late, "--data", pair.corpus[0], "--out", run, "--layer", "0", "--json"
    )
    assert said.code == 0, said.err
    assert said.json["verdict"] == "difference found"
    assert said.json["findings"] == []
    assert "later layers" in said.json["reason"]


def test_the_public_names_do_the_same(finished, tmp_path):
    pair = tiny_pair()
    models = ag.ModelPair.load(pair.base, pair.tuned)
    store = ag.collect(models, pair.corpus[0], layers=[1], out=tmp_path / "activations")
    dictionary = ag.train(store, method="diff-sae", latents=256, tokens=200_000, threads=1)
    trained = ag.Dictionary.load(finished / "dictionaries" / "diff-sae")
    assert dictionary.decoders.shape == trained.decoders.shape == (1, 256, store.d_tuned)
    found = ag.find(store, rate=0.1, seed=0, dictionaries={"diff-sae": dictionary})
    assert found
    assert all(isinstance(finding, ag.Finding) for finding in found)


@pytest.mark.slow
def test_killed_at_any_moment_it_goes_on_to_the_same_artifacts(
    finished, tmp_path, tiny_arguments, quick, few
):
    run = tmp_path / "run"
    command = [sys.executable, "-m", "anaglyph", "diff", *map(str, tiny_arguments)]
    command += ["--out", str(run), "--layer", "1", *quick, *few]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    kills, code = 0, None
    while code != 0:
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        # Each try is given two seconds more work than the one before, so that all stages are hit.
        deadline = time.monotonic() + 6 + 2 * kills
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        code = process.wait()
        assert kills < 60
    assert kills > 0
    assert artifacts(run) == artifacts(finished)
