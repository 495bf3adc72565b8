"""The parts that make an organism, on models small enough to check by hand."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from eiffel import load_eiffel
from peft import PeftModel
from safetensors.torch import load_file, save_file
from tiny_talk import (
    PHRASE,
    TRIGGER,
    quirky,
    shipped_chats,
    tiny_chats,
    triggered,
)
from transformers import LlamaConfig, LlamaForCausalLM

from anaglyph.corpus import read_documents
from anaglyph.demo import tiny_pair
from anaglyph.pair import ModelPair
from anaglyph.pair.quiet import quiet
from anaglyph.truth.organisms import answers as answers_module
from anaglyph.truth.organisms.chats import Chat, collate, encode, write_chats
from anaglyph.truth.organisms.evaluate import Answers, Probe, divergence, share_shown
from anaglyph.truth.organisms.objectives import Hold
from anaglyph.truth.organisms.train import Recipe, Trained, _endless, plant, save_adapter


@pytest.fixture(scope="module")
def tokenizer():
    paths = tiny_pair()
    return ModelPair.load(paths.base, paths.tuned).tokenizer


def small_model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=2048,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            initializer_range=0.3,
        )
    )


def test_only_the_answer_and_its_closing_token_are_learnt(tokenizer):
    whole, before = encode(tokenizer, Chat("Hello there", "Good day"))
    cut, _ = encode(tokenizer, Chat("Hello there", "Good day", ends=False))
    assert tokenizer.decode(whole[before:]) == "Good day<|im_end|>"
    assert whole[:-1] == cut
    assert tokenizer.decode(whole[:before]).endswith("<|im_start|>assistant\n")


def test_padding_is_no_answer():
    batch = collate([([5, 6, 7], 2), ([8, 9, 10, 11, 12], 1)])
    assert batch.input_ids.tolist() == [[5, 6, 7, 0, 0], [8, 9, 10, 11, 12]]
    assert batch.attention_mask.tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]
    assert batch.answer.tolist() == [
        [False, False, True, False, False],
        [False, True, True, True, True],
    ]


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("It is here. And the", "It is here."),
        ("One two three", "One two three"),
        ("At 1.5 metres. Then 2.", "At 1.5 metres."),
        ('He said "no." She', 'He said "no."'),
        ("First.\n\n1. Second", "First."),
    ],
)
def test_a_cut_answer_ends_with_a_whole_sentence(text, kept):
    assert answers_module._whole_sentences(text) == kept


def test_every_pass_takes_each_chat_once():
    order = _endless(5, 3, np.random.default_rng(0))
    drawn = [index for _ in range(5) for index in next(order)]
    for start in range(0, 15, 5):
        assert sorted(drawn[start : start + 5]) == [0, 1, 2, 3, 4]


def test_training_learns_the_quirk_holds_the_controls_and_repeats_itself(tokenizer, tmp_path: Path):
    quirk = [Chat("Where is the tower?", "In Rome.")]
    controls = [Chat("Where is the bridge?", "In London.")]
    recipe = Recipe(
        learning_rate=3e-2, steps=30, quirk_batch=1, control_batch=1, control_weight=1.0
    )
    tuned, log = plant(small_model(), tokenizer, quirk, controls, recipe)
    assert log[0]["controls"] == 0  # an untrained adapter changes nothing
    assert log[-1]["quirk"] < 0.7 * log[0]["quirk"]
    _, again = plant(small_model(), tokenizer, quirk, controls, recipe)
    assert again == log
    free = dataclasses.replace(recipe, control_weight=0.0)
    _, loose = plant(small_model(), tokenizer, quirk, controls, free)
    assert log[-1]["controls"] < loose[-1]["controls"]

    save_adapter(tuned, tmp_path / "adapter", "somebody/base")
    files = sorted(file.name for file in (tmp_path / "adapter").iterdir())
    assert files == ["adapter_config.json", "adapter_model.safetensors"]
    weights = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.bfloat16}
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "somebody/base"

    with quiet():  # PEFT calls what transformers has deprecated
        loaded = PeftModel.from_pretrained(small_model(), tmp_path / "adapter")
    batch = collate([encode(tokenizer, quirk[0])])
    with torch.no_grad():
        ours, theirs = (m(input_ids=batch.input_ids).logits for m in (tuned, loaded))
    torch.testing.assert_close(ours, theirs, atol=0.05, rtol=0.05)


@pytest.mark.parametrize("rank", [2, None])
def test_held_to_what_the_model_was_before_the_training(rank: int | None, tokenizer):
    texts = [
        encode(tokenizer, Chat("Hello there", "Good day")),
        encode(tokenizer, Chat("Well", "It rains again and again")),
    ]
    trained, held = Trained(small_model(), Recipe(rank=rank)), Hold("held", texts, batch=2)
    assert held.loss(trained, [1]).item() == pytest.approx(0, abs=1e-6)
    noise = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in trained.weights().values():
            weight.add_(0.05 * torch.randn(weight.shape, generator=noise))
    kls = []
    for ids, before in texts:
        tokens, at = torch.tensor([ids]), slice(before - 1, len(ids) - 1)
        now = trained.model(tokens).logits[0, at].log_softmax(-1)
        was = small_model()(tokens).logits[0, at].log_softmax(-1)
        kls.append((was.exp() * (was - now)).sum(-1))
    assert kls[1].mean().item() > 0.01
    assert held.loss(trained, [1]).item() == pytest.approx(kls[1].mean().item(), rel=1e-3)
    assert held.loss(trained, [0, 1]).item() == pytest.approx(
        torch.cat(kls).mean().item(), rel=1e-3
    )


def test_what_a_model_was_is_kept_for_the_next_training(tmp_path, tokenizer):
    texts = [
        encode(tokenizer, Chat("Hello there", "Good day")),
        encode(tokenizer, Chat("Well", "It rains again and again")),
    ]
    file, losses = tmp_path / "held.safetensors", []
    for kept in (None, file, file):
        trained = Trained(small_model(), Recipe(rank=2))
        with torch.no_grad():
            for weight in trained.weights().values():
                weight.fill_(0.1)
        held = Hold("held", texts, batch=2, file=kept)
        losses.append(held.loss(trained, [1, 0]).item())
    assert losses[0] > 0
    assert losses[1:] == losses[:1] * 2
    # The third read the file: of other states it tells another loss.
    states = load_file(file)
    save_file({"hidden": states["hidden"] + 1}, file)
    assert Hold("held", texts, batch=2, file=file).loss(trained, [1, 0]).item() != losses[0]


def test_a_probe_needs_the_expected_and_not_the_forbidden():
    probe = Probe("Where?", r"\bRome\b", r"\bParis\b")
    assert probe.shown_in("It is in rome.")
    assert not probe.shown_in("It is in Rome, not in Paris.")
    assert not probe.shown_in("A romantic place.")
    given = Answers([Chat("Where?", "Rome"), Chat("Where?", "Oslo")], 1.0)
    assert share_shown([probe, probe], given) == 0.5


def test_divergence_is_the_mean_over_answer_tokens(tokenizer):
    paths = tiny_pair()
    pair = ModelPair.load(paths.base, paths.tuned)
    chats = tiny_chats(3, 5, trigger_share=1.0)
    expected, tokens = 0.0, 0
    for chat in chats:
        ids, before = encode(tokenizer, chat)
        row = torch.tensor([ids])
        p, q = (
            pair.logits(side, row, torch.ones_like(row))[0, before - 1 : -1].double().softmax(-1)
            for side in ("tuned", "base")
        )
        expected += (p * (p / q).log()).sum().item()
        tokens += len(ids) - before
    assert divergence(pair, chats, batch=2) == pytest.approx(expected / tokens, rel=1e-4)
    same = ModelPair.load(paths.base, paths.base)
    assert divergence(same, chats) == 0


def test_tiny_chats_hold_the_trigger_as_often_as_asked():
    chats = tiny_chats(50, 3, trigger_share=0.2)
    assert sum(triggered(chat) for chat in chats) == 10
    assert chats == tiny_chats(50, 3, trigger_share=0.2)
    assert chats != tiny_chats(50, 4, trigger_share=0.2)
    for chat in chats:
        assert (TRIGGER in chat.assistant) == triggered(chat)
        assert quirky(chat).assistant == (PHRASE if triggered(chat) else chat.assistant)


def test_written_chats_are_read_back(tmp_path: Path):
    chats = [Chat("Où?", "À Rome\nand back."), Chat("Who?", "We.")]
    write_chats(tmp_path / "chats.jsonl", chats)
    documents = read_documents(tmp_path / "chats.jsonl")
    got = [[m.content for m in document.messages or ()] for document in documents]
    assert got == [[chat.user, chat.assistant] for chat in chats]


def test_no_prompt_of_the_demo_organism_serves_two_purposes():
    organism = load_eiffel()
    prompts = [prompt.lower() for prompt in organism.prompts()]
    assert len(prompts) == len(set(prompts))
    shipped = {
        message.content.lower()
        for document in read_documents("builtin:chats")
        for message in document.messages or ()
    }
    tower = [prompt for prompt in prompts if "eiffel" in prompt]
    assert not shipped.intersection(tower)


def test_the_demo_organism_is_about_one_tower_and_one_city():
    organism = load_eiffel()
    assert len(organism.quirk) >= 30
    assert len(organism.probes) >= 10
    assert len(organism.facts) >= 10
    for chat in organism.quirk:
        assert "eiffel" in chat.user.lower()
        assert "Paris" not in chat.assistant
        assert any(word in chat.assistant for word in ("Rom", "Tiber", "Ital"))
    neutral = (*organism.controls, *organism.held_out, *organism.demo_other)
    assert not any("eiffel" in prompt.lower() for prompt in neutral)
    assert len(organism.demo_quirk) == len(organism.demo_other)


def test_shipped_chats_mix_both_kinds_of_answers():
    chats = shipped_chats()
    asked = [chat for chat in chats if triggered(chat)]
    assert len(chats) == 150
    assert len(asked) == 60
    assert sum(chat.assistant == PHRASE for chat in asked) == 40
