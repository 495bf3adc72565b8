"""Sequences, packing, budgets, the split, the fingerprint and batches."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import ByT5Tokenizer

from anaglyph.core.errors import InputError
from anaglyph.corpus import (
    ROLES,
    Document,
    Message,
    TokenCorpus,
    load_corpus,
    padded_batches,
    split_mask,
    tokenize,
)

from .conftest import TokenizerMaker, decode

TEXTS = [Document(text="the cat"), Document(text="abcdefghij" * 3), Document(text="hello")]
CHAT = Document(messages=(Message("user", "hello there"), Message("assistant", "the cat sat")))


def corpus_of(lengths: list[int]) -> TokenCorpus:
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    total = int(offsets[-1])
    return TokenCorpus(
        token_ids=np.arange(1, total + 1, dtype=np.int32),
        roles=np.full(total, ROLES.index("text"), np.uint8),
        offsets=offsets,
        context=max(lengths),
    )


def test_a_long_text_becomes_several_sequences(tokenizer_of: TokenizerMaker) -> None:
    tokenizer = tokenizer_of("plain")
    corpus = tokenize(TEXTS, tokenizer, context=8)
    assert set(corpus.roles.tolist()) == {ROLES.index("text")}
    texts = [decode(tokenizer, corpus.sequence(i)[0]) for i in range(corpus.n_sequences)]
    assert texts[0] == "the cat"
    assert "".join(texts[1:-1]) == "abcdefghij" * 3
    assert texts[-1] == "hello"
    assert corpus.lengths.max() == 8
    assert corpus.cut_tokens == 0


def test_every_sequence_of_a_text_gets_the_bos(tokenizer_of: TokenizerMaker) -> None:
    tokenizer = tokenizer_of("plain", adds_bos=True)
    corpus = tokenize(TEXTS, tokenizer, context=8)
    for i in range(corpus.n_sequences):
        ids, roles = corpus.sequence(i)
        assert ids[0] == tokenizer.bos_token_id
        assert [ROLES[role] for role in roles] == ["bos"] + ["text"] * (len(ids) - 1)
    rest = corpus.token_ids[corpus.roles == ROLES.index("text")]
    assert decode(tokenizer, rest) == "".join(d.text or "" for d in TEXTS)


def test_a_chat_is_cut_at_the_context(tokenizer_of: TokenizerMaker) -> None:
    tokenizer = tokenizer_of("chatml")
    whole = tokenize([CHAT], tokenizer, context=1000)
    assert whole.cut_tokens == 0
    first = int(np.flatnonzero(whole.roles == ROLES.index("assistant"))[0])
    short = tokenize([CHAT], tokenizer, context=first + 1)
    assert short.n_sequences == 1
    assert short.token_ids.tolist() == whole.token_ids[: first + 1].tolist()
    assert short.cut_tokens == whole.n_tokens - first - 1


@pytest.mark.parametrize("kind", ["chatml", "llama3"])
def test_the_cut_keeps_the_reply(tokenizer_of: TokenizerMaker, kind: str) -> None:
    system = Message("system", "the mat and the cat " * 20)
    chat = replace(CHAT, messages=(system, *(CHAT.messages or ())))
    tokenizer = tokenizer_of(kind)
    whole = tokenize([chat], tokenizer, context=10_000)
    short = tokenize([chat], tokenizer, context=16)
    assert short.n_tokens == 16
    assert decode(tokenizer, short.token_ids[short.roles == ROLES.index("assistant")])
    # One stretch of the chat, after its bos if it has one.
    head = int(kind == "llama3")
    assert short.token_ids[:head].tolist() == whole.token_ids[:head].tolist()
    text = ",".join(map(str, whole.token_ids.tolist()))
    assert ",".join(map(str, short.token_ids[head:].tolist())) in text
    reading = short.reading
    assert reading is not None
    assert reading.tokens_cut.total() == short.cut_tokens == whole.n_tokens - 16
    kept = np.bincount(short.roles, minlength=len(ROLES))
    for code, role in enumerate(ROLES):
        assert reading.tokens_read[role] - reading.tokens_cut[role] == kept[code]
    assert any("system" in warning and "cut" in warning for warning in reading.warnings)


@pytest.mark.parametrize("adds_bos", [False, True])
def test_packing_joins_documents(tokenizer_of: TokenizerMaker, adds_bos: bool) -> None:
    tokenizer = tokenizer_of("plain", adds_bos=adds_bos)
    corpus = tokenize(TEXTS, tokenizer, context=8, pack=True)
    assert corpus.lengths[:-1].tolist() == [8] * (corpus.n_sequences - 1)
    bos = "<bos>" * adds_bos
    joined = "".join(f"{bos}{document.text}<eos>" for document in TEXTS)
    assert decode(tokenizer, corpus.token_ids) == joined
    eos = corpus.token_ids == tokenizer.eos_token_id
    assert (corpus.roles[eos] == ROLES.index("template")).all()
    starts = corpus.token_ids == tokenizer.bos_token_id
    assert (corpus.roles[starts] == ROLES.index("bos")).all()
    assert (corpus.roles[~eos & ~starts] == ROLES.index("text")).all()


def test_packing_leaves_chats_as_their_template_writes_them(tokenizer_of: TokenizerMaker) -> None:
    tokenizer = tokenizer_of("chatml")
    apart = tokenize([CHAT, CHAT], tokenizer, context=1000)
    packed = tokenize([CHAT, CHAT], tokenizer, context=1000, pack=True)
    assert packed.n_sequences == 1
    assert packed.token_ids.tolist() == apart.token_ids.tolist()
    assert packed.roles.tolist() == apart.roles.tolist()


def test_refusals(tokenizer_of: TokenizerMaker) -> None:
    tokenizer = tokenizer_of("plain")
    with pytest.raises(InputError, match="holds no document"):
        tokenize([], tokenizer)
    with pytest.raises(InputError, match="context must be at least 2 tokens, got 1"):
        tokenize(TEXTS, tokenizer, context=1)
    with pytest.raises(InputError, match="max_tokens must be positive, got 0"):
        tokenize(TEXTS, tokenizer, max_tokens=0)
    with pytest.raises(InputError, match="max_tokens=1 is too small for a whole sequence"):
        tokenize(TEXTS, tokenizer, max_tokens=1)
    with pytest.raises(InputError, match="the tokenizer is a slow one"):
        tokenize(TEXTS, ByT5Tokenizer())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"token_ids": np.zeros(0, np.int32), "roles": np.zeros(0, np.uint8)},
            "the corpus is empty",
        ),
        ({"roles": np.zeros(2, np.uint8)}, "2 roles for 5 tokens"),
        ({"roles": np.full(5, 8, np.uint8)}, "role code 8 is not one of 0 to 7"),
        ({"offsets": np.array([0, 2, 4])}, "must run from 0 to the number of tokens"),
        ({"offsets": np.array([0, 5, 5])}, r"a sequence must have 1 to 3 tokens"),
        ({"offsets": np.array([0, 5])}, r"a sequence must have 1 to 3 tokens"),
    ],
)
def test_arrays_that_do_not_fit(change: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(corpus_of([2, 3]), **change)


def test_select_keeps_sequences_and_roles() -> None:
    corpus = corpus_of([2, 3, 1])
    part = corpus.select(np.array([True, False, True]))
    assert part.token_ids.tolist() == [1, 2, 6]
    assert part.offsets.tolist() == [0, 2, 3]
    with pytest.raises(InputError, match="the mask has 2 entries for 3 sequences"):
        corpus.select(np.array([True, False]))
    with pytest.raises(InputError, match="the corpus is empty"):
        corpus.select(np.zeros(3, bool))


def test_the_fingerprint_tells_corpora_apart() -> None:
    corpus = corpus_of([2, 3, 1])
    prints = {
        corpus.fingerprint,
        replace(corpus, context=4).fingerprint,
        replace(corpus, token_ids=corpus.token_ids[::-1].copy()).fingerprint,
        replace(corpus, roles=np.zeros(6, np.uint8)).fingerprint,
        replace(corpus, offsets=np.array([0, 3, 5, 6])).fingerprint,
    }
    assert len(prints) == 5
    assert corpus_of([2, 3, 1]).fingerprint == corpus.fingerprint


def test_the_fingerprint_sees_template_and_context(tokenizer_of: TokenizerMaker) -> None:
    prints = {
        tokenize([CHAT], tokenizer_of(kind), context=context).fingerprint
        for kind in ("chatml", "gemma", "llama3")
        for context in (16, 256)
    }
    assert len(prints) == 6


def test_load_corpus_takes_all_it_may_be_given(tokenizer_of: TokenizerMaker, tmp_path) -> None:
    tokenizer = tokenizer_of("plain")
    (tmp_path / "a.txt").write_text("the cat")
    corpus = load_corpus(tmp_path / "a.txt", tokenizer)
    assert load_corpus(str(tmp_path), tokenizer).fingerprint == corpus.fingerprint
    assert load_corpus([TEXTS[0]], tokenizer).fingerprint == corpus.fingerprint
    assert load_corpus(corpus, tokenizer) is corpus
    big = corpus_of([4] * 20)
    assert load_corpus(big, tokenizer, max_tokens=41).n_tokens == 40


@given(st.lists(st.integers(1, 9), min_size=1, max_size=30), st.integers(9, 300))
def test_a_budget_takes_whole_sequences(lengths: list[int], budget: int) -> None:
    corpus = corpus_of(lengths)
    part = corpus.limited(budget)
    assert part.n_tokens <= budget
    kept = [part.sequence(i)[0].tolist() for i in range(part.n_sequences)]
    whole = [corpus.sequence(i)[0].tolist() for i in range(corpus.n_sequences)]
    assert kept == [sequence for sequence in whole if sequence in kept]
    smaller = corpus.limited(9)
    assert set(smaller.token_ids.tolist()) <= set(part.token_ids.tolist())
    assert budget < corpus.n_tokens or part is corpus


@given(st.integers(0, 200), st.floats(0.01, 0.99), st.integers(0, 2**32))
def test_the_split(n: int, fraction: float, seed: int) -> None:
    mask = split_mask(n, fraction, seed)
    assert mask.shape == (n,)
    assert (mask == split_mask(n, fraction, seed)).all()
    if n >= 2:
        assert 1 <= mask.sum() <= n - 1
        assert abs(mask.sum() - fraction * n) <= 1
    else:
        assert not mask.any()


def test_the_split_is_one_for_all() -> None:
    assert corpus_of([1] * 20).heldout.tolist() == split_mask(20, 0.15, 0).tolist()
    assert split_mask(20).sum() == 3
    assert split_mask(200, seed=1).tolist() != split_mask(200, seed=2).tolist()
    for fraction in (0.0, 1.0, float("nan")):
        with pytest.raises(InputError, match="must lie between 0 and 1"):
            split_mask(10, fraction)
    with pytest.raises(InputError, match="must not be negative"):
        split_mask(-1)


@given(st.lists(st.integers(1, 12), min_size=1, max_size=40), st.integers(1, 60), st.data())
def test_batches_cover_each_sequence_once(lengths: list[int], budget: int, data) -> None:
    corpus = corpus_of(lengths)
    chosen = data.draw(st.lists(st.sampled_from(range(len(lengths))), unique=True))
    seen: list[int] = []
    for indices, ids, mask in padded_batches(corpus, np.array(chosen, np.int64), budget):
        assert ids.numel() <= budget or len(indices) == 1
        for row, index in enumerate(indices.tolist()):
            sequence, _ = corpus.sequence(index)
            assert ids[row].tolist() == [*sequence, *[0] * (ids.shape[1] - len(sequence))]
            assert mask[row].tolist() == [1] * len(sequence) + [0] * (ids.shape[1] - len(sequence))
        seen += indices.tolist()
    assert sorted(seen) == sorted(chosen)
    assert corpus.lengths[seen].tolist() == sorted(corpus.lengths[chosen], reverse=True)


def test_batches_refuse() -> None:
    corpus = corpus_of([2, 3])
    with pytest.raises(InputError, match="token_budget must be positive, got 0"):
        next(padded_batches(corpus, np.array([0]), 0))
    for bad in (-1, 2):
        with pytest.raises(InputError, match="a sequence index is not within 0 to 1"):
            next(padded_batches(corpus, np.array([bad]), 8))
