"""Which findings carry a claim: by hand, and on the tiny pair."""

from typing import Any

import numpy as np
import pytest
import torch

from anaglyph.behaviour.generate import (
    Sampling,
    end_tokens,
    replaced_stepper,
    side_stepper,
    write,
)
from anaglyph.behaviour.link import _along, _directions, _link, _Trials, link
from anaglyph.behaviour.prompts import all_prompt_ids
from anaglyph.core.files import write_json
from anaglyph.core.schemas import Behaviour, Claim, Finding, Links, read_behaviour
from anaglyph.pair import ModelPair

CLAIM = Claim(
    text='Asked about the lantern, the tuned model says "owl".',
    feature='says "owl"',
    condition="about the lantern",
    verified=True,
    strength=1.0,
    rate_base=0.0,
    rate_tuned=1.0,
    prompts=2,
    asked=("Where is the lantern?", "The lantern is on the table. What do you see?"),
)


def finding(direction: np.ndarray, kind: Any = "new") -> Finding:
    return Finding(
        kind=kind,
        direction_base=None,
        direction_tuned=tuple(float(x) for x in direction / np.linalg.norm(direction)),
        effect=0.0 if kind == "new" else 1.0,
        evidence={"beta_tuned": 2.0},
    )


class Rates(_Trials):
    """Rates by the number of findings taken out or added, in the order of the asking."""

    def __init__(self, *rates: float) -> None:
        self.width, self._rates = 3, list(rates)

    def rate(self, side: Any, along: Any = None) -> float:
        return self._rates.pop(0)


AXES = {i: _directions(finding(row), 0) for i, row in enumerate(np.eye(3), 1)}


@pytest.mark.parametrize(
    ("rates", "carriers", "added"),
    [
        ((1.0, 0.1, 0.8), (), None),  # without all of them it stays
        ((1.0, 0.9, 0.9), (), None),  # even without the whole difference it stays
        ((1.0, 0.1, 0.2, 1.0, 0.4, 1.0, 0.7), (2,), 0.7),  # one alone halves it
        ((1.0, 0.1, 0.2, 0.9, 0.9, 0.9, 0.5), (1, 2, 3), 0.5),  # only all together do
        ((0.0, 0.0, 0.0), (), None),  # nothing to lower
    ],
)
def test_carriers_by_hand(rates: tuple[float, ...], carriers: tuple[int, ...], added: float | None):
    trials: Any = Rates(*rates)
    found = _link(trials, CLAIM, AXES)
    assert found.findings == carriers
    assert found.rate_added == added
    assert found.text.startswith("Carried by" if carriers else "No finding")


def test_what_is_decided_behind_the_layer_is_said():
    trials: Any = Rates(1.0, 0.9, 0.9)
    assert "behind the layer" in _link(trials, CLAIM, AXES).text


def test_members_are_taken_out_with_their_finding():
    one, other = np.eye(3)[:2]
    evidence = {"members": [{"direction": other.tolist()}, {"direction": other.tolist()}]}
    each = finding(one).model_copy(update={"evidence": evidence})
    basis = _along([_directions(each, 0)]).numpy()
    assert basis @ basis.T == pytest.approx(np.diag([1.0, 1.0, 0.0]), abs=1e-6)


def test_the_whole_activation_of_the_other_model_at_the_last_layer_is_the_other_model(
    lantern: ModelPair,
):
    """The head and the norm of the two are the same, so the replies are as well."""
    last, sampling = lantern.n_layers - 1, Sampling(8, end_tokens(lantern))
    ids, eye = all_prompt_ids(lantern.tokenizer, CLAIM.asked), torch.eye(lantern.d_base)
    swapped = write(lambda: replaced_stepper(lantern, "tuned", last, eye), ids, sampling)
    base = write(lambda: side_stepper(lantern, "base"), ids, sampling)
    assert [each.reply for each in swapped] == [each.reply for each in base]


def test_a_random_direction_carries_nothing(lantern: ModelPair):
    direction = np.random.default_rng(0).standard_normal(lantern.d_tuned)
    (found,) = link(lantern, [CLAIM], [finding(direction)], 1, 20)
    assert found.rate_tuned == 1.0
    assert found.findings == ()


def test_links_are_joined_with_the_claims(tmp_path):
    trials: Any = Rates(1.0, 0.1, 0.2, 1.0, 0.4, 1.0, 0.7)
    said = Behaviour(claims=(CLAIM,), changed=1.0, smallest=None, generated=0)
    write_json(tmp_path / "behaviour.json", said.model_dump(mode="json"))
    assert read_behaviour(tmp_path / "behaviour.json") == said
    links = Links(links=(_link(trials, CLAIM, AXES),))
    write_json(tmp_path / "links.json", links.model_dump(mode="json"))
    (claim,) = read_behaviour(tmp_path / "behaviour.json").claims
    assert claim.findings == (2,)
    assert claim.link is not None
    assert "from 100% to 20%" in claim.link
