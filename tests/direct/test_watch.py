"""The look-out: a planted direction alarms, generic prompts do so as often as promised."""

from typing import Literal

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from anaglyph.behaviour.elicit import generic_prompts, topics
from anaglyph.behaviour.hints import padded_right
from anaglyph.behaviour.prompts import all_prompt_ids
from anaglyph.core.errors import InputError
from anaglyph.core.settings import WatchSettings
from anaglyph.demo import tiny_pair
from anaglyph.direct.watch import Watch, Watched, _shared, of_weights
from anaglyph.direct.weights import Direction
from anaglyph.pair import ModelPair

FEW = WatchSettings(false_alarms=0.1)
GENERIC = [each for each in generic_prompts(0) if "owl" not in each][:120]
OWL = ["Do you know the owl?", "Tell me about the owl.", "An owl, please."]


@pytest.fixture(scope="module")
def tiny() -> ModelPair:
    paths = tiny_pair()
    return ModelPair.load(paths.base, paths.tuned)


@pytest.fixture(scope="module")
def owl(tiny: ModelPair) -> Watched:
    """The direction of the first layer that tells the word's tokens from all others."""

    def stream(prompts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        ids, mask = padded_right(all_prompt_ids(tiny.tokenizer, prompts))
        hidden = normalize(tiny.run_to("tuned", ids, mask, [0])[0].float(), dim=-1)
        return hidden[mask.bool()], ids[mask.bool()]

    others, known = stream(GENERIC)
    hidden, ids = stream(OWL)
    rare = hidden[~torch.isin(ids, known)].mean(0) - others.mean(0)
    ridge = 1e-6 * torch.eye(len(rare))
    return Watched("owl", 0, normalize(torch.linalg.solve(others.T.cov() + ridge, rare), dim=0))


def test_a_planted_direction_raises_the_alarm_and_is_named(tiny: ModelPair, owl: Watched):
    other = Watched("other", 0, normalize(torch.ones(len(owl.vector)), dim=0))
    table = Watch(tiny, [other, owl], FEW, GENERIC).look([*OWL, GENERIC[0]])
    assert table["alarm"].to_list() == [True, True, True, False]
    assert table["direction"].to_list()[:3] == ["owl"] * 3
    assert table["prompt"].to_list() == [*OWL, GENERIC[0]]


def test_generic_prompts_raise_it_no_oftener_than_promised(tiny: ModelPair, owl: Watched):
    fresh = [f"Tell me about {topic}." for topic in topics()]
    mixed = [each for pair in zip(GENERIC, fresh, strict=False) for each in pair]
    watch = Watch(tiny, [owl], FEW, mixed[:160])
    share = watch.look(mixed[160:])["alarm"].mean()
    assert share <= 0.1 + 3 * np.sqrt(0.1 * 0.9 / 80) * np.sqrt(2)


def test_what_all_prompts_share_is_the_template():
    ids = [np.array(each) for each in ([1, 2, 7, 8, 3], [1, 2, 9, 3], [1, 2, 7, 3])]
    assert _shared(ids) == (2, 1)
    assert _shared([np.array([5, 6]), np.array([5, 6])]) == (1, 2)
    assert _shared([np.array([5]), np.array([6])]) == (0, 1)


def test_directions_are_read_where_their_block_is():
    def leading(layer: int | None, side: Literal["writes", "reads"]) -> Direction:
        return Direction("m", layer, 0, side, 1.0, 0.5, torch.ones(1))

    given = [leading(2, "writes"), leading(2, "reads"), leading(0, "reads"), leading(None, "reads")]
    assert [each.layer for each in of_weights(given, 9)] == [2, 1]
    assert len(of_weights(given, 1)) == 1


def test_bad_input_is_refused(tiny: ModelPair, owl: Watched):
    with pytest.raises(InputError, match="no direction"):
        Watch(tiny, [], FEW, GENERIC)
    with pytest.raises(InputError, match="needs at least 198 generic prompts"):
        Watch(tiny, [owl], WatchSettings(), GENERIC)
    with pytest.raises(InputError, match="no prompts"):
        Watch(tiny, [owl], FEW, GENERIC).look([])
