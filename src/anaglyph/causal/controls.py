"""What a subset of latents is held against: as many others, other directions, PCA, one vector.

A control says what the subset's number would be if which latents they are, or where they point, did
not matter. So it must push as often and as hard: random latents are matched in count and in
activation mass ``sum_x f_j(x) ||v_j||``, random directions keep the very codes and norms.
"""

from collections.abc import Sequence

import numpy as np
import polars as pl
import torch
from jaxtyping import Float64

from anaglyph.causal.edits import Intervention, latent_vectors, mask_of
from anaglyph.causal.interventions import weighted_latents
from anaglyph.core.rng import rng, sequence
from anaglyph.dictionaries import Dictionary
from anaglyph.store import DifferenceSpace

_NEAREST = 8
"""A latent's stand-in is drawn among so many of the nearest mass: near, so that it need not be
scaled far, and several, so that it is a draw."""


def mean_difference(space: DifferenceSpace) -> Intervention:
    """Return the control that adds the mean difference at every token."""
    return shifted("mean difference", "h_base + mean Delta", space.mean)


def shifted(name: str, formula: str, vector: Float64[np.ndarray, " d"]) -> Intervention:
    """Return the edit that adds one vector at every token."""
    shift = torch.from_numpy(vector).float()
    return Intervention(name, formula, lambda a: a.base + shift, of_dictionary=False)


def principal_components(space: DifferenceSpace, rank: int) -> Intervention:
    """Return the difference cut to its mean and ``rank`` principal components."""
    shift = torch.from_numpy(space.mean).float()
    rows = torch.from_numpy(space.components[:rank]).float()
    return Intervention(
        f"pca rank {rank}",
        "h_base + mean Delta + P (Delta - mean Delta)",
        lambda a: a.base + shift + (a.tuned - a.base - shift) @ rows.T @ rows,
        of_dictionary=False,
    )


def masses(dic: Dictionary, table: pl.DataFrame) -> Float64[np.ndarray, " latents"]:
    """Return the mean length that each latent adds at a token: frequency, strength and norm."""
    mean = (table["frequency"] * table["mean_activation"]).fill_null(0.0).to_numpy()
    return mean * latent_vectors(dic).double().norm(dim=1).numpy()


def random_latents(
    dic: Dictionary,
    name: str,
    latents: Sequence[int],
    others: Sequence[int],
    mass: Float64[np.ndarray, " latents"],
    seed: int,
    draw: int,
) -> Intervention:
    """Return the control of a subset: as many other latents, of the same activation mass.

    Each latent of the subset gets a stand-in, drawn without return among the `_NEAREST` nearest in
    mass and scaled to that latent's mass. Where there are fewer others than the subset has, all of
    them are taken; `n_latents` tells.

    Args:
        dic: The dictionary.
        name: Of the row.
        latents: The subset.
        others: Latents to draw from; those of the subset among them are left out.
        mass: From `masses`.
        seed: Of the draw.
        draw: Tells apart the controls of one table.
    """
    generator = rng(seed, "causal controls", draw)
    left = np.setdiff1d(np.asarray(others, np.int64), np.asarray(latents, np.int64))
    left = left[mass[left] > 0]
    weights = torch.zeros(dic.n_latents)
    for latent in generator.permutation(np.asarray(latents, np.int64)):
        if len(left) == 0:
            break
        if mass[latent] <= 0:
            continue
        distance = np.abs(np.log(mass[left]) - np.log(mass[latent]))
        place = generator.choice(np.argsort(distance, kind="stable")[:_NEAREST])
        weights[left[place]] = float(mass[latent] / mass[left[place]])
        left = np.delete(left, place)
    return weighted_latents(dic, name, weights)


def random_directions(
    dic: Dictionary, name: str, latents: Sequence[int], seed: int, draw: int
) -> Intervention:
    """Return the control that keeps a subset's codes and norms and turns each vector at random."""
    generator = torch.Generator().manual_seed(
        int(sequence(seed, "causal controls", draw, 1).generate_state(1)[0])
    )
    own = latent_vectors(dic)
    turned = torch.randn(own.shape, generator=generator)
    turned *= own.norm(dim=1, keepdim=True) / turned.norm(dim=1, keepdim=True)
    return weighted_latents(dic, name, mask_of(dic, latents).float(), turned)
