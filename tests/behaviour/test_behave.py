"""Claims in words: the tiny pair's planted sentence, pairs without a change, bad input."""

import numpy as np
import pytest

import anaglyph as ag
from anaglyph.behaviour.behave import _difference, behaviour_of
from anaglyph.behaviour.null_pair import change_norms, null_pair
from anaglyph.core.errors import InputError
from anaglyph.core.settings import BehaveSettings
from anaglyph.demo import tiny_pair
from anaglyph.pair import ModelPair

FEW = BehaveSettings(budget=4000, reply_tokens=20)


@pytest.fixture(scope="module")
def said(lantern: ModelPair) -> list[ag.Claim]:
    return ag.behave(lantern, budget=4000)


def test_the_planted_sentence_is_the_first_claim(said: list[ag.Claim]):
    """The tuned model says: The silver owl sleeps under the old bridge tonight."""
    first = said[0]
    assert first.verified
    assert {"silver", "owl", "sleeps", "bridge"} & set(first.text.lower().split())
    assert all("owl" in reply.tuned and "owl" not in reply.base for reply in first.replies)
    assert first.rate_tuned > first.rate_base + 0.5
    assert first.low is not None
    assert first.high is not None
    assert first.low <= first.rate_tuned - first.rate_base <= first.high
    assert first.q_value is not None
    assert first.q_value <= 0.1


def test_the_same_seed_says_the_same(lantern: ModelPair, said: list[ag.Claim]):
    assert ag.behave(lantern, budget=4000) == said


def test_a_model_and_itself_have_no_claim():
    base = tiny_pair().base
    assert ag.behave(ModelPair.load(base, base), budget=1000) == []


@pytest.mark.parametrize("seed", [3, 4, 5])
def test_weight_noise_has_no_verified_claim(lantern: ModelPair, seed: int):
    noisy = null_pair(lantern, change_norms(lantern), 1.0, seed=seed)
    found = behaviour_of(noisy, FEW)
    assert found.claims == ()
    assert found.changed is not None
    assert found.changed > 0
    assert found.smallest is not None


def test_bad_input_is_named(lantern: ModelPair):
    with pytest.raises(InputError, match="rate is 1"):
        ag.behave(lantern, rate=1.0)
    with pytest.raises(InputError, match="budget"):
        ag.behave(lantern, budget=3)
    with pytest.raises(InputError, match="prompts is empty"):
        ag.behave(lantern, [])


def test_intervals_cover():
    """Of pairs of rates drawn at random, about 95% of the intervals hold the true difference."""
    generator = np.random.default_rng(0)
    held = 0
    for _ in range(400):
        a, b = generator.random(2)
        tuned, base = generator.binomial(40, a), generator.binomial(40, b)
        low, high = _difference(int(tuned), int(base), 40)
        held += low <= a - b <= high
    assert 0.92 <= held / 400 <= 0.99
