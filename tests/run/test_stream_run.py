"""A run with --store stream: bounded disk, the same artifacts after a kill."""

import json

import pytest

from anaglyph import Dictionary, PairedStore
from anaglyph.dictionaries.training import Training

SMALL = ["--latents", "64", "--batch", "256", "--threads", "1", "--layer", "1"]
STREAM = ["--store", "stream", "--sample-tokens", "3000", "--window", "2000", "--no-behaviour"]
SMALL_FIND = ["--trials", "1", "--candidates", "1", "--find-tokens", "256"]
METHODS = ["--method", "diff-sae", "--method", "crosscoder"]


@pytest.fixture
def options(tiny_arguments) -> list:
    few = ["--causal-tokens", "256", "--single-latents", "1", *SMALL_FIND]
    return [*tiny_arguments, *SMALL, *STREAM, *METHODS, *few]


def test_a_streamed_run_is_bounded_and_resumes(tmp_path, anaglyph, options, monkeypatch):
    run, again = tmp_path / "run", tmp_path / "again"
    said = anaglyph("diff", *options, "--out", run)
    assert said.code == 0, said.err
    store = PairedStore.open(run / "activations")
    corpus = json.loads((run / "run.json").read_text())["corpus"]
    assert store.n_tokens <= 3000 < corpus["text_tokens"]
    assert (run / "findings.json").is_file()
    for method in ("diff-sae", "crosscoder"):
        stats = Dictionary.load(run / "dictionaries" / method).stats
        assert stats["tokens"] > store.n_tokens
        assert stats["fve"] > 0

    step = Training.step

    def killed(self, base, tuned):
        step(self, base, tuned)
        self._keeper.interval = 0.0
        if self.done == 12 and self.config.method == "diff-sae":
            raise KeyboardInterrupt

    monkeypatch.setattr(Training, "step", killed)
    assert anaglyph("diff", *options, "--out", again).code == 130
    monkeypatch.setattr(Training, "step", step)
    assert anaglyph("diff", *options, "--out", again).code == 0
    for name in ("dictionaries/diff-sae", "dictionaries/crosscoder"):
        file = f"{name}/weights.safetensors"
        assert (run / file).read_bytes() == (again / file).read_bytes()
    assert (run / "findings.json").read_bytes() == (again / "findings.json").read_bytes()


def test_a_dictionary_is_added_to_a_streamed_run(tmp_path, anaglyph, tiny_arguments):
    run = tmp_path / "run"
    settings = [*STREAM[:-1], "--layer", "1", "--threads", "1"]
    said = anaglyph("collect", *tiny_arguments, *settings, "--out", run)
    assert said.code == 0, said.err
    said = anaglyph("train", run, "--latents", "32", "--batch", "256", "--json")
    assert said.code == 0, said.err
    assert json.loads(said.out)["tokens"] > 3000
    said = anaglyph("train", run, "--latents", "32", "--tokens", "9000000", "--json")
    assert said.code == 2
    assert "a stream reads them once" in said.err
