"""A pair with added and renamed tokens gives the findings of the same weights without them."""

import shutil
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from anaglyph import collect, find, load_corpus
from anaglyph.core.files import read_json, write_json
from anaglyph.core.schemas import Finding
from anaglyph.demo import tiny_pair
from anaglyph.pair import ModelPair
from anaglyph.pair.quiet import quiet


def found(base: Path, tuned: Path, out: Path) -> list[Finding]:
    pair = ModelPair.load(base, tuned)
    corpus = load_corpus(list(tiny_pair().corpus), pair.tokenizer, max_tokens=8000)
    store = collect(pair, corpus, [1], out)
    return find(store, pair=pair, corpus=corpus)


@pytest.mark.slow
def test_the_findings_are_the_same(tmp_path: Path):
    from peft import PeftModel

    paths = tiny_pair()
    with quiet():
        model = AutoModelForCausalLM.from_pretrained(paths.base)
        model = PeftModel.from_pretrained(model, str(paths.tuned)).merge_and_unload()
        tokenizer = AutoTokenizer.from_pretrained(paths.base)
        model.save_pretrained(tmp_path / "plain")
        tokenizer.save_pretrained(tmp_path / "plain")
        tokenizer.add_tokens([f"<|extra {i}|>" for i in range(8)])
        model.resize_token_embeddings(len(tokenizer), pad_to_multiple_of=64)
        model.save_pretrained(tmp_path / "added")
        tokenizer.save_pretrained(tmp_path / "added")
    file = tmp_path / "added" / "tokenizer.json"
    state = read_json(file)
    vocabulary, merges = state["model"]["vocab"], state["model"]["merges"]
    # Tokens that no merge is made of may have any name.
    parts = {part for merge in merges for part in (*merge, "".join(merge))}
    free = [token for token in vocabulary if token not in parts and len(token) == 1][:3]
    assert len(free) == 3
    for number, token in enumerate(free):
        vocabulary[f"<renamed {number}>"] = vocabulary.pop(token)
    write_json(file, state)

    plain = found(paths.base, tmp_path / "plain", tmp_path / "1")
    added = found(paths.base, tmp_path / "added", tmp_path / "2")
    facts = ModelPair.load(paths.base, tmp_path / "added").vocabulary_facts
    assert (len(facts["added"]), len(facts["renamed"])) == (8, 3)
    assert len(plain) > 0
    assert [each.kind for each in added] == [each.kind for each in plain]
    for one, other in zip(plain, added, strict=True):
        assert other.effect == pytest.approx(one.effect)
        assert other.q_value == pytest.approx(one.q_value, rel=1e-4)
        assert other.kl_recovered == pytest.approx(one.kl_recovered)
        assert other.direction_tuned == pytest.approx(one.direction_tuned)
    shutil.rmtree(tmp_path / "added")
