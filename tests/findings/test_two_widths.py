"""Two models without common coordinates: what only one of them has is named, nothing else is."""

from pathlib import Path

import numpy as np
import pytest
from numpy import ndarray

from anaglyph import PairedStore, find
from anaglyph.core.schemas import Finding
from anaglyph.findings.align import align
from anaglyph.truth.planted.generate import TrueFeature, generate
from anaglyph.truth.planted.settings import PlantedSettings

COSINE = 0.9


def cosine(a: ndarray | None, b: object) -> float:
    if a is None or b is None:
        return 0.0
    other = np.array(b)
    return float(a @ other / (np.linalg.norm(a) * np.linalg.norm(other)))


def is_of(finding: Finding, feature: TrueFeature) -> bool:
    if finding.kind != feature.kind:
        return False
    own = (
        (feature.direction_tuned, finding.direction_tuned)
        if feature.kind == "new"
        else (feature.direction_base, finding.direction_base)
    )
    return cosine(*own) >= COSINE


def test_what_only_one_model_has_is_mapped_onto_nothing():
    """Three shared directions, two of the base alone, two of the tuned model alone, and noise."""
    generator = np.random.default_rng(0)
    said = generator.standard_normal((6000, 7)) * (generator.random((6000, 7)) < 0.2)
    bases = [np.linalg.qr(generator.standard_normal((d, d)))[0] for d in (14, 10)]
    base = 5 * said[:, :5] @ bases[0][:5]
    tuned = 5 * said[:, [0, 1, 2, 5, 6]] @ bases[1][:5]
    base, tuned = (each + 0.1 * generator.standard_normal(each.shape) for each in (base, tuned))
    found = align(base, tuned, np.arange(6000) % 5 == 0)
    assert found is not None
    mapped = bases[0][:5] @ found.turn @ bases[1][:5].T
    expected = np.zeros((5, 5))
    expected[:3, :3] = np.eye(3)
    np.testing.assert_allclose(mapped, expected, atol=0.05)
    # What the base has alone is kept: it goes where the tuned model has noise.
    assert np.linalg.norm(bases[0][3:5] @ found.turn, axis=1) == pytest.approx([1, 1], abs=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("widths", [(32, 48), (48, 32)])
def test_exclusive_features_are_found(tmp_path: Path, widths: tuple[int, int]):
    settings = PlantedSettings(
        width=widths[0], tuned_width=widths[1], tokens=16_000, shared=12, new=5, removed=5,
        scaled=0, rotated=0, retriggered=0,
    )  # fmt: skip
    pair = generate(settings, 0)
    store = PairedStore.from_arrays(
        pair.base, pair.tuned, tmp_path / "store", sequence_ids=pair.sequence_ids
    )
    found = find(store)
    only_one = [each for each in pair.features if each.kind in ("new", "removed")]
    hits = [any(is_of(finding, feature) for finding in found) for feature in only_one]
    right = [any(is_of(finding, feature) for feature in only_one) for finding in found]
    assert np.mean(hits) >= 0.9
    assert np.mean(right) >= 0.9


def test_the_same_features_in_other_coordinates_are_no_difference(tmp_path: Path):
    settings = PlantedSettings(
        width=24, tokens=6000, shared=12, new=0, removed=0, scaled=0, rotated=0, retriggered=0
    )
    pair = generate(settings, 0)
    rotation = np.linalg.qr(np.random.default_rng(5).standard_normal((32, 24)))[0].T
    turned = (3.0 * pair.base @ rotation + 1.0).astype(np.float32)
    store = PairedStore.from_arrays(
        pair.base, turned, tmp_path / "store", sequence_ids=pair.sequence_ids
    )
    assert find(store) == []
