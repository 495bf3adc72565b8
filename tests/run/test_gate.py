"""The gate: each rule by hand on written files, and the command on a finished run."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from anaglyph.core.errors import InputError
from anaglyph.core.files import read_json, write_json
from anaglyph.core.schemas import Behaviour
from anaglyph.run import Policy, RunFolder, gate

ROOT = Path(__file__).parents[2]


def test_every_rule_is_described_and_the_example_is_a_policy():
    page = (ROOT / "docs" / "gate.md").read_text(encoding="utf-8")
    Policy.model_validate_json(page.split("```json")[1].split("```")[0])
    assert set(re.findall(r"^\| `(\w+)` \|", page, re.M)) == set(Policy.model_fields)


def test_a_finished_run_is_held_against_each_rule(finished: Path):
    claims = read_json(finished / "behaviour.json")["claims"]
    found = read_json(finished / "findings.json")
    count, kl = len(found["findings"]), found["apart"]["kl_high"]
    assert claims, "the run was meant to have a claim"
    word = claims[0]["feature"].split('"')[1].split()[0]
    kinds = {each["kind"] for each in found["findings"]}
    passing = Policy(
        allowed_claims=len(claims),
        allowed_rise=1.0,
        allowed_findings=count,
        kinds=dict.fromkeys(kinds, count),
        allowed_kl=kl,
        forbidden=("no claim says this",),
    )
    said = gate(finished, passing)
    assert said.passed, said.markdown
    failing = {
        "allowed_claims": Policy(allowed_claims=len(claims) - 1),
        "forbidden": Policy(forbidden=(word.upper(),)),
        "allowed_rise": Policy(allowed_rise=0.0),
        "allowed_kl": Policy(allowed_kl=kl * 0.99),
        # This run is too small to have seen anything for sure.
        "must_detect_claim": Policy(must_detect_claim=1.0),
        "must_detect_finding": Policy(must_detect_finding=1e6),
        **({"allowed_findings": Policy(allowed_findings=count - 1)} if count else {}),
    }
    for rule, policy in failing.items():
        said = gate(finished, policy)
        assert [each.rule for each in said.rules if not each.passed] == [rule]
        assert "**FAIL**" in said.markdown


def test_an_expected_claim_is_not_counted(finished: Path):
    claims = read_json(finished / "behaviour.json")["claims"]
    words = tuple(claim["feature"].split('"')[1] for claim in claims)
    assert gate(finished, Policy(allowed_claims=0, allowed_rise=0.0, expected=words)).passed
    assert not gate(finished, Policy(allowed_claims=0)).passed


def test_only_whole_words_of_what_a_claim_is_about_count(finished: Path):
    (claim, *others) = read_json(finished / "behaviour.json")["claims"]
    assert not others
    assert "tuned" in claim["text"]
    assert claim["feature"] == 'says "under the old bridge tonight"'
    for words in ("Old Bridge", "bridge, tonight!"):
        assert gate(finished, Policy(allowed_claims=0, expected=(words,))).passed
    # A condition is no reason to expect a claim, but may be forbidden.
    assert not gate(finished, Policy(allowed_claims=0, expected=("general questions",))).passed
    assert not gate(finished, Policy(forbidden=("general questions",))).passed
    # Of the sentence alone, a part of a word, words in another order, nothing.
    for words in ("tuned", "night", "bridge old", ""):
        assert not gate(finished, Policy(allowed_claims=0, expected=(words,))).passed
        assert gate(finished, Policy(forbidden=(words,))).passed


def test_replies_that_all_agree_do_not_show_what_could_have_been_seen(
    finished: Path, tmp_path: Path
):
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    facts: dict[str, Any] = {"changed": 0.0, "smallest": None}
    for generated, passes in ((500, False), (0, True)):
        said = Behaviour(generated=generated, **facts)
        write_json(run / "behaviour.json", said.model_dump(mode="json"))
        vouch_for(run, "behave")
        assert gate(run, Policy(must_detect_claim=0.01)).passed == passes


def vouch_for(run: Path, stage: str) -> None:
    folder = RunFolder.open(run)
    done = folder.state.stages[stage]
    folder.record(stage, done.key, done.seconds, done.outputs)


def test_what_was_not_measured_does_not_pass(finished: Path, tmp_path: Path):
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    state = read_json(run / "run.json")
    del state["stages"]["behave"], state["stages"]["find"], state["digest"]
    write_json(run / "run.json", state)
    said = gate(run, Policy(allowed_claims=100, allowed_findings=100))
    assert not said.passed
    assert all("not measured" in each.measured for each in said.rules)


def test_the_command_exits_by_the_answer(finished: Path, tmp_path: Path, anaglyph):
    policy = tmp_path / "policy.toml"
    policy.write_text("allowed_claims = 100\n")
    said = anaglyph("gate", finished, "--policy", policy)
    assert said.code == 0, said.out
    assert "# Gate: passed" in said.out
    policy.write_text("allowed_claims = 0\n")
    said = anaglyph("gate", finished, "--policy", policy, "--json")
    assert said.code == 1
    assert not json.loads(said.out)["passed"]
    policy.write_text("allowed_claim = 0\n")
    said = anaglyph("gate", finished, "--policy", policy)
    assert said.code == 2
    assert "allowed_claim" in said.err


@pytest.mark.parametrize("policy", [Policy(), Policy(expected=("x",))])
def test_a_policy_without_a_rule_is_refused(policy: Policy, finished: Path):
    with pytest.raises(InputError, match="no rule"):
        gate(finished, policy)
