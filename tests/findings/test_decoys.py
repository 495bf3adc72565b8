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
    DEVIATION,
    SLOPE,
    SLOPE_DEVIATION,
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


def finding(share: float, kind: Kind = "new", fires: float = 0.05) -> Finding:
    return Finding(
        kind=kind,
        direction_base=None,
        direction_tuned=(1.0, 0.0),
        effect=0.0,
        q_value=0.01,
        evidence={"difference_share": share, "fires": fires},
    )


def closes(nats: float, *, measured: bool = True) -> Closed:
    """Return what closes so much in a text, and a hundredth of it a token."""
    acting = float(max(nats, 0))
    return Closed(nats / 100, 0.1, nats / 10, acting, nats / 100, measured)


SHARES = (0.01, 0.02, 0.01, 0.02, 0.01, 0.01)
# Four close a hundredth of their pair's 0.1 nats, one nothing; of the last it was not measured.
DECOYS = Decoys(
    tuple(finding(share, "scaled") for share in SHARES),
    dict(enumerate([*[closes(0.001)] * 4, closes(-0.01)])),
    scale=1.0,
)


def flat(values: np.ndarray) -> np.ndarray:
    """Return the logarithm of one frequency for each value."""
    return np.full(len(values), np.log(0.05))


def test_chance_is_the_predictive_t():
    decoys = np.array([0.0, 1.0, 2.0, 3.0, 4.0])
    # Variance 2.5, drawn toward s_0^2 as by four more; times 1 + 1/5; the 95th percentile of t with
    # 8 degrees is 1.859548.
    error = np.sqrt((4 * DEVIATION**2 + 4 * 2.5) / 8 * 1.2)
    values = np.array([2.0, 2 + error * 1.859548, 2 - error * 1.859548])
    assert chance(values, flat(values), decoys, flat(decoys)) == pytest.approx([0.5, 0.05, 0.95])


def test_a_decoy_is_expected_to_be_larger_where_it_fires_oftener():
    decoys, at = np.array([0.0, 1.0, 2.0, 3.0, 4.0]), np.array([-2.0, -1.0, 0.0, 1.0, 2.0])
    # The decoys' own slope is 1, on sum z^2 = 10; what is assumed counts (s_0 / s_b)^2.
    believed = (DEVIATION / SLOPE_DEVIATION) ** 2
    slope = (10 + believed * SLOPE) / (10 + believed)
    left = (1 - slope) ** 2 * 10
    error = np.sqrt((4 * DEVIATION**2 + left) / 8 * (1 + 1 / 5 + 9 / (10 + believed)))
    found = chance(np.array([2 - 3 * slope + 1.859548 * error]), np.array([-3.0]), decoys, at)
    assert found == pytest.approx([0.05])


def test_without_decoys_nothing_is_held_to_them():
    none = np.zeros(0)
    assert not chance(np.array([0.0, 1.0]), np.zeros(2), none, none).any()
    p, q = beyond((finding(0.1), finding(0.1)), {0: closes(0.1)}, Decoys((), {}, 1.0))
    assert not p.any()
    assert not q.any()


def test_a_single_decoy_is_held_against_with_what_decoys_have_elsewhere():
    # Four degrees of freedom: the 95th percentile of t is 2.131847; once for the mean of one decoy.
    error = DEVIATION * np.sqrt(1 + 1)
    values = np.array([3 + 2.131847 * error])
    assert chance(values, np.zeros(1), np.array([3.0]), np.zeros(1)) == pytest.approx([0.05])


def test_where_noise_shows_only_shifts_all_is_held_against_these():
    shifts = Decoys((finding(0.2, "mean-shift", 1.0),), {0: closes(0.1)}, 1.0)
    small = (finding(0.01), finding(0.01, "mean-shift", 0.05))
    p, _ = beyond(small, {0: closes(0.01), 1: closes(0.01)}, shifts)
    assert p[0] == p[1] > 0.1


def test_noise_is_called_as_rarely_as_promised():
    rng = np.random.default_rng(0)
    called = 0
    for _ in range(400):
        at, decoys_at = rng.standard_normal(20), rng.standard_normal(12)
        decoys = 1.6 * rng.standard_normal(12) + SLOPE * decoys_at
        values = 1.6 * rng.standard_normal(20) + SLOPE * at
        called += bool((q_values(chance(values, at, decoys, decoys_at)) <= 0.1).any())
    # Decoys are drawn once for all values, so errors come together, yet no more often.
    assert called / 400 <= 0.1 + 3 * np.sqrt(0.09 / 400)


def test_what_a_finding_is_counts_with_what_it_does():
    findings = tuple(finding(share) for share in (0.5, 0.5, 0.02, 0.02, 0.015, 0.5))
    closed = {i: closes(nats) for i, nats in enumerate((0.1, 0.0, 0.4, 0.001, 0.4))}
    p, q = beyond(findings, closed, DECOYS)
    # By hand for the first: logarithms of products; closing less than a thousandth of what the
    # strongest decoy closes counts as that.
    products = np.log([1e-5, 2e-5, 1e-5, 2e-5, 1e-8])
    first = np.log([0.05])
    assert p[0] == pytest.approx(chance(first, flat(first), products, flat(products))[0])
    assert p[[0, 2, 4]].max() < p[[1, 3]].min()
    # Of the last no KL is known.
    assert np.isnan([p[5], q[5]]).all()
    assert q[:5] == pytest.approx(q_values(p[:5]))


def test_a_rare_finding_is_held_against_rare_decoys():
    often = (0.5, 0.2, 0.1, 0.05, 0.02, 0.01)
    decoys = Decoys(
        tuple(finding(0.1 * f, fires=f) for f in often),
        {i: closes(0.001) for i in range(len(often))},
        1.0,
    )
    rare, broad = finding(0.01, fires=0.005), finding(0.01, fires=0.2)
    p, _ = beyond((rare, broad), {0: closes(0.5), 1: closes(0.5)}, decoys)
    assert p[0] < p[1]


def test_a_shift_counts_against_shifts_only():
    shift = finding(0.2, "mean-shift", 1.0)
    shifted = Decoys((*DECOYS.findings, shift), {**DECOYS.closed, 6: closes(0.05)}, 1.0)
    findings = (finding(0.5), finding(0.5, "mean-shift", 1.0))
    closed = {0: closes(0.1), 1: closes(0.1)}
    p, _ = beyond(findings, closed, shifted)
    floor = np.log([1e-5, 2e-5, 1e-5, 2e-5, 0.01 * 5e-5])
    first = np.log([0.05])
    assert p[0] == pytest.approx(chance(first, flat(first), floor, flat(floor))[0])
    assert p[1] > p[0]


def test_where_kl_says_nothing_shares_do():
    findings = (finding(0.9), finding(0.015))
    p, _ = beyond(findings, {}, DECOYS)
    values, noise = np.log([0.9, 0.015]), np.log(SHARES)
    assert p == pytest.approx(chance(values, flat(values), noise, flat(noise)))


def test_what_is_no_more_than_decoys_is_kept_apart():
    found = Discovery(tuple(map(finding, [0.02] * 5)), None, (2, 1, 0, 3, 4), None, None)
    closed = {
        0: closes(0.001),
        1: closes(500.0),
        2: closes(900.0),
        4: closes(900.0, measured=False),
    }
    held = held_against(found, closed, DECOYS, 0.1)
    p, q = beyond(found.findings, closed, DECOYS)
    # Nothing was asked of the fourth, and the last was only estimated.
    assert held.like_noise == {0, 3, 4}
    assert [f.q_value for f in held.findings[:3]] == pytest.approx(np.maximum(q[:3], 0.01))
    assert held.findings[1].evidence["p_value_among_decoys"] == pytest.approx(p[1])
    assert held.findings[1].evidence["kl_closed"] == 5
    assert held.findings[1].evidence["kl_closed_where_it_fires"] == 50
    assert held.findings[1].evidence["kl_closed_in_a_text"] == 500
    assert held.findings[3].q_value is None
    assert held.findings[3].evidence["p_value_among_decoys"] is None
    assert held.findings[4].evidence["kl_closed"] is None
    assert held.findings[4].evidence["kl_estimated"] == 9
    # They come last, whatever the others close.
    shares = {i: each.share for i, each in closed.items() if each.measured}
    assert order_by_effect(held, shares) == [2, 1, 0, 3, 4]


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
    alone = closed_alone(subject, found, FEW)
    return compared_with_noise(subject, found, {} if alone is None else alone.closed, FEW)


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
        alone = closed_alone(subject, found, FEW)
        assert alone is not None
        searched.append((found, alone.closed))
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
