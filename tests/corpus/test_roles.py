"""Every token's role, on the templates of ChatML, Gemma, Llama 2, Llama 3 and Mistral."""

import copy
from itertools import groupby

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from anaglyph.core.errors import InputError
from anaglyph.corpus import ROLES, Document, Message, tokenize
from anaglyph.corpus.roles import ASSISTANT, TEMPLATE, USER, roles_of_tokens
from anaglyph.corpus.templating import ChatTemplate

from .conftest import TokenizerMaker, decode


def chat(*turns: str, system: str | None = None) -> Document:
    """A chat of alternating user and assistant turns."""
    first = (Message("system", system),) if system else ()
    rest = (Message(("user", "assistant")[i % 2], turn) for i, turn in enumerate(turns))
    return Document(messages=(*first, *rest))


def runs(document: Document, tokenizer, **options) -> list[tuple[str, str]]:
    """Role and text of each run of tokens with one role."""
    corpus = tokenize([document], tokenizer, context=512, **options)
    tokens = zip(corpus.roles.tolist(), corpus.token_ids.tolist(), strict=True)
    return [
        (ROLES[role], tokenizer.decode([token for _, token in run]))
        for role, run in groupby(tokens, key=lambda pair: pair[0])
    ]


def test_chatml(tokenizer_of: TokenizerMaker) -> None:
    assert runs(chat("hello there", " Yes."), tokenizer_of("chatml")) == [
        ("template", "<|im_start|>system\nYou are kind<|im_end|>\n<|im_start|>user\n"),
        ("user", "hello there"),
        ("template", "<|im_end|>\n<|im_start|>assistant\n"),
        ("assistant", " Yes."),
        ("template", "<|im_end|>\n"),
    ]
    assert runs(chat("a", "b", "c", system="Be brief."), tokenizer_of("chatml")) == [
        ("template", "<|im_start|>system\n"),
        ("system", "Be brief."),
        ("template", "<|im_end|>\n<|im_start|>user\n"),
        ("user", "a"),
        ("template", "<|im_end|>\n<|im_start|>assistant\n"),
        ("assistant", "b"),
        ("template", "<|im_end|>\n<|im_start|>user\n"),
        ("user", "c"),
        ("template", "<|im_end|>\n"),
    ]


def test_gemma_strips_and_has_a_bos(tokenizer_of: TokenizerMaker) -> None:
    assert runs(chat(" hello\n", "the cat"), tokenizer_of("gemma")) == [
        ("bos", "<bos>"),
        ("template", "<start_of_turn>user\n"),
        ("user", "hello"),
        ("template", "<end_of_turn>\n<start_of_turn>model\n"),
        ("assistant", "the cat"),
        ("template", "<end_of_turn>\n"),
    ]


def test_llama_3(tokenizer_of: TokenizerMaker) -> None:
    tokenizer = tokenizer_of("llama3", adds_bos=True)  # must not add a second bos to a chat
    assert runs(chat("hello", "the cat", system="Hm"), tokenizer) == [
        ("bos", "<|begin_of_text|>"),
        ("template", "<|start_header_id|>system<|end_header_id|>\n\n"),
        ("system", "Hm"),
        ("template", "<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n"),
        ("user", "hello"),
        ("template", "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"),
        ("assistant", "the cat"),
        ("template", "<|eot_id|>"),
    ]


def test_llama_2_repeats_its_bos(tokenizer_of: TokenizerMaker) -> None:
    one = runs(chat("hello", "cat", system="Hm"), tokenizer_of("llama2"))
    assert one[0] == ("bos", "<s>")
    assert ("system", "Hm") in one
    assert ("user", "hello") in [(role, text.strip()) for role, text in one]
    assert ("assistant", "cat") in [(role, text.strip()) for role, text in one]
    # With two user turns <s> comes twice, so it is a token of the template.
    assert runs(chat("a", "b", "c"), tokenizer_of("llama2"))[0][0] == "template"


def test_mistral_moves_the_system_message(tokenizer_of: TokenizerMaker) -> None:
    found = runs(chat("a", "b", "c", "d", system="Hm"), tokenizer_of("mistral"))
    spoken = [(role, text.strip()) for role, text in found if role not in ("bos", "template")]
    assert spoken == [
        ("user", "a"), ("assistant", "b"), ("system", "Hm"), ("user", "c"), ("assistant", "d"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "content", ["user", "<|im_start|>user\nuser", "You", "system\n", "<|im_end|>"]
)
def test_a_content_that_looks_like_the_template(tokenizer_of: TokenizerMaker, content: str) -> None:
    found = runs(chat(content, content), tokenizer_of("chatml"))
    assert [run for run in found if run[0] != "template"] == [
        ("user", content),
        ("assistant", content),
    ]


def test_a_template_that_rewrites_a_content(tokenizer_of: TokenizerMaker) -> None:
    tokenizer = _with_template(
        tokenizer_of,
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + "
        "m['content'].split('</think>')[-1] + '<|im_end|>\n' }}{% endfor %}",
    )
    found = runs(chat("why", "<think>hm</think>so"), tokenizer)
    assert [run for run in found if run[0] != "template"] == [
        ("user", "why"), ("reasoning", "hm"), ("assistant", "so"),
    ]  # fmt: skip


def _with_template(tokenizer_of: TokenizerMaker, template: str):
    tokenizer = copy.deepcopy(tokenizer_of("chatml"))
    tokenizer.chat_template = template
    return tokenizer


def test_refusals(tokenizer_of: TokenizerMaker) -> None:
    with pytest.raises(InputError, match="the tokenizer has no chat template; give a tokenizer"):
        tokenize([chat("a", "b")], tokenizer_of("plain"))
    with pytest.raises(InputError, match=r"refuses this chat \(System role not supported\)"):
        tokenize([chat("a", "b", system="Hm")], tokenizer_of("gemma"))
    deaf = _with_template(
        tokenizer_of,
        "{% for m in messages if m['role'] != 'system' %}{{ m['content'] }}{% endfor %}",
    )
    with pytest.raises(InputError, match=r"leaves out messages\[0\] \(role system\)"):
        tokenize([chat("a", "b", system="Hm")], deaf)
    loud = _with_template(
        tokenizer_of, "{% for m in messages %}{{ m['content'] | upper }}|{% endfor %}"
    )
    assert [role for role, _ in runs(chat("a", "b"), loud)] == [
        "user", "template", "assistant", "template",
    ]  # fmt: skip
    glued = _with_template(
        tokenizer_of, "{% for m in messages %}{{ m['content'] | upper }}{% endfor %}"
    )
    assert runs(chat("a", "b"), glued) == [("user", "A"), ("assistant", "B")]
    counting = _with_template(
        tokenizer_of,
        "{% for m in messages %}{{ m['content'] | length }}{{ m['content'] }}|{% endfor %}",
    )
    with pytest.raises(InputError, match=r"messages\[0\] cannot be told from the chat template"):
        tokenize([chat("3", "3")], counting)
    with pytest.raises(InputError, match="a plain text has no turns"):
        ChatTemplate(deaf).render(Document(text="a"))


def test_a_token_has_the_role_of_most_of_its_characters() -> None:
    characters = np.array([TEMPLATE, TEMPLATE, USER, USER, USER, TEMPLATE], np.uint8)
    spans = np.array([[0, 1], [1, 4], [4, 6]])  # the last is a tie: the message has it
    assert roles_of_tokens(characters, spans).tolist() == [TEMPLATE, USER, USER]
    # " s": the space is the template's, the word the message's.
    spans = np.array([[0, 1], [1, 3]])
    assert roles_of_tokens(characters, spans).tolist() == [TEMPLATE, USER]
    turns = np.array([USER, ASSISTANT], np.uint8)
    assert roles_of_tokens(turns, np.array([[0, 2]])).tolist() == [USER]


def test_trimmed_and_empty_spans() -> None:
    # "?AA U": a trimmed space counts for the next token; an empty span follows its left neighbour.
    characters = np.array([TEMPLATE, ASSISTANT, ASSISTANT, USER, USER], np.uint8)
    spans = np.array([[0, 0], [0, 1], [1, 3], [3, 3], [4, 5]])
    assert roles_of_tokens(characters, spans).tolist() == [
        TEMPLATE, TEMPLATE, ASSISTANT, ASSISTANT, USER,
    ]  # fmt: skip


words = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30).filter(
    lambda text: text.strip()
)


@given(st.lists(words, min_size=1, max_size=5), st.none() | words, st.booleans())
def test_chatml_roles_give_back_the_contents(
    tokenizer_of: TokenizerMaker, turns: list[str], system: str | None, trims: bool
) -> None:
    tokenizer = tokenizer_of("chatml", trims=trims)
    document = chat(*turns, system=system)
    corpus = tokenize([document], tokenizer, context=10_000)
    assert len(corpus.roles) == len(corpus.token_ids)
    assert document.messages is not None
    for role in ("system", "user", "assistant"):
        ids = corpus.token_ids[corpus.roles == ROLES.index(role)]
        said = "".join(m.content for m in document.messages if m.role == role)
        assert decode(tokenizer, ids) == said
    rendered, _ = ChatTemplate(tokenizer).render(document)
    assert decode(tokenizer, corpus.token_ids) == rendered  # nothing is dropped


@given(st.lists(words, min_size=2, max_size=4), st.sampled_from(["gemma", "llama3", "llama2"]))
@example(["0", "s"], "llama2")
def test_other_templates_cover_every_token(
    tokenizer_of: TokenizerMaker, turns: list[str], kind: str
) -> None:
    tokenizer = tokenizer_of(kind)
    corpus = tokenize([chat(*turns)], tokenizer, context=10_000)
    assert ROLES.index("text") not in corpus.roles
    for role, start in (("user", 0), ("assistant", 1)):
        ids = corpus.token_ids[corpus.roles == ROLES.index(role)]
        said = "".join(turn.strip() for turn in turns[start::2])
        assert decode(tokenizer, ids).replace(" ", "") == said.replace(" ", "")
