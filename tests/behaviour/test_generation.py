"""Our own generation against that of transformers, and what may not change a reply."""

from typing import Any

import numpy as np
import pytest
import torch
from direct_cases import save_whole
from scipy.stats import chi2
from tiny_models import FAMILIES, VOCABULARY

from anaglyph.behaviour.generate import (
    Sampling,
    Stepper,
    continue_prompts,
    contrast_stepper,
    model_stepper,
    side_stepper,
    write,
)
from anaglyph.behaviour.steering import Push, Steering, added
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


PREFIX = np.random.default_rng(9).integers(0, VOCABULARY, 6)
ALIKE = [np.concatenate([PREFIX, prompt]) for prompt in PROMPTS]


class Watched:
    """A stepper that notes the shape of what it reads."""

    def __init__(self, inner: Stepper) -> None:
        self.shapes: list[tuple[int, ...]] = []

        def step(ids, mask, positions):
            self.shapes.append(tuple(ids.shape))
            return inner(ids, mask, positions)

        self.stepper = Stepper(step, inner.select, inner.during, inner.reach)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_what_prompts_begin_with_is_read_once_where_attention_allows_it(tmp_path, family):
    pair = ModelPair.load(*save_whole(tmp_path, family))
    with pair.side("tuned") as model:
        wanted = [slow(model, prompt) for prompt in ALIKE]
    watched = Watched(side_stepper(pair, "tuned"))
    assert greedy(lambda: watched.stepper, ALIKE) == wanted
    windowed = family in ("gemma2", "gemma3")
    assert watched.shapes[:2] == ([(5, 13), (5, 1)] if windowed else [(1, 6), (5, 7)])


def test_one_prompt_many_times_leaves_a_token_to_read(pair):
    (whole,) = {tuple(reply) for reply in greedy(lambda: side_stepper(pair, "base"), ALIKE[:1] * 3)}
    assert list(whole) == greedy(lambda: side_stepper(pair, "base"), ALIKE[:1])[0]


def test_rows_that_have_ended_leave_the_batch(pair):
    whole = greedy(lambda: side_stepper(pair, "base"))
    # An end after the second token of some replies, and of none before.
    end = next(r[1] for r in whole if r[1] != r[0] and sum(r[1] in o for o in whole) < len(whole))
    watched = Watched(side_stepper(pair, "base"))
    cut = greedy(lambda: watched.stepper, [*PROMPTS, *PROMPTS[:2]], ends=[end])
    sizes = [shape[0] for shape in watched.shapes]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] < sizes[0]
    for reply, full in zip(cut, [*whole, *whole[:2]], strict=True):
        assert reply == (full[: full.index(end)] if end in full else full)


def test_log_probabilities_and_the_closing_token_by_hand(pair):
    end = greedy(lambda: side_stepper(pair, "tuned"))[1][3]
    written = write(lambda: side_stepper(pair, "tuned"), PROMPTS, Sampling(8, [end]))
    assert {one.closed for one in written} == {True, False}
    for prompt, one in zip(PROMPTS, written, strict=True):
        ids = torch.from_numpy(np.concatenate([prompt, one.tokens]).astype(np.int64))[None]
        logits = pair.logits("tuned", ids, torch.ones_like(ids))[0, len(prompt) - 1 : -1].double()
        expected = logits.log_softmax(-1).gather(1, torch.tensor(one.tokens)[:, None])[:, 0]
        assert one.logprobs == pytest.approx(expected.tolist(), abs=1e-4)
        assert one.closed == (one.tokens[-1] == end)
        assert one.reply == (one.tokens[:-1] if one.closed else one.tokens)


def vector(seed: int, width: int = 16) -> torch.Tensor:
    return 16 * torch.randn(width, generator=torch.Generator().manual_seed(seed))


PUSHES = [
    None,
    Push(1, vector(0)),
    Push(2, vector(1), "prompt"),
    Push(1, vector(2), "reply"),
    Push(0, vector(3), (0, 2, 8)),
]


def slow_pushed(pair, side, prompt, push, new_tokens=8):
    """Greedy with whole forwards; the push is added to the block's output by hand."""
    ids = prompt.tolist()
    for _ in range(new_tokens):
        at = list(range(len(ids)))
        if push is not None and push.at == "prompt":
            at = at[: len(prompt)]
        elif push is not None and push.at == "reply":
            at = at[len(prompt) - 1 :]
        elif push is not None and isinstance(push.at, tuple):
            at = [place for place in push.at if place < len(ids)]
        with pair.side(side) as model, torch.no_grad():

            def add(_module, _inputs, output, at=at, vector=None if push is None else push.vector):
                hidden = output[0] if isinstance(output, tuple) else output
                for place in at:
                    hidden[0, place] = hidden[0, place] + vector
                return output

            handles = []
            if push is not None:
                block = model.get_decoder().layers[push.layer]
                handles.append(block.register_forward_hook(add))
            logits = model(torch.tensor([ids]), use_cache=False).logits[0, -1]
            for handle in handles:
                handle.remove()
        ids.append(int(logits.argmax()))
    return ids[len(prompt) :]


@pytest.mark.parametrize("side", ["base", "tuned"])
@pytest.mark.parametrize("prompts", [PROMPTS, ALIKE], ids=["apart", "alike"])
def test_pushes_of_each_row_equal_the_slow_loop(pair, side, prompts):
    asked = [prompt for prompt in prompts for _ in PUSHES]
    steering = Steering(pair, side, PUSHES * len(prompts))
    written = write(lambda: side_stepper(pair, side), asked, Sampling(8, []), steering=steering)
    replies = [one.tokens for one in written]
    pushes = PUSHES * len(prompts)
    wanted = [slow_pushed(pair, side, p, push) for p, push in zip(asked, pushes, strict=True)]
    assert replies == wanted
    # Else the pushes were too weak for the comparison to mean anything.
    for number in range(1, len(PUSHES)):
        assert replies[number :: len(PUSHES)] != replies[:: len(PUSHES)]
    # Nothing stays behind on the model.
    assert greedy(lambda: side_stepper(pair, side), prompts)[0] == replies[0]


def test_pushes_on_replies_alone_share_what_prompts_begin_with(pair):
    steering = Steering(pair, "base", [PUSHES[3]] * len(ALIKE))
    watched = Watched(side_stepper(pair, "base"))
    written = write(lambda: watched.stepper, ALIKE, Sampling(8, []), steering=steering)
    assert watched.shapes[0] == (1, 6)
    wanted = [slow_pushed(pair, "base", prompt, PUSHES[3]) for prompt in ALIKE]
    assert [one.tokens for one in written] == wanted


def test_bad_pushes_are_refused(pair):
    for push, words in (
        (Push(1, torch.zeros(15)), "15 entries"),
        (Push(1, torch.full((16,), torch.nan)), "finite"),
        (Push(1, torch.zeros(16), "middle"), "at='middle'"),
        (Push(4, torch.zeros(16)), "layer 4 is out of range"),
    ):
        with pytest.raises(InputError, match=words):
            Steering(pair, "base", [push])
    with pytest.raises(InputError, match="2 pushes for 5 prompts"):
        write(
            lambda: side_stepper(pair, "base"),
            PROMPTS,
            Sampling(8, []),
            steering=Steering(pair, "base", [None, None]),
        )


def test_an_adapter_is_switched_once_a_batch(adapted, monkeypatch):
    switches, adapter = [], adapted._adapter
    switch = adapter.switch

    def watched(on: bool) -> None:
        if on != adapter.on:
            switches.append(on)
        switch(on)

    monkeypatch.setattr(adapter, "switch", watched)
    greedy(lambda: side_stepper(adapted, "tuned"))
    assert len(switches) <= 4  # on and off, to make the stepper and for the batch


def test_bad_settings_are_named(pair):
    with pytest.raises(InputError, match="new_tokens"):
        greedy(lambda: side_stepper(pair, "base"), new_tokens=0)
    with pytest.raises(InputError, match="empty"):
        greedy(lambda: side_stepper(pair, "base"), [np.zeros(0, np.int64)])
    with pytest.raises(InputError, match="width"), added(pair, "base", 0, torch.zeros(3)):
        pass
