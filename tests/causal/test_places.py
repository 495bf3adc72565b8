"""Where edits go and which predictions count; both directions; every measure; several layers."""

import numpy as np
import pytest
import torch
from causal_cases import (
    LAYER,
    Slow,
    make_chats,
    make_dictionary,
    make_table,
    naive_codes,
    patch_everywhere,
    subject_of,
)

from anaglyph.causal import layer_sweep
from anaglyph.causal.positions import PLACES, token_mask
from anaglyph.core.errors import InputError
from anaglyph.core.settings import CausalSettings
from anaglyph.corpus import TokenCorpus
from anaglyph.pair import ModelPair
from anaglyph.store import DifferenceSpace


@pytest.fixture(scope="module")
def chats() -> TokenCorpus:
    return make_chats()


def test_masks_by_hand():
    # bos, template, user, template, 12 x assistant, template, template, 1 x assistant | text | chat
    roles = [0, 1, 3, 1, *[4] * 12, 1, 1, 4, *[5] * 3, 1, 4]
    corpus = TokenCorpus(
        np.zeros(24, np.int32), np.array(roles, np.uint8), np.array([0, 19, 22, 24]), 32
    )
    found = {place: np.flatnonzero(token_mask(corpus, place)).tolist() for place in PLACES}
    assert found["all"] == list(range(24))
    # A prediction stands one token before what it predicts; the text's last token predicts none.
    assert found["assistant"] == [*range(3, 15), 17, 22]
    assert found["first nine"] == [*range(3, 12), 17, 22]
    assert found["template"] == [0, 1, 3, 16, 17, 22]
    with pytest.raises(InputError, match="position 'user' is unknown"):
        token_mask(corpus, "user")


@pytest.mark.parametrize("into", ["tuned", "base"])
def test_every_measure_at_every_place(into, pair: ModelPair, chats: TokenCorpus):
    dic = make_dictionary("crosscoder")
    heldout = np.flatnonzero(chats.heldout)
    table = patch_everywhere(
        subject_of(pair, chats),
        dic,
        make_table("nu_error"),
        positions=PLACES,
        edit_at=("template", "assistant"),
        into=(into,),
        token_budget=30,
    )
    slow = Slow(pair, chats, LAYER)
    vectors = dic.decoder[1] - dic.decoder[0]

    def subset(b, t):
        return b + naive_codes(dic, [b, t])[:, [0, 2, 5]] @ vectors[[0, 2, 5]]

    def at_template(b, t, mask):
        return torch.where(mask[:, None], t, b)

    rows = {(row["intervention"], row["positions"]): row for row in table.to_dicts()}
    start = "base" if into == "tuned" else "tuned"
    for name in ("none", "exact", "subset nu<=0.3", "template only"):
        for place in PLACES:
            kept = token_mask(chats, place)
            sums, tokens, followed = np.zeros(5), 0, 0
            for sequence in heldout.tolist():
                known = slow.of(sequence)
                span = slice(chats.offsets[sequence], chats.offsets[sequence + 1])
                template = torch.from_numpy(token_mask(chats, "template")[span])
                forward = {
                    "none": lambda b, t: b,
                    "exact": lambda b, t: t,
                    "subset nu<=0.3": subset,
                    "template only": lambda b, t, m=template: at_template(b, t, m),
                }[name]

                def edit(b, t, forward=forward):
                    return forward(b, t) if into == "tuned" else t - (forward(b, t) - b)

                logits = slow.logits(sequence, edit, into)
                q = logits.log_softmax(-1)
                p = known[f"{into} logits"].log_softmax(-1)
                other = known[f"{start} logits"].log_softmax(-1)
                mask = torch.from_numpy(kept[span])
                sums[0] += float((p.exp() * (p - q)).sum(-1)[mask].sum())
                sums[1] += float((other.exp() * (other - q)).sum(-1)[mask].sum())
                surprise = -q[:-1].gather(1, known["ids"][1:, None])[:, 0]
                sums[2] += float(surprise[mask[:-1]].sum())
                sums[3] += float((p.argmax(-1) == q.argmax(-1))[mask].sum())
                tokens += int(mask.sum())
                followed += int(mask[:-1].sum())
            row = rows[name, place]
            assert row["tokens"] == tokens, (name, place)
            assert row["kl"] == pytest.approx(sums[0] / tokens, rel=1e-4, abs=1e-9), (name, place)
            assert row["kl_other"] == pytest.approx(sums[1] / tokens, rel=1e-4, abs=1e-9)
            assert row["nll"] == pytest.approx(sums[2] / followed, rel=1e-4)
            assert row["top1"] == pytest.approx(sums[3] / tokens, abs=1e-9)
            assert row["into"] == into
    for place in PLACES:
        assert rows["none", place]["recovered"] == 0
        assert rows["exact", place]["recovered"] == pytest.approx(1, abs=1e-3)
    assert rows["reconstruction at assistant", "all"]["edited_at"] == "assistant"
    other = {"tuned": "base model", "base": "tuned model"}[into]
    assert rows[other, "all"]["kl_other"] == pytest.approx(0, abs=1e-9)


def test_l0_and_push_by_hand(pair: ModelPair, chats: TokenCorpus):
    dic = make_dictionary("diff-sae")
    table = patch_everywhere(subject_of(pair, chats), dic, make_table("nu_act"), counts=(2,))
    slow = Slow(pair, chats, LAYER)
    active, squares, tokens = 0.0, 0.0, 0
    for sequence in np.flatnonzero(chats.heldout).tolist():
        known = slow.of(sequence)
        codes = naive_codes(dic, [known["tuned"] - known["base"]])[:, [0, 2, 5]]
        active += float((codes > 0).sum())
        squares += float((codes @ dic.decoder[0][[0, 2, 5]]).square().sum())
        tokens += len(codes)
    (row,) = table.filter(intervention="subset nu<=0.3").to_dicts()
    assert row["l0"] == pytest.approx(active / tokens)
    assert row["push"] == pytest.approx((squares / tokens) ** 0.5, rel=1e-4)


def test_a_sweep_equals_each_layer_alone(pair: ModelPair, chats: TokenCorpus):
    dic = make_dictionary("diff-sae")
    subject, everywhere = subject_of(pair, chats), CausalSettings(positions=("all",))
    sweep = layer_sweep(subject, [0, 1, 3], everywhere, ranks=(1, 3))
    assert sweep["layer"].unique(maintain_order=True).to_list() == [0, 1, 3]
    alone = patch_everywhere(subject, dic, counts=(1, 3))
    rows = sweep.filter(layer=LAYER).to_dicts()
    names = {"none", "base model", "exact", "template only", "mean difference"}
    assert {row["intervention"] for row in rows} == names | {"pca rank 1", "pca rank 3"}
    for row in rows:
        expected = alone.filter(intervention=row["intervention"]).to_dicts()[0]
        assert row["kl"] == pytest.approx(expected["kl"], rel=1e-3, abs=1e-9)
    # At the last block's output only the head is left, which both models share.
    last = sweep.filter(layer=3)
    none, base = (last.filter(intervention=name)["kl"][0] for name in ("none", "base model"))
    assert none == pytest.approx(base, rel=1e-4)
    with pytest.raises(InputError, match="layers is empty"):
        layer_sweep(subject, [], everywhere)
    with pytest.raises(InputError, match="rank of the PCA is below 1"):
        layer_sweep(subject, [1], everywhere, ranks=(0,))


def test_a_place_that_no_token_has_is_undefined(pair: ModelPair, corpus: TokenCorpus):
    nothing = DifferenceSpace(np.zeros(16), np.zeros((0, 16)), np.zeros(0))
    table = patch_everywhere(
        subject_of(pair, corpus, space=nothing),
        make_dictionary("diff-sae"),
        positions=("all", "assistant"),
    )
    none = table.filter(positions="assistant")
    assert none["tokens"].unique().to_list() == [0]
    assert none["kl"].null_count() == none["recovered"].null_count() == len(none)
