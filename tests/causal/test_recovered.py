"""Every number of the causal tables against a slow reference that shares no code with them."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from causal_cases import (
    LATENTS,
    LAYER,
    WIDTH,
    Edit,
    make_corpus,
    make_dictionary,
    make_table,
    naive_activations,
    naive_codes,
    naive_kl,
)

from anaglyph.causal import kl_recovered, latent_kl
from anaglyph.corpus import TokenCorpus
from anaglyph.dictionaries import Dictionary
from anaglyph.errors import InputError
from anaglyph.pair import ModelPair

METHODS = ("diff-sae", "crosscoder", "tuned-sae", "base-sae")
UNDER = {0.3: [0, 2, 5], 0.6: [0, 2, 4, 5, 7]}


def nu_column(dic: Dictionary) -> str:
    return "nu_error" if dic.method == "crosscoder" else "nu_act"


def reference_edits(dic: Dictionary) -> dict[str, Edit]:
    """Write down each edit by the table of the maths, dense and by hand."""
    decoders, biases = dic.decoder, dic.decoder_bias
    if dic.method == "diff-sae":

        def codes(base, tuned):
            return naive_codes(dic, [tuned - base])

        def delta(base, tuned):
            return codes(base, tuned) @ decoders[0] + biases[0]

        vectors = decoders[0]
        own: dict[str, Edit] = {"bias": lambda b, t: b + biases[0]}
    elif dic.method == "crosscoder":

        def codes(base, tuned):
            return naive_codes(dic, [base, tuned])

        def delta(base, tuned):
            f = codes(base, tuned)
            return (f @ decoders[1] + biases[1]) - (f @ decoders[0] + biases[0])

        vectors = decoders[1] - decoders[0]
        own = {}
    else:

        def codes(base, tuned):
            return naive_codes(dic, [tuned])

        def rebuilt(h):
            return naive_codes(dic, [h]) @ decoders[0] + biases[0]

        vectors = decoders[0]
        own = {
            "reconstruction": lambda b, t: rebuilt(t),
            "error": lambda b, t: b + t - rebuilt(t),
            "paired reconstruction": lambda b, t: b + rebuilt(t) - rebuilt(b),
        }
    if dic.method in ("diff-sae", "crosscoder"):
        own["reconstruction"] = lambda b, t: b + delta(b, t)
        own["error"] = lambda b, t: b + (t - b) - delta(b, t)
    for threshold, latents in UNDER.items():
        own[f"subset nu<={threshold}"] = lambda b, t, latents=latents: (
            b + codes(b, t)[:, latents] @ vectors[latents]
        )
    return own | {"none": lambda b, t: b, "exact": lambda b, t: t}


@pytest.mark.parametrize("method", METHODS)
def test_every_intervention_equals_the_slow_reference(
    method: str, pair: ModelPair, corpus: TokenCorpus
):
    dic = make_dictionary(method)
    table = kl_recovered(
        pair, dic, corpus, LAYER, make_table(nu_column(dic)), token_budget=30, seed=5
    )
    heldout, training = np.flatnonzero(corpus.heldout), np.flatnonzero(~corpus.heldout)
    tokens = int(corpus.lengths[heldout].sum())
    assert table["tokens"].unique().to_list() == [tokens]
    assert table["sequences"].unique().to_list() == [len(heldout)]

    shifts = []
    for sequence in training:
        ids = torch.from_numpy(corpus.sequence(int(sequence))[0]).long()
        shifts.append(
            naive_activations(pair, "tuned", ids, LAYER)
            - naive_activations(pair, "base", ids, LAYER)
        )
    mean = torch.cat(shifts).mean(0)
    expected: dict[str, Edit | None] = {
        **reference_edits(dic),
        "mean difference": lambda b, t: b + mean,
        "base model": None,
    }
    none = naive_kl(pair, corpus, LAYER, expected["none"], heldout).sum()
    rows = {row["intervention"]: row for row in table.to_dicts()}
    controls = {f"random latents nu<={threshold}" for threshold in UNDER}
    assert set(rows) == set(expected) | controls
    for name, edit in expected.items():
        total = naive_kl(pair, corpus, LAYER, edit, heldout).sum()
        assert rows[name]["kl"] == pytest.approx(total / tokens, rel=1e-4, abs=1e-9), name
        if name != "base model":
            assert rows[name]["recovered"] == pytest.approx(1 - total / none, abs=1e-4), name
    # Else the comparison above would compare nothing.
    assert none / tokens > 1e-3
    kls = [row["kl"] for row in rows.values()]
    assert len({round(kl, 9) for kl in kls}) == len(kls)


@pytest.mark.parametrize("method", METHODS)
def test_anchors_and_intervals(method: str, pair: ModelPair, corpus: TokenCorpus):
    dic = make_dictionary(method)
    table = kl_recovered(pair, dic, corpus, LAYER, make_table(nu_column(dic)))
    rows = {row["intervention"]: row for row in table.to_dicts()}
    assert rows["exact"]["recovered"] == pytest.approx(1, abs=1e-4)
    for field in ("recovered", "recovered_low", "recovered_high"):
        assert rows["none"][field] == 0
        assert rows["base model"][field] is None
    for row in rows.values():
        assert row["kl_low"] <= row["kl"] <= row["kl_high"]
        if row["intervention"] != "base model":
            assert row["recovered_low"] <= row["recovered"] <= row["recovered_high"] <= 1
        assert row["formula"]
    assert rows["reconstruction"]["recovered_low"] < rows["reconstruction"]["recovered_high"]
    assert rows["subset nu<=0.6"]["n_latents"] == rows["random latents nu<=0.6"]["n_latents"] == 5
    assert rows["reconstruction"]["n_latents"] is None
    of_none = {name for name, row in rows.items() if row["dictionary"] is None}
    assert of_none == {"none", "base model", "exact", "mean difference"}
    assert set(table["dictionary"].drop_nulls()) == {method}


def test_seeds_and_batches(pair: ModelPair, corpus: TokenCorpus):
    dic, table = make_dictionary("diff-sae"), make_table("nu_act")

    def run(**options) -> pl.DataFrame:
        return kl_recovered(pair, dic, corpus, LAYER, table, **options)

    first = run(seed=1)
    assert first.equals(run(seed=1))
    other = run(seed=2)
    random = first["intervention"].str.starts_with("random")
    assert (first["kl"] != other["kl"]).to_list() == random.to_list()
    assert (first["kl_low"] != other["kl_low"]).any()
    small = run(seed=1, token_budget=1)
    assert small["kl"].to_list() == pytest.approx(first["kl"].to_list(), rel=1e-3, abs=1e-9)


def test_a_mean_difference_that_is_given_is_used(pair: ModelPair, corpus: TokenCorpus):
    dic = make_dictionary("diff-sae")
    table = kl_recovered(pair, dic, corpus, LAYER, mean_difference=np.zeros(WIDTH))
    rows = {row["intervention"]: row for row in table.to_dicts()}
    assert rows["mean difference"]["recovered"] == 0
    assert not any(name.startswith(("subset", "random")) for name in rows)


def test_only_heldout_sequences_are_read(pair: ModelPair, corpus: TokenCorpus):
    dic = make_dictionary("diff-sae")
    poisoned = corpus.token_ids.copy()
    poisoned[np.repeat(~corpus.heldout, corpus.lengths)] = 10_000
    bad = TokenCorpus(poisoned, corpus.roles, corpus.offsets, corpus.context)
    mean = np.zeros(WIDTH)
    clean = kl_recovered(pair, dic, corpus, LAYER, mean_difference=mean)
    assert kl_recovered(pair, dic, bad, LAYER, mean_difference=mean).equals(clean)
    assert latent_kl(pair, dic, bad, LAYER, [3]).equals(latent_kl(pair, dic, corpus, LAYER, [3]))
    # And the mean difference is measured on training sequences.
    with pytest.raises(InputError, match="outside the vocabulary"):
        kl_recovered(pair, dic, bad, LAYER)


def test_max_tokens_bounds_what_is_read(pair: ModelPair):
    corpus = make_corpus(sequences=100)
    dic = make_dictionary("diff-sae")
    table = kl_recovered(pair, dic, corpus, LAYER, max_tokens=30)
    assert 15 <= table["tokens"][0] <= 30
    assert 1 <= table["sequences"][0] < corpus.heldout.sum()
    # One sequence is the least, and gives no interval.
    least = kl_recovered(pair, dic, corpus, LAYER, max_tokens=1)
    assert least["sequences"][0] == 1
    assert least["kl"].null_count() == 0
    assert least["kl_low"].null_count() == len(least)
    assert least["recovered_low"].null_count() == len(least)


def test_a_pair_with_itself_recovers_nothing_and_says_so(
    folders: tuple[Path, Path], corpus: TokenCorpus
):
    same = ModelPair.load(folders[0], folders[0])
    dic = make_dictionary("crosscoder")
    table = kl_recovered(same, dic, corpus, LAYER, make_table("nu_error"))
    rows = {row["intervention"]: row for row in table.to_dicts()}
    assert rows["none"]["kl"] < 1e-10
    assert rows["base model"]["kl"] < 1e-10
    for field in ("recovered", "recovered_low", "recovered_high"):
        assert table[field].null_count() == len(table)
    # A dictionary that pushes for nothing still shows in the KL itself.
    assert rows["reconstruction"]["kl"] > 1e-3
    assert latent_kl(same, dic, corpus, LAYER, [0, 1])["recovered"].null_count() == 2


@pytest.mark.parametrize("method", METHODS)
def test_single_latents_equal_subsets_of_one(method: str, pair: ModelPair, corpus: TokenCorpus):
    dic = make_dictionary(method)
    latents = [7, 0, 3]
    table = latent_kl(pair, dic, corpus, LAYER, latents, token_budget=30)
    assert table["latent"].to_list() == latents
    heldout = np.flatnonzero(corpus.heldout)
    tokens = corpus.lengths[heldout].sum()
    none = naive_kl(pair, corpus, LAYER, lambda b, t: b, heldout).sum()
    vectors = dic.decoder[1] - dic.decoder[0] if method == "crosscoder" else dic.decoder[0]
    inputs = {
        "diff-sae": lambda b, t: [t - b],
        "crosscoder": lambda b, t: [b, t],
        "tuned-sae": lambda b, t: [t],
        "base-sae": lambda b, t: [t],
    }[method]
    for row in table.to_dicts():
        j = row["latent"]
        total = naive_kl(
            pair,
            corpus,
            LAYER,
            lambda b, t, j=j: b + naive_codes(dic, inputs(b, t))[:, j, None] * vectors[j],
            heldout,
        ).sum()
        assert row["kl"] == pytest.approx(total / tokens, rel=1e-4)
        assert row["recovered"] == pytest.approx(1 - total / none, abs=1e-4)
        assert row["n_latents"] == 1


def test_a_latent_that_never_fires_recovers_exactly_nothing(
    pair: ModelPair, corpus: TokenCorpus, monkeypatch: pytest.MonkeyPatch
):
    dic = make_dictionary("diff-sae")
    dic.encoder_bias[4] = -1000
    calls = []
    run_from = pair.run_from

    def count(*args, **kwargs):
        calls.append(args[0])
        return run_from(*args, **kwargs)

    monkeypatch.setattr(pair, "run_from", count)
    table = latent_kl(pair, dic, corpus, LAYER, [4] * 50, token_budget=1000)
    assert table["recovered"].to_list() == [0.0] * 50
    # One batch: the base model, none and exact; nothing for a latent that changes nothing.
    assert sorted(calls) == ["base", "tuned", "tuned"]


def test_controls_match_count_and_norm(pair: ModelPair):
    from anaglyph.causal import interventions as edits

    dic = make_dictionary("crosscoder")
    alive = [j for j in range(LATENTS) if j != 9]
    subset = UNDER[0.6]
    base, tuned = torch.randn(2, 200, WIDTH, generator=torch.Generator().manual_seed(3))
    codes = edits.codes_of(dic, base, tuned)
    given = edits.Activations(base, tuned, codes)
    control = edits.random_latents(dic, "control", subset, alive, seed=0, draw=0)
    assert control.n_latents == 5
    dense = torch.from_numpy(codes.dense(LATENTS))
    # Which latents it used: least squares against every latent's own contribution.
    push = control.edit(given) - base
    vectors = dic.decoder[1] - dic.decoder[0]
    columns = torch.stack(
        [(dense[:, j, None] * vectors[j]).flatten() for j in range(LATENTS)], dim=1
    )
    weights = torch.linalg.lstsq(columns.double(), push.double().flatten()[:, None]).solution[:, 0]
    used = (weights.abs() > 1e-4).nonzero()[:, 0].tolist()
    assert len(used) == 5
    assert not set(used) & (set(subset) | {9})
    lengths = sorted((weights[used] * vectors[used].norm(dim=1)).tolist())
    assert lengths == pytest.approx(sorted(vectors[subset].norm(dim=1).tolist()), rel=1e-4)
    # Fewer others than wanted: all of them, and the number says so.
    few = edits.random_latents(dic, "control", subset, [*subset, 1, 3], seed=0, draw=0)
    assert few.n_latents == 2
    none = edits.random_latents(dic, "control", [], alive, seed=0, draw=0)
    assert torch.equal(none.edit(given), base)


def test_bad_input_is_refused(pair: ModelPair, corpus: TokenCorpus):
    dic, table = make_dictionary("diff-sae"), make_table("nu_act")
    one = corpus.select(np.arange(corpus.n_sequences) == 0)
    with pytest.raises(InputError, match="no held-out sequence"):
        kl_recovered(pair, dic, one, LAYER)
    with pytest.raises(InputError, match="layer 4 is out of range"):
        kl_recovered(pair, dic, corpus, 4)
    with pytest.raises(InputError, match=r"lacks \['nu_act'\]"):
        kl_recovered(pair, dic, corpus, LAYER, table.drop("nu_act"))
    with pytest.raises(InputError, match="11 rows"):
        kl_recovered(pair, dic, corpus, LAYER, table.head(11))
    with pytest.raises(InputError, match="15 entries, the models' width is 16"):
        kl_recovered(pair, dic, corpus, LAYER, mean_difference=np.zeros(15))
    with pytest.raises(InputError, match="max_tokens is 0"):
        kl_recovered(pair, dic, corpus, LAYER, max_tokens=0)
    with pytest.raises(InputError, match="latent 12 is out of range"):
        latent_kl(pair, dic, corpus, LAYER, [12])
    dic.decoder[0][2] = torch.nan
    with pytest.raises(InputError, match="'latent 2' gives NaN"):
        latent_kl(pair, dic, corpus, LAYER, [2])
