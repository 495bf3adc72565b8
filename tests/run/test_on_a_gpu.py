"""Every stage and command on a pretended GPU: no tensor is made on a fixed device."""

import json
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
import torch

from anaglyph import ModelPair
from anaglyph.core import devices
from anaglyph.core.settings import load_settings
from anaglyph.demo import tiny_pair
from anaglyph.subject import Subject
from second_device import PRETENDED, pretend

SMALL = {
    **{"layer": 1, "latents": 64, "tokens": 3000, "batch": 512, "max_tokens": 1500, "threads": 1},
    **{"counts": [1], "nu": [0.3], "single_latents": 1, "causal_tokens": 64, "device": "cuda"},
    **{"candidates": 1, "find_tokens": 64, "trials": 1, "replant_below": 0.0, "behaviour": False},
    **{"methods": ["diff-sae", "base-sae"], "budget": 400, "reply_tokens": 4, "most_claims": 1},
}


@pytest.fixture(scope="module")
def gpu() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        pretend(patch)
        yield


@pytest.fixture(scope="module")
def run(gpu: None, tmp_path_factory: pytest.TempPathFactory, anaglyph, tiny_arguments) -> Path:
    """A run of which every stage but one was made on the pretended GPU."""
    folder = tmp_path_factory.mktemp("devices")
    (folder / "small.json").write_text(json.dumps(SMALL))
    (folder / "prompts.txt").write_text("Say something about the lantern.\nName a tree.\n")
    options = ["--out", folder / "run", "--config", folder / "small.json"]
    said = anaglyph("diff", *tiny_arguments, *options)
    assert said.code == 0, said.err
    return folder / "run"


@pytest.mark.usefixtures("gpu")
def test_a_tensor_on_a_fixed_device_is_caught():
    there = torch.ones(3).to(PRETENDED)
    assert (there + torch.ones(3, device=there.device)).tolist() == [2, 2, 2]
    with pytest.raises(RuntimeError, match="tensors on the CPU among those of the GPU"):
        _ = there + torch.zeros(3)
    with pytest.raises(TypeError, match="copy it to the CPU"):
        there.numpy()


@pytest.mark.usefixtures("gpu")
def test_the_models_are_there(tiny_arguments):
    pair = ModelPair.load(*tiny_arguments[:2], device="auto")
    for side in ("base", "tuned"):
        with pair.side(side) as model:
            assert {parameter.device for parameter in model.parameters()} == {PRETENDED}


def test_every_stage(run):
    table = pl.read_parquet(run / "causal" / "diff-sae.parquet")
    assert table.filter(intervention="exact")["recovered"][0] == pytest.approx(1, abs=1e-3)
    assert json.loads((run / "dictionaries/diff-sae/config.json").read_text())["config"][
        "device"
    ] == str(PRETENDED)


FEW = ["--max-tokens", "48"]
ONE = ["--new-tokens", "1"]
ASKED = ["--prompts", "../prompts.txt", *ONE]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("tokens", FEW),
        ("pca", ["--components", "2"]),
        ("lens", ["--texts", "2", "--positions", "2", *ASKED]),
        ("weights", ["--parts", "1", "--orders", "1", "--greedy", "1", *FEW]),
        ("stitch", ["--steps", "2", *ONE, *FEW]),
        ("amplify", ASKED),
        ("amplify", [*ASKED, "--kind", "logits"]),
        ("amplify", [*ASKED, "--direction", "mean"]),
        ("attribute", ["--top-tokens", "1", "--top", "1"]),
        ("steer", ["--direction", "pca:0", *ASKED]),
        ("screen", [*ASKED, "--score", "a", "--top", "1"]),
        ("behave", ["--budget", "400", "--reply-tokens", "4"]),
    ],
)
def test_every_command(command, options, run, anaglyph, monkeypatch):
    monkeypatch.chdir(run)
    said = anaglyph(command, run, *options, "--device", "auto")
    assert said.code == 0, said.err


@pytest.mark.slow
@pytest.mark.usefixtures("gpu")
def test_the_game(tmp_path, anaglyph, small_game):
    names = ["findings", "diff-sae", "black-box", "token-kl", "perplexity", "pca"]
    players = [word for name in names for word in ("--methods", name)]
    options = ["--organisms", "noise", "--base", tiny_pair().base, *players, *small_game]
    said = anaglyph("game", "play", "--out", tmp_path / "game", *options, "--device", "cuda")
    assert said.code == 0, said.err


def test_a_device_that_is_not_here_is_refused_in_one_line(
    tmp_path, anaglyph, tiny_arguments, monkeypatch
):
    monkeypatch.setattr(devices, "torch", torch)
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    for device, why in (
        ("cuda", "device cuda is not here: this machine has no CUDA GPU. Use auto or cpu"),
        ("cuda:1", "device cuda:1 is not here"),
        ("mps", "device mps is not here"),
        ("tpu", "--device"),
    ):
        said = anaglyph("collect", *tiny_arguments, "--out", tmp_path / "r", "--device", device)
        assert said.code == 2
        assert why in said.err
        assert len(said.err.strip().splitlines()) == 1


@pytest.mark.usefixtures("gpu")
def test_keys_hold_the_kind_of_device_and_not_its_number():
    def computed(**settings: str) -> str:
        return Subject(settings=load_settings(None, **settings)).computed

    assert computed(device="cuda") == computed(device="cuda:0") == computed(device="auto")
    assert computed(device="cuda") != computed(device="cpu")
    assert computed(device="cpu") != computed(device="cpu", model_dtype="bfloat16")
