"""Several layers: one change is one finding, at whichever layers it shows; nothing is nothing."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.sparse import csc_matrix
from test_decoys import finding

from anaglyph.core.errors import InputError
from anaglyph.findings import depth, find
from anaglyph.findings.depth import AtOneLayer, Place, brought_about, over_layers, together
from anaglyph.findings.discovery import Discovery
from anaglyph.store import PairedStore
from anaglyph.subject import Subject
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


def look_at(layer: int, codes: list[list[float]], like_noise: tuple[int, ...] = ()) -> AtOneLayer:
    """Findings of a layer, the strongest first, that fire as the columns of codes say."""
    values = np.array(codes).T
    count = values.shape[1]
    shares = np.linspace(0.5, 0.1, count)
    found = Discovery(
        tuple(finding(share) for share in shares),
        None,
        tuple(range(count)),
        None,
        None,
        like_noise=frozenset(like_noise),
        codes=csc_matrix(values),
        tokens=np.arange(len(values)),
    )
    subject = Subject()
    vars(subject)["store"] = SimpleNamespace(layer=layer)
    return AtOneLayer(subject, found, None, tuple(range(count)))


HERE, THERE, SOMEWHERE = [2.0, 1, 0, 0, 0, 0], [0.0, 0, 1, 1, 0, 0], [0.0, 0, 0, 0, 1, 2]


def test_what_fires_together_joins_and_nothing_else_does():
    one, other = look_at(3, [HERE, THERE]), look_at(5, [THERE, SOMEWHERE])
    # By share of the difference: here and there (0.5), then there and somewhere (0.1).
    first, second, third = Place(one, 0), Place(other, 0), Place(other, 1)
    assert over_layers([one, other]) == {first: (), second: (Place(one, 1),), third: ()}


def test_a_finding_takes_in_one_of_each_layer():
    """Else three that pass at one layer could become one, and the error rate would not hold."""
    one, other = look_at(3, [HERE]), look_at(5, [HERE, HERE])
    groups = over_layers([one, other])
    assert groups == {Place(one, 0): (Place(other, 0),), Place(other, 1): ()}


def test_what_is_like_noise_joins_and_is_not_joined():
    one, other = look_at(3, [HERE], like_noise=(0,)), look_at(5, [HERE])
    assert over_layers([one, other]) == {Place(other, 0): (Place(one, 0),)}
    both = [look_at(3, [HERE], like_noise=(0,)), look_at(5, [HERE], like_noise=(0,))]
    assert over_layers(both) == {Place(look, 0): () for look in both}


def test_firing_together_is_a_correlation_over_the_tokens_of_both():
    one, other = look_at(3, [HERE]), look_at(5, [[1.0, 1, 1, 0, 0, 0]])
    expected = np.corrcoef(HERE, [1, 1, 1, 0, 0, 0])[0, 1]
    assert together(Place(one, 0), Place(other, 0)) == pytest.approx(expected)
    silent = look_at(5, [[0.0] * 6])
    assert together(Place(one, 0), Place(silent, 0)) == 0


@pytest.mark.parametrize(
    ("gain", "cosine", "share"), [(1.0, 1.0, 1.0), (3.0, 0.5, 1.5), (2.0, 0, 0)]
)
def test_what_an_earlier_one_brings_about_by_hand(
    gain: float, cosine: float, share: float, monkeypatch: pytest.MonkeyPatch
):
    """Blocks that multiply by a gain: base h and g h, a finding of code c along e and along d."""
    base, codes = torch.randn(6, 2), torch.tensor(HERE)
    axis = torch.tensor([1.0, 0.0])
    turned = torch.tensor([cosine, np.sqrt(1 - cosine**2)], dtype=torch.float32)
    parts = {3: (base, codes, axis), 5: (gain * base, codes, turned)}

    class Pair:
        def run_to(self, side: str, ids: Any, mask: Any, layers: Any, start: Any) -> Any:
            assert (side, start[0], layers) == ("tuned", 3, [5])
            return {5: gain * start[1]}

    ids, mask = torch.zeros(2, 3, dtype=torch.long), torch.ones(2, 3, dtype=torch.long)
    corpus = SimpleNamespace(offsets=np.array([0, 3, 6]))
    earlier, later = Place(look_at(3, [HERE]), 0), Place(look_at(5, [HERE]), 0)
    vars(later.look.subject).update(pair=Pair(), corpus=corpus)
    monkeypatch.setattr(depth, "_part", lambda place, _: parts[place.layer])
    monkeypatch.setattr(depth, "_texts", lambda _: np.arange(2))
    monkeypatch.setattr(depth, "padded_batches", lambda *_: [(np.arange(2), ids, mask)])
    assert brought_about(earlier, later) == pytest.approx(share, abs=1e-6)
