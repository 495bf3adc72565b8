"""Steering with a key-value cache is steering without one, and equals a plain slow loop."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from causal_cases import LAYER, WIDTH, make_corpus, make_dictionary, subject_of

from anaglyph.causal import Direction, Push, screen, steer, write
from anaglyph.causal.screening import judge_scorer, make_scorer
from anaglyph.core.errors import InputError
from anaglyph.core.settings import ScreenSettings
from anaglyph.demo import tiny_pair
from anaglyph.pair import ModelPair
from anaglyph.store import DifferenceSpace

PROMPT = np.array([3, 17, 5, 28, 9], np.int64)


def vector(seed: int, size: float = 2.0) -> torch.Tensor:
    return size * torch.randn(WIDTH, generator=torch.Generator().manual_seed(seed))


PUSHES = [
    None,
    Push(LAYER, vector(0)),
    Push(2, vector(1), "prompt"),
    Push(LAYER, vector(2), "reply"),
    Push(0, vector(3), (1, 4, 6)),
]


def slow_write(pair: ModelPair, side, push: Push | None, steps: int) -> tuple[list[int], list]:
    """Write greedily with whole forwards; the push is added to the block's output by hand."""
    ids, logprobs = PROMPT.tolist(), []
    for _ in range(steps):
        at = list(range(len(ids)))
        if push is not None and push.at == "prompt":
            at = at[: len(PROMPT)]
        elif push is not None and push.at == "reply":
            at = at[len(PROMPT) - 1 :]
        elif push is not None and isinstance(push.at, tuple):
            at = [place for place in push.at if place < len(ids)]
        with pair.side(side) as model, torch.no_grad():
            handles = []
            if push is not None:

                def add(_module, _inputs, output, push=push, at=at):
                    hidden = output[0] if isinstance(output, tuple) else output
                    for place in at:
                        hidden[0, place] = hidden[0, place] + push.vector
                    return output

                decoder: Any = model.get_decoder()
                layers = decoder.layers
                handles.append(layers[push.layer].register_forward_hook(add))
            logits = model(torch.tensor([ids]), use_cache=False).logits[0, -1].double()
            for handle in handles:
                handle.remove()
        values = logits.log_softmax(-1)
        ids.append(int(values.argmax()))
        logprobs.append(float(values.max()))
    return ids[len(PROMPT) :], logprobs


@pytest.mark.parametrize("side", ["base", "tuned"])
def test_cache_no_cache_and_the_slow_loop_agree(side, pair: ModelPair):
    cached = write(pair, side, PROMPT, PUSHES, new_tokens=8)
    anew = write(pair, side, PROMPT, PUSHES, new_tokens=8, cache=False)
    texts = set()
    for push, one, other in zip(PUSHES, cached, anew, strict=True):
        tokens, logprobs = slow_write(pair, side, push, 8)
        assert one.tokens.tolist() == other.tokens.tolist() == tokens
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-5)
        assert one.logprobs == pytest.approx(logprobs, abs=1e-5)
        texts.add(tuple(tokens))
    # Else the pushes were too weak for the comparison to mean anything.
    assert len(texts) >= 4
    # Nothing stays behind on the model.
    assert (
        write(pair, side, PROMPT, [None], new_tokens=8)[0].tokens.tolist()
        == cached[0].tokens.tolist()
    )


def test_sampling_has_a_seed(pair: ModelPair):
    def sample(seed: int) -> list[int]:
        options = {"new_tokens": 12, "temperature": 1.5}
        return write(pair, "base", PROMPT, [None], seed=seed, **options)[0].tokens.tolist()

    assert sample(1) == sample(1)
    assert sample(1) != sample(2)


def test_directions_have_units():
    dic = make_dictionary("crosscoder")
    direction = Direction.latent(dic, LAYER, 3, 2.5)
    assert torch.equal(direction.vector, (dic.decoder[1][3] - dic.decoder[0][3]) * 2.5)
    space = DifferenceSpace(np.arange(WIDTH, dtype=float), np.eye(WIDTH)[:2], np.array([3.0, 2.0]))
    assert torch.equal(Direction.mean_shift(space, 0).vector, torch.arange(WIDTH).float())
    second = Direction.component(space, 0, 1).vector
    assert second.tolist() == [0.0, 2.0, *[0.0] * (WIDTH - 2)]
    with pytest.raises(InputError, match="latent 12 is out of range"):
        Direction.latent(dic, LAYER, 12, 1.0)
    with pytest.raises(InputError, match="never fired"):
        Direction.latent(dic, LAYER, 3, 0.0)
    with pytest.raises(InputError, match="pca:2 is out of range"):
        Direction.component(space, 0, 2)


def test_bad_pushes_are_refused(pair: ModelPair):
    with pytest.raises(InputError, match="15 entries"):
        write(pair, "base", PROMPT, [Push(LAYER, torch.zeros(15))])
    with pytest.raises(InputError, match="at='middle'"):
        write(pair, "base", PROMPT, [Push(LAYER, torch.zeros(WIDTH), "middle")])
    with pytest.raises(InputError, match="layer 4 is out of range"):
        write(pair, "base", PROMPT, [Push(4, torch.zeros(WIDTH))])
    with pytest.raises(InputError, match="new_tokens=0"):
        write(pair, "base", PROMPT, [None], new_tokens=0)
    with pytest.raises(InputError, match="no prompts"):
        steer(pair, [], Direction("x", LAYER, vector(0)), [1.0])


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
    table = steer(shipped, [prompt], Direction("random", 1, shift), [0, 5.0], new_tokens=24)
    assert table["model"].to_list() == ["base", "tuned", "steered", "steered"]
    replies = table["reply"].to_list()
    assert "owl" in replies[1]
    assert "owl" not in replies[0]
    # No strength, no change; a strong random push is another answer.
    assert replies[2] == replies[0]
    assert replies[3] != replies[0]
    assert table["strength"].to_list() == [None, None, 0.0, 5.0]


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
