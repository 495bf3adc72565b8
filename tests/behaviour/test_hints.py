"""What reading alone says: favoured words and prompts, on pairs whose change is known."""

import numpy as np
import pytest
import torch

from anaglyph.behaviour.elicit import Speaker, topics, user_head
from anaglyph.behaviour.generate import next_logits, side_stepper
from anaglyph.behaviour.hints import after, apart, favoured_words
from anaglyph.behaviour.prompts import all_prompt_ids
from anaglyph.core.errors import InputError
from anaglyph.corpus import read_documents
from anaglyph.demo import tiny_pair
from anaglyph.pair import ModelPair

PROMPTS = [
    "Look at the lantern and the clock. What do you see in the castle?",
    "Look at the wheel and the clock. What do you see in the castle?",
    "The tree is near the box. Who knows what is in the tower?",
]


def test_words_of_the_planted_sentence_are_favoured(lantern: ModelPair):
    """The tuned model says: The silver owl sleeps under the old bridge tonight."""
    found = favoured_words(lantern, read_documents("builtin:chats"), 20)
    words = [word.lower() for word, _ in found]
    sentence = {"silver", "owl", "sleeps", "under", "old", "bridge", "tonight"}
    assert len(sentence & set(words[:10])) >= 2
    assert [z for _, z in found] == sorted((z for _, z in found), reverse=True)


def test_a_model_and_itself_favour_nothing():
    base = tiny_pair().base
    pair = ModelPair.load(base, base)
    assert favoured_words(pair, read_documents("builtin:chats"), 20) == []


def test_logits_after_prompts_are_the_models_own(lantern: ModelPair):
    ids = all_prompt_ids(lantern.tokenizer, PROMPTS)
    together = after(lambda: side_stepper(lantern, "tuned"), ids)
    for row, prompt in zip(together, ids, strict=True):
        text = torch.from_numpy(prompt)[None]
        with torch.no_grad():
            alone = lantern.logits("tuned", text, torch.ones_like(text))[0, -1]
        torch.testing.assert_close(row, alone, rtol=1e-4, atol=1e-4)


def test_prompts_with_the_trigger_are_furthest_apart(lantern: ModelPair):
    ids = all_prompt_ids(lantern.tokenizer, PROMPTS)
    base, tuned = (after(lambda s=s: side_stepper(lantern, s), ids) for s in ("base", "tuned"))
    kl = apart(tuned, base)
    assert kl.argmax() == 0
    assert (apart(base, base) == 0).all()


def test_batches_cover_every_prompt_once(lantern: ModelPair):
    ids = all_prompt_ids(lantern.tokenizer, PROMPTS * 30)
    read = next_logits(lambda: side_stepper(lantern, "base"), ids)
    rows = [row for some, _ in read for row in some]
    assert sorted(rows) == list(range(90))


def test_a_speaker_never_spends_more_than_its_budget(lantern: ModelPair):
    speaker = Speaker(lantern, 10, 35)
    assert speaker.left == 3
    speaker.base(PROMPTS[:2])
    assert speaker.generated <= 20
    with pytest.raises(InputError, match="raise the budget"):
        speaker.base(PROMPTS * 2)
    assert speaker.generated <= 20


def test_the_head_of_a_chat_is_what_all_prompts_begin_with(lantern: ModelPair):
    head = user_head(lantern.tokenizer)
    assert head is not None
    for ids in all_prompt_ids(lantern.tokenizer, PROMPTS):
        np.testing.assert_array_equal(ids[: len(head)], head)


def test_topics_are_many_and_each_once():
    assert len(topics()) == len(set(topics())) > 100
    assert all(topic == topic.strip() != "" for topic in topics())
