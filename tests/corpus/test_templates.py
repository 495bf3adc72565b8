"""Chat templates of every sort: thoughts, tools, generation blocks, strict, dated and hostile."""

import copy
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anaglyph.core.errors import InputError
from anaglyph.corpus import ROLES, Document, Message, load_corpus, tokenize
from anaglyph.corpus.roles import ASSISTANT
from anaglyph.corpus.templating import ChatTemplate

from .conftest import CHATML, TokenizerMaker
from .test_roles import chat, runs

# The logic of Qwen3's own template: thoughts of earlier turns are dropped, those after the last
# question are written in their own form, and calls and results of tools have theirs.
QWEN3 = """{%- set ns = namespace(last=messages|length - 1, found=false) %}
{%- for m in messages[::-1] %}{%- set index = (messages|length - 1) - loop.index0 %}
{%- if not ns.found and m.role == "user" and not (m.content.startswith('<tool_response>') and m.content.endswith('</tool_response>')) %}
{%- set ns.found = true %}{%- set ns.last = index %}{%- endif %}{%- endfor %}
{%- for m in messages %}
{%- if m.role == "user" or m.role == "system" %}{{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}
{%- elif m.role == "assistant" %}{%- set content = m.content %}{%- set thought = '' %}
{%- if m.reasoning_content is string %}{%- set thought = m.reasoning_content %}
{%- elif '</think>' in content %}
{%- set thought = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
{%- set content = content.split('</think>')[-1].lstrip('\\n') %}{%- endif %}
{%- if loop.index0 > ns.last and (loop.last or thought) %}
{{- '<|im_start|>assistant\\n<think>\\n' + thought.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}
{%- else %}{{- '<|im_start|>assistant\\n' + content }}{%- endif %}
{%- if m.tool_calls %}{%- for call in m.tool_calls %}{%- if call.function %}{%- set call = call.function %}{%- endif %}
{{- '<tool_call>\\n{"name": "' + call.name + '", "arguments": ' + (call.arguments | tojson) + '}\\n</tool_call>' }}
{%- endfor %}{%- endif %}{{- '<|im_end|>\\n' }}
{%- elif m.role == "tool" %}{{- '<|im_start|>user\\n<tool_response>\\n' + m.content + '\\n</tool_response><|im_end|>\\n' }}
{%- endif %}{%- endfor %}"""  # noqa: E501
STRICT = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}{{ m.role + ': ' + m.content }}|"
    "{% endfor %}"
)


def using(tokenizer_of: TokenizerMaker, template: object):
    tokenizer = copy.deepcopy(tokenizer_of("chatml"))
    tokenizer.chat_template = template  # pyright: ignore[reportAttributeAccessIssue]
    return tokenizer


def spoken(document: Document, tokenizer) -> list[tuple[str, str]]:
    return [run for run in runs(document, tokenizer) if run[0] != "template"]


def test_thoughts_have_their_role_wherever_they_are(tokenizer_of: TokenizerMaker) -> None:
    tokenizer = using(tokenizer_of, QWEN3)
    expected = [
        ("user", "a"), ("reasoning", "why"), ("assistant", "b"),
        ("user", "c"), ("reasoning", "hm"), ("assistant", "d"),
    ]  # fmt: skip
    inline = chat("a", "<think>why</think>b", "c", "<think>\nhm\n</think>\n\nd")
    assert spoken(inline, tokenizer) == expected
    apart = Document(
        messages=(
            Message("user", "a"),
            Message("assistant", "b", reasoning="why"),
            Message("user", "c"),
            Message("assistant", "d", reasoning="hm"),
        )
    )
    assert spoken(apart, tokenizer) == expected
    assert spoken(apart, tokenizer_of("chatml")) == expected
    assert spoken(inline, tokenizer_of("chatml")) == expected
    # What the template writes itself stays as it is: only the first thought was put back.
    template = ChatTemplate(tokenizer)
    text, _ = template.render(apart)
    assert text.endswith("<|im_start|>assistant\n<think>\nhm\n</think>\n\nd<|im_end|>\n")
    assert "<|im_start|>assistant\n<think>\nwhy\n</think>\n\nb<|im_end|>" in text
    assert list(template.notes.values()) == [1]


def test_a_thought_without_its_opening(tokenizer_of: TokenizerMaker) -> None:
    found = spoken(chat("a", "why</think>b", "c", "[THINK]x[/THINK]d"), tokenizer_of("chatml"))
    assert found == [
        ("user", "a"), ("reasoning", "why"), ("assistant", "b"),
        ("user", "c"), ("reasoning", "x"), ("assistant", "d"),
    ]  # fmt: skip
    quoting = chat("a", "The tag <think>x</think> is Qwen's")
    assert spoken(quoting, tokenizer_of("chatml"))[1][0] == "assistant"


def test_tools(tokenizer_of: TokenizerMaker) -> None:
    call = {"type": "function", "function": {"name": "owl", "arguments": {"a": 1}}}
    document = Document(
        messages=(
            Message("user", "a"),
            Message("assistant", "", tool_calls=(call,)),
            Message("tool", "42"),
            Message("assistant", "b"),
        )
    )
    assert spoken(document, using(tokenizer_of, QWEN3)) == [
        ("user", "a"),
        ("assistant", '<tool_call>\n{"name": "owl", "arguments": {"a": 1}}\n</tool_call>'),
        ("tool", "42"),
        ("assistant", "b"),
    ]
    corpus = tokenize([document], tokenizer_of("chatml"))
    assert spoken(document, tokenizer_of("chatml"))[1] == (
        "assistant", '<tool_call>\n{"name": "owl", "arguments": {"a": 1}}\n</tool_call>',
    )  # fmt: skip
    assert corpus.reading is not None
    assert any("tool calls written as text" in line for line in corpus.reading.warnings)


def test_generation_blocks_say_what_the_assistant_writes(tokenizer_of: TokenizerMaker) -> None:
    tokenizer = using(
        tokenizer_of,
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'assistant' %}"
        "{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}{% else %}"
        "{{ m.content + '<|im_end|>' }}{% endif %}\n{% endfor %}",
    )
    document = chat("a", "the cat", "c", "d")
    corpus = tokenize([document], tokenizer)
    rows = [{"role": m.role, "content": m.content} for m in document.messages or ()]
    marked: Any = tokenizer.apply_chat_template(
        rows, return_assistant_tokens_mask=True, return_dict=True
    )
    assert (corpus.roles == ASSISTANT).astype(int).tolist() == marked["assistant_masks"]


def test_strict_templates_skip_what_they_refuse(tokenizer_of: TokenizerMaker) -> None:
    tokenizer = using(tokenizer_of, STRICT)
    good = [chat("a", "b")] * 99
    twice = Document(messages=(Message("user", "a"), Message("user", "b")), source="x:7")
    for bad in (chat("a", "b", system="S"), twice):
        corpus = load_corpus([*good, bad], tokenizer)
        assert corpus.n_sequences == 99
        assert corpus.reading is not None
        assert dict(corpus.reading.skipped) == {"refused by the chat template": 1}
        assert corpus.reading.documents["chat"] == 99
    with pytest.raises(InputError, match=r"x:7: the chat template refuses .*roles must alternate"):
        load_corpus([twice, *good[:50]], tokenizer)


def test_older_names_of_roles(tokenizer_of: TokenizerMaker) -> None:
    tokenizer = using(
        tokenizer_of,
        "{% for m in messages %}{% if m.role in ('system', 'user', 'assistant') %}"
        "{{ m.role + ': ' + m.content + '|' }}{% endif %}{% endfor %}",
    )
    document = Document(messages=(Message("developer", "D"), Message("user", "a")))
    assert spoken(document, tokenizer) == [("system", "D"), ("user", "a")]


PARTS = (
    "{% for m in messages %}{{ m.role + ': ' }}{% for part in m.content %}"
    "{% if part.type == 'text' %}{{ part.text | trim }}{% endif %}{% endfor %}|{% endfor %}"
)


def test_templates_that_read_lists_of_parts(tokenizer_of: TokenizerMaker) -> None:
    tokenizer = using(tokenizer_of, PARTS)
    found = spoken(chat("a", "the cat", "<think>x</think> b", "<think>why</think>c"), tokenizer)
    assert [role for role, _ in found] == ["user", "assistant", "user", "reasoning", "assistant"]
    said = [text.strip() for _, text in found]
    assert said == ["a", "the cat", "<think>x</think> b", "why", "c"]
    # A template that wants strings is not given a list that it would write out.
    bare = using(
        tokenizer_of,
        "{% for m in messages %}{{ m.content[1:-1] if m.content is string else m.content }}|"
        "{% endfor %}",
    )
    with pytest.raises(InputError, match="leaves out"):
        ChatTemplate(bare).render(chat("a", "the cat"))


@pytest.mark.parametrize(
    ("opening", "closing"),
    [
        ("<thinking>", "</thinking>"),
        ("<seed:think>", "</seed:think>"),
        ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ],
)
def test_other_tags_of_thoughts(tokenizer_of: TokenizerMaker, opening: str, closing: str) -> None:
    found = spoken(chat("a", f"{opening}\nwhy\n{closing}\n\nb"), tokenizer_of("chatml"))
    assert found == [("user", "a"), ("reasoning", "why"), ("assistant", "b")]


def test_named_templates(tokenizer_of: TokenizerMaker) -> None:
    document = chat("a", "b")
    expected = runs(document, using(tokenizer_of, CHATML))
    for templates in (
        {"tool_use": CHATML, "rag": "x"},
        {"tool_use": "x", "default": CHATML},
        {"tool_use": "x", "chat": CHATML},
    ):
        assert runs(document, using(tokenizer_of, templates)) == expected


@pytest.mark.parametrize(
    "dated",
    [
        "{{ strftime_now('%d %B %Y %H:%M:%S.%f') }}",
        "{% if strftime_now is defined %}{{ strftime_now('%c') }}{% endif %}",
        "{{ date_string }}",
    ],
)
def test_the_clock_stands_still(tokenizer_of: TokenizerMaker, dated: str) -> None:
    tokenizer = using(tokenizer_of, dated + CHATML)
    first, _ = ChatTemplate(tokenizer).render(chat("a", "b"))
    time.sleep(0.01)
    again, _ = ChatTemplate(tokenizer).render(chat("a", "b"))
    assert first == again
    assert "2024" in first


HOSTILE = {
    "nested ranges": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}"
    "{% endfor %}",
    "nested lists": "{% set x = [1] * 9999 %}" + "{% for i in x %}" * 4 + "{% endfor %}" * 4,
    "power": "{{ 9 ** (9 ** 9) }}",
    "string": "{{ 'a' * 10 ** 10 }}",
    "doubling": "{% set n = namespace(s='aa') %}{% for i in range(60) %}{% set n.s = n.s ~ n.s %}"
    "{% endfor %}{{ n.s }}",
    "list": "{{ ([1] * 10 ** 9) | length }}",
    "output": "{% for i in range(99999) %}{{ 'a' * 999 }}{% endfor %}",
    "padding": "{{ '%1000000000d' % 1 }}",
    "macro": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "deep": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "syntax": "{% for %}",
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_templates_are_refused(tokenizer_of: TokenizerMaker, kind: str) -> None:
    tokenizer = using(tokenizer_of, HOSTILE[kind])
    start = time.monotonic()
    with pytest.raises(InputError, match=r"document: the chat template (is refused|has an error)"):
        tokenize([chat("a", "b")], tokenizer)
    assert time.monotonic() - start < 5
    # The next template is rendered as ever.
    assert runs(chat("a", "b"), tokenizer_of("chatml"))[-2][0] == "assistant"


@pytest.mark.parametrize(
    "template",
    [
        "{{ 1 / 0 }}", "{{ messages.nothing.more }}", "{{ ''.__class__.__mro__ }}",
        "{{ '\\ud800' }}",
        "{{ range(10 ** 9) | list }}", "{{ messages[0]['content'] + 1 }}", "{{ namespace(__a=1) }}",
        "{{ messages | tojson(indent='x', separators=3) }}", "{% include 'x' %}",
    ],
)  # fmt: skip
def test_errors_of_templates_are_ours(tokenizer_of: TokenizerMaker, template: str) -> None:
    with pytest.raises(InputError, match="document: the chat template"):
        tokenize([chat("a", "b")], using(tokenizer_of, template))


texts = st.text(max_size=20) | st.sampled_from(
    ["<think>", "</think>", "<think>a</think>b", " x ", "\U000f1000" + "1\U000f1002", "\ud800"]
)
turns_like = st.tuples(
    st.sampled_from(["system", "developer", "user", "assistant", "tool", "function"]),
    texts,
    st.none() | texts,
    st.lists(
        st.fixed_dictionaries(
            {"function": st.fixed_dictionaries({"name": texts, "arguments": st.just({"a": 1})})}
        ),
        max_size=2,
    ).map(tuple),
)
TEMPLATES = [CHATML, QWEN3, STRICT, "{{ messages | tojson }}", "{{ messages[-1].content | upper }}"]


@settings(max_examples=300)
@given(st.lists(turns_like, min_size=1, max_size=4), st.sampled_from(TEMPLATES))
def test_any_chat_is_read_or_refused_in_our_words(
    tokenizer_of: TokenizerMaker, turns: list[tuple], template: str
) -> None:
    tokenizer = using(tokenizer_of, template)
    try:
        chat = tuple(Message(*turn) for turn in turns)
        corpus = tokenize([Document(messages=chat)], tokenizer, context=100_000)
    except InputError:
        return
    said = {ROLES[role] for role in np.unique(corpus.roles)}
    for message in chat:
        if message.reasoning and message.reasoning.strip():
            assert "reasoning" in said  # nothing that was thought is lost
        if message.role in ("tool", "function") and message.content.strip():
            assert "tool" in said


def test_reading_stops_when_enough_is_read(tokenizer_of: TokenizerMaker, monkeypatch) -> None:
    from anaglyph.corpus import tokenizing

    monkeypatch.setattr(tokenizing, "DRAW_FROM", 3000)
    tokenizer, given_out = tokenizer_of("plain"), 0

    def endless():
        nonlocal given_out
        while True:
            given_out += 1
            yield Document(text=f"the cat {given_out}")

    corpus = load_corpus(endless(), tokenizer, max_tokens=100)
    assert corpus.n_tokens <= 100
    assert corpus.reading is not None
    assert corpus.reading.stopped
    assert corpus.reading.tokens_read.total() >= 3000
    assert given_out < 2000
    # Within the bound the draw is the same as from the whole.
    few = [Document(text=f"the cat {i}") for i in range(200)]
    whole = tokenize(few, tokenizer)
    assert tokenize(few, tokenizer, max_tokens=90).fingerprint == whole.limited(90).fingerprint
