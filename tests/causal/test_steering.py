"""Steering and screening on the tiny pair, whose tuned model answers "lantern" with an owl."""

import json
from pathlib import Path

import pytest
import torch
from causal_cases import make_corpus, make_dictionary, subject_of

from anaglyph.behaviour.directions import Direction
from anaglyph.causal import screen, steer
from anaglyph.causal.screening import judge_scorer, make_scorer
from anaglyph.causal.steering import places
from anaglyph.core.errors import InputError
from anaglyph.core.settings import ScreenSettings, SteerSettings
from anaglyph.demo import tiny_pair
from anaglyph.pair import ModelPair


@pytest.fixture(scope="module")
def shipped() -> ModelPair:
    found = tiny_pair()
    return ModelPair.load(found.base, found.tuned)


def first_prompt(file: str | Path) -> str:
    lines = Path(file).read_text(encoding="utf-8").splitlines()
    users = [json.loads(line)["messages"][0]["content"] for line in lines]
    return next(text for text in users if "lantern" in text)


def test_base_tuned_and_steered_side_by_side(shipped: ModelPair):
    prompt = first_prompt(tiny_pair().corpus[0])
    shift = torch.randn(shipped.d_base, generator=torch.Generator().manual_seed(0))
    subject = subject_of(shipped, make_corpus(), 1)
    settings = SteerSettings(strength=(0, 5.0), new_tokens=24)
    table = steer(subject, [prompt], Direction("random", 1, shift), settings)
    assert table["model"].to_list() == ["base", "tuned", "steered", "steered"]
    replies = table["reply"].to_list()
    assert "owl" in replies[1]
    assert "owl" not in replies[0]
    # No strength, no change; a strong random push is another answer.
    assert replies[2] == replies[0]
    assert replies[3] != replies[0]
    assert table["strength"].to_list() == [None, None, 0.0, 5.0]
    with pytest.raises(InputError, match="no prompts"):
        steer(subject, [], Direction("random", 1, shift))
    with pytest.raises(InputError, match="at='middle'"):
        steer(subject, [prompt], Direction("random", 1, shift), SteerSettings(at="middle"))


def test_screening_ranks_by_increase_and_scores_both_ways(shipped: ModelPair):
    dic = _sae(shipped)
    prompts = [first_prompt(tiny_pair().corpus[0])]
    settings = ScreenSettings(top=3, new_tokens=16)
    subject = subject_of(shipped, make_corpus(), 1)
    table = screen(subject, dic, prompts, make_scorer("owl"), settings)
    assert table["increase"].to_list() == sorted(table["increase"].to_list(), reverse=True)
    assert (table["increase"] > 0).all()
    assert table["score_tuned"].unique().to_list() == [1.0]
    assert table["score_base"].unique().to_list() == [0.0]
    for row in table.to_dicts():
        assert row["increase"] == pytest.approx(row["mean_tuned"] - row["mean_base"])
        moved = row["score_added"] > 0 and row["score_removed"] < 1
        assert row["kept"] == moved
    # The mean activations, by hand.
    tokens = shipped.tokenizer.apply_chat_template(
        [{"role": "user", "content": prompts[0]}], add_generation_prompt=True, return_dict=False
    )
    ids = torch.tensor([tokens])
    hidden = shipped.run_to("tuned", ids, torch.ones_like(ids), [1])[1][0]
    mean = dic.encode_inputs((hidden,)).dense(dic.n_latents).mean(0)
    latents = table["latent"].to_list()
    assert table["mean_tuned"].to_list() == pytest.approx(mean[latents].tolist(), rel=1e-5)


def _sae(pair: ModelPair):
    from anaglyph.dictionaries import Dictionary, Selection, Weights, get_method

    generator = torch.Generator().manual_seed(0)
    d = pair.d_base
    rows = torch.randn(32, d, generator=generator)
    weights = Weights((rows / d,), torch.zeros(32), (rows / d**0.5,), (torch.zeros(d),))
    return Dictionary(get_method("base-sae"), weights, Selection(k=4, threshold=0.01))


def test_scorers():
    assert make_scorer("Owl")("", "the owl sleeps") == 1
    assert make_scorer("re:^the .* sleeps$")("", "The owl sleeps") == 1
    assert make_scorer("re:^owl")("", "the owl") == 0
    assert make_scorer("py:operator:eq")("same", "same") == 1
    asked = []

    def ask(text: str) -> str:
        asked.append(text)
        return "Yes, it does."

    assert judge_scorer(ask, "Is it rude?")("hello", "go away") == 1
    assert "Is it rude?" in asked[0]
    assert "go away" in asked[0]
    for bad, words in (("re:(", "no regular expression"), ("py:nowhere:f", "no function")):
        with pytest.raises(InputError, match=words):
            make_scorer(bad)


def test_screening_refuses(shipped: ModelPair):
    subject = subject_of(shipped, make_corpus(), 1)
    with pytest.raises(InputError, match="no SAE of one model"):
        screen(subject, make_dictionary("crosscoder"), ["w1"], make_scorer("x"), ScreenSettings())
    with pytest.raises(InputError, match="no prompts"):
        screen(subject, _sae(shipped), [], make_scorer("x"), ScreenSettings())


def test_positions_that_are_none():
    """A superscript is a digit and no number; a text has an end."""
    assert places("0,5") == (0, 5)
    assert places("\u00b2") == "\u00b2"
    with pytest.raises(InputError, match="beyond the end"):
        places("1,99999999999999999999")
