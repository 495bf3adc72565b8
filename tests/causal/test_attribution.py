"""Attribution: first order is the slope of the KL, and the verified drop is the real one."""

import numpy as np
import pytest
import torch
from causal_cases import LAYER, Slow, make_chats, make_dictionary, naive_codes, subject_of

from anaglyph.causal import attribute
from anaglyph.core.settings import AttributeSettings
from anaglyph.pair import ModelPair

METHODS = ("diff-sae", "crosscoder", "tuned-sae")


@pytest.mark.parametrize("method", METHODS)
def test_verified_and_attributed_by_hand(method: str, pair: ModelPair):
    corpus = make_chats()
    dic = make_dictionary(method)
    table = attribute(subject_of(pair, corpus), dic, AttributeSettings(top_tokens=4, top=3))
    assert table.select("sequence", "position").unique().height == 4
    slow = Slow(pair, corpus, LAYER)
    vectors = dic.decoder[1] - dic.decoder[0] if method == "crosscoder" else dic.decoder[0]

    def codes(b, t):
        inputs = {"diff-sae": [t - b], "crosscoder": [b, t], "tuned-sae": [t]}[method]
        return naive_codes(dic, inputs)

    def kl_at(row, latents, scale: float = 1.0) -> float:
        def edit(b, t):
            return b + scale * codes(b, t)[:, latents] @ vectors[latents]

        p = slow.of(row["sequence"])["tuned logits"][row["position"]].log_softmax(-1)
        q = slow.logits(row["sequence"], edit)[row["position"]].log_softmax(-1)
        return float((p.exp() * (p - q)).sum())

    for _, rows in table.group_by("sequence", "position", maintain_order=True):
        chosen = rows["latent"].to_list()
        for row in rows.to_dicts():
            none = kl_at(row, [])
            assert row["kl"] == pytest.approx(none, rel=1e-4)
            alone, together = kl_at(row, [row["latent"]]), kl_at(row, chosen)
            assert row["verified"] == pytest.approx(none - alone, rel=1e-3, abs=1e-5)
            assert row["verified_together"] == pytest.approx(none - together, rel=1e-3, abs=1e-5)
            # The slope, by central differences of the whole forward.
            step = 1e-3
            slope = (kl_at(row, [row["latent"]], -step) - kl_at(row, [row["latent"]], step)) / 2
            assert row["attributed"] == pytest.approx(slope / step, rel=2e-2, abs=2e-4)
            known = slow.of(row["sequence"])
            own = codes(known["base"], known["tuned"])[row["position"], row["latent"]]
            assert row["code"] == pytest.approx(float(own), abs=1e-5)
        attributed = rows["attributed"].to_list()
        assert attributed == sorted(attributed, reverse=True)
        assert rows["rank"].to_list() == list(range(1, len(rows) + 1))


def test_the_tokens_are_those_of_highest_kl(pair: ModelPair):
    corpus = make_chats()
    settings = AttributeSettings(top_tokens=5, per_sequence=1)
    table = attribute(subject_of(pair, corpus), make_dictionary("diff-sae"), settings)
    slow = Slow(pair, corpus, LAYER)
    best = []
    for sequence in np.flatnonzero(corpus.heldout).tolist():
        known = slow.of(sequence)
        p = known["tuned logits"].log_softmax(-1)
        q = known["base logits"].log_softmax(-1)
        kl = (p.exp() * (p - q)).sum(-1)
        best.append((float(kl.max()), sequence, int(kl.argmax())))
    best = sorted(best, reverse=True)[:5]
    found = table.unique("sequence", maintain_order=True).sort("kl_models", descending=True)
    expected = [(sequence, position) for _, sequence, position in best]
    assert list(zip(found["sequence"], found["position"], strict=True)) == expected
    assert found["kl_models"].to_list() == pytest.approx([kl for kl, _, _ in best], rel=1e-3)


def test_nothing_fires_nothing_is_attributed(pair: ModelPair):
    dic = make_dictionary("diff-sae")
    dic.encoder_bias[:] = -1000
    subject = subject_of(pair, make_chats())
    assert attribute(subject, dic, AttributeSettings(top_tokens=2)).height == 0
    assert torch.isfinite(dic.decoder[0]).all()
