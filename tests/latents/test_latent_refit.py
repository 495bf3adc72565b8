import sys

import numpy as np
import pytest
import torch
from dense import to_codes
from small import arrays, axis_dictionary, dense_codes, random_dictionary, random_store

from anaglyph.latents import score
from anaglyph.latents.bootstrap import assign_blocks
from anaglyph.latents.centre import typical_activations
from anaglyph.latents.refit import Refit
from anaglyph.store import PairedStore

SIDES = ("base", "tuned")


def by_hand(y, code, half):
    """Refit each half with plain numpy; ``y`` holds what both models show of this latent."""
    (b1, b2), (t1, t2) = (
        [(code * (half == h)) @ y[side].astype(np.float64) for h in (0, 1)] for side in SIDES
    )
    for first, second in ((b1, b2), (t1, t2)):
        length = np.linalg.norm(first) * np.linalg.norm(second)
        if length == 0 or first @ second < 0.5 * length:
            return None
    cosine = (b1 @ t2 + b2 @ t1) / 2 / np.sqrt((b1 @ b2) * (t1 @ t2))
    return np.degrees(np.arccos(np.clip(cosine, -1, 1)))


@pytest.mark.parametrize("method", ["crosscoder", "diff-sae", "tuned-sae", "base-sae"])
def test_angle_equals_dense_float64(method, tmp_path):
    defined = []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        dic = random_dictionary(method, 9, (5, 5), rng)
        store = random_store(tmp_path / str(seed), rng, sequences=30, mean=1.0)
        h, codes = arrays(store), dense_codes(dic, arrays(store))
        centres = dict(zip(SIDES, typical_activations(store), strict=True))
        half = assign_blocks(30, 30)[store.sequence_of_tokens()] % 2
        table = score(dic, store, bootstrap=0)
        for j in range(9):
            y = {side: h[side] - centres[side] for side in SIDES}
            if method == "crosscoder":
                without = codes.copy()
                without[:, j] = 0
                for side, decoder, bias in zip(SIDES, dic.decoder, dic.decoder_bias, strict=True):
                    rebuilt = without @ decoder.double().numpy() + bias.double().numpy()
                    y[side] = h[side] - rebuilt
            expected = by_hand(y, codes[:, j], half)
            defined.append(expected is not None)
            if expected is None:
                assert table["angle"][j] is None
            else:
                # arccos is steep at 0 and 180.
                assert table["angle"][j] == pytest.approx(expected, abs=0.1)
    assert any(defined)
    assert not all(defined)


def test_batches_add_up():
    rng = np.random.default_rng(0)
    dense = (rng.random((40, 6)) * (rng.random((40, 6)) < 0.3)).astype(np.float32)
    dense[20:25] = 0  # a batch without any firing
    y = {side: rng.standard_normal((40, 3)).astype(np.float32) for side in SIDES}
    half = np.arange(40) // 4 % 2
    refit = Refit(6, 3)
    for start, stop in ((0, 20), (20, 25), (25, 40)):
        part = slice(start, stop)
        refit.add(to_codes(dense[part]), {side: y[side][part] for side in SIDES}, half[part])
    for h in (0, 1):
        chosen = dense.astype(np.float64) * (half == h)[:, None]
        assert refit.squares[:, h] == pytest.approx((chosen**2).sum(axis=0))
        for side in SIDES:
            assert refit.sums[side][:, h] == pytest.approx(chosen.T @ y[side], abs=1e-5)


@pytest.fixture
def rotated(tmp_path):
    """A store of width 60 in noise: latent 0 turned by 40 degrees, 1 not, 2 the tuned model's."""
    rng = np.random.default_rng(0)
    tokens, width = 2000, 60
    tuned = np.zeros((tokens, width))
    for axis in range(3):
        tuned[axis::20, axis] = 2
    base = tuned.copy()
    turned = np.deg2rad(40)
    base[:, 0], base[:, 3] = np.cos(turned) * tuned[:, 0], np.sin(turned) * tuned[:, 0]
    base[:, 2] = 0
    base, tuned = (
        (h + 0.6 * rng.standard_normal(h.shape)).astype(np.float32) for h in (base, tuned)
    )
    sequences = np.arange(tokens) // 20
    return PairedStore.from_arrays(base, tuned, tmp_path / "a", sequence_ids=sequences)


def reader(method):
    """Return a dictionary whose latents 0 to 2 read the tuned axes above a threshold of one."""
    blind = (torch.zeros(60, 60), torch.eye(60)) if method == "crosscoder" else None
    dic = axis_dictionary(method, 60, blind, bias=torch.zeros(60))
    dic.encoder_bias[:3] = -1.0
    dic.encoder_bias[3:] = -1e6
    return dic


@pytest.mark.parametrize("method", ["crosscoder", "tuned-sae"])
def test_the_angle_of_a_rotated_feature_is_that_planted(method, rotated):
    table = score(reader(method), rotated)
    angle = table["angle"].to_list()
    assert angle[0] == pytest.approx(40, abs=6)
    assert angle[1] == pytest.approx(0, abs=12)
    assert angle[2] is None  # the base has no such direction
    assert angle[3] is None  # dead


def test_refit_can_be_left_out_and_needs_one_width(rotated, tmp_path, monkeypatch):
    dic = reader("tuned-sae")
    module = sys.modules["anaglyph.latents.score"]  # the package has a function of that name
    assert score(dic, rotated, refit=False)["angle"].null_count() == 60
    monkeypatch.setattr(module, "_REFIT_BYTES", 16 * 60 * 60 - 1)
    assert score(dic, rotated)["angle"].null_count() == 60
    assert score(dic, rotated, refit=True)["angle"].count() == 2
    monkeypatch.setattr(module, "_REFIT_BYTES", 16 * 60 * 60)
    assert score(dic, rotated)["angle"].count() == 2
    rng = np.random.default_rng(0)
    store = random_store(tmp_path / "b", rng, widths=(4, 6))
    crosscoder = random_dictionary("crosscoder", 5, (4, 6), rng)
    assert score(crosscoder, store, refit=True)["angle"].null_count() == 5
