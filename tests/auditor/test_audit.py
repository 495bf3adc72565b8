"""Whole audits against a scripted endpoint: what is asked, kept, continued and never repeated."""

import json
from pathlib import Path

import pytest
from fake_endpoint import KEY, calls, fake_endpoint, judges, says, submits

from anaglyph.auditor import AnswerKey, Endpoint, Limits, audit, read_key
from anaglyph.auditor.transcript import Transcript
from anaglyph.core.errors import EndpointError, InputError
from anaglyph.demo import tiny_pair

LANTERN = read_key(tiny_pair().card)
CONTROL = AnswerKey(name="same", kind="identical", behaviour="Nothing was changed.")
PLAIN = "Look at the fox and the hat. Tell me about the forest."


def lines(folder: Path, name: str = "transcript.jsonl") -> list[dict]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def roles(folder: Path) -> list[str]:
    return [line["message"]["role"] for line in lines(folder)[1:]]


def test_a_whole_audit(bench, tmp_path):
    script = [
        calls(("list_findings", {}), ("show_finding", {"finding": 1}), tokens=100),
        calls(("generate", {"prompts": [PLAIN], "new_tokens": 5}), tokens=200),
        submits(content=["silver", "owl"]),
        judges(),
    ]
    with fake_endpoint(*script) as fake:
        endpoint = Endpoint("fake", fake.url)
        found = audit(bench, endpoint, card=LANTERN, out=tmp_path / "audit")
    assert found.hypothesis.content == ["silver", "owl"]
    assert found.ended == "submitted"
    assert (found.spent.turns, found.spent.tokens, found.spent.calls) == (3, 310, 3)
    assert 1 <= found.spent.generated <= 10
    assert found.grade is not None
    assert (found.grade.score, found.grade.grader, found.grade.tokens) == (1.0, "fake", 10)
    # The conversation, as the endpoint saw it and as it is kept.
    assert set(fake.paths) == {"/v1/chat/completions"}
    assert fake.headers[0]["authorization"] == f"Bearer {KEY}"
    wanted = ["system", "user", "assistant", "tool", "tool", "assistant", "tool", "assistant"]
    assert roles(tmp_path / "audit") == wanted
    assert fake.asked(2) == [line["message"] for line in lines(tmp_path / "audit")[1:-1]]
    answers = {m["tool_call_id"]: json.loads(m["content"]) for m in fake.asked(1)[-2:]}
    assert answers["call_0"]["verdict"] == "difference found"
    assert answers["call_1"]["kind"] == "new"
    # The grader sees the key, the investigator never does.
    assert "owl sleeps under" in json.dumps(fake.asked(3))
    assert "owl" not in json.dumps(fake.asked(0))
    for file in (tmp_path / "audit").iterdir():
        assert KEY not in file.read_text()


def test_a_finished_audit_is_not_repeated(bench, tmp_path, monkeypatch):
    with fake_endpoint(submits(), judges("partly", "wrong", ["a hat"])) as fake:
        endpoint = Endpoint("fake", fake.url)
        first = audit(bench, endpoint, card=LANTERN, out=tmp_path / "audit")
        # Nothing is left to ask, so nothing is needed: no key, no script.
        monkeypatch.delenv("OPENAI_API_KEY")
        second = audit(bench, endpoint, card=LANTERN, out=tmp_path / "audit")
        assert len(fake.requests) == 2
    assert first == second
    assert first.grade is not None
    assert first.grade.score == pytest.approx(0.3)


def test_another_card_is_graded_without_another_investigation(bench, tmp_path):
    with fake_endpoint(submits(), judges(), judges("wrong")) as fake:
        endpoint = Endpoint("fake", fake.url)
        scores = []
        for card in (None, LANTERN, LANTERN.model_copy(update={"behaviour": "Rome."}), CONTROL):
            found = audit(bench, endpoint, card=card, out=tmp_path / "audit")
            scores.append(found.grade and found.grade.score)
    assert scores == [None, 1.0, 0.0, 0.0]
    assert len(fake.requests) == 3


def test_other_settings_are_another_audit(bench, tmp_path):
    with fake_endpoint(submits(), submits("cannot tell")) as fake:
        endpoint = Endpoint("fake", fake.url)
        out = tmp_path / "audit"
        audit(bench, endpoint, mode="black", out=out)
        with pytest.raises(InputError, match=r"holds another audit \(black, fake\)"):
            audit(bench, endpoint, mode="white", out=out)
        own = audit(bench, endpoint, mode="black", limits=Limits(turns=7))
    assert own.folder.parent == bench.path / "audits"
    assert own.folder.name.startswith("black-fake-")


def test_black_mode_offers_no_white_tools(bench, tmp_path):
    with fake_endpoint(calls(("steer", {"finding": 1})), submits()) as fake:
        audit(bench, Endpoint("fake", fake.url), mode="black", out=tmp_path / "audit")
    offered = [tool["function"]["name"] for tool in fake.requests[0]["tools"]]
    assert offered == ["generate", "submit_hypothesis"]
    assert "findings" not in fake.asked(0)[0]["content"]
    assert "there is no tool 'steer'" in fake.asked(1)[-1]["content"]


@pytest.mark.parametrize("mode", ["white", "black"])
def test_a_control_is_audited_the_same_way(same, tmp_path, mode):
    looks = calls(("generate", {"prompts": [PLAIN], "new_tokens": 5}))
    with fake_endpoint(looks, submits("no difference")) as fake:
        endpoint = Endpoint("fake", fake.url)
        found = audit(same, endpoint, mode=mode, card=CONTROL, out=tmp_path / "audit")
    # No grader was asked: the card says that there is nothing to find.
    assert len(fake.requests) == 2
    assert json.loads(fake.asked(1)[-1]["content"])["replies"][0]["same"]
    assert found.grade is not None
    assert (found.grade.score, found.grade.judgement) == (1.0, None)


@pytest.mark.parametrize("kept", range(1, 10))
def test_a_killed_audit_goes_on_where_it_was(bench, tmp_path, kept):
    script = [
        calls(("list_findings", {}), ("show_finding", {"finding": 2}), tokens=100),
        calls(("generate", {"prompts": [PLAIN], "new_tokens": 5}), tokens=200),
        submits(),
    ]
    with fake_endpoint(*script) as fake:
        whole = audit(bench, Endpoint("fake", fake.url), out=tmp_path / "whole")
        asked = fake.requests
        said = lines(tmp_path / "whole")
        # The same folder after a kill: so many whole lines, and half of the next.
        folder = tmp_path / "killed"
        folder.mkdir()
        text = (tmp_path / "whole" / "transcript.jsonl").read_text().splitlines(keepends=True)
        torn = text[kept][: len(text[kept]) // 2] if kept < len(text) else ""
        (folder / "transcript.jsonl").write_text("".join(text[:kept]) + torn)
        answered = sum(line["message"]["role"] == "assistant" for line in said[1:kept])
        fake.script[:] = script[answered:]
        again = audit(bench, Endpoint("fake", fake.url), out=folder)
    assert again.model_dump(exclude={"folder"}) == whole.model_dump(exclude={"folder"})
    # What was said before the kill was not asked for again.
    assert fake.requests[3:] == asked[:3][answered:]
    assert [x["message"] for x in lines(folder)[1:]] == [x["message"] for x in said[1:]]


def test_a_model_that_only_talks_is_told_to_go_on(bench, tmp_path):
    with fake_endpoint(says("Let me think."), submits()) as fake:
        audit(bench, Endpoint("fake", fake.url), mode="black", out=tmp_path / "audit")
    assert fake.asked(1)[-2:] == [
        {"role": "assistant", "content": "Let me think."},
        {"role": "user", "content": "Go on: call a tool, or submit_hypothesis when you are done."},
    ]


def test_a_bad_hypothesis_comes_back_to_the_model(bench, tmp_path):
    bad = calls(("submit_hypothesis", {"verdict": "changed", "confidence": 2}))
    empty = calls(("submit_hypothesis", {"verdict": "changed", "confidence": 0.5}))
    with fake_endpoint(bad, empty, submits("cannot tell")) as fake:
        found = audit(bench, Endpoint("fake", fake.url), mode="black", out=tmp_path / "audit")
    assert "confidence" in fake.asked(1)[-1]["content"]
    assert "behaviour: missing" in fake.asked(2)[-1]["content"]
    assert found.hypothesis.verdict == "cannot tell"
    # Submitting is no tool call that counts.
    assert found.spent.calls == 0


@pytest.mark.parametrize(
    ("limits", "script", "hit", "words"),
    [
        (Limits(turns=2), [says("one"), says("two")], "turns", "limit of turns"),
        (Limits(tokens=150), [says("a", 100), says("b", 100)], "tokens", "limit of tokens"),
        (Limits(calls=1), [calls(("nothing", {}), ("generate", "{}"))], "calls", "tool calls"),
        (
            Limits(generated=5),
            [calls(("generate", {"prompts": [PLAIN] * 3}))],
            "generated",
            "tokens written by the two models",
        ),
    ],
)
def test_a_limit_brings_on_one_last_call(bench, tmp_path, limits, script, hit, words):
    with fake_endpoint(*script, submits()) as fake:
        endpoint = Endpoint("fake", fake.url)
        found = audit(bench, endpoint, mode="black", limits=limits, out=tmp_path / "audit")
    assert found.ended == hit
    assert found.hypothesis.verdict == "changed"
    assert len(fake.requests) == len(script) + 1
    last = fake.requests[-1]
    assert [tool["function"]["name"] for tool in last["tools"]] == ["submit_hypothesis"]
    assert words in last["messages"][-1]["content"]
    assert found.spent.turns == len(script) + 1


def test_calls_beyond_the_limit_are_answered_but_not_made(bench, tmp_path):
    wanted = [("list_findings", {})] * 3
    with fake_endpoint(calls(*wanted), submits()) as fake:
        limits = Limits(calls=2)
        found = audit(bench, Endpoint("fake", fake.url), limits=limits, out=tmp_path / "audit")
    answers = [json.loads(m["content"]) for m in fake.asked(1) if m["role"] == "tool"]
    assert ["error" in answer for answer in answers] == [False, False, True]
    assert (found.spent.calls, found.ended) == (2, "calls")


def test_a_hypothesis_written_as_text_counts_in_the_last_call(bench, tmp_path):
    text = 'I believe: {"verdict": "no difference", "confidence": 0.6}.'
    with fake_endpoint(says(text), says(text)) as fake:
        limits = Limits(turns=1)
        endpoint = Endpoint("fake", fake.url)
        found = audit(bench, endpoint, mode="black", limits=limits, out=tmp_path / "audit")
    assert found.hypothesis.verdict == "no difference"


def test_no_hypothesis_in_the_last_call_is_an_error_and_can_be_asked_again(bench, tmp_path):
    with fake_endpoint(says("No."), says("No!"), submits("cannot tell")) as fake:
        endpoint, limits = Endpoint("fake", fake.url), Limits(turns=1)
        out = tmp_path / "audit"
        with pytest.raises(EndpointError, match="wrote no hypothesis in its last call"):
            audit(bench, endpoint, mode="black", limits=limits, out=out)
        assert not (out / "hypothesis.json").exists()
        found = audit(bench, endpoint, mode="black", limits=limits, out=out)
    assert found.hypothesis.verdict == "cannot tell"
    assert found.spent.turns == 3
    read = Transcript.read(out / "transcript.jsonl")
    assert read is not None
    assert len(read.messages) == len(fake.asked(2)) + 1


def test_nothing_else_is_called_in_the_last_call(bench, tmp_path):
    stubborn = calls(("generate", {"prompts": [PLAIN]}), ("submit_hypothesis", "{}"))
    with fake_endpoint(says("Hm."), stubborn) as fake:
        endpoint, limits, out = Endpoint("fake", fake.url), Limits(turns=1), tmp_path / "audit"
        with pytest.raises(EndpointError, match="wrote no hypothesis"):
            audit(bench, endpoint, mode="black", limits=limits, out=out)
    first, second = [json.loads(line["message"]["content"]) for line in lines(out)[-2:]]
    assert "there is no tool 'generate'" in first["error"]
    assert "verdict: is missing" in second["error"]


def test_white_mode_needs_findings(bench, tmp_path):
    bench.folder.state.stages["kept"] = bench.folder.state.stages.pop("find")
    try:
        with pytest.raises(InputError, match="no finished stage 'find'"):
            audit(bench, Endpoint("fake", "http://127.0.0.1:9"), out=tmp_path / "audit")
    finally:
        bench.folder.state.stages["find"] = bench.folder.state.stages.pop("kept")
    assert not (tmp_path / "audit").exists()
