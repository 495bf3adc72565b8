"""Which latents are put in together: by nu, by how much of the difference they carry, by block."""

from collections.abc import Sequence

import polars as pl

from anaglyph.causal import interventions as edits
from anaglyph.causal.controls import masses, random_directions, random_latents
from anaglyph.causal.edits import Intervention, has_two_models
from anaglyph.core.errors import InputError
from anaglyph.dictionaries import Dictionary

NU = (0.1, 0.3, 0.6)
COUNTS = (1, 4, 16, 64)


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
        thresholds: Sequence[float],
        counts: Sequence[int],
        seed: int,
    ) -> None:
        """Choose the latents.

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
        for count in counts:
            if count < 1:
                raise InputError(f"counts has {count}: a subset has at least 1 latent")
        self._dic, self._seed = dic, seed
        live = table.filter("alive")
        self._alive: list[int] = live["latent"].to_list()
        self._mass = masses(dic, table)
        self._nu = {
            f"nu<={threshold:g}": table.filter(pl.col(column) <= threshold)["latent"].to_list()
            for threshold in thresholds
        }
        ranked = live.sort("difference_share", "latent", descending=[True, False], nulls_last=True)
        self._top = {
            f"top {count}": ranked["latent"].head(count).to_list()
            for count in dict.fromkeys(counts)
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
        chosen = self._nu | {"all": self._alive}
        found = [
            edit
            for label, latents in chosen.items()
            for edit in edits.variants(self._dic, label, latents, biases)
        ]
        single = self._top | self._blocks
        return found + [
            edits.subset(self._dic, f"subset {label}", latents) for label, latents in single.items()
        ]

    def controls(self) -> list[Intervention]:
        """Return the controls that are matched to the subsets in count and in size."""
        found = []
        widest = {latent for latents in self._nu.values() for latent in latents}
        outside = [latent for latent in self._alive if latent not in widest]
        for draw, (label, latents) in enumerate((self._nu | self._top).items()):
            others = outside if label in self._nu else self._alive
            name = f"random latents {label}"
            where = (self._dic, name, latents, others, self._mass, self._seed, draw)
            found.append(random_latents(*where))
        for draw, (label, latents) in enumerate((self._nu | {"all": self._alive}).items()):
            name = f"random directions {label}"
            found.append(random_directions(self._dic, name, latents, self._seed, draw))
        return found
