"""Training on a stream: what it reads, what it keeps out, and that a stop changes nothing."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from anaglyph import ModelPair, collect, load_corpus, train
from anaglyph.core.errors import InputError
from anaglyph.core.settings import DictionarySettings
from anaglyph.corpus import TokenCorpus, sample_of
from anaglyph.corpus.tokens import offsets_of
from anaglyph.demo import tiny_pair
from anaglyph.dictionaries.config import TrainConfig, resolve
from anaglyph.dictionaries.stream import Stream, train_together, whole_batches
from anaglyph.dictionaries.training import Training

LAYER, BATCH, WINDOW = 1, 128, 1000


def numbered(lengths: list[int]) -> TokenCorpus:
    """A text whose tokens are all different."""
    offsets = offsets_of(np.array(lengths, np.int64))
    tokens = np.arange(offsets[-1], dtype=np.int32)
    return TokenCorpus(tokens, np.zeros(len(tokens), np.uint8), offsets, max(lengths))


@given(st.lists(st.integers(1, 9), min_size=20, max_size=80), st.integers(40, 200))
def test_a_sample_is_bounded_whole_and_held_out_where_the_text_is(lengths, most):
    corpus = numbered(lengths)
    sample = sample_of(corpus, most)
    if corpus.n_tokens <= most:
        assert sample is corpus
        return
    assert 0 < sample.n_tokens <= most
    whole = {tuple(corpus.sequence(i)[0]): bool(corpus.heldout[i]) for i in range(len(lengths))}
    found = [tuple(sample.sequence(i)[0]) for i in range(sample.n_sequences)]
    assert len(set(found)) == len(found)
    assert [whole[each] for each in found] == sample.heldout.tolist()
    assert sample.n_tokens > most / 2


def test_a_sample_that_is_too_small_is_refused():
    with pytest.raises(InputError, match="sample_tokens: 5 tokens have no room for two sequences"):
        sample_of(numbered([9] * 30), 5)


@pytest.fixture(scope="module")
def pair() -> ModelPair:
    return ModelPair.load(tiny_pair().base, tiny_pair().tuned, device="cpu")


@pytest.fixture(scope="module")
def text(pair) -> TokenCorpus:
    return load_corpus(tiny_pair().corpus, pair.tokenizer, max_tokens=6000)


@pytest.fixture(scope="module")
def whole(pair, text, tmp_path_factory):
    return collect(pair, text, [LAYER], tmp_path_factory.mktemp("whole"))


def stream_of(pair, text, seed: int = 0) -> Stream:
    return Stream(pair, text, LAYER, seed=seed, window=WINDOW)


def test_every_training_token_comes_once_and_no_held_out_one(pair, text, whole):
    stream = stream_of(pair, text)
    rows = torch.cat([torch.cat(batch, 1) for batch in stream.batches(1)])
    block = torch.cat([torch.cat((b.base, b.tuned), 1) for b in whole.blocks("train")])
    assert len(rows) == stream.n_tokens == len(block)
    key = torch.linspace(0.5, 1.5, rows.shape[1], dtype=torch.float64)
    one, other = ((each.double() @ key).sort().values for each in (rows, block))
    torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-5)


def test_skipped_batches_are_not_computed_and_change_nothing(pair, text, monkeypatch):
    stream = stream_of(pair, text)
    batches = list(stream.batches(BATCH))
    assert len(batches) == stream.n_tokens // BATCH
    computed = []
    original = Stream._computed
    monkeypatch.setattr(
        Stream, "_computed", lambda self, part, p: computed.append(part) or original(self, part, p)
    )
    skip = len(batches) - 2
    for found, expected in zip(stream.batches(BATCH, skip), batches[skip:], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert len(computed) < 3


def trainings(sample, stream, folder: Path | None = None, seed: int = 0) -> list[Training]:
    tokens = whole_batches(stream, BATCH)
    settings = DictionarySettings(latents=64, k=4, tokens=tokens, batch=BATCH)
    made = []
    for method in ("diff-sae", "crosscoder"):
        config = resolve(sample, method, settings, seed, "cpu")
        file = None if folder is None else folder / method
        made.append(Training(sample, config, file, text=stream.key, checkpoint_seconds=0.0))
    return made


@pytest.mark.parametrize("stops", [(1,), (7, 9, 20), (33, 34)])
def test_a_stream_that_was_killed_ends_with_the_same_dictionaries(
    stops, pair, text, whole, tmp_path, monkeypatch
):
    unbroken = trainings(whole, stream_of(pair, text))
    train_together(stream_of(pair, text), unbroken)
    step = Training.step
    for stop in stops:

        def killed(self, base, tuned, stop=stop):
            # The second dictionary misses the step that the first one has done.
            if self.done == stop and self.config.method == "crosscoder":
                raise KeyboardInterrupt
            step(self, base, tuned)

        monkeypatch.setattr(Training, "step", killed)
        with pytest.raises(KeyboardInterrupt):
            train_together(stream_of(pair, text), trainings(whole, stream_of(pair, text), tmp_path))
    monkeypatch.setattr(Training, "step", step)
    resumed = trainings(whole, stream_of(pair, text), tmp_path)
    assert [each.done for each in resumed] == [stops[-1] + 1, stops[-1]]
    train_together(stream_of(pair, text), resumed)
    for one, other in zip(unbroken, resumed, strict=True):
        expected, found = one.dictionary().weights.named(), other.dictionary().weights.named()
        assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_stream_trains_as_well_as_the_full_store(pair, text, whole):
    def explained(seed: int) -> tuple[float, float]:
        stream = stream_of(pair, text, seed)
        made = trainings(whole, stream, seed=seed)
        train_together(stream, made[:1])
        config: TrainConfig = made[0].config
        stored = train(
            whole, "diff-sae", 64, 4, config.tokens, seed, batch=BATCH, lr=config.lr, device="cpu"
        )
        return made[0].finish().stats["fve"], stored.stats["fve"]

    found = np.array([explained(seed) for seed in range(4)])
    spread = found[:, 1].std(ddof=1)
    assert abs(found[:, 0].mean() - found[:, 1].mean()) < 2 * spread + 0.005, found


def test_more_tokens_than_the_text_has_are_refused(pair, text, whole):
    stream = stream_of(pair, text)
    settings = DictionarySettings(latents=16, k=2, tokens=2 * stream.n_tokens, batch=BATCH)
    training = Training(whole, resolve(whole, "diff-sae", settings, 0, "cpu"))
    with pytest.raises(InputError, match=r"a stream reads them once. Lower --tokens, add --data"):
        train_together(stream, [training])
