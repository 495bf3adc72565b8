"""Public functions are given what they are not made for: one error of ours, which names it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import anaglyph as ag
from anaglyph.core.errors import AnaglyphError, InputError
from anaglyph.core.settings import BehaveSettings, FindSettings, TrainSettings, load_settings
from anaglyph.core.validation import validate
from anaglyph.demo import tiny_pair
from anaglyph.truth.planted import planted_settings

rng = np.random.default_rng(0)
BASE, TUNED = (rng.standard_normal((400, 6)).astype(np.float32) for _ in range(2))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ag.PairedStore:
    return ag.PairedStore.from_arrays(BASE, TUNED, tmp_path_factory.mktemp("store") / "s")


@pytest.fixture(scope="module")
def dic(store: ag.PairedStore) -> ag.Dictionary:
    return ag.train(store, latents=8, k=2, tokens=400, batch=200)


def refused(call: Callable[[], Any]) -> str:
    with pytest.raises(AnaglyphError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


ARRAYS: dict[str, Any] = {
    **{"integers": BASE.astype(int), "text": BASE.astype(str), "objects": BASE.astype(object)},
    **{"complex": BASE.astype(complex), "one row": BASE[0], "none": BASE[:0], "short": BASE[:9]},
    **{"a list": BASE.tolist(), "nothing": None, "a name": "base.npy"},
    "nan": np.where(BASE > 2, np.nan, BASE),
    "inf": np.where(BASE > 2, np.inf, BASE),
    "sparse": torch.from_numpy(BASE).to_sparse(),
    "without values": torch.empty(400, 6, device="meta"),
}


@pytest.mark.parametrize("layer", [-1, 1.5, "3", None])
def test_layers_of_a_store(tmp_path: Path, layer: Any):
    said = refused(lambda: ag.PairedStore.from_arrays(BASE, TUNED, tmp_path / "s", layer=layer))
    assert "layer is" in said


@pytest.mark.parametrize("name", ARRAYS)
def test_activations_of_every_wrong_sort(tmp_path: Path, dic: ag.Dictionary, name: str):
    odd = ARRAYS[name]
    for base, tuned in ((odd, TUNED), (BASE, odd)):
        refused(lambda b=base, t=tuned: ag.PairedStore.from_arrays(b, t, tmp_path / "s"))
        refused(lambda b=base, t=tuned: dic.encode(b, t))


NAMES: list[Any] = [None, 5, b"x", "a\0b", "x" * 5000, "\udcff", "no such folder"]


@pytest.mark.parametrize("name", NAMES, ids=lambda name: repr(name)[:12])
def test_names_of_nothing(name: Any):
    tiny = tiny_pair()
    refused(lambda: ag.PairedStore.open(name))
    refused(lambda: ag.Dictionary.load(name))
    refused(lambda: ag.ModelPair.load(name, tiny.tuned, local_files_only=True))
    refused(lambda: ag.ModelPair.load(tiny.base, name, local_files_only=True))
    if name != "no such folder":
        refused(lambda: ag.PairedStore.from_arrays(BASE, TUNED, name))


HUGE = 10**30
TRAINING = [
    *(("latents", value) for value in (0, -1, HUGE, "x", None, 1.5)),
    *(("batch", value) for value in (0, HUGE, None)),
    *(("tokens", value) for value in (0, -1, HUGE)),
    *(("k", value) for value in (0, -1, 9, float("nan"), float("inf"), "some", [])),
    *(("seed", value) for value in (-1, 1.5, "x", None)),
    *(("threads", value) for value in (0, -1, HUGE, "x", True, [])),
    *(("device", value) for value in (None, 0, "", "tpu", "cuda:99")),
    *(("method", value) for value in ("magic", None, [], {})),
    *(("options", value) for value in (1, "x", [1], {"colour": 1})),
    *(("lr", value) for value in (0, -1, float("nan"), "x")),
    *(("sparsity", value) for value in ("magic", None)),
]


@pytest.mark.parametrize(("name", "value"), TRAINING)
def test_settings_of_a_training(store: ag.PairedStore, name: str, value: Any):
    given: dict[str, Any] = {"latents": 8, "k": 2, "tokens": 400, "batch": 200, name: value}
    refused(lambda: ag.train(store, **given))


def test_things_that_are_not_what_is_asked_for(store: ag.PairedStore, dic: ag.Dictionary):
    things: list[Any] = [None, "run/activations", BASE]
    for odd in things:
        assert "store must be a PairedStore" in refused(lambda o=odd: ag.train(o))
        assert "store must be a PairedStore" in refused(lambda o=odd: ag.find(o))
        assert "store must be a PairedStore" in refused(lambda o=odd: ag.score(dic, o))
        assert "dic must be a Dictionary" in refused(lambda o=odd: ag.score(o, store))
        assert "codes must be a Codes" in refused(lambda o=odd: dic.decode(o))
        assert "pair must be a ModelPair" in refused(lambda o=odd: ag.behave(o))
        assert "pair must be a ModelPair" in refused(
            lambda o=odd: ag.collect(o, "builtin:demo", [1], "out")
        )


@pytest.mark.parametrize("rate", [0, 1, -1, 5, float("nan"), "x", None])
def test_rates_that_are_none(store: ag.PairedStore, rate: Any):
    assert "rate" in refused(lambda: ag.find(store, rate=rate))
    nobody: Any = None
    assert "rate" in refused(lambda: ag.behave(nobody, rate=rate))


@pytest.mark.parametrize("seed", [-1, 1.5, "x", None])
def test_seeds_that_are_none(store: ag.PairedStore, seed: Any):
    assert "seed" in refused(lambda: ag.find(store, seed=seed))


def test_prompts_and_layers_of_a_pair(tmp_path: Path):
    pair = ag.ModelPair.load(tiny_pair().base, tiny_pair().tuned)
    asked: list[Any] = ["What is a fox?", [], [None], [5]]
    for prompts in asked:
        refused(lambda p=prompts: ag.behave(pair, p, budget=2800))
    sources: list[Any] = [None, 5, [5], "nowhere.txt", []]
    for corpus in sources:
        refused(lambda c=corpus: ag.collect(pair, c, [1], tmp_path / "s"))
    places: list[Any] = [[], [99], [-1], ["1"], [None], 1, [float("nan")]]
    for layers in places:
        refused(lambda v=layers: ag.collect(pair, "builtin:demo", v, tmp_path / "s"))


COUNTS = [
    *((TrainSettings, name) for name in ("latents", "k", "batch", "tokens")),
    *((BehaveSettings, name) for name in ("budget", "reply_tokens", "most_claims")),
    *((FindSettings, name) for name in ("find_tokens", "trials", "candidates")),
]


@pytest.mark.parametrize(("kind", "name"), COUNTS)
def test_no_number_of_the_settings_is_beyond_counting(kind, name: str):
    """It would overflow deep in a library, or make a loop without end."""
    for value in (10**30, -(10**30), float("nan"), float("inf")):
        with pytest.raises(InputError, match=name):
            validate(kind, {name: value})


def test_other_numbers_beyond_counting():
    with pytest.raises(InputError, match="width"):
        planted_settings("easy", width=10**30)
    with pytest.raises(InputError, match="layer"):
        load_settings(layer=float("nan"))
