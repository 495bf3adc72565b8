"""The plan: shapes from a config alone, formulas by hand, and a refusal of what does not fit."""

import json
import time
from pathlib import Path

import pytest

from anaglyph import ModelPair
from anaglyph.core.errors import InputError, ModelError
from anaglyph.core.settings import load_settings
from anaglyph.demo import tiny_pair
from anaglyph.run import plan as planning
from anaglyph.run.plan import (
    Machine,
    Shape,
    before_running,
    described,
    plan,
    shape_of,
    tokens_of,
)

LLAMA_8B = {
    **{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 4096},
    **{"intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32},
    **{"num_key_value_heads": 8, "vocab_size": 128256, "tie_word_embeddings": False},
}


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    """A folder that holds nothing but a configuration."""
    (tmp_path / "config.json").write_text(json.dumps(LLAMA_8B))
    return tmp_path


def test_a_shape_needs_the_configuration_only(llama):
    shape = shape_of(llama)
    assert shape == shape_of(llama / "config.json")
    assert shape.parameters == 8_030_261_248  # as published
    assert (shape.layers, shape.width, shape.vocabulary) == (32, 4096, 128256)
    attention, feed = 2 * 4096 * 4096 + 2 * 4096 * 1024, 3 * 4096 * 14336
    assert shape.block == pytest.approx(attention + feed + 2 * 4096, rel=1e-4)


def test_the_shape_of_a_real_pair():
    base = tiny_pair().base
    with ModelPair.load(base, base, device="cpu").side("base") as model:
        assert shape_of(base).parameters == model.num_parameters()


def test_no_model_is_one_clear_line(tmp_path):
    with pytest.raises(ModelError, match="cannot read the shape of"):
        shape_of(tmp_path)


def stages(found: planning.Plan) -> dict[str, planning.Cost]:
    return {cost.stage: cost for cost in found.stages}


def test_the_formulas_by_hand():
    shape = Shape(layers=10, width=100, vocabulary=1000, parameters=2_000_000, block=150_000.0)
    machine = Machine("m", model_flops=1e9, train_flops=1e9, bandwidth=1e15, host_bytes=1e12)
    settings = load_settings(
        None, layer=4, latents=1000, tokens=20_480, batch=2048, k=10, methods=["crosscoder"]
    )
    found = stages(plan((shape, shape), 50_000, settings, machine))
    # Two models, five blocks, two operations a parameter, and attention over half the context.
    work = 2 * 5 * (2 * 150_000 + 2 * 128 * 100)
    assert found["collect"].seconds == pytest.approx(50_000 * work / 1e9)
    assert found["collect"].disk == 50_000 * (200 * 4 + 5)
    encoder = 10 * 2 * 2048 * 1000 * 200 / 1e9
    assert found["train/crosscoder"].seconds == pytest.approx(encoder, rel=1e-2)
    # Weights, gradient and two moments of encoder and decoder, in float32.
    assert found["train/crosscoder"].memory - planning.HOST_BYTES > 2 * 1000 * 200 * 16
    small = stages(plan((shape, shape), 50_000, settings, machine, one_copy=True))
    assert small["load"].memory < found["load"].memory


def test_a_stream_bounds_the_disk():
    shape = Shape(layers=26, width=2304, vocabulary=256_000, parameters=2 * 10**9, block=7e7)
    machine = described("h100", 1, load_settings())
    posts = {"latents": 73_728, "tokens": 100_000_000, "dtype": "bfloat16", "layer": 13}
    full, stream = (
        plan((shape, shape), 100_000_000, load_settings(None, **posts, store=store), machine)
        for store in ("disk", "stream")
    )
    assert stages(full)["collect"].disk == pytest.approx(922e9, rel=0.01)
    assert stages(stream)["collect"].disk == pytest.approx(18.4e9, rel=0.01)
    assert "stream" in stages(stream)


def test_what_does_not_fit_is_refused_in_one_line(tmp_path, monkeypatch, tiny_arguments):
    base, tuned, *_ = map(str, tiny_arguments)
    run, small = tmp_path / "run", load_settings(None, latents=64)
    assert before_running(base, tuned, [], run, small) is None
    monkeypatch.setattr(planning, "tokens_of", lambda data, most: 10**12)
    with pytest.raises(InputError, match=r"the run needs .* of disk and .* are free: use --store"):
        before_running(base, tuned, [], run, small)
    monkeypatch.setattr(planning, "tokens_of", lambda data, most: 10_000)
    with pytest.raises(InputError, match=r"stage train/.* needs .* of memory and there are"):
        before_running(base, tuned, [], run, load_settings(None, batch=2**33))


def test_the_command(anaglyph, llama):
    described = ["--gpus", "8", "--gpu", "h100", "--text-tokens", "100000000"]
    said = anaglyph("plan", llama, llama, *described, "--model-dtype", "bfloat16", "--json")
    assert said.code == 0, said.err
    assert said.json["machine"]["devices"] == 8
    assert {"seconds", "memory_bytes", "disk_bytes", "stages", "notes"} <= set(said.json)
    said = anaglyph("plan", llama, llama, "--gpu", "b9000")
    assert said.code == 2
    assert "gpu 'b9000' is unknown: use one of h200, h100" in said.err
    said = anaglyph("plan", tiny_pair().base, tiny_pair().tuned, "--data", tiny_pair().corpus[0])
    assert said.code == 0, said.err
    assert "this machine" in said.out


@pytest.mark.parametrize(
    "changes",
    [
        {"num_hidden_layers": 10_000_000},
        {"num_hidden_layers": 4000},
        {"num_hidden_layers": 10**18},
        {"num_hidden_layers": 0},
        {"num_attention_heads": 0},
        {"hidden_size": 10**12},
        {"rope_theta": float("inf")},
        {"model_type": 7},
    ],
    ids=str,
)
def test_a_shape_that_nobody_has_is_refused_soon(tmp_path: Path, changes):
    """A plan is made before the models are looked at, so it looks at their numbers itself."""
    config = json.loads((tiny_pair().base / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | changes))
    start = time.process_time()
    with pytest.raises(ModelError) as refused:
        shape_of(tmp_path)
    assert time.process_time() - start < 5
    assert "\n" not in str(refused.value)


def test_a_configuration_without_end_is_refused(tmp_path: Path):
    (tmp_path / "config.json").write_text("[" * 200_000)
    with pytest.raises(ModelError):
        shape_of(tmp_path)


def test_text_that_is_not_there(tmp_path, anaglyph):
    """It was planned as if it were a data set of the hub; a pattern was too."""
    pair = tiny_pair()
    for name in ("missing.jsonl", "*.nothing", str(tmp_path)):
        said = anaglyph("plan", pair.base, pair.tuned, "--data", name)
        assert said.code == 2, name
        assert name in said.err
    for number in (1, 2):
        (tmp_path / f"{number}.txt").write_text("word " * 2000)
    assert tokens_of([f"{tmp_path}/*.txt"], None) == tokens_of([str(tmp_path)], None) == 5000
