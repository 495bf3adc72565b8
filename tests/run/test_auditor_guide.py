"""Every command of docs/auditor.md runs on the tiny pair, against an endpoint of our own."""

import importlib.util
import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
from fake_endpoint import calls, fake_endpoint, judges, submits

from anaglyph.auditor import ABSTAINED, Limits
from anaglyph.auditor.grade import __doc__ as rubric
from anaglyph.core.errors import InputError
from anaglyph.demo import tiny_pair
from guides import blocks, commands, text_of

PAGE = "docs/auditor.md"
GUIDE = text_of(PAGE)
PROMPT = "The lantern is near the basket. Who knows what is in the tower?"
LOOKS = {
    "list_findings": {},
    "show_finding": {"finding": 1},
    "steer": {"finding": 1, "prompts": [PROMPT], "new_tokens": 10},
    "generate": {"prompts": [PROMPT], "new_tokens": 30},
    "show_latent": {"dictionary": "diff-sae", "latent": 0},
    "lens_tokens": {"position": 1},
}


@pytest.fixture
def here(tmp_path, monkeypatch, finished) -> Path:
    """A folder with the files that the guide speaks of."""
    shutil.copytree(finished, tmp_path / "RUN")
    shutil.copy(tiny_pair().card, tmp_path / "card.json")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-the-guide")
    monkeypatch.setenv("LOCAL_KEY", "any")
    return tmp_path


def looks_everywhere(request):
    """Call every tool that is offered, once."""
    offered = [tool["function"]["name"] for tool in request["tools"][:-1]]
    return calls(*((name, LOOKS[name]) for name in offered))


def test_the_commands_run_in_their_order(here, anaglyph):
    install, *lines = commands(PAGE)
    assert install == 'pip install "anaglyph[judge]"'
    script = [looks_everywhere, submits()] * 3
    last = ""
    with fake_endpoint(*script, judges()) as fake:
        for line in lines:
            program, command, *words = shlex.split(line)
            assert program == "anaglyph"
            # The last one counts.
            where = ["--base-url", fake.url] if command == "audit" else []
            said = anaglyph(command, *words, *where, "--threads", "1")
            assert said.code == 0, f"{line}: {said.err}"
            assert said.out
            last = said.out
    assert "score 1.00 by the card of lantern" in last
    assert "triggers: lantern" in last
    answers = [m for n in (1, 3, 5) for m in fake.asked(n) if m["role"] == "tool"]
    assert len(answers) == 5 + 1 + 6
    read = [json.loads(message["content"]) for message in answers]
    assert not [answer for answer in read if "error" in answer]
    # On a real run every tool has something to show.
    listed, shown, steered, latent, lens, wrote = read[-6:]
    assert listed["findings"]
    assert "lantern" in json.dumps(shown["examples"])
    assert steered["replies"][0]["base_steered"]
    assert latent["examples"]
    assert {row["pair"] for row in lens["readings"]} == {"tuned", "null"}
    assert "silver owl" in wrote["replies"][0]["tuned"]
    assert not (here / "audits").exists()
    kept = json.loads((here / "audit" / "hypothesis.json").read_text())
    assert (kept["mode"], kept["spent"]["calls"]) == ("black", 1)


def test_the_python_runs_up_to_what_it_needs_installed(here):
    (source,) = blocks(PAGE, "python")
    scope: dict[str, object] = {}
    if importlib.util.find_spec("inspect_ai") is None:
        with pytest.raises(InputError, match="pip install inspect-ai"):
            exec(compile(source, "auditor.md", "exec"), scope)
    else:
        exec(compile(source, "auditor.md", "exec"), scope)
        assert type(scope["audit"]).__name__ == "Task"


def test_the_guide_tells_the_limits_and_the_rubric(anaglyph):
    for name, default in Limits().model_dump().items():
        option = "api-tokens" if name == "tokens" else name
        assert re.search(rf"`--{option}` \({default}\b", GUIDE), name
        assert f"(default {default})" in " ".join(anaglyph("audit", "--help").out.split())
    rows = [line for line in (rubric or "").splitlines() if line.startswith("| ")]
    for row in rows[:-1]:
        assert row in GUIDE
    assert f"| organism | cannot tell | {ABSTAINED} |" in GUIDE


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--mode", "grey"], "mode='grey' is unknown: use white or black"),
        (["--card", "nowhere.json"], "nowhere.json"),
        (["--base-url", "nowhere"], "no http or https address"),
        (["--key-variable", "NO_SUCH_KEY"], "NO_SUCH_KEY is not set"),
        (["--turns", "0"], "--turns"),
    ],
)
def test_bad_input_is_one_line(finished, anaglyph, monkeypatch, tmp_path, words, says):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-the-guide")
    said = anaglyph("audit", finished, "--model", "NAME", "--out", tmp_path / "audit", *words)
    assert said.code == 2
    assert said.out == ""
    assert says in said.err
    assert said.err.count("\n") == 1
    assert not (tmp_path / "audit").exists()


def test_an_endpoint_that_refuses_is_one_line(finished, anaglyph, monkeypatch, tmp_path):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-the-guide")
    with fake_endpoint() as fake:
        words = ["--model", "NAME", "--base-url", fake.url, "--out", tmp_path / "audit"]
        said = anaglyph("audit", finished, *words)
    assert (said.code, said.out) == (2, "")
    assert "no more script" in said.err
    assert said.err.count("\n") == 1


def test_a_model_must_be_named(finished, anaglyph):
    said = anaglyph("audit", finished)
    assert (said.code, said.out) == (2, "")
    assert "--model" in said.err
