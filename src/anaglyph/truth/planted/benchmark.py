"""The planted benchmark: every method on the same pairs, scored on one scale, over seeds.

A cell is one preset and one entrant (a method with its sparsity); a run is one seed of a cell. All
entrants of a seed see the same pair. A pair and a training never share a stream of random numbers,
so a training with the same seed learns nothing about the truth.
"""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
from pydantic import BaseModel, Field

from anaglyph.core.errors import InputError
from anaglyph.core.files import temporary_folder
from anaglyph.core.progress import Progress, silent
from anaglyph.core.stats import mean_interval
from anaglyph.core.validation import validate
from anaglyph.dictionaries import Dictionary, get_method, list_methods, train
from anaglyph.dictionaries.sparsity import SPARSITIES
from anaglyph.latents import score
from anaglyph.store import PairedStore
from anaglyph.truth.memory import peak_memory
from anaglyph.truth.planted.generate import PlantedPair, generate
from anaglyph.truth.planted.scoring import score_planted
from anaglyph.truth.planted.settings import PlantedSettings, planted_settings


class PlantedTraining(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    """How every entrant is trained.

    Attributes:
        ratio: Dictionary size over the number of true features.
        k: Mean active latents per token. None takes the planted number, so every method runs at its
            own right sparsity. "auto" lets each choose from the data.
        tokens: Training tokens, with repeats.
        batch: Tokens per training step.
    """

    ratio: float = Field(default=2.0, gt=0)
    k: int | float | Literal["auto"] | None = None
    tokens: int = Field(default=1_000_000, ge=1)
    batch: int = Field(default=1024, ge=1)


@dataclass(frozen=True)
class Entrant:
    """A dictionary method with its sparsity."""

    method: str
    sparsity: str = "batchtopk"

    @classmethod
    def parse(cls, text: str) -> "Entrant":
        """Read `METHOD` or `METHOD:SPARSITY`.

        Raises:
            InputError: The method is unknown.
        """
        method, _, sparsity = text.partition(":")
        get_method(method)
        return cls(method, sparsity or "batchtopk")

    @property
    def name(self) -> str:
        """The name that `parse` reads."""
        return self.method if self.sparsity == "batchtopk" else f"{self.method}:{self.sparsity}"


def entrants(names: Sequence[str]) -> list[Entrant]:
    """Read entrants' names; "all" stands for every registered method with its default sparsity.

    Raises:
        InputError: A method is unknown, or no name is given.
    """
    if not names:
        raise InputError("methods: name at least one, or all")
    wanted = [each for name in names for each in (list_methods() if name == "all" else [name])]
    return [Entrant.parse(name) for name in dict.fromkeys(wanted)]


def true_l0(pair: PlantedPair, sources: Iterable[str]) -> float:
    """Return how many true features are active per token in what a method reads.

    For methods that read both models, a feature counts once per token where it fires in either.
    """
    base = np.array([feature.frequency_base for feature in pair.features])
    tuned = np.array([feature.frequency_tuned for feature in pair.features])
    names = set(sources)
    if names <= {"difference", "reversed-difference"}:
        changed = np.array([feature.kind != "shared" for feature in pair.features])
        return float(np.maximum(base, tuned)[changed].sum())
    if names == {"base"}:
        return float(base.sum())
    return float(tuned.sum() if names == {"tuned"} else np.maximum(base, tuned).sum())


def right_k(pair: PlantedPair, sources: Iterable[str], sparsity: str) -> float:
    """Return the planted L0 of what a method reads, rounded up if the sparsity needs a whole k.

    At least 0.05, because where nothing fires there is no right k.
    """
    wanted = max(true_l0(pair, sources), 0.05)
    return float(np.ceil(wanted)) if SPARSITIES.get(sparsity).whole_k else wanted


def run_planted(
    preset: str,
    methods: Sequence[str],
    seeds: Sequence[int],
    *,
    progress: Progress = silent,
    **changes: Any,
) -> pl.DataFrame:
    """Run one preset: one row per seed and entrant, columns as in `score_planted`.

    Args:
        preset: Name of the preset.
        methods: Entrants, `METHOD` or `METHOD:SPARSITY`; "all" for every registered method.
        seeds: For each, one pair and one training per entrant.
        progress: Called after each training.
        **changes: Fields of `PlantedTraining`, or fields of the preset to replace.

    Raises:
        InputError: A preset, method, field or number cannot be used.

    Example:
        >>> run_planted("easy", ["diff-sae"], [0], ratio=0.5, tokens=4096).height
        1
    """
    given = {name: changes.pop(name) for name in PlantedTraining.model_fields if name in changes}
    training = validate(PlantedTraining, given)
    settings = planted_settings(preset, **changes)
    players = entrants(methods)
    if not seeds:
        raise InputError("seeds: give at least one")
    rows: list[dict[str, Any]] = []
    total = len(seeds) * len(players)
    for seed in seeds:
        pair = generate(settings, seed)
        with temporary_folder() as folder:
            store = PairedStore.from_arrays(
                pair.base, pair.tuned, Path(folder) / "store", sequence_ids=pair.sequence_ids
            )
            for player in players:
                progress(f"planted {preset}", len(rows), total, "trainings")
                row: dict[str, Any] = {"preset": preset, "entrant": player.name, "seed": seed}
                rows.append(row | _play(player, store, pair, settings, seed, training))
    progress(f"planted {preset}", total, total, "trainings")
    return pl.DataFrame(rows, infer_schema_length=None)


def _play(
    player: Entrant,
    store: PairedStore,
    pair: PlantedPair,
    settings: PlantedSettings,
    seed: int,
    training: PlantedTraining,
) -> dict[str, Any]:
    method = get_method(player.method)
    try:
        method.widths(settings.width, settings.d_tuned)
    except InputError:
        return {}
    wanted = training.k or right_k(pair, method.sources, player.sparsity)
    latents = max(2, round(training.ratio * max(len(pair.features), 1)))
    return play(
        store,
        pair,
        method=player.method,
        sparsity=player.sparsity,
        latents=latents,
        k=wanted if isinstance(wanted, str) else min(wanted, latents),
        tokens=training.tokens,
        seed=seed,
        batch=training.batch,
    )[0]


def play(
    store: PairedStore, pair: PlantedPair, *, latents: int, seed: int, **training: Any
) -> tuple[dict[str, Any], Dictionary, pl.DataFrame]:
    """Train one dictionary on a planted pair and score it.

    Args:
        store: The pair's activations.
        pair: The truth about them.
        latents: Size of the dictionary.
        seed: Seed of the training.
        **training: Arguments of ``train``.

    Returns:
        The row of scores, the dictionary and its latent table.
    """
    started = time.perf_counter()
    with peak_memory() as peak:
        dictionary = train(store, latents=latents, seed=seed, **training)
    trained = time.perf_counter() - started
    table = score(dictionary, store, seed=seed, bootstrap=0, target_centre="median")
    stats = dictionary.stats
    row = {
        "latents": latents,
        "k": stats["k"],
        "l0": stats["l0"],
        "fve": stats["fve"],
        "dead_share": stats["dead_share"],
        **score_planted(dictionary, table, store, pair),
        "seconds": trained,
        "k_seconds": stats.get("k_seconds"),
        "peak_mib": peak.mib,
    }
    return row, dictionary, table


SWEPT = {"ratio": float, "k": float, "tokens": int}
"""What can be swept, besides the fields of a preset."""


def sweep_planted(
    preset: str,
    methods: Sequence[str],
    seeds: Sequence[int],
    name: str,
    values: Sequence[Any],
    **rest: Any,
) -> pl.DataFrame:
    """Run one preset at several values of one number: `run_planted` for each, rows concatenated.

    The column `preset` also names the value, as in "easy ratio=4", so each value is its own cell. A
    numeric value also has a column NAME.

    Args:
        preset: Name of the preset.
        methods: As in `run_planted`.
        seeds: As in `run_planted`.
        name: "ratio", "k", "tokens" or a field of the preset.
        values: The values, one after another.
        **rest: Passed on to `run_planted`.

    Raises:
        InputError: There is no such name, or a value cannot be used.
    """
    if not values:
        raise InputError(f"sweep {name}: give at least one value")
    if name not in SWEPT and name not in PlantedSettings.model_fields:
        raise InputError(f"sweep: there is no {name!r}; ratio, k, tokens or a field of the preset")
    if name in SWEPT:
        try:
            values = [SWEPT[name](value) for value in values]
        except ValueError as error:
            raise InputError(f"sweep {name}: {error}") from None
    else:
        # Refuse a bad value before the first training.
        values = [getattr(planted_settings(preset, **{name: v}), name) for v in values]
    parts = []
    for value in values:
        runs = run_planted(preset, methods, seeds, **(rest | {name: value}))
        shown = f"{value:g}" if isinstance(value, float) else str(value)
        label = f"{preset} {name}={shown}"
        parts.append(runs.with_columns(pl.lit(label).alias("preset")))
        if isinstance(value, (int, float)) and name not in runs.columns:
            parts[-1] = parts[-1].with_columns(pl.lit(float(value)).alias(name))
    return pl.concat(parts, how="diagonal_relaxed")


def summarise(runs: pl.DataFrame) -> pl.DataFrame:
    """Average over seeds: one row per preset and entrant.

    Each score has its own column and two more, _low and _high: its 95% interval over seeds
    (Student's t; null with fewer than two seeds).
    """
    figures = [
        name
        for name, kind in runs.schema.items()
        if kind.is_numeric() and name not in ("seed", "latents", "k")
    ]
    rows = []
    for (preset, entrant), group in runs.group_by(["preset", "entrant"], maintain_order=True):
        row: dict[str, Any] = {"preset": preset, "entrant": entrant, "seeds": group.height}
        for name in figures:
            mean = mean_interval(group[name])
            row |= {name: mean.value, f"{name}_low": mean.low, f"{name}_high": mean.high}
        rows.append(row)
    return pl.DataFrame(rows, infer_schema_length=None)
