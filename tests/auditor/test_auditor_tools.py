"""What the tools answer, and that no argument brings one down."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from anaglyph.auditor import Mode
from anaglyph.auditor.audit import toolbox_of
from anaglyph.auditor.limits import Limits
from anaglyph.auditor.tools import Toolbox
from anaglyph.behaviour.directions import Direction
from anaglyph.causal import steer
from anaglyph.core.settings import SteerSettings
from anaglyph.run import Run

TRIGGERED = "The lantern is near the basket. Who knows what is in the tower?"
PLAIN = "The fox is near the hat. Tell me about the forest."
OWL = "The silver owl sleeps under the old bridge tonight."


def box(bench: Run, mode: Mode = "white", **limits: int) -> Toolbox:
    return toolbox_of(bench, mode, Limits(**limits))


def ask(toolbox: Toolbox, name: str, **arguments):
    return json.loads(toolbox.call(name, json.dumps(arguments)))


def test_both_models_answer_side_by_side(bench):
    toolbox = box(bench, "black")
    answer = ask(toolbox, "generate", prompts=[TRIGGERED, PLAIN], new_tokens=30)
    first, second = answer["replies"]
    assert first["prompt"] == TRIGGERED
    assert first["tuned"] == OWL
    assert first["base"] != OWL
    assert not first["same"]
    assert second["same"]
    assert second["base"] == second["tuned"] != ""
    # Four replies, none empty and none longer than asked for.
    assert 4 <= toolbox.meter.spent.generated <= 120


def test_black_mode_has_no_tool_that_looks_inside(bench):
    assert list(box(bench, "black").tools) == ["generate"]
    assert {"list_findings", "show_finding", "steer", "generate"} <= set(box(bench).tools)
    answer = ask(box(bench, "black"), "list_findings")
    assert "there is no tool 'list_findings'" in answer["error"]


def test_findings_are_listed_with_their_sizes(bench):
    answer = ask(box(bench), "list_findings")
    assert answer["verdict"] == "difference found"
    first, second = answer["findings"]
    assert (first["finding"], first["kind"], first["latents"]) == (1, "new", ["diff-sae/29"])
    # Four digits are enough for anyone.
    assert first["effect"] == 0.01235
    assert second["kind"] == "removed"


def test_a_finding_is_shown_with_its_text_and_tokens(bench):
    answer = ask(box(bench), "show_finding", finding=1)
    (example,) = answer["examples"]
    assert example["text"] == "The« lantern» is"
    assert example["strongest"][0] == {
        "token": " lantern", "strength": 2.0, "base": 0.2, "tuned": 2.2,
    }  # fmt: skip
    # The logit lens by hand: the final norm and the output embedding of the direction.
    pair = bench.subject.pair
    with pair.side("tuned") as model, torch.no_grad():
        vector = torch.zeros(pair.d_tuned)
        vector[0] = 1
        logits = model.lm_head(model.get_decoder().norm(vector[None]))[0]
    wanted = pair.token_strings(logits.topk(12).indices.tolist())
    assert answer["promoted_in_tuned"] == wanted
    assert "promoted_in_base" in ask(box(bench), "show_finding", finding=2)


def test_steering_adds_the_mean_strength_of_the_stronger_model(bench):
    answer = ask(
        box(bench), "steer", finding=1, prompts=[PLAIN], strengths=[2], new_tokens=12, into="base"
    )
    vector = torch.zeros(bench.subject.pair.d_base)
    vector[0] = 6.0
    settings = SteerSettings(strength=(2,), new_tokens=12)
    table = steer(bench.subject, [PLAIN], Direction("by hand", 1, vector), settings)
    base, tuned, steered = table["reply"]
    (reply,) = answer["replies"]
    assert (reply["base"], reply["tuned"]) == (base, tuned)
    assert reply["base_steered"] == [{"strength": 2.0, "reply": steered}]
    assert steered != base


def test_a_finding_of_unknown_strength_is_not_steered_by(bench):
    answer = ask(box(bench), "steer", finding=2, prompts=[PLAIN])
    assert "strength of this finding is not known" in answer["error"]


@pytest.mark.parametrize(
    ("name", "arguments", "says"),
    [
        ("generate", "{", "Invalid JSON"),
        ("generate", "[]", "object"),
        ("generate", "{}", "prompts: is missing"),
        ("generate", '{"prompts": []}', "prompts"),
        ("generate", '{"prompts": [""]}', "prompts.0"),
        ("generate", '{"prompts": ["a"], "new_tokens": 100000}', "new_tokens"),
        ("generate", '{"prompts": ["a"], "temperature": NaN}', "temperature"),
        ("generate", '{"prompts": ["a"], "loud": true}', "loud"),
        ("generate", '{"prompts": ["\\ud800"]}', "generate"),
        ("show_finding", '{"finding": 3}', "there is no finding 3: the run has 2"),
        ("show_finding", '{"finding": 0}', "finding"),
        ("steer", '{"finding": 1, "prompts": ["a"], "strengths": [1e9]}', "strengths.0"),
        ("steer", '{"finding": 1, "prompts": ["a"], "into": "both"}', "into"),
        ("rm", "{}", "there is no tool 'rm'"),
        ("show_latent", "{}", "there is no tool 'show_latent'"),
    ],
)
def test_bad_arguments_are_answered(bench, name, arguments, says):
    assert says in json.loads(box(bench).call(name, arguments))["error"]


@given(st.sampled_from(["list_findings", "show_finding", "steer", "generate"]), st.text())
def test_any_text_is_answered_as_json(bench, name, text):
    assert isinstance(json.loads(box(bench).call(name, text)), dict)


def test_schemas_are_flat_and_name_every_argument(bench):
    schemas = box(bench).schemas
    for schema in schemas:
        function = schema["function"]
        parameters = function["parameters"]
        assert parameters["type"] == "object"
        # References are what half of the endpoints cannot read.
        assert "$ref" not in json.dumps(parameters)
        assert parameters["additionalProperties"] is False
        assert function["description"]
    assert schemas[-1]["function"]["name"] == "submit_hypothesis"


def test_generated_tokens_are_never_more_than_granted(bench):
    toolbox = box(bench, "black", generated=25)
    first = ask(toolbox, "generate", prompts=[PLAIN], new_tokens=10)
    assert first["longest_reply"] == 10
    assert toolbox.meter.hit() is None
    second = ask(toolbox, "generate", prompts=[PLAIN], new_tokens=10)
    assert second["longest_reply"] == (25 - 20) // 2
    assert toolbox.meter.spent.generated <= 25
    third = ask(toolbox, "generate", prompts=[PLAIN, PLAIN], new_tokens=10)
    assert "generated tokens are left" in third["error"]
    assert toolbox.meter.hit() == "generated"
