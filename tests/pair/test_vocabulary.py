"""Vocabularies that are nearly one: which rows are one token, and what both models make of them."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from tiny_models import VOCABULARY, make_model, make_tokenizer, save
from torch import Tensor
from transformers import AutoModelForCausalLM

from anaglyph.behaviour.generate import Sampling, contrast_stepper, side_stepper, write
from anaglyph.behaviour.kl import token_kl
from anaglyph.behaviour.mixture import Mixer, Shares
from anaglyph.behaviour.null_pair import change_norms
from anaglyph.core.errors import InputError, ModelError
from anaglyph.corpus import Document, load_corpus
from anaglyph.direct.weights import weight_changes
from anaglyph.pair import ModelPair, Side
from anaglyph.pair.quiet import quiet
from anaglyph.pair.vocabulary import REST, are_alike, match_rows

Batch = tuple[Tensor, Tensor]
SIDES: tuple[Side, Side] = ("tuned", "base")


def test_rows_by_hand():
    """b is renamed in place, c and d change places, x is added, and a spare row becomes y."""
    base = {"a": 0, "b": 1, "c": 2, "d": 3}
    tuned = {"a": 0, "B": 1, "d": 2, "c": 3, "y": 4, "x": 6}
    found = match_rows(base, base, tuned, (6, 8))
    assert found.base.tolist() == [0, 1, 2, 3, 4, 5, -1, -1]
    assert found.tuned.tolist() == [0, 1, 3, 2, 4, 5, 6, 7]
    assert (found.added, found.dropped) == (("x",), ())
    assert found.renamed == (("b", "B"), (None, "y"))
    assert found.facts["moved"] == 2
    assert found.texts == {4: "y", 6: "x"}
    assert found.shared.tolist() == [True] * 6 + [False] * 2
    assert not found.has_rest
    # A pad token that neither model has a row for is no row at all.
    same = match_rows(base | {"pad": 9}, base, base, (4, 4))
    assert same.is_plain
    assert same.size == 4


@given(st.permutations(range(12)), st.integers(0, 4), st.integers(0, 4), st.data())
def test_every_row_has_one_id(order: list[int], more: int, fewer: int, data: st.DataObject):
    words = [f"w{i}" for i in range(12)]
    base = {word: row for row, word in enumerate(words[: 12 - fewer])}
    tuned = {words[row]: place for place, row in enumerate(order)}
    sizes = (12 + data.draw(st.integers(0, 3)), 12 + more)
    found = match_rows(base, base, tuned, sizes)
    for rows, size in ((found.base, sizes[0]), (found.tuned, sizes[1])):
        assert sorted(rows[rows >= 0].tolist()) == list(range(size))
    for word, row in base.items():
        assert (found.base[row], found.tuned[row]) == (row, tuned[word])


def test_what_counts_as_one_vocabulary():
    words = {f"w{i}": i for i in range(100)}
    assert are_alike(words, dict(list(words.items())[:96]) | {"x": 99})
    assert are_alike(words, None)
    assert not are_alike(words, {f"v{i}": i for i in range(100)})
    assert not are_alike(words, {f"w{i}": i for i in range(300)})


def resized(folder: Path, rows: int, tokenizer: Any, seed: int = 1, **changes: Any) -> Path:
    """Save the model of a seed with more rows, of random numbers."""
    model = make_model(seed=seed, **changes)
    torch.manual_seed(100)
    model.resize_token_embeddings(rows, mean_resizing=False)
    with torch.no_grad():
        for matrix in (model.model.embed_tokens, model.lm_head):
            matrix.weight[VOCABULARY:] = torch.randn(rows - VOCABULARY, 16)
    return save(folder, model, tokenizer)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(("rows", "extra"), [(104, 8), (128, 0), (128, 2)])
def test_added_and_padded_rows_change_nothing(
    tmp_path: Path, base_folder: Path, batch: Batch, rows: int, extra: int, tied: bool
):
    base = save(tmp_path / "base", make_model(tie_word_embeddings=tied), make_tokenizer())
    plain = save(tmp_path / "plain", make_model(seed=1, tie_word_embeddings=tied), make_tokenizer())
    longer = resized(tmp_path / "l", rows, make_tokenizer(extra=extra), tie_word_embeddings=tied)
    expected, pair = ModelPair.load(base, plain), ModelPair.load(base, longer)
    for one, other in (
        (pair, expected),
        (ModelPair.load(longer, base), ModelPair.load(plain, base)),
    ):
        mine, theirs = (
            token_kl(*(p.logits(side, *batch).flatten(0, 1) for side in SIDES))
            for p in (one, other)
        )
        torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-12)
    hidden = pair.run_to("base", *batch, [1])[1]
    assert torch.equal(hidden, expected.run_to("base", *batch, [1])[1])
    patched = pair.run_from("tuned", 1, hidden, *batch)
    other = expected.run_from("tuned", 1, hidden, *batch)
    torch.testing.assert_close(patched.log_softmax(-1)[..., :96], other.log_softmax(-1))
    assert change_norms(pair) == pytest.approx(change_norms(expected))
    assert pair.vocabulary_facts["added"] == [f"<{i}>" for i in range(extra)]
    assert pair.vocabulary_facts["shared"] == VOCABULARY
    assert any("compared over the 96 shared rows" in note for note in pair.notes)
    assert pair.tokenizer.get_vocab() == expected.tokenizer.get_vocab()


def test_where_each_has_tokens_of_its_own_the_rest_is_one_token(tmp_path: Path, batch: Batch):
    """KL by hand from the whole models' logits. <1> moved to the row of <0>, which is gone."""
    base = resized(tmp_path / "base", 98, make_tokenizer(extra=2), seed=0)
    tuned = resized(tmp_path / "tuned", 98, make_tokenizer(extra=2), seed=1)
    file = tuned / "tokenizer.json"
    text = file.read_text().replace('"<0>": 96', '"<x>": 97').replace('"<1>": 97', '"<1>": 96')
    file.write_text(text)
    own = {}
    for side, folder in (("base", base), ("tuned", tuned)):
        with torch.no_grad(), quiet():
            model = AutoModelForCausalLM.from_pretrained(folder)
            own[side] = model(*batch).logits.double().softmax(-1)
    pair = ModelPair.load(base, tuned)
    assert pair.vocabulary_facts["added"] == ["<x>"]
    assert pair.vocabulary_facts["dropped"] == ["<0>"]
    assert pair.token_strings([pair.vocabulary - 1]) == [REST]
    # Columns: the shared tokens, <1>, and the rest.
    q = own["base"][..., [*range(96), 97, 96]]
    p = own["tuned"][..., [*range(96), 96, 97]]
    found = token_kl(*(pair.logits(side, *batch).flatten(0, 1) for side in SIDES))
    by_hand = (p * (p / q).log()).sum(-1).flatten()
    torch.testing.assert_close(found, by_hand, rtol=1e-4, atol=1e-6)


def test_tokens_whose_ids_moved(tmp_path: Path, batch: Batch):
    """The same weights under two tokenizers, their rows in another order, do not differ."""
    model = make_model()
    base = save(tmp_path / "base", model, make_tokenizer())
    with torch.no_grad():
        for matrix in (model.model.embed_tokens, model.lm_head):
            matrix.weight[[5, 6]] = matrix.weight[[6, 5]]
    moved = save(tmp_path / "moved", model, make_tokenizer(swap=True))
    pair = ModelPair.load(base, moved)
    assert pair.vocabulary_facts["moved"] == 2
    assert torch.equal(pair.logits("base", *batch), pair.logits("tuned", *batch))
    assert {c.name: c.norm for c in weight_changes(base, moved) if c.norm > 0} == {}
    # Equal files are equal whatever their tokens are called.
    renamed = tmp_path / "renamed"
    shutil.copytree(base, renamed)
    make_tokenizer(swap=True).save_pretrained(renamed)
    assert ModelPair.load(base, renamed).same_weights


def test_renamed_tokens_are_the_same_rows(tmp_path: Path, base_folder: Path, batch: Batch):
    plain = ModelPair.load(base_folder, save(tmp_path / "a", make_model(seed=1), make_tokenizer()))
    renamed = save(tmp_path / "renamed", make_model(seed=1), make_tokenizer())
    file = renamed / "tokenizer.json"
    file.write_text(file.read_text().replace('"|"', '"<tool>"').replace('"}"', '"<call>"'))
    pair = ModelPair.load(base_folder, renamed)
    assert pair.vocabulary_facts["renamed"] == [["|", "<tool>"], ["}", "<call>"]]
    assert "2 rows have another token in" in pair.notes[0]
    assert torch.equal(pair.logits("tuned", *batch), plain.logits("tuned", *batch))
    norms = [
        {c.name: c.norm for c in weight_changes(base_folder, f)} for f in (tmp_path / "a", renamed)
    ]
    assert norms[0] == norms[1]


def test_texts_are_read_with_shared_tokens_unless_the_user_says_otherwise(tmp_path: Path):
    def reader(base: Path, tuned: Path, **options: Any) -> ModelPair:
        return ModelPair.load(base, tuned, **options)

    added = make_tokenizer()
    added.add_tokens(["<tool>"])
    base = save(tmp_path / "base", make_model(), make_tokenizer(template="{{ 1 }}"))
    tuned = resized(tmp_path / "tuned", 97, added)
    texts = [Document(text="th<tool>", source="t")]
    plain = load_corpus(texts, reader(base, tuned).tokenizer).token_ids
    assert plain.max() < VOCABULARY
    # The longer side first: its own added token is not read either.
    turned = reader(tuned, base)
    assert load_corpus(texts, turned.tokenizer).token_ids.tolist() == plain.tolist()
    named = reader(base, tuned, tokenizer="tuned")
    ids = load_corpus(texts, named.tokenizer).token_ids
    assert ids.tolist() == [95, 96]
    # The base reads the token with the tuned model's row, and predicts it with no probability.
    both = torch.from_numpy(ids.astype(np.int64))[None]
    logits = named.logits("base", both, torch.ones_like(both))
    assert logits.softmax(-1)[..., 96].max() == 0
    assert named.foreseen(np.array([95, 96, -1])).tolist() == [95, -1, -1]
    other = tmp_path / "other"
    make_tokenizer(extra=1, template="{{ 2 }}").save_pretrained(other)
    third = reader(base, tuned, tokenizer=str(other))
    assert third.tokenizer.chat_template == "{{ 1 }}"
    file = tmp_path / "chat.jinja"
    file.write_text("{{ 3 }}")
    assert reader(base, tuned, chat_template=str(file)).tokenizer.chat_template == "{{ 3 }}"
    assert reader(base, tuned, chat_template="base").tokenizer.chat_template == "{{ 1 }}"
    with pytest.raises(InputError, match=r"chat_template: .*tuned has none"):
        reader(base, tuned, chat_template="tuned")
    with pytest.raises(ModelError, match=r"cannot read .*nowhere"):
        reader(base, tuned, chat_template=str(tmp_path / "nowhere"))


def test_replies_mixtures_and_contrasts(tmp_path: Path, base_folder: Path):
    """The base never writes a token that it lacks; the tuned model may; mixtures are whole."""
    tuned = resized(tmp_path / "tuned", 104, make_tokenizer(extra=8))
    pair = ModelPair.load(base_folder, tuned)
    with pair.side("base") as base, torch.no_grad():
        head: Any = base.get_output_embeddings()
        head.weight[96:] *= 100
    prompts, sampling = [np.array([3, 4, 5])] * 2, Sampling(12, [], temperature=5.0)
    for make, most in (
        (lambda: side_stepper(pair, "base"), VOCABULARY),
        (lambda: side_stepper(pair, "tuned"), 104),
        (lambda: contrast_stepper(pair, 2.0), VOCABULARY),
    ):
        written = write(make, prompts, sampling)
        assert max(max(each.tokens) for each in written) < most
    assert pair.decoded([95, 97]) == "th<1>"
    whole = ModelPair.load(base_folder, tuned)
    mixer, ids = Mixer(whole), torch.arange(6)[None]
    with mixer.model(Shares.everywhere(4, 0.5)) as model, torch.no_grad():
        mixed = model(ids).logits
    embedding = [make_model(seed=seed).model.embed_tokens.weight for seed in (0, 1)]
    assert mixed.shape[-1] == 104
    with mixer.model(Shares.everywhere(4, 0.5)) as model:
        embeddings: Any = model.get_input_embeddings()
        half = embeddings.weight[:VOCABULARY]
        torch.testing.assert_close(half, (embedding[0] + embedding[1]) / 2)


@pytest.mark.parametrize("saved", ["whole", "factors"])
def test_an_adapter_with_longer_embeddings(
    tmp_path: Path, base_folder: Path, batch: Batch, saved: str
):
    model = make_model()
    model.resize_token_embeddings(98, mean_resizing=False)
    modules: dict[str, Any] = {
        "whole": {
            "target_modules": ["q_proj"],
            "modules_to_save": ["embed_tokens", "lm_head"],
        },
        "factors": {"target_modules": ["q_proj", "embed_tokens"]},
    }
    with quiet():
        adapted = get_peft_model(model, LoraConfig(r=2, task_type="CAUSAL_LM", **modules[saved]))
        generator = torch.Generator().manual_seed(3)
        with torch.no_grad():
            for name, parameter in adapted.named_parameters():
                if "lora_" in name or "modules_to_save" in name:
                    parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
        folder = tmp_path / "adapter"
        adapted.save_pretrained(str(folder), save_embedding_layers=True)
    make_tokenizer(extra=2).save_pretrained(folder)
    with torch.no_grad():
        tuned = adapted.eval()(batch[0], attention_mask=batch[1]).logits[..., :VOCABULARY]
        base = make_model()(batch[0], attention_mask=batch[1]).logits
    pair = ModelPair.load(base_folder, folder)
    assert pair.vocabulary_facts["added"] == ["<0>", "<1>"]
    assert pair.adapted_from == 0
    for side, expected in zip(SIDES, (tuned, base), strict=True):
        found = pair.logits(side, *batch).softmax(-1)[..., :VOCABULARY]
        torch.testing.assert_close(found, expected.softmax(-1), rtol=1e-4, atol=1e-6)
