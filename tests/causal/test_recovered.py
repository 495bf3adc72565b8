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
    Slow,
    make_corpus,
    make_dictionary,
    make_table,
    naive_activations,
    naive_codes,
    naive_kl,
    patch_everywhere,
    subject_of,
)
from polars.testing import assert_frame_equal

from anaglyph.causal import Judged, causal_tables, edit_kl, kl_recovered, latent_kl
from anaglyph.core.errors import InputError
from anaglyph.core.settings import CausalSettings
from anaglyph.corpus import TokenCorpus
from anaglyph.dictionaries import Dictionary
from anaglyph.pair import ModelPair
from anaglyph.store import DifferenceSpace

METHODS = ("diff-sae", "diff-sae-reversed", "crosscoder", "dfc", "tuned-sae", "base-sae")
TWO = ("crosscoder", "dfc")
DIFFERENCE = ("diff-sae", "diff-sae-reversed")
UNDER = {0.1: [0, 5], 0.3: [0, 2, 5], 0.6: [0, 2, 4, 5, 7]}
DEFAULTS = CausalSettings()
NOTHING = DifferenceSpace(np.zeros(WIDTH), np.zeros((0, WIDTH)), np.zeros(0))
ALIVE = [j for j in range(LATENTS) if j != 9]
TOP = (1, 4)


def nu_column(dic: Dictionary) -> str:
    return "nu_error" if dic.method in TWO else "nu_act"


def top(table: pl.DataFrame, count: int) -> list[int]:
    live = [row for row in table.to_dicts() if row["alive"]]
    live.sort(key=lambda row: -row["difference_share"])
    return [row["latent"] for row in live[:count]]


def reference_edits(dic: Dictionary, table: pl.DataFrame) -> dict[str, Edit]:
    """Write down each edit by the table of docs/maths.md, section 4, dense and by hand."""
    decoders, biases = dic.decoder, dic.decoder_bias
    sign = -1 if dic.method == "diff-sae-reversed" else 1
    own: dict[str, Edit] = {}
    if dic.method in DIFFERENCE:

        def codes(base, tuned):
            return naive_codes(dic, [sign * (tuned - base)])

        def delta(base, tuned):
            return sign * (codes(base, tuned) @ decoders[0] + biases[0])

        vectors, bias = sign * decoders[0], sign * biases[0]
    elif dic.method in TWO:

        def codes(base, tuned):
            return naive_codes(dic, [base, tuned])

        def delta(base, tuned):
            f = codes(base, tuned)
            return (f @ decoders[1] + biases[1]) - (f @ decoders[0] + biases[0])

        vectors, bias = decoders[1] - decoders[0], biases[1] - biases[0]
    else:

        def codes(base, tuned):
            return naive_codes(dic, [tuned])

        def rebuilt(h):
            return naive_codes(dic, [h]) @ decoders[0] + biases[0]

        vectors, bias = decoders[0], biases[0]
        own = {
            "reconstruction": lambda b, t: rebuilt(t),
            "error": lambda b, t: b + t - rebuilt(t),
            "paired reconstruction": lambda b, t: b + rebuilt(t) - rebuilt(b),
        }
    if dic.method in DIFFERENCE + TWO:
        own = {
            "reconstruction": lambda b, t: b + delta(b, t),
            "error": lambda b, t: b + (t - b) - delta(b, t),
            "bias": lambda b, t: b + bias,
        }
    labels = {f"nu<={threshold}": latents for threshold, latents in UNDER.items()}
    for label, latents in (labels | {"all": ALIVE}).items():

        def add(b, t, latents=latents, rows=vectors):
            return b + codes(b, t)[:, latents] @ rows[latents]

        own[f"subset {label}"] = add
        own[f"subset {label} with bias"] = lambda b, t, add=add: add(b, t) + bias
        if dic.method in TWO:
            own[f"additive {label}"] = lambda b, t, add=add: add(b, t, rows=decoders[1])
        if dic.method in ("tuned-sae", "base-sae"):
            own[f"paired {label}"] = lambda b, t, latents=latents: (
                b + (codes(b, t) - codes(b, b))[:, latents] @ vectors[latents]
            )
    singles = {f"top {count}": top(table, count) for count in TOP}
    if dic.method == "dfc":
        singles |= {"block base-only": [10], "block tuned-only": [11]}
    for label, latents in singles.items():
        own[f"subset {label}"] = lambda b, t, latents=latents: (
            b + codes(b, t)[:, latents] @ vectors[latents]
        )
    return own | {"none": lambda b, t: b, "exact": lambda b, t: t}


def training_differences(pair: ModelPair, corpus: TokenCorpus) -> torch.Tensor:
    shifts = []
    for sequence in np.flatnonzero(~corpus.heldout):
        ids = torch.from_numpy(corpus.sequence(int(sequence))[0]).long()
        shifts.append(
            naive_activations(pair, "tuned", ids, LAYER)
            - naive_activations(pair, "base", ids, LAYER)
        )
    return torch.cat(shifts)


def pca_edit(differences: torch.Tensor, rank: int) -> Edit:
    mean = differences.mean(0)
    rows = torch.linalg.svd((differences - mean).double()).Vh[:rank].float()
    return lambda b, t: b + mean + (t - b - mean) @ rows.T @ rows


@pytest.mark.parametrize("method", METHODS)
def test_every_intervention_equals_the_slow_reference(
    method: str, pair: ModelPair, corpus: TokenCorpus
):
    dic = make_dictionary(method)
    latents = make_table(nu_column(dic))
    table = patch_everywhere(
        subject_of(pair, corpus, seed=5),
        dic,
        latents,
        counts=TOP,
        edit_at=(),
        biases="both",
        token_budget=30,
    )
    heldout = np.flatnonzero(corpus.heldout)
    tokens = int(corpus.lengths[heldout].sum())
    assert table["tokens"].unique().to_list() == [tokens]
    assert table["sequences"].unique().to_list() == [len(heldout)]

    differences = training_differences(pair, corpus)
    mean = differences.mean(0)
    expected: dict[str, Edit | None] = {
        **reference_edits(dic, latents),
        "mean difference": lambda b, t: b + mean,
        "base model": None,
        **{f"pca rank {rank}": pca_edit(differences, rank) for rank in (1, 2, 3, 4, 5)},
    }
    slow = Slow(pair, corpus, LAYER)
    none = slow.kl(expected["none"], heldout).sum()
    rows = {row["intervention"]: row for row in table.to_dicts()}
    kinds = ("latents", "directions")
    controls = {f"random {kind} nu<={under}" for under in UNDER for kind in kinds}
    controls |= {"random directions all", *(f"random latents top {count}" for count in TOP)}
    assert set(rows) == set(expected) | controls
    for name, edit in expected.items():
        total = slow.kl(edit, heldout).sum()
        assert rows[name]["kl"] == pytest.approx(total / tokens, rel=1e-4, abs=1e-9), name
        if name != "base model":
            assert rows[name]["recovered"] == pytest.approx(1 - total / none, abs=1e-4), name
    # Else the comparison above would compare nothing.
    assert none / tokens > 1e-3
    kls = [row["kl"] for row in rows.values()]
    assert len({round(kl, 9) for kl in kls}) > 0.9 * len(kls)


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
            assert row["recovered_low"] <= row["recovered"] <= row["recovered_high"] <= 1 + 1e-9
        assert row["formula"]
    assert rows["reconstruction"]["recovered_low"] < rows["reconstruction"]["recovered_high"]
    assert rows["subset nu<=0.6"]["n_latents"] == rows["random latents nu<=0.6"]["n_latents"] == 5
    assert rows["reconstruction"]["n_latents"] is None
    of_none = {name for name, row in rows.items() if row["dictionary"] is None}
    free = {"none", "base model", "exact", "template only", "mean difference"}
    assert of_none == free | {f"pca rank {rank}" for rank in (1, 2, 3, 4, 5)}
    assert set(table["dictionary"].drop_nulls()) == {method}


def test_seeds_and_batches(pair: ModelPair, corpus: TokenCorpus):
    dic, table = make_dictionary("diff-sae"), make_table("nu_act")

    def run(seed: int, token_budget: int = 1024) -> pl.DataFrame:
        subject = subject_of(pair, corpus, seed=seed)
        return patch_everywhere(subject, dic, table, token_budget=token_budget)

    first = run(seed=1)
    assert first.equals(run(seed=1))
    assert first.equals(kl_recovered(pair, dic, corpus, LAYER, table, seed=1))
    other = run(seed=2)
    random = first["intervention"].str.starts_with("random")
    assert (first["kl"] != other["kl"]).to_list() == random.to_list()
    assert (first["kl_low"] != other["kl_low"]).any()
    small = run(seed=1, token_budget=1)
    assert small["kl"].to_list() == pytest.approx(first["kl"].to_list(), rel=1e-3, abs=1e-9)


def test_dictionaries_measured_together_have_their_own_tables(
    pair: ModelPair, corpus: TokenCorpus, monkeypatch: pytest.MonkeyPatch
):
    """One pass over the text gives what a pass for each gives, and costs less."""
    runs = []
    run_from = pair.run_from
    monkeypatch.setattr(pair, "run_from", lambda *args: (runs.append(args), run_from(*args))[1])
    # The ranks of the PCA are the sizes of the subsets, which the tables make differ.
    judged = {}
    for method, column, higher in (("tuned-sae", "nu_act", 0), ("crosscoder", "nu_error", 0.25)):
        table = make_table(column).with_columns(pl.col(column) + higher)
        judged[method] = Judged(make_dictionary(method), table, (1, 4))
    settings = CausalSettings(
        full=True, positions=("assistant", "all"), into=("tuned", "base"), counts=(), nu=(0.3, 0.6)
    )
    alone = {
        name: causal_tables(subject_of(pair, corpus, seed=3), {name: each}, settings)[name]
        for name, each in judged.items()
    }
    all_runs = len(runs)
    runs.clear()
    together = causal_tables(subject_of(pair, corpus, seed=3), judged, settings)
    assert len(runs) < all_runs
    ranks = [
        {name for name in each.edits["intervention"] if "pca" in name} for each in alone.values()
    ]
    assert ranks == [{"pca rank 3", "pca rank 5"}, {"pca rank 1", "pca rank 3"}]
    for name, tables in together.items():
        assert_frame_equal(tables.edits, alone[name].edits, abs_tol=1e-9, rel_tol=1e-6)
        assert_frame_equal(tables.alone, alone[name].alone, abs_tol=1e-9, rel_tol=1e-6)
        own = latent_kl(subject_of(pair, corpus, seed=3), judged[name].dictionary, (1, 4), settings)
        assert_frame_equal(tables.alone, own, abs_tol=1e-9, rel_tol=1e-6)


def test_few_rows_unless_all_are_asked_for(pair: ModelPair, corpus: TokenCorpus):
    dic, table = make_dictionary("diff-sae"), make_table("nu_act")
    subject = subject_of(pair, corpus)
    few = patch_everywhere(subject, dic, table, full=False, counts=(1, 3))
    full = patch_everywhere(subject, dic, table, full=True, counts=(1, 3))
    names = few["intervention"].to_list()
    assert set(names) < set(full["intervention"])
    assert {"exact", "reconstruction", "error", "subset nu<=0.3", "subset top 3"} < set(names)
    assert {name for name in names if name.startswith("random")} == {
        "random latents nu<=0.3",
        "random latents top 3",
        "random directions nu<=0.3",
    }
    # A row is the same either way; a control is drawn anew.
    kept = [name for name in names if not name.startswith("random")]
    few, full = (each.filter(pl.col("intervention").is_in(kept)) for each in (few, full))
    assert_frame_equal(few, full, check_row_order=False, abs_tol=1e-6, rel_tol=1e-3)


def test_a_mean_difference_that_is_given_is_used(pair: ModelPair, corpus: TokenCorpus):
    dic = make_dictionary("diff-sae")
    table = patch_everywhere(subject_of(pair, corpus, space=NOTHING), dic)
    rows = {row["intervention"]: row for row in table.to_dicts()}
    assert rows["mean difference"]["recovered"] == 0
    assert {name for name in rows if name.startswith(("subset", "random"))} == {"subset all"}


def test_only_heldout_sequences_are_read(pair: ModelPair, corpus: TokenCorpus):
    dic = make_dictionary("diff-sae")
    poisoned = corpus.token_ids.copy()
    poisoned[np.repeat(~corpus.heldout, corpus.lengths)] = 10_000
    bad = TokenCorpus(poisoned, corpus.roles, corpus.offsets, corpus.context)
    good, poisoned = (subject_of(pair, each, space=NOTHING) for each in (corpus, bad))
    assert patch_everywhere(poisoned, dic).equals(patch_everywhere(good, dic))
    assert latent_kl(poisoned, dic, [3], DEFAULTS).equals(latent_kl(good, dic, [3], DEFAULTS))
    # And the mean difference is measured on training sequences.
    with pytest.raises(InputError, match="outside the vocabulary"):
        kl_recovered(pair, dic, bad, LAYER)


def test_max_tokens_bounds_what_is_read(pair: ModelPair):
    corpus = make_corpus(sequences=100)
    dic = make_dictionary("diff-sae")
    table = patch_everywhere(subject_of(pair, corpus), dic, causal_tokens=30)
    assert 15 <= table["tokens"][0] <= 30
    assert 1 <= table["sequences"][0] < corpus.heldout.sum()
    # One sequence is the least, and gives no interval.
    least = patch_everywhere(subject_of(pair, corpus), dic, causal_tokens=1)
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
    alone = latent_kl(subject_of(same, corpus), dic, [0, 1], DEFAULTS)
    assert alone["recovered"].null_count() == 2


@pytest.mark.parametrize("method", METHODS)
def test_single_latents_equal_subsets_of_one(method: str, pair: ModelPair, corpus: TokenCorpus):
    dic = make_dictionary(method)
    latents = [7, 0, 3]
    table = latent_kl(subject_of(pair, corpus), dic, latents, DEFAULTS, token_budget=30)
    assert table["latent"].to_list() == latents
    heldout = np.flatnonzero(corpus.heldout)
    tokens = corpus.lengths[heldout].sum()
    none = naive_kl(pair, corpus, LAYER, lambda b, t: b, heldout).sum()
    vectors = dic.decoder[1] - dic.decoder[0] if method in TWO else dic.decoder[0]
    vectors = -vectors if method == "diff-sae-reversed" else vectors
    inputs = {
        "diff-sae": lambda b, t: [t - b],
        "diff-sae-reversed": lambda b, t: [b - t],
        "crosscoder": lambda b, t: [b, t],
        "dfc": lambda b, t: [b, t],
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
        assert row["closed"] == pytest.approx((none - total) / tokens, abs=1e-4 * none / tokens)
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
    table = latent_kl(subject_of(pair, corpus), dic, [4] * 50, DEFAULTS, token_budget=1000)
    assert table["recovered"].to_list() == [0.0] * 50
    # One batch: the base model, none and exact; nothing for a latent that changes nothing.
    assert sorted(calls) == ["base", "tuned", "tuned"]


def test_bad_input_is_refused(pair: ModelPair, corpus: TokenCorpus):
    dic, table = make_dictionary("diff-sae"), make_table("nu_act")
    one = corpus.select(np.arange(corpus.n_sequences) == 0)
    with pytest.raises(InputError, match="no held-out sequence"):
        kl_recovered(pair, dic, one, LAYER)
    with pytest.raises(InputError, match="layer 4 is out of range"):
        kl_recovered(pair, dic, corpus, 4)
    with pytest.raises(InputError, match=r"lacks \['nu_act'\]"):
        kl_recovered(pair, dic, corpus, LAYER, table.drop("nu_act"))
    with pytest.raises(InputError, match="has 11 rows"):
        kl_recovered(pair, dic, corpus, LAYER, table.head(11))
    narrow = DifferenceSpace(np.zeros(15), np.zeros((0, 15)), np.zeros(0))
    with pytest.raises(InputError, match="15 entries, the models' width is 16"):
        patch_everywhere(subject_of(pair, corpus, space=narrow), dic)
    subject = subject_of(pair, corpus)
    with pytest.raises(InputError, match="position 'middle' is unknown"):
        edit_kl(subject, [], positions=("middle",))
    with pytest.raises(InputError, match="counts has 0"):
        patch_everywhere(subject, dic, table, counts=(0,))
    with pytest.raises(InputError, match="max_tokens is 0"):
        edit_kl(subject, [], max_tokens=0)
    with pytest.raises(InputError, match="latent 12 is out of range"):
        latent_kl(subject, dic, [12], DEFAULTS)
    dic.decoder[0][2] = torch.nan
    with pytest.raises(InputError, match="'latent 2' gives NaN"):
        latent_kl(subject, dic, [2], DEFAULTS)
