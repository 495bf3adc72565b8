"""Which latents are put in together (by nu, by share of the difference, by block), and controls.

A control says what the subset's number would be if which latents they are, or where they point, did
not matter. So it must push as often and as hard: random latents are matched in count and in
activation mass ``sum_x f_j(x) ||v_j||``, random directions keep the very codes and norms.
"""

from collections.abc import Sequence

import numpy as np
import polars as pl
import torch
from jaxtyping import Float64

from anaglyph.causal.interventions import (
    Intervention,
    mask_of,
    subset,
    variants,
    weighted_latents,
)
from anaglyph.core.errors import InputError
from anaglyph.core.rng import rng, sequence
from anaglyph.core.settings import CausalSettings
from anaglyph.dictionaries import Dictionary
from anaglyph.dictionaries.vectors import has_two_models, latent_vectors

_NEAREST = 8
"""A latent's stand-in is drawn among this many of the nearest mass: near, so that it need not be
scaled far, and several, so that it is a draw."""


class Subsets:
    """The subsets of one dictionary, with the controls of each.

    "nu<=X": nu_error (crosscoder) or nu_act (SAE) at most X; an undetermined nu is null and belongs
    to none. "top N": the N live latents of the largest difference_share. "all": every live latent.
    "block NAME": the latents that a method of several blocks sets apart. Random latents are drawn
    from live latents outside the subset; for a threshold, outside the widest of them, because a
    fact that is split over several latents would else stand in for itself.
    """

    def __init__(
        self,
        dic: Dictionary,
        table: pl.DataFrame,
        settings: CausalSettings,
        seed: int,
    ) -> None:
        """Choose the latents; if not ``full``, "all" and most controls are left out.

        Raises:
            InputError: The table is another dictionary's, lacks a column, or a count is below 1.
        """
        column = "nu_error" if has_two_models(dic) else "nu_act"
        needed = {"latent", "alive", column}
        needed |= {"frequency", "mean_activation", "difference_share"}
        missing = needed - set(table.columns)
        if missing or len(table) != dic.n_latents:
            what = f"lacks {sorted(missing)}" if missing else f"has {len(table)} rows"
            raise InputError(
                f"the latent table {what}: it is not that of this dictionary "
                f"({dic.n_latents} latents)"
            )
        for count in settings.counts:
            if count < 1:
                raise InputError(f"counts has {count}: a subset has at least 1 latent")
        self._dic, self._seed, self._full = dic, seed, settings.full
        live = table.filter("alive")
        self._alive: list[int] = live["latent"].to_list()
        self._mass = masses(dic, table)
        self._nu = {
            f"nu<={threshold:g}": table.filter(pl.col(column) <= threshold)["latent"].to_list()
            for threshold in settings.nu
        }
        ranked = live.sort("difference_share", "latent", descending=[True, False], nulls_last=True)
        self._top = {
            f"top {count}": ranked["latent"].head(count).to_list()
            for count in dict.fromkeys(settings.counts)
            if count < len(live)
        }
        self._blocks = {
            f"block {name}": list(range(*block.indices(dic.n_latents)))
            for name, block in dic.spec.named_blocks(dic.n_latents).items()
        }

    def ranks(self, width: int) -> list[int]:
        """Return the ranks at which the PCA is compared: the subsets' sizes below the width."""
        sizes = {len(latents) for latents in [*self._nu.values(), *self._top.values()]}
        return sorted(size for size in sizes if 0 < size < width)

    def edits(self, biases: str) -> list[Intervention]:
        """Return the subsets' interventions, in every variant that the method has."""
        chosen = self._nu | ({"all": self._alive} if self._full else {})
        found = [
            edit
            for label, latents in chosen.items()
            for edit in variants(self._dic, label, latents, biases)
        ]
        single = self._top | self._blocks
        return found + [
            subset(self._dic, f"subset {label}", latents) for label, latents in single.items()
        ]

    def controls(self) -> list[Intervention]:
        """Return the controls that are matched to the subsets in count and in size.

        Not ``full``: random latents for the thresholds and for the largest count, and random
        directions for the thresholds.
        """
        found = []
        widest = {latent for latents in self._nu.values() for latent in latents}
        outside = [latent for latent in self._alive if latent not in widest]
        last = list(self._nu | self._top)[-1:]
        for draw, (label, latents) in enumerate((self._nu | self._top).items()):
            if not (self._full or label in self._nu or label in last):
                continue
            others = outside if label in self._nu else self._alive
            name = f"random latents {label}"
            where = (self._dic, name, latents, others, self._mass, self._seed, draw)
            found.append(random_latents(*where))
        moved = self._nu | ({"all": self._alive} if self._full else {})
        for draw, (label, latents) in enumerate(moved.items()):
            name = f"random directions {label}"
            found.append(random_directions(self._dic, name, latents, self._seed, draw))
        return found


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
