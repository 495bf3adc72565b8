"""Collecting from real (tiny) models: the right numbers, the right keys, and resuming."""

from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from store_cases import contents
from transformers import AutoModelForCausalLM

from anaglyph.core.errors import InputError, ModelError, StoreError
from anaglyph.corpus import Document, TokenCorpus, load_corpus
from anaglyph.pair import ModelPair
from anaglyph.pair.quiet import quiet
from anaglyph.store import PairedStore, collect


def test_rows_are_the_hidden_states_of_transformers(
    pair: ModelPair, corpus: TokenCorpus, tmp_path: Path
):
    store = collect(pair, corpus, [0, 1], tmp_path / "s", shard_tokens=20, token_budget=16)
    assert store.layers == (0, 1)
    assert store.layer == 0
    assert store.n_sequences == 12
    assert store.token_ids.tolist() == corpus.token_ids.tolist()
    assert store.roles.tolist() == corpus.roles.tolist()
    assert store.sequence_offsets.tolist() == corpus.offsets.tolist()
    assert np.array_equal(store.heldout, corpus.heldout)
    for side, name in enumerate(("base", "tuned")):
        for index in range(corpus.n_sequences):
            ids = torch.from_numpy(corpus.sequence(index)[0]).long()[None]
            with pair.side(name) as model, torch.no_grad():
                states = model(ids, output_hidden_states=True).hidden_states
            span = np.arange(corpus.offsets[index], corpus.offsets[index + 1])
            for layer in (0, 1):
                found = store.at(layer).gather(span)[side]
                torch.testing.assert_close(found, states[layer + 1][0])


def test_layers_are_resolved_sorted_and_kept_once(
    pair: ModelPair, corpus: TokenCorpus, tmp_path: Path
):
    store = collect(pair, corpus, [2, 0.5, 1], tmp_path / "s")
    assert store.layers == (1, 2)
    with pytest.raises(InputError, match="holds layers 1, 2, not 0"):
        store.at(0)


def test_documents_are_tokenized_with_the_options(
    pair: ModelPair, documents: list[Document], tmp_path: Path
):
    store = collect(pair, documents, [1], tmp_path / "s", context=5, max_tokens=40)
    expected = load_corpus(documents, pair.tokenizer, context=5, max_tokens=40)
    assert store.token_ids.tolist() == expected.token_ids.tolist()
    assert np.diff(store.sequence_offsets).max() == 5


def test_bfloat16_is_the_float32_run_rounded(pair: ModelPair, corpus: TokenCorpus, tmp_path: Path):
    exact = collect(pair, corpus, [1], tmp_path / "exact")
    rounded = collect(pair, corpus, [1], tmp_path / "rounded", dtype="bfloat16")
    every = np.arange(exact.n_tokens)
    for one, other in zip(exact.gather(every), rounded.gather(every), strict=True):
        assert torch.equal(one.bfloat16().float(), other)


def test_one_model_twice_is_run_once(
    same_pair: ModelPair, corpus: TokenCorpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    sides, run_to = [], same_pair.run_to

    def count(side, *rest):
        sides.append(side)
        return run_to(side, *rest)

    monkeypatch.setattr(same_pair, "run_to", count)
    store = collect(same_pair, corpus, [1], tmp_path / "s")
    assert set(sides) == {"base"}
    base, tuned = store.gather(np.arange(store.n_tokens))
    assert torch.equal(base, tuned)
    assert store.statistics.difference is not None
    assert store.statistics.difference.rms == 0


def test_a_finished_store_is_opened_without_running_a_model(
    pair: ModelPair, corpus: TokenCorpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    store = collect(pair, corpus, [1], tmp_path / "s")
    monkeypatch.setattr(pair, "run_to", None)
    assert collect(pair, corpus, [1], tmp_path / "s").key == store.key
    # how the work was divided does not make it other work
    assert collect(pair, corpus, [1], tmp_path / "s", shard_tokens=9, token_budget=9)


@pytest.mark.parametrize("change", ["layers", "dtype", "corpus", "context", "models", "precision"])
def test_other_work_never_replaces_a_store(
    pair: ModelPair,
    folders: tuple[Path, Path],
    documents: list[Document],
    tmp_path: Path,
    change: str,
):
    first = {"pair": pair, "corpus": documents, "layers": [1], "out": tmp_path / "s"}
    changed = {
        "layers": lambda: {"layers": [2]},
        "dtype": lambda: {"dtype": "bfloat16"},
        "corpus": lambda: {"corpus": documents[1:]},
        "context": lambda: {"context": 255},
        "models": lambda: {"pair": ModelPair.load(*reversed(folders))},
        "precision": lambda: {"pair": ModelPair.load(*folders, dtype="bfloat16")},
    }
    collect(**first)
    before = contents(tmp_path / "s")
    with pytest.raises(StoreError, match="holds a store of other models, data or settings"):
        collect(**first | changed[change]())
    assert contents(tmp_path / "s") == before


def test_progress_counts_tokens_to_the_end_and_counts_what_is_kept(
    pair: ModelPair, corpus: TokenCorpus, tmp_path: Path
):
    calls: list[tuple[str, int, int, str]] = []

    def progress(task: str, done: int, total: int, unit: str = "tokens") -> None:
        calls.append((task, done, total, unit))

    store = collect(pair, corpus, [1], tmp_path / "s", shard_tokens=20, progress=progress)
    total = store.n_tokens
    assert calls[0] == ("collect activations", 0, total, "tokens")
    assert calls[-1] == ("collect activations", total, total, "tokens")
    assert [call[1] for call in calls] == sorted({call[1] for call in calls})
    lost = sorted(store.path.glob("shard-*"))[-1]
    lost.unlink()
    calls.clear()
    again = collect(pair, corpus, [1], tmp_path / "s", shard_tokens=20, progress=progress)
    assert again.n_tokens == total
    assert 0 < calls[0][1] < total


def test_nan_names_side_layer_and_sequence_and_keeps_whole_shards(
    pair: ModelPair, corpus: TokenCorpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    bad_id = int(corpus.token_ids[corpus.offsets[9] + 2])
    run_to = pair.run_to

    def spoil(side, input_ids, attention_mask, layers):
        streams = run_to(side, input_ids, attention_mask, layers)
        if side == "tuned":
            for row, length in enumerate(attention_mask.sum(dim=1).tolist()):
                if length == len(corpus.sequence(9)[0]) and input_ids[row, 2] == bad_id:
                    streams[2][row, 2, 3] = float("nan")
        return streams

    monkeypatch.setattr(pair, "run_to", spoil)
    with pytest.raises(
        ModelError, match="the tuned model gives NaN or inf at layer 2 in sequence 9"
    ):
        collect(pair, corpus, [1, 2], tmp_path / "s", shard_tokens=20)
    assert list((tmp_path / "s").glob("shard-*"))
    with pytest.raises(StoreError, match="unfinished"):
        PairedStore.open(tmp_path / "s")
    monkeypatch.undo()
    resumed = collect(pair, corpus, [1, 2], tmp_path / "s", shard_tokens=20)
    unbroken = collect(pair, corpus, [1, 2], tmp_path / "unbroken", shard_tokens=20)
    assert contents(resumed.path) == contents(unbroken.path)


def test_padding_with_nan_is_not_the_models_fault(
    pair: ModelPair, corpus: TokenCorpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    run_to = pair.run_to

    def spoil(side, input_ids, attention_mask, layers):
        streams = run_to(side, input_ids, attention_mask, layers)
        for stream in streams.values():
            stream[attention_mask == 0] = float("nan")
        return streams

    monkeypatch.setattr(pair, "run_to", spoil)
    assert collect(pair, corpus, [1], tmp_path / "s").n_tokens == corpus.n_tokens


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layers": []}, "no layer to collect"),
        ({"layers": [3]}, "layer 3 is out of range"),
        ({"dtype": "float16"}, "dtype 'float16' is unknown"),
        ({"shard_tokens": 0}, "shard_tokens is 0"),
        ({"token_budget": 0}, "token_budget must be positive"),
    ],
)
def test_bad_settings_are_named(
    pair: ModelPair, corpus: TokenCorpus, tmp_path: Path, settings: dict, message: str
):
    with pytest.raises(InputError, match=message):
        collect(**{"pair": pair, "corpus": corpus, "layers": [1], "out": tmp_path / "s"} | settings)


def test_an_adapters_store_has_the_bytes_of_two_separate_runs(
    folders: tuple[Path, Path], corpus: TokenCorpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    torch.manual_seed(2)
    config = LoraConfig(r=2, target_modules=["q_proj"], layers_to_transform=[1, 2])
    with quiet():
        adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(folders[0]), config)
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                torch.nn.init.normal_(parameter)
        adapted.save_pretrained(str(tmp_path / "adapter"))
    pair = ModelPair.load(folders[0], tmp_path / "adapter")
    once = collect(pair, corpus, [0, 2], tmp_path / "once", shard_tokens=20)

    def apart(self: ModelPair, *batch):
        return {side: self.run_to(side, *batch) for side in ("base", "tuned")}

    monkeypatch.setattr(ModelPair, "run_both_to", apart)
    twice = collect(pair, corpus, [0, 2], tmp_path / "twice", shard_tokens=20)
    assert contents(once.path) == contents(twice.path)
    difference = once.at(2).statistics.difference
    assert difference is not None
    assert difference.rms > 0


def test_a_full_disk_is_told_even_though_a_thread_writes(
    pair: ModelPair, corpus: TokenCorpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("anaglyph.store.writer.write_tensors", refuse)
    with pytest.raises(StoreError, match=r"cannot write .* No space left"):
        collect(pair, corpus, [1], tmp_path / "s", shard_tokens=20)
