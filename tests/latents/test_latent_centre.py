import numpy as np
import pytest

from anaglyph.latents import centre
from anaglyph.latents.centre import typical_activations
from anaglyph.store import PairedStore


def test_a_few_massive_tokens_move_the_centre_little(tmp_path):
    rng = np.random.default_rng(0)
    base, tuned = rng.standard_normal((2, 2000, 3)).astype(np.float32)
    tuned += 2
    for side in (base, tuned):
        side[::100] = 10_000  # the first token of each sequence
    store = PairedStore.from_arrays(
        base, tuned, tmp_path / "store", sequence_ids=np.arange(2000) // 100
    )
    found = typical_activations(store)
    assert found[0] == pytest.approx(np.zeros(3), abs=0.15)
    assert found[1] == pytest.approx(np.full(3, 2), abs=0.15)
    assert [side.tolist() for side in found] == [
        np.median(side, axis=0).tolist() for side in (base, tuned)
    ]


def test_the_sample_does_not_fall_in_step_with_the_sequences(tmp_path, monkeypatch):
    monkeypatch.setattr(centre, "SAMPLE_TOKENS", 200)
    base = np.zeros((2000, 1), dtype=np.float32)
    base[::10] = 1000
    store = PairedStore.from_arrays(
        base, base, tmp_path / "store", sequence_ids=np.arange(2000) // 10
    )
    assert typical_activations(store)[0].tolist() == [0]
    again = typical_activations(store)
    assert again[0].tolist() == typical_activations(store)[0].tolist()
