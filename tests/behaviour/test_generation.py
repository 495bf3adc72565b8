"""Our own generation against that of transformers, and what may not change a reply."""

from typing import Any

import numpy as np
import pytest
import torch
from direct_cases import save_whole
from scipy.stats import chi2
from tiny_models import FAMILIES, VOCABULARY

from anaglyph.behaviour.generate import (
    added,
    continue_prompts,
    contrast_stepper,
    model_stepper,
    side_stepper,
)
from anaglyph.core.errors import InputError
from anaglyph.pair import ModelPair

PROMPTS = [
    np.random.default_rng(seed).integers(0, VOCABULARY, length)
    for seed, length in enumerate((3, 7, 1, 5, 7))
]


def greedy(make, prompts=PROMPTS, **settings):
    settings = {"new_tokens": 8, "ends": [], **settings}
    return continue_prompts(make, prompts, **settings)


def slow(model, prompt, new_tokens=8):
    """Greedy without cache or padding."""
    ids = torch.from_numpy(prompt)[None]
    for _ in range(new_tokens):
        with torch.no_grad():
            following = model(ids, use_cache=False).logits[:, -1].argmax(-1)
        ids = torch.cat([ids, following[:, None]], dim=1)
    return ids[0, len(prompt) :].tolist()


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_batches_with_a_cache_equal_one_by_one_without(tmp_path, family):
    pair = ModelPair.load(*save_whole(tmp_path, family))
    sides: Any = ("base", "tuned")
    for side in sides:
        with pair.side(side) as model:
            wanted = [slow(model, prompt) for prompt in PROMPTS]
        assert greedy(lambda side=side: side_stepper(pair, side), batch=3) == wanted


def test_an_end_token_closes_a_reply(pair):
    whole = greedy(lambda: side_stepper(pair, "base"))
    end = whole[1][3]
    cut = greedy(lambda: side_stepper(pair, "base"), ends=[end])
    for reply, full in zip(cut, whole, strict=True):
        assert reply == (full[: full.index(end)] if end in full else full)


def test_logit_amplification_ends_at_the_two_models(pair):
    ends: Any = ((0, "tuned"), (-1, "base"))
    for alpha, side in ends:
        contrast = greedy(lambda alpha=alpha: contrast_stepper(pair, alpha))
        assert contrast == greedy(lambda side=side: side_stepper(pair, side))


def test_logit_amplification_by_hand(pair):
    prompt = torch.from_numpy(PROMPTS[0])[None]
    mask = torch.ones_like(prompt)
    tuned, base = (pair.logits(side, prompt, mask)[:, -1] for side in ("tuned", "base"))
    positions = torch.arange(prompt.shape[1])[None]
    with torch.no_grad():
        found = contrast_stepper(pair, 2.5)(prompt, mask, positions)
    torch.testing.assert_close(found, tuned + 2.5 * (tuned - base))


def test_samples_follow_the_distribution_and_the_seed(pair):
    prompts = [PROMPTS[0]] * 600
    make = lambda: side_stepper(pair, "tuned")  # noqa: E731
    settings = {"new_tokens": 1, "temperature": 1.5, "batch": 600}
    first = greedy(make, prompts, seed=1, **settings)
    assert first == greedy(make, prompts, seed=1, **{**settings, "batch": 150})
    assert first != greedy(make, prompts, seed=2, **settings)
    ids = torch.from_numpy(PROMPTS[0])[None]
    logits = pair.logits("tuned", ids, torch.ones_like(ids))[0, -1]
    wanted = (logits / 1.5).softmax(-1).numpy()
    found = np.bincount([reply[0] for reply in first], minlength=VOCABULARY)
    statistic = ((found - 600 * wanted) ** 2 / (600 * wanted)).sum()
    assert statistic < chi2.ppf(0.999, VOCABULARY - 1)


def test_steering_with_a_cache_equals_steering_without(pair):
    vector = 4 * torch.randn(pair.d_tuned, generator=torch.Generator().manual_seed(0))
    before = greedy(lambda: side_stepper(pair, "base"))
    with added(pair, "base", 1, vector), pair.side("base") as model:
        wanted = [slow(model, prompt) for prompt in PROMPTS]
        assert greedy(lambda: model_stepper(model), batch=2) == wanted
    assert wanted != before
    assert greedy(lambda: side_stepper(pair, "base")) == before


def test_bad_settings_are_named(pair):
    with pytest.raises(InputError, match="new_tokens"):
        greedy(lambda: side_stepper(pair, "base"), new_tokens=0)
    with pytest.raises(InputError, match="empty"):
        greedy(lambda: side_stepper(pair, "base"), [np.zeros(0, np.int64)])
    with pytest.raises(InputError, match="width"), added(pair, "base", 0, torch.zeros(3)):
        pass
