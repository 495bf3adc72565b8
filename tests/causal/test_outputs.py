"""The distance between the two models' predictions, against whole forward passes."""

import numpy as np
import pytest
from causal_cases import LAYER, make_corpus, naive_kl

from anaglyph.behaviour.outputs import output_kl
from anaglyph.core.errors import InputError
from anaglyph.corpus import TokenCorpus
from anaglyph.pair import ModelPair


def test_equals_the_slow_reference_on_heldout_sequences(pair: ModelPair, corpus: TokenCorpus):
    heldout = np.flatnonzero(corpus.heldout)
    expected = naive_kl(pair, corpus, LAYER, None, heldout).sum() / corpus.lengths[heldout].sum()
    for budget in (20, 1000):
        found = output_kl(pair, corpus, token_budget=budget)
        assert found.value == pytest.approx(expected, rel=1e-4)
        assert found.value is not None
        assert found.low is not None
        assert found.high is not None
        assert found.low < found.value < found.high
    assert found == output_kl(pair, corpus)


def test_a_corpus_without_heldout_sequences_is_refused(pair: ModelPair):
    with pytest.raises(InputError, match="no held-out sequence"):
        output_kl(pair, make_corpus(sequences=1))
