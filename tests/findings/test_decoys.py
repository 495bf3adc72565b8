"""Decoys: the t-distribution by hand, how often chance passes, and noise against a real change."""

from pathlib import Path

import numpy as np
import pytest

from anaglyph.corpus import load_corpus
from anaglyph.demo import tiny_pair
from anaglyph.direct.null_pair import change_norms, null_pair
from anaglyph.findings import Finding, discover_in_models, foremost
from anaglyph.findings.alone import Closed
from anaglyph.findings.decoys import FEWEST, Decoys, beyond, chance, held_against
from anaglyph.findings.discovery import Discovery
from anaglyph.findings.significance import q_values
from anaglyph.pair import ModelPair
from anaglyph.store import collect

DECOYS = Decoys(shares=(0.01, 0.02, 0.01, 0.02, 0.01), closed=(0.0, 0.02, -0.02, 0.0), scale=1.0)


def finding(share: float) -> Finding:
    return Finding(
        kind="new",
        direction_base=None,
        direction_tuned=(1.0, 0.0),
        effect=0.0,
        q_value=0.01,
        evidence={"difference_share": share},
    )


def test_chance_is_the_predictive_t():
    decoys = np.array([0.0, 1.0, 2.0, 3.0, 4.0])
    # Deviation 1.5811, times sqrt(1 + 1/5); the 95th percentile of t with 4 degrees is 2.1318.
    upper = 2 + 1.581139 * np.sqrt(1.2) * 2.131847
    assert chance(np.array([2.0, upper, -upper + 4]), decoys) == pytest.approx([0.5, 0.05, 0.95])


def test_without_decoys_nothing_is_held_to_them():
    assert not chance(np.array([0.0, 1.0]), np.zeros(FEWEST - 1)).any()


def test_noise_is_called_as_rarely_as_promised():
    rng = np.random.default_rng(0)
    called = 0
    for _ in range(400):
        decoys, values = rng.standard_normal(12), rng.standard_normal(20)
        called += bool((q_values(chance(values, decoys)) <= 0.1).any())
    # Decoys are drawn once for all values, so errors come together, yet no more often.
    assert called / 400 <= 0.1 + 3 * np.sqrt(0.09 / 400)


def test_a_finding_passes_by_its_share_or_by_what_it_does():
    findings = (finding(0.9), finding(0.015), finding(0.015), finding(0.015))
    found = Discovery(findings, None, (3, 2, 1, 0), None, None)
    # A small share of a wide gap can be more nats than decoys close of theirs.
    closed = {0: Closed(0.0, 0.0), 1: Closed(0.1, 0.4), 2: Closed(0.9, 0.01)}
    p, q = beyond(findings, closed, DECOYS)
    assert (p[:2] < 0.01).all()
    assert (p[2:] > 0.3).all()
    held = held_against(found, closed, DECOYS, 0.1)
    assert held.like_noise == {2, 3}
    assert [f.q_value for f in held.findings] == pytest.approx(np.maximum(q, 0.01))
    assert held.findings[1].evidence["p_value_among_decoys"] == pytest.approx(p[1])
    # Those two come last, whatever they close.
    assert foremost(held, {i: each.share for i, each in closed.items()}) == [1, 0, 2, 3]


@pytest.fixture(scope="module")
def tiny() -> ModelPair:
    pair = tiny_pair()
    return ModelPair.load(pair.base, pair.tuned)


def found_in(pair: ModelPair, folder: Path) -> Discovery:
    corpus = load_corpus(tiny_pair().corpus[0], pair.tokenizer)
    store = collect(pair, corpus, [1], folder)
    return discover_in_models(pair, corpus, store, 0.1, 0, most=8, max_tokens=1000)[0]


def test_random_noise_in_the_weights_is_no_difference(tiny: ModelPair, tmp_path: Path):
    noisy = null_pair(tiny, change_norms(tiny), 1.0, seed=9)
    found = found_in(noisy, tmp_path / "store")
    assert found.findings
    assert found.like_noise == set(range(len(found.findings)))
    assert found.unasked is None


def test_rounded_weights_are_no_difference(rounded: Path, tmp_path: Path):
    found = found_in(ModelPair.load(tiny_pair().base, rounded), tmp_path / "store")
    assert found.findings
    assert found.like_noise == set(range(len(found.findings)))
    assert found.unasked is None


def test_a_quirk_is_more_than_noise(tiny: ModelPair, tmp_path: Path):
    found = found_in(tiny, tmp_path / "store")
    assert 0 < len(found.like_noise) < len(found.findings)
