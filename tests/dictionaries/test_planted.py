"""Does a dictionary find what is known to be there?"""

from collections.abc import Iterator

import numpy as np
import pytest

from anaglyph.core.threads import use_threads
from anaglyph.dictionaries import train
from anaglyph.store import PairedStore


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    with use_threads(1):
        yield


def found(decoder: np.ndarray, directions: np.ndarray) -> int:
    """Count the directions that some decoder row has a cosine over 0.9 with."""
    rows = decoder / np.linalg.norm(decoder, axis=1, keepdims=True)
    return int(((directions @ rows.T).max(1) > 0.9).sum())


def test_a_diff_sae_finds_new_and_removed_features(planted, store: PairedStore) -> None:
    """Twelve features active at one token in twenty: the difference has a true L0 of 0.6."""
    dictionary = train(store, "diff-sae", latents=64, k=1, tokens=100_000, batch=400, seed=3)
    decoder = dictionary.decoders[0]
    assert found(decoder, planted.new) >= 5
    assert found(-decoder, planted.removed) >= 5
    # Of the difference a new feature points along its direction, a removed one against it.
    assert found(-decoder, planted.new) == found(decoder, planted.removed) == 0
    assert dictionary.stats["fve"] > 0.8


@pytest.mark.parametrize("sparsity", ["l1", "jumprelu", "matryoshka", "topk"])
def test_every_sparsity_finds_most_of_them(planted, store: PairedStore, sparsity: str) -> None:
    dictionary = train(
        store, "diff-sae", 64, k=1, tokens=100_000, batch=400, seed=3, sparsity=sparsity
    )
    decoder = dictionary.decoders[0]
    hits = found(decoder, planted.new) + found(-decoder, planted.removed)
    # The few latents of a prefix merge features: 8 of 12 here, 10 of 12 with 144.
    assert hits >= (8 if sparsity == "matryoshka" else 10)
    # One latent a token, where a token has none to four features.
    assert dictionary.stats["fve"] > (0.75 if sparsity == "topk" else 0.8)


def test_the_reversed_difference_has_the_other_sign(planted, store: PairedStore) -> None:
    dictionary = train(
        store, "diff-sae-reversed", latents=64, k=1, tokens=100_000, batch=400, seed=3
    )
    decoder = dictionary.decoders[0]
    assert found(-decoder, planted.new) >= 5
    assert found(decoder, planted.removed) >= 5
    base, tuned = store.gather(np.arange(100))
    difference = dictionary.difference(dictionary.encode(base, tuned))
    assert difference is not None
    assert (difference - (tuned - base)).square().sum() < 0.3 * (tuned - base).square().sum()


def test_dedicated_latents_take_what_one_model_has_alone(planted, store: PairedStore) -> None:
    options = {"base_share": 0.1, "tuned_share": 0.1}
    dictionary = train(
        store, "dfc", latents=100, k=4, tokens=100_000, batch=400, seed=3, options=options
    )
    base, tuned = dictionary.decoders
    assert found(base[80:90], planted.removed) + found(tuned[90:], planted.new) >= 8


def test_a_crosscoder_gives_new_features_to_the_tuned_model_only(
    planted, store: PairedStore
) -> None:
    dictionary = train(store, "crosscoder", latents=128, k=4, tokens=100_000, batch=400, seed=3)
    base, tuned = dictionary.decoders
    assert found(tuned, planted.new) >= 5
    assert found(base, planted.removed) >= 5
    cosines = planted.new @ (tuned / np.linalg.norm(tuned, axis=1, keepdims=True)).T
    norms = np.linalg.norm(base, axis=1) / np.linalg.norm(tuned, axis=1)
    clear = cosines.max(1) > 0.9
    assert (norms[cosines.argmax(1)][clear] < 0.3).sum() >= 5
