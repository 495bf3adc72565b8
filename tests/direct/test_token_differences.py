"""Per-token differences against the whole model run one sequence at a time."""

import numpy as np
import polars as pl
import pytest
import torch
from direct_cases import make_corpus, save_whole, slow_hidden, slow_logprobs
from tiny_models import FAMILIES

from anaglyph.behaviour import predictions as predictions_module
from anaglyph.behaviour.predictions import head_logits
from anaglyph.behaviour.prompts import prompt_ids
from anaglyph.core.errors import InputError
from anaglyph.core.settings import TokensSettings
from anaglyph.corpus import ROLES
from anaglyph.direct import Completion, rank_completions, token_differences
from anaglyph.pair import ModelPair
from anaglyph.subject import Subject

LAYER = 1


def at(pair, corpus, layer=LAYER):
    return Subject.of(pair=pair, corpus=corpus, layer=layer)


@pytest.fixture(scope="module")
def slow(pair, corpus):
    """Log-probabilities and activations of every sequence, the slow way."""
    rows = []
    for index in range(corpus.n_sequences):
        ids, _ = corpus.sequence(index)
        sides = [slow_logprobs(pair, side, ids) for side in ("base", "tuned")]
        hidden = [slow_hidden(pair, side, ids, LAYER) for side in ("base", "tuned")]
        rows.append((sides, hidden))
    return rows


def test_every_column_equals_the_slow_way(pair, corpus, slow, monkeypatch):
    monkeypatch.setattr(predictions_module, "_CHUNK_ELEMENTS", 500)  # 5 rows a chunk
    found = token_differences(at(pair, corpus), token_budget=40).tokens
    base, tuned = (torch.cat([sides[i] for sides, _ in slow]) for i in (0, 1))
    h_base, h_tuned = (torch.cat([hidden[i] for _, hidden in slow]) for i in (0, 1))
    kl = (tuned.exp() * (tuned - base)).sum(-1)
    np.testing.assert_allclose(found["kl"], kl, rtol=1e-3, atol=1e-6)
    delta = (h_tuned - h_base).norm(dim=1)
    np.testing.assert_allclose(found["difference_norm"], delta, rtol=1e-4)
    cosine = (h_base * h_tuned).sum(1) / h_base.norm(dim=1) / h_tuned.norm(dim=1)
    np.testing.assert_allclose(found["cosine"], cosine, atol=1e-5)
    assert found["top_tuned"].to_list() == tuned.argmax(-1).tolist()
    starts = corpus.offsets
    for index in range(corpus.n_sequences):
        rows = found.filter(pl.col("sequence") == index)
        assert rows["position"].to_list() == list(range(corpus.lengths[index]))
        assert rows["next_logprob_base"].to_list()[-1] is None
        ids = corpus.token_ids[starts[index] : starts[index + 1]]
        wanted = slow[index][0][1][np.arange(len(ids) - 1), ids[1:]]
        np.testing.assert_allclose(rows["next_logprob_tuned"][:-1], wanted, rtol=1e-4)
    assert found["role"].to_list() == [ROLES[role] for role in corpus.roles]


def test_favoured_tokens_by_role_and_position(pair, corpus, slow):
    favoured = token_differences(at(pair, corpus), TokensSettings(top=3)).favoured
    base, tuned = (torch.cat([sides[i] for sides, _ in slow]) for i in (0, 1))
    positions = np.arange(corpus.n_tokens) - np.repeat(corpus.offsets[:-1], corpus.lengths)
    masks = {
        ("all", "all"): np.ones(corpus.n_tokens, bool),
        ("role", "user"): corpus.roles == ROLES.index("user"),
        ("position", "3 to 7"): (positions >= 3) & (positions < 8),
    }
    for (by, group), mask in masks.items():
        rows = favoured.filter((pl.col("by") == by) & (pl.col("group") == group))
        assert rows["tokens"].unique().to_list() == [mask.sum()]
        raised = (tuned[mask].exp() - base[mask].exp()).mean(0)
        ratio = (tuned[mask] - base[mask]).mean(0)
        for measure, order in (("probability", raised), ("log ratio", ratio)):
            for side, sign in (("tuned", 1), ("base", -1)):
                chosen = rows.filter(favoured_by=side, measure=measure)
                assert chosen["token_id"].to_list() == (sign * order).topk(3).indices.tolist()
                np.testing.assert_allclose(
                    chosen["log_ratio"], ratio[chosen["token_id"].to_list()], rtol=1e-3, atol=1e-5
                )


def test_a_model_with_itself_favours_nothing(whole_folders, corpus):
    pair = ModelPair.load(whole_folders[0], whole_folders[0])
    found = token_differences(at(pair, corpus))
    assert found.tokens["kl"].max() == 0
    assert found.tokens["difference_norm"].max() == 0
    assert len(found.favoured) == 0


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_the_head_alone_gives_the_whole_models_logits(tmp_path, family):
    pair = ModelPair.load(*save_whole(tmp_path, family))
    ids, _ = make_corpus(1).sequence(0)
    tokens = torch.from_numpy(ids.astype(np.int64))[None]
    last = pair.n_layers - 1
    hidden = pair.run_to("tuned", tokens, torch.ones_like(tokens), [last])[last][0]
    whole = pair.logits("tuned", tokens, torch.ones_like(tokens))[0]
    torch.testing.assert_close(head_logits(pair, "tuned", hidden), whole)


def test_completions_are_ranked_by_the_drop_in_surprise(pair):
    items = [Completion("ab", "cd ef"), Completion("q", "hello"), Completion("ab", "xyz")]
    ranked = rank_completions(Subject.of(pair=pair), items)
    assert ranked["rank"].to_list() == [1, 2, 3]
    assert ranked["difference"].is_sorted(descending=True)
    for item in items:
        row = ranked.row(by_predicate=pl.col("completion") == item.completion, named=True)
        prompt = prompt_ids(pair.tokenizer, item.prompt)
        own = np.array(pair.tokenizer(item.completion)["input_ids"])
        for side in ("base", "tuned"):
            logprobs = slow_logprobs(pair, side, np.concatenate([prompt, own]))
            nll = -logprobs[np.arange(len(prompt) - 1, len(prompt) + len(own) - 1), own].mean()
            assert row[f"nll_{side}"] == pytest.approx(float(nll), rel=1e-4)
            assert row[f"perplexity_{side}"] == pytest.approx(float(nll.exp()), rel=1e-3)


def test_bad_input_is_named(pair, corpus):
    with pytest.raises(InputError, match="layer 9"):
        at(pair, corpus, 9)
    with pytest.raises(InputError, match="no completions"):
        rank_completions(Subject.of(pair=pair), [])
    with pytest.raises(InputError, match="a prompt is empty"):  # and there is no bos
        rank_completions(Subject.of(pair=pair), [Completion("", "a")])
    with pytest.raises(InputError, match="has no token"):
        rank_completions(Subject.of(pair=pair), [Completion("a", "")])
