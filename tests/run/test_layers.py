"""A run of several layers: chosen by rule, kept, resumed, verified and repaired like the rest."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from anaglyph.core.errors import InputError
from anaglyph.core.files import read_json
from anaglyph.core.settings import load_settings
from anaglyph.corpus import load_corpus
from anaglyph.demo import tiny_pair
from anaglyph.pair import ModelPair
from anaglyph.report.data import gather
from anaglyph.run import layers as choosing
from anaglyph.run import plan as planning
from anaglyph.run.layers import Readable, choose
from anaglyph.subject import Subject

SMALL = ["--max-tokens", "3000", "--threads", "1"]


def readable(*values: float) -> list[Readable]:
    return [Readable(layer=i, formed=9, readable=x, mean=0) for i, x in enumerate(values)]


@pytest.mark.parametrize(
    ("values", "layers"),
    [
        ((0.0, 1.0, 2.0, 4.0), (2, 3, 1)),  # half, three quarters, a quarter
        ((0.0, 3.9, 4.0, 2.0), (1,)),  # all at once
        ((2.0, 2.5, 3.0, 4.0), (0, 2)),
        ((-1.0, 0.0, 0.0), (1,)),  # nothing anywhere: the middle
    ],
)
def test_layers_by_hand(values: tuple[float, ...], layers: tuple[int, ...]):
    chosen, reason = choose(readable(*values))
    assert chosen == layers
    assert f"layer {layers[0]}" in reason


@pytest.mark.parametrize(
    ("given", "layers"),
    [
        (["5,10,0.5"], (5, 10, 0.5)),
        (["5", "10"], (5, 10)),
        ("auto", ("auto",)),
        ([3], (3,)),
    ],
)
def test_layers_are_divided_by_commas(given: Any, layers: tuple[Any, ...]):
    assert load_settings(layers=given).collect.layers == layers


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"layers": "auto,5"}, "auto chooses all of them"),
        ({"layers": "5,x"}, "must be a number or auto"),
        ({"layers": "5", "layer": 3}, "either layer or layers"),
    ],
)
def test_layers_that_make_no_sense_are_named(given: dict[str, Any], message: str):
    with pytest.raises(InputError, match=message):
        load_settings(**given)


@pytest.fixture(scope="module")
def run(
    tmp_path_factory: pytest.TempPathFactory,
    anaglyph: Callable[..., Any],
    tiny_arguments: list[str | Path],
    few: list[str],
) -> Path:
    """A run whose layers were chosen, searched at all of them; tests leave it as it is."""
    folder = tmp_path_factory.mktemp("layers") / "run"
    options = ["--out", folder, "--layers", "auto", *SMALL, *few]
    said = anaglyph("collect", *tiny_arguments, *options)
    assert said.code == 0, said.err
    assert "--layers auto: layer 1 " in said.out
    said = anaglyph("find", folder)
    assert said.code == 0, said.err
    assert "(layer 0)" in said.out
    assert "(layer 1)" in said.out
    return folder


def test_the_choice_is_kept_with_what_was_measured(run: Path):
    state, chosen = read_json(run / "run.json"), read_json(run / "layers.json")
    assert chosen["layers"] == state["layers"]
    assert state["layer"] == state["layers"][0]
    # Of the four blocks' outputs the last is left out.
    assert [each["layer"] for each in chosen["measured"]] == [0, 1, 2]
    assert "layers.json" in state["stages"]["collect"]["outputs"]
    manifest = read_json(run / "activations" / "manifest.json")
    assert manifest["layers"] == sorted(state["layers"])


def test_findings_say_at_which_layers_they_are(run: Path):
    verdict, state = read_json(run / "findings.json"), read_json(run / "run.json")
    found = [*verdict["findings"], *verdict["like_noise"]]
    assert {layer for each in found for layer in each["layers"]} == set(state["layers"])
    for each in found:
        own = [at["layer"] for at in each["depth"]]
        assert own == sorted(set(own))
        assert set(each["layers"]) <= set(own)
        # Latents are of the run's dictionaries, which other layers do not have.
        assert not each["latents"] or each["layers"][0] == state["layer"]
    for each in verdict["findings"]:
        assert min(at["q_value"] for at in each["depth"] if at["q_value"] is not None) <= 0.1


def test_the_same_command_measures_nothing_again(
    run: Path,
    anaglyph: Callable[..., Any],
    tiny_arguments: list[str | Path],
    few: list[str],
    monkeypatch: pytest.MonkeyPatch,
):
    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("measured again")

    before = (run / "run.json").read_bytes()
    monkeypatch.setattr(choosing, "layer_sweep", refuse)
    options = ["--out", run, "--layers", "auto", *SMALL, *few]
    assert anaglyph("collect", *tiny_arguments, *options).code == 0
    assert (run / "run.json").read_bytes() == before


@pytest.mark.parametrize("name", ["layers.json", "activations/shard-00000.safetensors"])
def test_what_is_damaged_is_named_and_repaired(run: Path, anaglyph: Callable[..., Any], name: str):
    whole = bytearray((run / name).read_bytes())
    assert anaglyph("verify", run).code == 0
    place = len(whole) // 2
    (run / name).write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    said = anaglyph("verify", run, "--json")
    assert said.code == 1
    (damage,) = json.loads(said.out)["damage"]
    assert damage["file"] == name
    assert anaglyph(*damage["repair"].split()[1:]).code == 0
    assert (run / name).read_bytes() == whole
    assert anaglyph("verify", run).code == 0


def test_layers_are_chosen_on_texts_in_which_predictions_differ(monkeypatch: pytest.MonkeyPatch):
    """Of the tiny pair those are the chats with its trigger."""
    tiny = tiny_pair()
    pair = ModelPair.load(tiny.base, tiny.tuned, device="cpu")
    corpus = load_corpus([tiny.corpus[0]], pair.tokenizer, context=256)
    monkeypatch.setattr(choosing, "TOKENS", 200)
    fitted, judged = choosing._where_they_differ(Subject.of(pair=pair, corpus=corpus))
    assert not set(fitted) & set(judged)
    for sequence in (*fitted, *judged):
        ids, _ = corpus.sequence(int(sequence))
        assert "lantern" in "".join(pair.token_strings(ids.tolist()))
    assert corpus.lengths[judged].sum() <= 2 * 200


def test_the_page_says_where_and_leaves_directions_out(run: Path):
    shown = gather(run)
    for each in [*shown["findings"], *shown["like_noise"]]:
        assert each["depth"]
        assert all("direction" not in at for at in each["depth"])


def test_the_layers_of_a_run_are_fixed(run: Path, anaglyph: Callable[..., Any]):
    said = anaglyph("diff", run, "--layers", "1,3")
    assert said.code == 2
    assert "--layers is for two models" in said.err


def test_a_steered_finding_is_put_in_at_its_own_layer(run: Path):
    from anaglyph.behaviour.directions import read_direction
    from anaglyph.run import Run

    opened = Run.reopen(run)
    for number, finding in enumerate(opened.verdict.findings, 1):
        direction = read_direction(f"finding:{number}", opened.subject.layer, opened.held)
        assert direction.layer == finding.layers[0]


def test_one_of_layers_is_a_layer(
    run: Path,
    tmp_path: Path,
    anaglyph: Callable[..., Any],
    tiny_arguments: list[str | Path],
    few: list[str],
):
    """Named once, `--layers` writes what `--layer` writes; the first is that of dictionaries."""
    keys, state = {}, {}
    options = {"a": ["--layer", "1"], "b": ["--layers", "1"], "c": ["--layers", "2,1"]}
    for name, own in options.items():
        out = tmp_path / name
        said = anaglyph("collect", *tiny_arguments, "--out", out, *own, *SMALL, *few)
        assert said.code == 0, said.err
        state = read_json(out / "run.json")
        keys[name] = state["stages"]["collect"]["key"]
        assert state["layer"] == state["layers"][0]
    assert keys["a"] == keys["b"] == read_json(tmp_path / "a" / "activations/manifest.json")["key"]
    assert state["layers"] == [2, 1]
    said = anaglyph("train", tmp_path / "c", "--latents", "16", "--tokens", "4096")
    assert said.code == 0, said.err
    assert read_json(tmp_path / "c" / "dictionaries/diff-sae/config.json")["config"]["layer"] == 2


def test_the_plan_counts_every_layer():
    shape = planning.Shape(layers=10, width=100, vocabulary=1000, parameters=2_000_000, block=1e5)
    machine = planning.Machine("m", 1e9, 1e9, 1e15, host_bytes=1e12)
    costs = {}
    asked = {"one": {"layer": 7}, "all": {"layers": "7,5,2"}, "auto": {"layers": "auto"}}
    for name, given in asked.items():
        found = planning.plan((shape, shape), 50_000, load_settings(None, **given), machine)
        costs[name] = {cost.stage: cost for cost in found.stages}
    one, several = costs["one"], costs["all"]
    assert several["collect"].seconds == one["collect"].seconds
    assert several["collect"].disk == 50_000 * (3 * 200 * 4 + 5)
    assert one["find"].seconds < several["find"].seconds < 3 * one["find"].seconds
    assert several["train/diff-sae"] == one["train/diff-sae"]
    assert "layers" in costs["auto"]
    assert "layers" not in several
