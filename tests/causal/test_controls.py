"""Controls match what they stand in for: count, activation mass, norms, rank."""

import numpy as np
import polars as pl
import pytest
import torch
from causal_cases import LATENTS, WIDTH, make_dictionary, make_table

from anaglyph.causal.interventions import Activations, mean_difference, principal_components
from anaglyph.causal.subsets import Subsets, masses, random_directions, random_latents
from anaglyph.core.errors import InputError
from anaglyph.core.settings import CausalSettings
from anaglyph.dictionaries.vectors import latent_vectors
from anaglyph.store import DifferenceSpace

SUBSET = [0, 2, 4, 5, 7]


@pytest.fixture
def given() -> Activations:
    base, tuned = torch.randn(2, 200, WIDTH, generator=torch.Generator().manual_seed(3))
    return Activations(base, tuned, make_dictionary("crosscoder"))


def own_table(given: Activations) -> pl.DataFrame:
    """Return a table whose frequencies and strengths are those of the very tokens."""
    dense = given.codes.dense(LATENTS)
    fired = (dense > 0).sum(0)
    return make_table("nu_error").with_columns(
        frequency=pl.Series(fired / len(dense)),
        mean_activation=pl.Series(dense.sum(0) / np.maximum(fired, 1)),
    )


def used_weights(given: Activations, push: torch.Tensor, vectors: torch.Tensor) -> np.ndarray:
    """Return each latent's weight in a push, by least squares on the latents' contributions."""
    dense = torch.from_numpy(given.codes.dense(LATENTS))
    columns = torch.stack([(dense[:, j, None] * vectors[j]).flatten() for j in range(LATENTS)], 1)
    return torch.linalg.lstsq(columns.double(), push.double().flatten()).solution.numpy()


def test_random_latents_match_count_and_mass(given: Activations):
    dic = given.dictionary
    assert dic is not None
    vectors = latent_vectors(dic)
    dense = given.codes.dense(LATENTS)
    mass = masses(dic, own_table(given))
    lengths = vectors.norm(dim=1).numpy()
    assert mass == pytest.approx(dense.mean(0) * lengths, rel=1e-4)
    alive = [j for j in range(LATENTS) if j != 9]
    control = random_latents(dic, "control", SUBSET, alive, mass, seed=0, draw=0)
    weights = used_weights(given, control.edit(given) - given.base, vectors)
    used = np.flatnonzero(np.abs(weights) > 1e-4)
    assert control.n_latents == len(used) == 5
    assert not set(used.tolist()) & {*SUBSET, 9}
    pushed = weights * dense.mean(0) * lengths
    assert sorted(pushed[used]) == pytest.approx(sorted(mass[SUBSET]), rel=1e-3)
    again = random_latents(dic, "control", SUBSET, alive, mass, seed=0, draw=0)
    assert torch.equal(control.edit(given), again.edit(given))


def test_few_or_no_others(given: Activations):
    dic = given.dictionary
    assert dic is not None
    mass = masses(dic, own_table(given))
    few = random_latents(dic, "control", SUBSET, [*SUBSET, 1, 3], mass, seed=0, draw=0)
    assert few.n_latents == 2
    none = random_latents(dic, "control", [], range(LATENTS), mass, seed=0, draw=0)
    assert torch.equal(none.edit(given), given.base)


def test_thresholds_share_one_outside(given: Activations):
    """The control of nu <= 0.1 has no latent of nu <= 0.6, which may be of the same split fact."""
    dic = given.dictionary
    assert dic is not None
    asked = CausalSettings(full=True, nu=(0.1, 0.6), counts=(3,))
    subsets = Subsets(dic, own_table(given), asked, seed=0)
    controls = {edit.name: edit for edit in subsets.controls()}
    for name in ("random latents nu<=0.1", "random latents nu<=0.6"):
        taken = controls[name].latents
        assert taken is not None
        assert not set(taken.nonzero()[:, 0].tolist()) & {*SUBSET, 9}
    # "top" has no such neighbourhood: any live latent outside the subset may stand in.
    assert controls["random latents top 3"].n_latents == 3


def test_random_directions_keep_codes_and_norms(given: Activations):
    dic = given.dictionary
    assert dic is not None
    control = random_directions(dic, "control", [4], seed=0, draw=0)
    push = control.edit(given) - given.base
    dense = torch.from_numpy(given.codes.dense(LATENTS))[:, 4]
    length = latent_vectors(dic)[4].norm()
    assert torch.allclose(push.norm(dim=1), dense * length, rtol=1e-4, atol=1e-5)
    firing = push[dense > 0]
    direction = firing / firing.norm(dim=1, keepdim=True)
    assert torch.allclose(direction, direction[:1].expand_as(direction), atol=1e-4)
    assert abs(float(direction[0] @ latent_vectors(dic)[4]) / float(length)) < 0.9


def test_principal_components_by_hand():
    difference = torch.randn(500, WIDTH, generator=torch.Generator().manual_seed(1))
    difference *= torch.linspace(3, 0.1, WIDTH)
    difference += 2
    space = DifferenceSpace.of(list(difference.split(70)))
    mean = difference.double().mean(0)
    assert torch.allclose(torch.from_numpy(space.mean), mean)
    rows = torch.linalg.svd(difference.double() - mean).Vh
    overlap = (rows[:5] @ torch.from_numpy(space.components[:5]).T).abs()
    assert torch.allclose(overlap, torch.eye(5, dtype=torch.float64), atol=1e-6)
    base = torch.randn(20, WIDTH, generator=torch.Generator().manual_seed(2))
    given = Activations(base, base + difference[:20])
    whole = principal_components(space, WIDTH).edit(given)
    assert torch.allclose(whole, given.tuned, atol=1e-4)
    assert torch.allclose(mean_difference(space).edit(given), base + mean.float(), atol=1e-6)
    with pytest.raises(InputError, match="no training tokens"):
        DifferenceSpace.of([])
