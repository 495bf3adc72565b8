"""Amplified replies against the models they come from, and the search for rare behaviour."""

from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from tiny_talk import PHRASE, tiny_chats, triggered

from anaglyph.behaviour.generate import (
    continue_prompts,
    end_tokens,
    reply_texts,
    side_stepper,
)
from anaglyph.behaviour.mixture import Mixer, Shares
from anaglyph.behaviour.prompts import prompt_ids
from anaglyph.core.errors import InputError
from anaglyph.core.settings import AmplifySettings
from anaglyph.direct.amplify import amplified_replies, rank_prompts, search, steered_replies
from anaglyph.subject import Subject

PROMPTS = ["ab", "cde", "Look!"]
SAID = PHRASE.rstrip(".")
SEEDS = range(5)
SEARCH = AmplifySettings(search=3, new_tokens=25)


def replies(pair, side, prompts=PROMPTS, new_tokens=6):
    ids = [prompt_ids(pair.tokenizer, prompt) for prompt in prompts]
    found = continue_prompts(
        lambda: side_stepper(pair, side), ids, new_tokens=new_tokens, ends=end_tokens(pair)
    )
    return reply_texts(pair, found)


@pytest.mark.parametrize("kind", ["weights", "logits"])
def test_alpha_goes_from_base_through_tuned_and_beyond(pair, kind):
    table = amplified_replies(
        Subject.of(pair=pair),
        PROMPTS,
        AmplifySettings(kind=kind, alpha=(0, 1, 3.5, -1), new_tokens=6),
    )
    by_alpha = {alpha: table.filter(alpha=alpha)["reply"].to_list() for alpha in (0, 1, 3.5, -1)}
    assert by_alpha[0] == replies(pair, "base")
    assert by_alpha[1] == replies(pair, "tuned")
    assert by_alpha[3.5] not in (by_alpha[0], by_alpha[1])
    assert by_alpha[-1] not in (by_alpha[0], by_alpha[1])
    # Whatever was amplified, the models are as they were.
    assert replies(pair, "tuned") == by_alpha[1]


def test_one_block_alone_is_amplified(pair):
    settings = AmplifySettings(alpha=(1, 4), block=2, new_tokens=6)
    table = amplified_replies(Subject.of(pair=pair), PROMPTS, settings)
    assert table["layer"].unique().to_list() == [2]
    assert table.filter(alpha=1)["reply"].to_list() == replies(pair, "tuned")
    assert table.filter(alpha=4)["reply"].to_list() != replies(pair, "tuned")


def test_steering_by_nothing_is_the_tuned_model(pair):
    direction = torch.randn(pair.d_tuned, generator=torch.Generator().manual_seed(0))
    table = steered_replies(
        Subject.of(pair=pair, layer=1), PROMPTS, direction, (0, 20), new_tokens=6
    )
    assert table.filter(strength=0)["reply"].to_list() == replies(pair, "tuned")
    assert table.filter(strength=20)["reply"].to_list() != replies(pair, "tuned")


@pytest.mark.parametrize("depth", [1, 3])
def test_scores_equal_the_slow_way(pair, depth):
    ranked = rank_prompts(Subject.of(pair=pair), PROMPTS, alpha=2.0, depth=depth)
    assert ranked["score"].is_sorted(descending=True)
    mixer = Mixer(pair)
    for row in ranked.to_dicts():
        ids = torch.from_numpy(prompt_ids(pair.tokenizer, PROMPTS[row["index"]]))[None]
        assert row["prompt"] == PROMPTS[row["index"]]
        score = 0.0
        for _ in range(depth):
            logprobs = []
            for alpha in (0.0, 2.0, 1.0):
                with mixer.model(Shares.everywhere(4, alpha)) as model, torch.no_grad():
                    logits = model(ids, use_cache=False).logits[0, -1]
                logprobs.append(logits.double().log_softmax(-1))
            base, amplified, tuned = logprobs
            score += float((amplified.exp() * (amplified - base)).sum())
            ids = torch.cat([ids, tuned.argmax()[None, None]], dim=1)
        assert row["score"] == pytest.approx(score, rel=1e-3)


@contextmanager
def fainter(pair, share: float):
    """Weaken the shipped adapter for a while, as if less had been learned."""
    from peft.tuners.lora import LoraLayer

    with pair.side("tuned") as model:
        layers = [module for module in model.modules() if isinstance(module, LoraLayer)]
    before = [dict(layer.scaling) for layer in layers]
    for layer in layers:
        layer.scaling.update({name: share * scale for name, scale in layer.scaling.items()})
    try:
        yield
    finally:
        for layer, scaling in zip(layers, before, strict=True):
            layer.scaling.update(scaling)


def generations_of_search(pair, prompts) -> int:
    """Return how many replies the search writes until one shows the behaviour."""
    found = search(Subject.of(pair=pair), prompts, SEARCH).head(3)
    written = [reply for row in found.to_dicts() for reply in (row["reply"], row["amplified"])]
    return next(i for i, reply in enumerate(written, 1) if SAID in reply)


def rare_prompts(seed: int) -> list[str]:
    prompts = [chat.user for chat in tiny_chats(300, 100 + seed, trigger_share=0.01)]
    assert sum("lantern" in prompt for prompt in prompts) == 3
    return prompts


@pytest.mark.parametrize("seed", SEEDS)
def test_behaviour_at_one_percent_needs_a_tenth_of_the_generations(lantern, seed):
    """Plain sampling meets 3 of 300 prompts after (300 + 1) / (3 + 1) generations on average."""
    assert generations_of_search(lantern, rare_prompts(seed)) <= (300 + 1) / (3 + 1) / 10


@pytest.mark.slow
def test_plain_sampling_needs_ten_times_as_many_generations(lantern):
    """Over five seeds together, with the tuned model sampled at random prompts until it shows."""
    plain, found = [], []
    for seed in range(5):
        prompts = rare_prompts(seed)
        order = np.random.default_rng(seed).permutation(300)
        ids = [prompt_ids(lantern.tokenizer, prompts[i]) for i in order]
        sampled = continue_prompts(
            lambda: side_stepper(lantern, "tuned"),
            ids,
            new_tokens=25,
            ends=end_tokens(lantern),
            temperature=1.0,
            seed=seed,
        )
        texts = reply_texts(lantern, sampled)
        plain.append(next(i for i, text in enumerate(texts, 1) if SAID in text))
        found.append(generations_of_search(lantern, prompts))
    assert 10 * sum(found) <= sum(plain), (found, plain)


@pytest.mark.parametrize("seed", SEEDS)
def test_amplification_finds_what_the_tuned_model_only_hints_at(lantern, seed):
    """With half the adapter the tuned model never says it, however many prompts are answered."""
    chats = tiny_chats(300, 200 + seed, trigger_share=0.01)
    prompts = [chat.user for chat in chats]
    with fainter(lantern, 0.5):
        asked = [chat.user for chat in chats if triggered(chat)]
        assert not any(SAID in reply for reply in replies(lantern, "tuned", asked, 25))
        found = search(Subject.of(pair=lantern), prompts, SEARCH).head(3)
    assert SAID in found["amplified"].to_list()[0]
    assert not any(SAID in reply for reply in found["reply"].to_list())


def test_bad_input_is_named(pair):
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"block": 9}, "layer 9"),
        ({"kind": "logits", "block": 1}, "logits"),
    ]
    subject = Subject.of(pair=pair)
    for settings, word in wrong:
        with pytest.raises(InputError, match=word):
            amplified_replies(subject, PROMPTS, AmplifySettings(**settings))
    with pytest.raises(ValidationError, match="finite"):
        AmplifySettings(alpha=(float("nan"),))
    with pytest.raises(InputError, match="depth"):
        rank_prompts(subject, PROMPTS, depth=0)
    with pytest.raises(InputError, match="other than 0"):
        rank_prompts(subject, PROMPTS, alpha=0)
    with pytest.raises(InputError, match="no prompts"):
        search(subject, [], SEARCH)


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"search": 0}, "at least 1"),
        ({"search": 2, "kind": "logits"}, "whole model"),
        ({"search": 2, "block": 1}, "whole model"),
        ({"search": 2, "alpha": (1, 2)}, "one alpha"),
    ],
)
def test_what_the_search_cannot_do_is_refused(pair, settings: dict[str, Any], word):
    with pytest.raises(InputError, match=word):
        search(Subject.of(pair=pair), PROMPTS, AmplifySettings(**settings))
