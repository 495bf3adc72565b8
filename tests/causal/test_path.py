"""Gradients along the path add up to the KL that the layer carries, and vanish without one."""

import numpy as np
import pytest
import torch

from anaglyph.causal import edit_kl, shifted
from anaglyph.causal.path import path_gradients
from anaglyph.core.errors import InputError
from anaglyph.corpus import load_corpus
from anaglyph.demo import tiny_pair
from anaglyph.pair import ModelPair
from anaglyph.subject import Subject

MOST = 400


@pytest.fixture(scope="module")
def subject() -> Subject:
    pair = ModelPair.load(tiny_pair().base, tiny_pair().tuned)
    corpus = load_corpus(tiny_pair().corpus[0], pair.tokenizer)
    return Subject.of(pair=pair, corpus=corpus, layer=1)


@pytest.mark.parametrize("place", ["all", "assistant"])
def test_the_parts_add_up_to_the_whole_gap(subject: Subject, place: str):
    drawn = subject.corpus.draw_heldout(MOST, 0)
    parts = list(path_gradients(subject, drawn, place, points=8))
    whole = -sum(float((part.gradient * (part.tuned - part.base)).sum()) for part in parts)
    assert sorted(np.concatenate([part.sequences for part in parts])) == sorted(drawn)
    nothing = shifted("nothing", "h_base", np.zeros(128))
    row = edit_kl(subject, [nothing], positions=(place,), max_tokens=MOST).row(0, named=True)
    assert whole / row["tokens"] == pytest.approx(row["kl"], rel=0.02)


def test_between_equal_models_there_is_no_slope(subject: Subject):
    drawn = subject.corpus.draw_heldout(MOST, 0)
    # The path is a point, at which the KL has its minimum.
    base = tiny_pair().base
    same = Subject.of(pair=ModelPair.load(base, base), corpus=subject.corpus, layer=1)
    flat = torch.cat([part.gradient for part in path_gradients(same, drawn, "all")])
    steep = torch.cat([part.gradient for part in path_gradients(subject, drawn, "all")])
    assert float(flat.norm()) < 1e-3 * float(steep.norm())


def test_a_place_that_is_none_is_refused(subject: Subject):
    with pytest.raises(InputError, match="middle"):
        next(path_gradients(subject, np.array([0]), "middle"))
