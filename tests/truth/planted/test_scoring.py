"""Counts of latents by kind and norm class, memory and sweeps, on cases made by hand."""

import mmap
import time

import numpy as np
import polars as pl
import pytest
import torch

from anaglyph import cli
from anaglyph.core.errors import InputError
from anaglyph.dictionaries import Dictionary, Selection, Weights, get_method
from anaglyph.latents import score
from anaglyph.store import PairedStore
from anaglyph.truth.memory import peak_memory
from anaglyph.truth.planted import PlantedPair, TrueFeature, score_planted
from anaglyph.truth.planted.benchmark import sweep_planted

AXES = np.eye(6, dtype=np.float32)


def feature(kind, base, tuned):
    return TrueFeature(kind, base, tuned, None, None, None, 0.25, 0.25)


def score_by_hand(kind, folder):
    """Score a crosscoder whose second and third latent are the halves of a feature of a kind."""
    # Axis 0 new, 1 turned to 2, 3 shared; the last latent points along nothing in particular.
    pair_features = (
        feature("new", None, AXES[0]),
        feature(kind, AXES[1], AXES[2]),
        feature("shared", AXES[3], AXES[3]),
    )
    nothing = torch.tensor([0.0, 0.0, 0.0, 0.0, 0.6, 0.8])
    zero = torch.zeros(6)
    axes = torch.eye(6)
    tuned = torch.stack([axes[0], zero, axes[2], axes[3], axes[3], nothing])
    base = torch.stack([zero, axes[1], zero, axes[3], zero, zero])
    weights = Weights((base, tuned), torch.zeros(6), (base, tuned), (zero, zero))
    crosscoder = Dictionary(get_method("crosscoder"), weights, Selection(k=2, threshold=0.1))
    rng = np.random.default_rng(0)
    h_base, h_tuned = (np.abs(rng.standard_normal((200, 6))).astype(np.float32) for _ in range(2))
    ids = np.repeat(np.arange(20), 10)
    store = PairedStore.from_arrays(h_base, h_tuned, folder / "store", sequence_ids=ids)
    pair = PlantedPair(h_base, h_tuned, ids, pair_features, None, None)
    return score_planted(crosscoder, score(crosscoder, store, bootstrap=0), store, pair)


@pytest.fixture
def scored(tmp_path):
    return score_by_hand("rotated", tmp_path)


def test_the_new_direction_of_a_rotated_feature_is_no_false_tuned_only_latent(scored):
    assert scored["tuned_only"] == 4
    assert scored["rotated_tuned_only"] == 1
    assert scored["false_tuned_only"] == 2


def test_the_confusion_matrix_counts_every_live_latent_once(scored):
    cells = {name: n for name, n in scored.items() if name.startswith("confusion_") and n}
    assert cells == {
        "confusion_new_tuned-only": 1,
        "confusion_rotated_base-only": 1,
        "confusion_rotated_tuned-only": 1,
        "confusion_shared_shared": 1,
        "confusion_shared_tuned-only": 1,
        "confusion_none_tuned-only": 1,
    }


@pytest.mark.parametrize("kind", ["rotated", "retriggered", "refrequencied"])
def test_both_halves_of_a_feature_that_changed_in_part_are_true_changes(kind, tmp_path):
    scored = score_by_hand(kind, tmp_path)
    assert scored[f"recall_{kind}"] == 1
    # Flagged: all but the shared latent; true: the new one and the two halves.
    assert scored["flagged"] == 5
    assert scored["precision"] == pytest.approx(3 / 5)


def test_the_halves_of_a_feature_that_is_only_stronger_are_not(tmp_path):
    scored = score_by_hand("scaled", tmp_path)
    assert scored["recall_scaled"] == 0
    assert scored["precision"] == pytest.approx(1 / 5)


def test_a_shrunk_latent_counts_against_the_norm(scored):
    # The new latent and the shrunk one tie at 1, the shared one is at 1/2: (1/2 + 1) / 2.
    assert scored["auroc_delta_norm"] == pytest.approx(0.75)


def test_the_frequency_of_what_was_found(scored):
    assert scored["frequency_new"] == pytest.approx(0.25)
    assert scored["frequency_scaled"] is None


def test_peak_memory_is_that_of_the_work_alone():
    kept = np.ones(40 * 2**17)
    with peak_memory() as first:
        # Pages of its own: an array may get memory that the process was given before.
        held = mmap.mmap(-1, 30 * 2**20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        np.frombuffer(held, np.uint8)[:] = 1
        time.sleep(0.1)  # sampled, so a flash of memory can be missed
        held.close()
    with peak_memory() as second:
        pass
    if first.mib is not None and second.mib is not None:
        assert 29 <= first.mib <= 36
        assert second.mib < 5
    assert kept.sum() == len(kept)


def test_a_sweep_makes_a_cell_of_every_value():
    runs = sweep_planted("easy", ["diff-sae"], [0], "ratio", ["0.5", "1"], tokens=4096)
    assert runs["preset"].to_list() == ["easy ratio=0.5", "easy ratio=1"]
    assert runs["latents"].to_list() == [45, 90]
    assert runs["ratio"].to_list() == [0.5, 1.0]


def test_a_sweep_over_a_field_of_the_preset(monkeypatch, tmp_path):
    line = "anaglyph planted --preset easy --methods diff-sae --seeds 1 --tokens 4096"
    sweep = ["--sweep", "changed_frequency=0.01,0.05", "--out", str(tmp_path)]
    monkeypatch.setattr("sys.argv", [*line.split(), *sweep])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 0
    runs = pl.read_parquet(tmp_path / "runs.parquet")
    assert runs["changed_frequency"].to_list() == [0.01, 0.05]
    # k is the planted number of active features, which follows the frequency.
    assert runs["k"][1] == pytest.approx(5 * runs["k"][0], rel=0.1)


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("colour", ["1"], "colour"),
        ("ratio", ["wide"], "ratio"),
        ("noise", ["0.1", "-1"], "noise"),
        ("ratio", [], "ratio"),
    ],
)
def test_a_sweep_that_cannot_be_is_named(name, values, message):
    with pytest.raises(InputError, match=message):
        sweep_planted("easy", ["diff-sae"], [0], name, values)


def test_a_sweep_without_values_is_one_line(monkeypatch, capsys):
    line = "anaglyph planted --preset easy --sweep ratio"
    monkeypatch.setattr("sys.argv", line.split())
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2
    assert "--sweep takes NAME=V1,V2" in capsys.readouterr().err
