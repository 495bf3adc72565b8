"""The distance between the two models' predictions, against whole forward passes."""

import numpy as np
import pytest
from causal_cases import LAYER, make_corpus, naive_kl

from anaglyph.behaviour import outputs
from anaglyph.behaviour.outputs import prediction_gap
from anaglyph.core.errors import InputError
from anaglyph.corpus import ROLES, TokenCorpus
from anaglyph.pair import ModelPair
from anaglyph.subject import Subject


@pytest.mark.parametrize("budget", [20, 1000])
def test_equals_the_slow_reference_on_heldout_sequences(
    pair: ModelPair, corpus: TokenCorpus, monkeypatch: pytest.MonkeyPatch, budget: int
):
    monkeypatch.setattr(outputs, "TOKEN_BUDGET", budget)
    heldout = np.flatnonzero(corpus.heldout)
    expected = naive_kl(pair, corpus, LAYER, None, heldout).sum() / corpus.lengths[heldout].sum()
    subject = Subject.of(pair=pair, corpus=corpus)
    found = prediction_gap(subject).kl
    assert found.value == pytest.approx(expected, rel=1e-4)
    assert found.value is not None
    assert found.low is not None
    assert found.high is not None
    assert found.low < found.value < found.high
    assert found == prediction_gap(subject).kl


def test_roles_add_up_to_the_whole(pair: ModelPair, corpus: TokenCorpus):
    found = prediction_gap(Subject.of(pair=pair, corpus=corpus))
    tokens = sum(gap.tokens for gap in found.roles)
    assert tokens == corpus.lengths[corpus.heldout].sum()
    assert sum(gap.share or 0 for gap in found.roles) == pytest.approx(1)
    whole = sum(gap.kl * gap.tokens for gap in found.roles) / tokens
    assert whole == pytest.approx(found.kl.value)
    assert {gap.role for gap in found.roles} <= set(ROLES)


def test_a_corpus_without_heldout_sequences_is_refused(pair: ModelPair):
    with pytest.raises(InputError, match="no held-out sequence"):
        prediction_gap(Subject.of(pair=pair, corpus=make_corpus(sequences=1)))
