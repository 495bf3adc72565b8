"""Several layers: one change is one finding, at whichever layers it shows; nothing is nothing."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anaglyph.core.errors import InputError
from anaglyph.findings import find
from anaglyph.store import PairedStore
from anaglyph.truth.planted import calibrate, generate_layers, planted_settings
from anaglyph.truth.planted.generate import PlantedPair

SMALL: dict[str, Any] = {
    "width": 24,
    "tokens": 8000,
    "shared": 12,
    "new": 1,
    "removed": 1,
    "scaled": 0,
    "rotated": 0,
    "retriggered": 0,
    "frequency": (0.03, 0.03),
    "layers": 3,
}


def stores_of(pairs: list[PlantedPair], folder: Path) -> list[PairedStore]:
    return [
        PairedStore.from_arrays(
            pair.base,
            pair.tuned,
            folder / str(layer),
            sequence_ids=pair.sequence_ids,
            layer=layer,
        )
        for layer, pair in enumerate(pairs)
    ]


def planted(folder: Path, **changes: Any) -> tuple[list[PlantedPair], list[PairedStore]]:
    pairs = generate_layers(planted_settings("easy", **(SMALL | changes)), 3)
    return pairs, stores_of(pairs, folder)


def test_a_change_at_all_layers_is_one_finding(tmp_path: Path):
    pairs, stores = planted(tmp_path)
    found = find(stores, seed=1)
    assert sorted(each.kind for each in found) == ["new", "removed"]
    for each in found:
        assert sorted(each.layers) == [0, 1, 2]
        assert [at.layer for at in each.depth] == [0, 1, 2]
        assert {at.kind for at in each.depth} == {each.kind}
        # Its directions are of its first layer; those at the others are in the depth profile.
        for at in each.depth:
            (true,) = (f for f in pairs[at.layer].features if f.kind == each.kind)
            assert at.direction is not None
            assert true.difference is not None
            assert np.dot(at.direction, true.difference) > 0.95
        (own,) = (at for at in each.depth if at.layer == each.layers[0])
        assert (own.effect, own.q_value) == (each.effect, each.q_value)
        assert own.direction == each.direction


def test_a_change_at_one_layer_is_found_there(tmp_path: Path):
    _, stores = planted(tmp_path, changed_layers=(1,))
    found = find(stores, seed=1)
    assert sorted(each.kind for each in found) == ["new", "removed"]
    assert {each.layers for each in found} == {(1,)}
    assert all([at.layer for at in each.depth] == [1] for each in found)


def test_different_changes_at_different_layers_stay_apart(tmp_path: Path):
    _, first = planted(tmp_path / "first", removed=0, changed_layers=(0,))
    others = generate_layers(planted_settings("easy", **(SMALL | {"new": 0})), 4)
    second = stores_of(others, tmp_path / "second")[1]
    found = find([first[0], second], seed=1)
    assert sorted((each.kind, each.layers) for each in found) == [("new", (0,)), ("removed", (1,))]


@pytest.mark.parametrize("null", ["identical", "noise"])
def test_equal_activations_at_all_layers_name_nothing(tmp_path: Path, null: str):
    _, stores = planted(tmp_path, new=0, removed=0, null=null)
    assert find(stores, seed=1) == []


def test_one_store_in_a_list_is_one_store(tmp_path: Path):
    _, stores = planted(tmp_path)
    assert find(stores[:1], seed=1) == find(stores[0], seed=1)
    assert find(stores[0], seed=1)[0].depth == ()


def test_each_layer_gets_its_part_of_the_rate(tmp_path: Path):
    """The q-values of three layers are at least three times those of each layer's own search."""
    _, stores = planted(tmp_path)
    alone = {store.layer: find(store, seed=1) for store in stores}
    for each in find(stores, seed=1):
        for at in each.depth:
            (own,) = (one for one in alone[at.layer] if one.kind == at.kind)
            assert at.q_value == pytest.approx(min(3 * (own.q_value or 0), 1))


def test_what_does_not_fit_is_named(tmp_path: Path):
    _, stores = planted(tmp_path / "some")
    _, others = planted(tmp_path / "others", tokens=4000)
    with pytest.raises(InputError, match="layer=") as error:
        find([stores[0], stores[0]])
    assert "layer 0" in str(error.value)
    with pytest.raises(InputError, match="different tokens"):
        find([stores[0], others[1]])
    with pytest.raises(InputError, match="at least one"):
        find([])
    with pytest.raises(InputError, match="layer is -1"):
        PairedStore.from_arrays(np.eye(4), np.eye(4), tmp_path / "x", layer=-1)


def test_layers_have_a_row_of_their_own_in_the_calibration():
    small: dict[str, Any] = SMALL | {"changed_layers": (0, 2)}
    rows = calibrate("layers", [0], rate=0.1, **small)
    assert rows["truth"].to_list() == rows["kind"].to_list()
    assert sorted(rows["kind"]) == ["new", "removed"]
