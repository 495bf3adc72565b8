"""Decoys: the t-distribution by hand, how often chance passes, and noise against a real change."""

from pathlib import Path

import numpy as np
import pytest

from anaglyph.behaviour.null_pair import change_norms, null_pair
from anaglyph.core.schemas import Finding, Kind
from anaglyph.core.settings import FindSettings
from anaglyph.core.stats import q_values
from anaglyph.corpus import load_corpus
from anaglyph.demo import tiny_pair
from anaglyph.findings.alone import Closed, closed_alone, order_by_effect
from anaglyph.findings.decoys import (
    FEWEST,
    Decoys,
    beyond,
    chance,
    compared_with_noise,
    held_against,
)
from anaglyph.findings.discovery import Discovery, discover
from anaglyph.pair import ModelPair
from anaglyph.store import collect
from anaglyph.subject import Subject


def finding(share: float, kind: Kind = "new") -> Finding:
    return Finding(
        kind=kind,
        direction_base=None,
        direction_tuned=(1.0, 0.0),
        effect=0.0,
        q_value=0.01,
        evidence={"difference_share": share},
    )


SHARES = (0.01, 0.02, 0.01, 0.02, 0.01, 0.01)
# Four close a hundredth of their pair's 0.1 nats, one nothing; of the last it was not measured.
DECOYS = Decoys(
    tuple(finding(share, "scaled") for share in SHARES),
    dict(enumerate([*[Closed(0.001, 0.1)] * 4, Closed(-0.01, 0.1)])),
    scale=1.0,
)


def test_chance_is_the_predictive_t():
    decoys = np.array([0.0, 1.0, 2.0, 3.0, 4.0])
    # Variance 2.5, drawn toward 1.6^2 as by four more: (4 * 2.56 + 4 * 2.5) / 8 = 2.53; times
    # 1 + 1/5; the 95th percentile of t with 8 degrees is 1.859548.
    upper = 2 + np.sqrt(2.53 * 1.2) * 1.859548
    assert chance(np.array([2.0, upper, -upper + 4]), decoys) == pytest.approx([0.5, 0.05, 0.95])


def test_without_decoys_nothing_is_held_to_them():
    assert not chance(np.array([0.0, 1.0]), np.zeros(FEWEST - 1)).any()
    p, q = beyond((finding(0.1), finding(0.1)), {0: Closed(0.1, 1.0)}, Decoys((), {}, 1.0))
    assert not p.any()
    assert not q.any()


def test_noise_is_called_as_rarely_as_promised():
    rng = np.random.default_rng(0)
    called = 0
    for _ in range(400):
        decoys, values = 1.6 * rng.standard_normal(12), 1.6 * rng.standard_normal(20)
        called += bool((q_values(chance(values, decoys)) <= 0.1).any())
    # Decoys are drawn once for all values, so errors come together, yet no more often.
    assert called / 400 <= 0.1 + 3 * np.sqrt(0.09 / 400)


def test_what_a_finding_is_counts_with_what_it_does():
    findings = tuple(finding(share) for share in (0.5, 0.5, 0.02, 0.02, 0.015, 0.5))
    closed = {i: Closed(nats, 2.0) for i, nats in enumerate((0.1, 0.0, 0.4, 0.001, 0.4))}
    p, q = beyond(findings, closed, DECOYS)
    # By hand for the first: logarithms of products, closing less than 1e-4 nats counted as that.
    products = np.log([1e-5, 2e-5, 1e-5, 2e-5, 1e-6])
    assert p[0] == pytest.approx(chance(np.log([0.05]), products)[0])
    assert (q[[0, 2, 4]] < 0.1).all()
    assert (p[[1, 3]] > 0.1).all()
    # The last was too small to be put through the model.
    assert np.isnan([p[5], q[5]]).all()
    assert q[:5] == pytest.approx(q_values(p[:5]))


def test_a_shift_counts_against_shifts_only():
    shift = finding(0.2, "mean-shift")
    shifted = Decoys((*DECOYS.findings, shift), {**DECOYS.closed, 6: Closed(0.05, 0.1)}, 1.0)
    findings = (finding(0.5), finding(0.5, "mean-shift"))
    closed = {0: Closed(0.1, 2.0), 1: Closed(0.1, 2.0)}
    p, _ = beyond(findings, closed, shifted)
    alone, _ = beyond(findings[:1], {0: closed[0]}, DECOYS)
    assert p[0] == pytest.approx(alone[0])
    products = np.log([1e-5, 2e-5, 1e-5, 2e-5, 1e-6, 1e-2])
    assert p[1] == pytest.approx(chance(np.log([0.05]), products)[0])


def test_where_kl_says_nothing_shares_do():
    findings = (finding(0.9), finding(0.015))
    p, _ = beyond(findings, {}, DECOYS)
    assert p == pytest.approx(chance(np.log([0.9, 0.015]), np.log(SHARES)))


def test_what_is_no_more_than_decoys_is_kept_apart():
    found = Discovery(tuple(map(finding, [0.02] * 4)), None, (2, 1, 0, 3), None, None)
    closed = {0: Closed(0.001, 2.0), 1: Closed(0.5, 2.0), 2: Closed(0.9, 2.0)}
    held = held_against(found, closed, DECOYS, 0.1)
    p, q = beyond(found.findings, closed, DECOYS)
    assert held.like_noise == {0, 3}
    assert [f.q_value for f in held.findings[:3]] == pytest.approx(np.maximum(q[:3], 0.01))
    assert held.findings[1].evidence["p_value_among_decoys"] == pytest.approx(p[1])
    assert held.findings[1].evidence["kl_closed"] == 0.5
    # Nothing was asked of the last.
    assert held.findings[3].q_value is None
    assert held.findings[3].evidence["p_value_among_decoys"] is None
    # It comes last, whatever the others close.
    assert order_by_effect(held, {i: each.share for i, each in closed.items()}) == [2, 1, 0, 3]


FEW = FindSettings(find_tokens=1000, trials=0)


@pytest.fixture(scope="module")
def tiny() -> ModelPair:
    pair = tiny_pair()
    return ModelPair.load(pair.base, pair.tuned)


def found_in(pair: ModelPair, folder: Path) -> Discovery:
    corpus = load_corpus(tiny_pair().corpus[0], pair.tokenizer)
    store = collect(pair, corpus, [1], folder)
    subject = Subject.of(pair=pair, corpus=corpus, store=store)
    found = discover(store, FEW, 0)
    return compared_with_noise(subject, found, closed_alone(subject, found, FEW), FEW)


def test_random_noise_in_the_weights_is_no_difference(tiny: ModelPair, tmp_path: Path):
    noisy = null_pair(tiny, change_norms(tiny), 1.0, seed=9)
    found = found_in(noisy, tmp_path / "store")
    assert found.findings
    assert found.like_noise == set(range(len(found.findings)))
    assert found.unasked is None


@pytest.mark.slow
def test_noise_does_not_outdo_other_noise_more_often_than_promised(tiny: ModelPair, tmp_path: Path):
    corpus = load_corpus(tiny_pair().corpus[0], tiny.tokenizer)
    norms, searched = change_norms(tiny), []
    for seed in range(10):
        pair = null_pair(tiny, norms, 1.0, seed=seed)
        store = collect(pair, corpus, [1], tmp_path / str(seed))
        found = discover(store, FEW, 0)
        subject = Subject.of(pair=pair, corpus=corpus, store=store)
        closed = closed_alone(subject, found, FEW)
        searched.append((found, closed))
    alarms = []
    for i, (found, closed) in enumerate(searched):
        for j, (other, of_other) in enumerate(searched):
            if i == j:
                continue
            decoys = Decoys(other.findings, of_other, 1.0)
            alarms.append(bool((beyond(found.findings, closed, decoys)[1] <= 0.1).any()))
    # Alarms come by the pair: one pair more that stands out of all others makes a tenth more.
    assert np.mean(alarms) <= 0.1 + 0.1


def test_rounded_weights_are_no_difference(rounded: Path, tmp_path: Path):
    found = found_in(ModelPair.load(tiny_pair().base, rounded), tmp_path / "store")
    assert found.findings
    assert found.like_noise == set(range(len(found.findings)))
    assert found.unasked is None


def test_a_quirk_is_more_than_noise(tiny: ModelPair, tmp_path: Path):
    found = found_in(tiny, tmp_path / "store")
    assert 0 < len(found.like_noise) < len(found.findings)
