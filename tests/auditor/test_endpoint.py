"""One call to an endpoint, and every way in which it can go wrong."""

import ast
import json
import re
import sys
from pathlib import Path

import pytest
from fake_endpoint import KEY, Raw, calls, fake_endpoint, says

from anaglyph import auditor
from anaglyph.auditor import Endpoint
from anaglyph.auditor.endpoint import calls_of
from anaglyph.core.errors import EndpointError, InputError

HELLO = [{"role": "user", "content": "Hello."}]


def completion(**fields) -> str:
    message = {"role": "assistant", "content": "Hi."}
    whole = {"choices": [{"message": message}], "usage": {"total_tokens": 3}}
    return json.dumps({**whole, **fields})


def test_words_and_calls_come_back():
    script = says("Hi.", 7), calls(("look", {"at": 1}))
    with fake_endpoint(*script) as fake, Endpoint("fake", fake.url).connect() as client:
        first, second = client.reply(HELLO), client.reply(HELLO, [{"type": "function"}])
    assert (first.text, first.usage.total_tokens) == ("Hi.", 7)
    assert first.message == {"role": "assistant", "content": "Hi."}
    (call,) = calls_of(second.message)
    assert (call.id, call.name, json.loads(call.arguments)) == ("call_0", "look", {"at": 1})
    assert "tools" not in fake.requests[0]
    assert fake.requests[1]["tools"] == [{"type": "function"}]


def test_what_an_endpoint_puts_beside_a_call_is_sent_back():
    said = calls(("look", {}))
    said["message"]["tool_calls"][0]["extra_content"] = {"signature": "abc"}
    with fake_endpoint(said) as fake, Endpoint("fake", fake.url).connect() as client:
        reply = client.reply(HELLO)
    assert reply.message["tool_calls"][0]["extra_content"] == {"signature": "abc"}


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (Raw(401, '{"error": {"message": "Incorrect API key: ' + KEY + '"}}'), "401"),
        (Raw(404, '{"error": {"message": "no model fake"}}'), "no model fake"),
        (Raw(400, json.dumps({"error": {"message": "a\nlong " * 200}})), "..."),
        (Raw(400, '{"error": "no such tool"}'), "no such tool"),
        (Raw(404, '{"detail": "Not Found"}'), "Not Found"),
        (Raw(200, "<html>hello</html>"), "answers no chat completion"),
        (Raw(200, "{}"), "choices: is missing"),
        (Raw(200, completion(choices=[])), "without a choice"),
        (Raw(200, completion(choices=None)), "choices"),
        (Raw(200, completion(usage=None)), "counts no tokens"),
        (Raw(200, completion(choices=[{"message": {"content": 3}}])), "content"),
    ],
)
def test_an_answer_that_cannot_be_used_is_one_line(answer, words):
    with (
        fake_endpoint(answer) as fake,
        Endpoint("fake", fake.url).connect() as client,
        pytest.raises(EndpointError) as caught,
    ):
        client.reply(HELLO)
    said = str(caught.value)
    assert words in said
    assert said.startswith(f"fake at {fake.url}")
    assert "\n" not in said
    assert KEY not in said
    assert len(said) < 500


def test_nobody_answers():
    with fake_endpoint() as fake:
        url = fake.url
    with Endpoint("fake", url).connect() as client:
        client._client = client._client.with_options(max_retries=0)
        with pytest.raises(EndpointError, match="Connection error"):
            client.reply(HELLO)


@pytest.mark.parametrize("value", [None, ""])
def test_a_missing_key_names_its_variable(monkeypatch, value):
    monkeypatch.delenv("OPENAI_API_KEY")
    if value is not None:
        monkeypatch.setenv("OWN_KEY", value)
    with (
        pytest.raises(InputError, match="variable OWN_KEY is not set"),
        Endpoint("fake", key_variable="OWN_KEY").connect(),
    ):
        pass


def test_a_missing_package_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    with (
        pytest.raises(InputError, match=r'pip install "anaglyph\[judge\]"'),
        Endpoint("fake").connect(),
    ):
        pass


def test_the_packages_are_imported_only_when_needed():
    for file in Path(auditor.__file__).parent.glob("*.py"):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                assert not re.search(r"\b(openai|inspect_ai)\b", ast.unparse(node)), file


@pytest.mark.parametrize("url", ["", "localhost:8000", "ftp://here/v1", "http:///v1"])
def test_an_address_must_be_one(url):
    with pytest.raises(InputError, match="no http or https address"):
        Endpoint("fake", url)


def test_a_password_in_an_address_is_refused_and_not_repeated():
    with pytest.raises(InputError, match="holds a user or password") as caught:
        Endpoint("fake", "https://me:secret@example.org/v1")
    assert "secret" not in str(caught.value)


def test_a_model_has_a_name():
    with pytest.raises(InputError, match="name is empty"):
        Endpoint(" ")
