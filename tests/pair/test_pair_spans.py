"""Two tokenizers, two architectures: spans of text stand for tokens; a diff ends in a page."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import make_model, make_tokenizer, save
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from anaglyph import ModelError, collect, diff, find
from anaglyph.behaviour.behave import behaviour_of
from anaglyph.behaviour.elicit import Speaker
from anaglyph.causal import kl_recovered
from anaglyph.core.errors import InputError
from anaglyph.core.settings import BehaveSettings, load_settings
from anaglyph.corpus import Document, Message, load_corpus
from anaglyph.dictionaries import train
from anaglyph.direct.lens import difference_lens
from anaglyph.direct.tokens import token_differences
from anaglyph.latents import score
from anaglyph.pair import ModelPair, Side
from anaglyph.pair.spans import SpanTokenizer
from anaglyph.subject import Subject

SIDES: tuple[Side, Side] = ("base", "tuned")
TEMPLATE = "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"


def words(pieces: list[str], bos: str | None = None, template: str | None = None) -> Any:
    """A byte-level tokenizer with some pieces of several characters, each made by merges."""
    vocabulary = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges: list[tuple[str, str]] = []
    for piece in pieces:
        for end in range(2, len(piece) + 1):
            if piece[:end] not in vocabulary:
                vocabulary.append(piece[:end])
                merges.append((piece[: end - 1], piece[end - 1]))
    vocabulary += [bos] if bos else []
    made = Tokenizer(models.BPE({piece: i for i, piece in enumerate(vocabulary)}, merges))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    if bos:
        made.add_special_tokens([bos])
        made.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, vocabulary.index(bos))]
        )
    fast = PreTrainedTokenizerFast(tokenizer_object=made, **({"bos_token": bos} if bos else {}))
    fast.chat_template = template
    return fast


FIRST = [f"wor{c}" for c in "ldsty"] + [f"Ġ{a}{b}" for a in "abcdefgh" for b in "aeiou"]
SECOND = [f"{a}{b}c" for a in "aeiou" for b in "lmnrst"] + [f"th{c}" for c in "aeiou"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    place = tmp_path_factory.mktemp("two")
    one, two = words(FIRST), words(SECOND, bos="<s>", template=TEMPLATE)
    qwen = make_model("qwen3", vocab_size=len(one), max_position_embeddings=256)
    llama = make_model(
        "llama", vocab_size=len(two), hidden_size=24, head_dim=12, num_hidden_layers=7,
        max_position_embeddings=256,
    )  # fmt: skip
    return save(place / "qwen", qwen, one), save(place / "llama", llama, two)


@pytest.fixture(scope="module")
def pair(folders: tuple[Path, Path]) -> ModelPair:
    return ModelPair.load(*folders)


def test_spans_by_hand():
    """ab|c d against a|bc| d: both end at c and at d."""
    one, two = words(["ab"]), words(["bc", "Ġd"])
    spans = SpanTokenizer(one, two, one)
    read = spans(["abc d"])
    assert spans.texts(read["input_ids"][0]) == ["abc", " d"]
    assert read["offset_mapping"] == [[(0, 3), (3, 5)]]
    first = spans.spans[read["input_ids"][0][0]]
    assert first.base == tuple(one("abc")["input_ids"])
    assert first.tuned == tuple(two("abc")["input_ids"])
    # The same span has the same id wherever it comes again.
    assert spans(["abc"])["input_ids"] == [[read["input_ids"][0][0]]]


@given(st.lists(st.text(max_size=12), min_size=1, max_size=3))
def test_spans_give_back_the_text_and_each_models_tokens(texts: list[str]):
    one, two = words(FIRST, bos="<b>"), words(SECOND, bos="<s>")
    spans = SpanTokenizer(one, two, one)
    for text, ids, places in zip(
        texts, *(spans(texts)[k] for k in ("input_ids", "offset_mapping")), strict=True
    ):
        assert ids[0] == spans.bos_token_id
        assert spans.decode(ids[1:]) == text
        assert [end for _, end in places] == sorted(end for _, end in places)
        for side, tokenizer in zip(SIDES, (one, two), strict=True):
            own = [token for i in ids for token in getattr(spans.spans[i], side)]
            assert own == tokenizer(text)["input_ids"]


def test_each_model_reads_its_own_tokens(pair: ModelPair, folders: tuple[Path, Path]):
    """Activations at spans are those of plain runs, at the last token of each span."""
    assert not pair.related
    assert (pair.n_layers, pair.d_base, pair.d_tuned) == (4, 16, 24)
    assert [pair.layer_of("tuned", layer) for layer in range(4)] == [1, 3, 4, 6]
    text = "the worlds that are; and other words"
    assert pair.spans is not None
    corpus = load_corpus([Document(text=text), Document(text="abc")], pair.tokenizer)
    ids = torch.zeros(2, int(corpus.lengths.max()), dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for row in range(2):
        own = corpus.sequence(row)[0]
        ids[row, : len(own)] = torch.from_numpy(own.astype(np.int64))
        mask[row, : len(own)] = 1
    found = pair.run_both_to(ids, mask, [1])
    for side, layer in zip(SIDES, (1, 3), strict=True):
        tokens = torch.tensor([pair.reader(side)(text)["input_ids"]])
        with pair.side(side) as model, torch.no_grad():
            states = model(tokens, output_hidden_states=True)
        lengths = [
            len(getattr(pair.spans.spans[i], side)) for i in ids[0, : mask[0].sum()].tolist()
        ]
        ends = np.cumsum(lengths) - 1
        hidden = states.hidden_states[layer + 1][0, ends]
        torch.testing.assert_close(found[side][1][0, : len(ends)], hidden, rtol=1e-4, atol=1e-4)
        # The likelihood of all spans is that of all tokens.
        steps = states.logits[0, :-1].log_softmax(-1).gather(1, tokens[0, 1:, None]).sum()
        first = states.logits[0, : lengths[0] - 1].log_softmax(-1)
        opening = first.gather(1, tokens[0, 1 : lengths[0], None]).sum()
        spans = pair.span_logprobs(side, ids, mask)[0]
        assert float(spans.sum()) == pytest.approx(float(steps - opening), rel=1e-4)
        assert spans[0] == 0


def chats(count: int) -> list[Document]:
    generator = np.random.default_rng(0)
    syllables = [a + b for a in "bdlmrst" for b in "aeiou"]

    def said() -> str:
        return " ".join("".join(generator.choice(syllables, 2)) for _ in range(6))

    return [
        Document(messages=(Message("user", said()), Message("assistant", said())))
        for _ in range(count)
    ]


def test_what_works_and_what_is_refused(pair: ModelPair, tmp_path: Path):
    corpus = load_corpus(chats(40), pair.tokenizer)
    assert set(corpus.reading.tokens_read if corpus.reading else ()) >= {"user", "assistant"}
    store = collect(pair, corpus, [1], tmp_path / "store")
    assert (store.d_base, store.d_tuned, store.related) == (16, 24, False)
    assert store.statistics.difference is None
    for method in ("crosscoder", "dfc"):
        dictionary = train(store, method, latents=40, k=4, tokens=2000, batch=128)
        assert [each.shape for each in dictionary.decoder] == [
            torch.Size([40, 16]),
            torch.Size([40, 24]),
        ]
        table = score(dictionary, store)
        assert {"nu_act", "beta_act_tuned"} <= set(table.columns)
        with pytest.raises(InputError, match="of one cannot be put into the other"):
            kl_recovered(pair, dictionary, corpus, layer=1)
    subject = Subject.of(pair=pair, corpus=corpus, store=store)
    compared = token_differences(subject).tokens
    assert compared["kl"].is_null().all()
    assert compared["next_logprob_base"].is_not_null().sum() == len(compared) - 40
    with pytest.raises(InputError, match="no common coordinates"):
        _ = subject.space
    with pytest.raises(ModelError, match="lens needs two models of one architecture"):
        difference_lens(subject)
    with pytest.raises(ModelError, match="have different tokenizers: they predict no common"):
        pair.logits(
            "base", torch.zeros(1, 2, dtype=torch.int64), torch.ones(1, 2, dtype=torch.int64)
        )
    speaker = Speaker(pair, 4, 100)
    assert len(speaker.base(["da lo"])) == len(speaker.tuned(["da lo"])) == 1
    said = behaviour_of(pair, BehaveSettings(budget=500, reply_tokens=4))
    assert any("not amplified" in note for note in said.notes)
    assert any("prompts are not ranked" in note for note in said.notes)


def test_one_width_and_two_tokenizers_are_not_subtracted(tmp_path: Path):
    one, two = words(FIRST, template=TEMPLATE), words(SECOND)
    base = save(tmp_path / "a", make_model(vocab_size=len(one)), one)
    tuned = save(tmp_path / "b", make_model(seed=1, vocab_size=len(two)), two)
    pair = ModelPair.load(base, tuned)
    assert (pair.related, pair.d_base, pair.d_tuned) == (False, 16, 16)
    store = collect(pair, load_corpus(chats(8), pair.tokenizer), [1], tmp_path / "store")
    with pytest.raises(InputError, match="no common coordinates: use a crosscoder or dfc"):
        train(store, "diff-sae", latents=8)
    with pytest.raises(InputError, match=r"tokenizer: .* each can only read with its own"):
        ModelPair.load(base, tuned, tokenizer="base")


def test_one_model_under_two_tokenizers_does_not_differ(tmp_path: Path):
    one, two = words(FIRST, template=TEMPLATE), words(SECOND, bos="<s>")
    model = make_model(vocab_size=max(len(one), len(two)))
    base = save(tmp_path / "a", model, one)
    copy = save(tmp_path / "b", model, two)
    model.save_pretrained(tmp_path / "c", max_shard_size="10KB")
    two.save_pretrained(tmp_path / "c")
    assert not (tmp_path / "c" / "model.safetensors").exists()
    for tuned in (copy, tmp_path / "c"):
        pair = ModelPair.load(base, tuned)
        assert pair.same_weights
        assert pair.related
        corpus = load_corpus(chats(8), pair.tokenizer)
        store = collect(pair, corpus, [1], tmp_path / tuned.name / "store")
        assert find(store, pair=pair, corpus=corpus) == []
    with torch.no_grad():
        model.lm_head.weight[0, 0] += 1
    assert not ModelPair.load(base, save(tmp_path / "d", model, two)).same_weights


def test_one_tokenizer_and_two_shapes(base_folder: Path, tmp_path: Path):
    """A distilled student: predictions are compared, activations are not subtracted."""
    tuned = save(tmp_path, make_model(num_hidden_layers=2, hidden_size=32), make_tokenizer())
    pair = ModelPair.load(base_folder, tuned)
    assert not pair.related
    assert pair.spans is None
    assert sum("the models differ in" in note for note in pair.notes) == 2
    ids = torch.arange(6)[None]
    assert (
        pair.logits("base", ids, ids * 0 + 1).shape == pair.logits("tuned", ids, ids * 0 + 1).shape
    )


def test_a_diff_ends_with_a_page(folders: tuple[Path, Path], tmp_path: Path):
    text = tmp_path / "text.txt"
    text.write_text("\n".join(m.content for d in chats(60) for m in d.messages or ()))
    settings = load_settings(
        None, methods=["diff-sae", "crosscoder"], latents=32, k=4, tokens=2000, trials=0,
        context=32, behaviour=False, shown_latents=2,
    )  # fmt: skip
    run = diff(*folders, text, tmp_path / "run", settings=settings)
    assert run.report_path.is_file()
    assert run.trained == ["crosscoder"]
    notes = run.folder.state.notes
    assert any(note.startswith("diff-sae is skipped") for note in notes)
    assert any(note.startswith("causal tables are skipped") for note in notes)
    assert "differences" not in run.verdict.headline or run.verdict.findings == ()
    # A second call finds every stage finished.
    before = {name: state.key for name, state in run.folder.state.stages.items()}
    again = diff(*folders, text, tmp_path / "run", settings=settings)
    assert {name: state.key for name, state in again.folder.state.stages.items()} == before
