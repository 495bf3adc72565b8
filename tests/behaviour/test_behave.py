"""Claims in words: the tiny pair's planted sentence, pairs without a change, bad input."""

import numpy as np
import pytest
import torch

import anaglyph as ag
from anaglyph.behaviour.behave import _first_prompts, _Search, _with_questions, behaviour_of
from anaglyph.behaviour.mixture import Mixer, Shares
from anaglyph.behaviour.null_pair import change_norms, null_pair
from anaglyph.behaviour.verify import Condition
from anaglyph.core.errors import InputError
from anaglyph.core.progress import silent
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


def test_questions_are_left_to_verify_by_however_large_the_budget(
    lantern: ModelPair, monkeypatch: pytest.MonkeyPatch
):
    search = _Search(lantern, BehaveSettings(budget=10**9), 0, silent)
    monkeypatch.setattr(search, "amplify", lambda _: [])
    monkeypatch.setattr(search, "apart", lambda prompts: np.zeros(len(prompts)))
    for own in (None, ["Who are you?"]):
        asked = _first_prompts(search, own)
        assert len(asked.general) > 50
        assert not set(asked.general) & set(asked.first)


@pytest.mark.parametrize("budget", [2000, 2500])
def test_the_budget_holds(lantern: ModelPair, budget: int):
    settings = BehaveSettings(budget=budget, reply_tokens=20)
    assert 0 < behaviour_of(lantern, settings).generated <= budget


def test_bad_input_is_named(lantern: ModelPair):
    with pytest.raises(InputError, match="rate is 1"):
        ag.behave(lantern, rate=1.0)
    with pytest.raises(InputError, match="budget"):
        ag.behave(lantern, budget=3)
    with pytest.raises(InputError, match="too small for replies of 28"):
        ag.behave(lantern, budget=2799)
    with pytest.raises(InputError, match="prompts is empty"):
        ag.behave(lantern, [])


def test_a_null_pair_is_amplified_and_compared_with_noise_like_any_other(lantern: ModelPair):
    noisy = null_pair(lantern, change_norms(lantern), 1.0, seed=3)
    norms = change_norms(noisy)
    assert norms == pytest.approx(change_norms(lantern), rel=1e-4)
    ids = torch.arange(8)[None]
    mask = torch.ones_like(ids)
    base, tuned = (noisy.logits(side, ids, mask) for side in ("base", "tuned"))
    mixer = Mixer(noisy)
    for alpha, wanted in ((0.0, base), (1.0, tuned)):
        with mixer.model(Shares.everywhere(noisy.n_layers, alpha)) as model, torch.no_grad():
            torch.testing.assert_close(model(ids).logits, wanted)
    with mixer.model(Shares.everywhere(noisy.n_layers, 2.0)) as model, torch.no_grad():
        assert not torch.allclose(model(ids).logits, tuned)
    torch.testing.assert_close(noisy.logits("base", ids, mask), base)


def test_questions_that_found_a_claim_do_not_verify_it():
    topic = Condition("about the lantern", "the lantern", ("One?", "Two?", "Three?"))
    written = {"the lantern": ["Who laid it?", "Is it old?"]}
    (found, nothing) = _with_questions([topic, None], written, ["Who laid it?"])
    assert found is not None
    assert found.prompts == ("One?", "Two?", "Is it old?")
    assert nothing is None
    assert _with_questions([topic], {}, []) == [topic]
