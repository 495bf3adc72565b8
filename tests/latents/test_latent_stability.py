import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small import axis_dictionary, random_dictionary

from anaglyph.core.errors import InputError
from anaglyph.dictionaries import Dictionary, Selection, Weights, agreement
from anaglyph.latents import stability


def dense(dic_a, dic_b):
    """Return every cosine in float64."""
    rows = []
    for dic in (dic_a, dic_b):
        weighted = [
            w * d.double().numpy() for w, d in zip(dic.source_weights, dic.decoder, strict=True)
        ]
        row = np.concatenate(weighted, axis=1)
        rows.append(row / np.linalg.norm(row, axis=1, keepdims=True))
    return rows[0] @ rows[1].T


@pytest.mark.parametrize("method", ["crosscoder", "diff-sae"])
@settings(max_examples=10)
@given(seed=st.integers(0, 2**32 - 1), rows=st.sampled_from([1, 3, 2048]))
def test_equals_a_dense_search(method, seed, rows):
    rng = np.random.default_rng(seed)
    dic_a = random_dictionary(method, 9, (4, 4), rng)
    dic_b = random_dictionary(method, 6, (4, 4), rng)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(agreement, "_ROWS", rows)
        found = stability(dic_a, dic_b)
    cosines = dense(dic_a, dic_b)
    assert found.columns == ["latent", "match", "cosine", "mutual"]
    assert found["latent"].to_list() == list(range(9))
    assert found["match"].to_list() == cosines.argmax(axis=1).tolist()
    assert found["cosine"].to_numpy() == pytest.approx(cosines.max(axis=1), abs=1e-6)
    back = cosines.argmax(axis=0)
    assert found["mutual"].to_list() == [back[m] == j for j, m in enumerate(found["match"])]


def test_the_same_latents_in_another_order_are_all_found():
    rng = np.random.default_rng(0)
    dic = random_dictionary("crosscoder", 8, (5, 3), rng)  # widths may differ
    order = rng.permutation(8)
    weights = Weights(
        tuple(m[order] for m in dic.encoder),
        dic.encoder_bias[order],
        tuple(3 * m[order] for m in dic.decoder),  # a latent's scale is arbitrary
        dic.decoder_bias,
    )
    found = stability(dic, Dictionary(dic.spec, weights, Selection(k=2, threshold=0.5)))
    assert found["match"].to_list() == np.argsort(order).tolist()
    assert found["cosine"].to_numpy() == pytest.approx(np.ones(8))
    assert found["mutual"].all()


def test_which_model_has_a_latent_counts_in_the_models_own_units():
    eye = torch.eye(2)
    shared = axis_dictionary("crosscoder", 2, (eye, eye))
    alone = axis_dictionary("crosscoder", 2, (torch.zeros(2, 2), eye))
    assert stability(shared, alone)["cosine"].to_list() == pytest.approx([0.5**0.5] * 2)
    # A base model of tenfold activations has tenfold decoders for what is shared.
    weighted = [
        Dictionary(
            shared.spec,
            Weights(shared.encoder, shared.encoder_bias, (10 * base, tuned), shared.decoder_bias),
            Selection(k=1, source_weights=(0.1, 1.0)),
        )
        for base, tuned in ((eye, eye), (0 * eye, eye))
    ]
    assert stability(*weighted)["cosine"].to_list() == pytest.approx([0.5**0.5] * 2)


def test_two_that_share_a_match_are_not_both_mutual():
    eye = torch.eye(2)
    near = torch.tensor([[1.0, 0.1], [1.0, 0.2]])
    found = stability(
        axis_dictionary("diff-sae", 2, (near,)), axis_dictionary("diff-sae", 2, (eye,))
    )
    assert found["match"].to_list() == [0, 0]
    assert found["mutual"].to_list() == [True, False]


def test_a_zero_decoder_matches_nothing():
    eye = torch.eye(2)
    gone = torch.tensor([[1.0, 0], [0, 0]])
    whole, half = axis_dictionary("diff-sae", 2, (eye,)), axis_dictionary("diff-sae", 2, (gone,))
    assert stability(half, whole).rows() == [(0, 0, 1.0, True), (1, None, None, None)]
    assert stability(whole, half).rows() == [(0, 0, 1.0, True), (1, 0, 0.0, False)]
    none = axis_dictionary("diff-sae", 2, (0 * eye,))
    assert stability(whole, none).null_count().row(0) == (0, 2, 2, 2)


def test_refuses_dictionaries_of_other_sources_or_widths():
    sae, other = axis_dictionary("tuned-sae", 2), axis_dictionary("base-sae", 2)
    with pytest.raises(InputError, match=r"tuned-sae.*base-sae"):
        stability(sae, other)
    with pytest.raises(InputError, match=r"\(2,\).*\(3,\)"):
        stability(sae, axis_dictionary("tuned-sae", 3))
