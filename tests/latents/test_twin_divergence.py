import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small import arrays, dense_codes, random_dictionary, random_store

from anaglyph.core.progress import silent
from anaglyph.dictionaries import Dictionary, Selection, Weights, get_method
from anaglyph.latents import score, twins
from anaglyph.latents.twins import twin_divergence
from anaglyph.store import PairedStore


def by_hand(a, b):
    """Count token by token, from two strengths each."""
    joint = max(*a, *b)
    strong = [(x, y) for x, y in zip(a, b, strict=True) if max(x, y) > 0.4 * joint]
    return sum(min(pair) <= 0.1 * joint for pair in strong) / len(strong)


@settings(max_examples=10)
@given(seed=st.integers(0, 2**32 - 1), compared=st.sampled_from([1, 2**22]))
def test_equals_a_count_by_hand(seed, compared, tmp_path_factory):
    rng = np.random.default_rng(seed)
    dic = random_dictionary("crosscoder", 8, (5, 5), rng, threshold=0.2)
    store = random_store(tmp_path_factory.mktemp("s") / "store", rng)
    codes = dense_codes(dic, arrays(store))
    alive = np.flatnonzero(codes.any(axis=0))
    twin = np.full(8, -1)
    twin[alive] = rng.permutation(alive)  # neither mutual nor of any class: only counts matter
    twin[alive[::3]] = -1
    twin[twin == np.arange(8)] = -1
    lengths = rng.random(8) + 0.5
    largest = codes.max(axis=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(twins, "_COMPARED", compared)
        found = twin_divergence(dic, store, twin, lengths, largest, silent)
    strength = codes * lengths
    for j in range(8):
        if twin[j] < 0:
            assert np.isnan(found[j])
        else:
            assert found[j] == pytest.approx(by_hand(strength[:, j], strength[:, twin[j]]))


def twins_of(separate):
    """Return a crosscoder of width 3 with a twin pair along axis 0 and one shared latent.

    Latent 0 is tuned-only and reads the tuned axis 0, latent 1 is base-only, with a decoder half as
    long and so codes twice as high, and reads the base axis 0. The two read an own axis if
    ``separate``, a shared one if not. Latent 2 is axis 2 of both.
    """
    along, across = torch.eye(3)[0], torch.eye(3)[1]
    trigger = across if separate else along
    zero, last = torch.zeros(3), torch.eye(3)[2]
    encoder = torch.stack([zero, 2 * trigger, last / 2]), torch.stack([along, zero, last / 2])
    decoder = torch.stack([zero, along / 2, last]), torch.stack([along, zero, last])
    bias = (torch.zeros(3), torch.zeros(3))
    weights = Weights(encoder, torch.zeros(3), decoder, bias)
    return Dictionary(get_method("crosscoder"), weights, Selection(k=1, threshold=0.0))


def test_one_concept_in_two_latents_is_decoupled_and_a_new_trigger_is_not(tmp_path):
    tokens = 120
    on = np.zeros((tokens, 3), dtype=np.float32)
    on[::4, 0] = 2
    on[:, 2] = 1
    both = PairedStore.from_arrays(on, on, tmp_path / "a", sequence_ids=np.arange(tokens) // 5)
    table = score(twins_of(False), both)
    assert table["class"].to_list() == ["tuned-only", "base-only", "shared"]
    assert table["twin"].to_list() == [1, 0, None]
    assert table["twin_divergence"].to_list() == [0, 0, None]
    assert table["latent_decoupling"].to_list() == [True, True, False]
    assert table["nu_recon"][0] == table["nu_recon_mirror"][1] == pytest.approx(1)
    assert table["complete_shrinkage"].to_list() == [False, False, False]

    # The base writes the same direction at other tokens, those of axis 1.
    base = np.zeros((tokens, 3), dtype=np.float32)
    base[1::4, :2] = 2
    base[:, 2] = 1
    moved = PairedStore.from_arrays(base, on, tmp_path / "b", sequence_ids=np.arange(tokens) // 5)
    table = score(twins_of(True), moved)
    assert table["twin"].to_list() == [1, 0, None]
    assert table["twin_divergence"].to_list() == [1, 1, None]
    assert table["nu_recon"][0] == table["nu_recon_mirror"][1] == pytest.approx(0, abs=1e-6)
    assert table["latent_decoupling"].to_list() == [False, False, False]


def test_half_apart_and_the_store_is_read_again_for_twins_only(tmp_path):
    # Strengths by token (latent 0, latent 1): strong alone, beside a middling one, both weak.
    base = np.array([[0, 0, 1], [1, 0, 1], [0.5, 0, 1], [0, 0, 1]], dtype=np.float32)
    tuned = np.array([[10, 0, 1], [5, 0, 1], [0.5, 0, 1], [4, 0, 1]], dtype=np.float32)
    base[1, 0] = 1.01  # above a tenth of the joint maximum, 10; and 4 is not strong
    store = PairedStore.from_arrays(base, tuned, tmp_path / "a")
    seen = []

    def note(task: str, done: int, total: int, unit: str = "tokens") -> None:
        seen.append((task, done, total))

    table = score(twins_of(False), store, progress=note)
    assert table["twin_divergence"].to_list() == [0.5, 0.5, None]
    assert seen == [("score", 4, 4), ("twins", 4, 4)]
    seen.clear()
    score(random_dictionary("diff-sae", 4, (3, 3), np.random.default_rng(0)), store, progress=note)
    assert seen == [("score", 4, 4)]
