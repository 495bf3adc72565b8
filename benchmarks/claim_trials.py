"""The trainings behind the claims page: three kinds of planted pairs, one row per training.

- `shrinkage`: features that both models have, weaker in the base, and new and removed ones. The
  factors stay below 5; from there on even the true norms would be of class tuned-only.
- `decoupling`: features that fire more or less often after the fine-tune.
- `scarce`: more features than dimensions, with frequencies over 1.4 decades, and a dictionary with
  as many latents as features.

We train an L1 crosscoder for every penalty of the search, and for each a BatchTopK crosscoder of
the same size at the L0 of the L1 crosscoder.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from anaglyph.core.progress import Progress, silent
from anaglyph.dictionaries import Dictionary
from anaglyph.dictionaries.sparsity import default_mu
from anaglyph.latents.norms import TUNED_ONLY
from anaglyph.store import PairedStore
from anaglyph.truth.planted.benchmark import play, right_k, true_l0
from anaglyph.truth.planted.generate import PlantedPair, generate
from anaglyph.truth.planted.matching import FOUND, cosines
from anaglyph.truth.planted.settings import planted_settings

WIDTH = 64
_COMMON: dict[str, Any] = {"width": WIDTH, "tokens": 30_000, "rotated": 0, "retriggered": 0}
PAIRS: dict[str, dict[str, Any]] = {
    "shrinkage": {**_COMMON, "scaled": 18, "factors": (2.0, 3.0, 4.0)},
    "decoupling": {**_COMMON, "scaled": 0, "refrequencied": 12, "frequency_ratios": (0.6, 1.6)},
    "scarce": {
        **_COMMON,
        "shared": 120,
        "new": 16,
        "removed": 16,
        "scaled": 16,
        "factors": (2.0, 3.0, 4.0),
        "frequency": (0.05, 0.002),
    },
}
RATIOS = {"shrinkage": 2, "decoupling": 4, "scarce": 1}
"""Latents / true features."""
DEFAULT_MU = default_mu("squared", (WIDTH, WIDTH))
SEARCH = {
    "shrinkage": (
        *(("squared", mu) for mu in (1.0, DEFAULT_MU, 3.0, 5.0)),
        ("unsquared", 0.25),
    ),
    "decoupling": tuple(("squared", mu) for mu in (1.0, DEFAULT_MU)),
}
"""Reconstruction norms and penalties of the L1 crosscoders; ``default_mu`` compares the default
with the paper's 0.041."""
BATCH = 512


def run_trials(
    seeds: Sequence[int], *, tokens: int = 300_000, progress: Progress = silent
) -> pl.DataFrame:
    """Train and score all entrants on all pairs.

    Columns: `pair`, `seed`, `entrant`; `norm` and `mu` (of this L1 crosscoder, or of the one whose
    L0 is used); `true_l0`; those of `score_planted`; `shrunk` and `decoupled` (tuned-only latents
    with the flag); `shrunk_true` and `shrunk_false` (those along a new feature, and the others);
    `screened_new` and `screened_scaled` of the base-SAE (`_screen`).

    Args:
        seeds: One pair of each kind per seed.
        tokens: Training tokens, with repeats.
        progress: Called after each pair.
    """
    rows: list[dict[str, Any]] = []
    total = len(seeds) * len(PAIRS)
    done = 0
    for seed in seeds:
        for name, overrides in PAIRS.items():
            pair = generate(planted_settings("easy", **overrides), seed)
            with tempfile.TemporaryDirectory() as folder:
                store = PairedStore.from_arrays(
                    pair.base, pair.tuned, Path(folder) / "store", sequence_ids=pair.sequence_ids
                )
                trial = _Trial(name, store, pair, seed, tokens)
                rows += trial.methods() if name == "scarce" else trial.search()
            done += 1
            progress("claims", done, total, "pairs")
    return pl.DataFrame(rows, infer_schema_length=None)


class _Trial:
    def __init__(
        self, name: str, store: PairedStore, pair: PlantedPair, seed: int, tokens: int
    ) -> None:
        self.name, self.store, self.pair, self.seed = name, store, pair, seed
        self.tokens = tokens
        self.latents = RATIOS[name] * len(pair.features)

    def search(self) -> list[dict[str, Any]]:
        """Train the L1 crosscoders, and for each the BatchTopK one at its L0."""
        rows = []
        for norm, mu in SEARCH[self.name]:
            options = {} if norm == "squared" else {"norm": norm}
            labels = {"norm": norm, "mu": mu}
            l1 = self.play("l1", "crosscoder", sparsity="l1", mu=mu, options=options)
            k = min(max(l1["l0"], 0.05), self.latents)
            rows += [l1 | labels, self.play("batchtopk", "crosscoder", k=k) | labels]
        return rows

    def methods(self) -> list[dict[str, Any]]:
        """Train every kind of dictionary at its planted L0, and diff-SAEs of two other sizes."""
        sizes = {"diff-sae x1": WIDTH, "diff-sae x8": 8 * WIDTH}
        names = ("crosscoder", "tuned-sae", "base-sae", "diff-sae")
        rows = [self.play(name, name, k=self.right_k(name)) for name in names]
        return rows + [
            self.play(name, "diff-sae", k=self.right_k("diff-sae"), latents=size)
            for name, size in sizes.items()
        ]

    def right_k(self, method: str) -> float:
        sources = {"crosscoder": ("base", "tuned"), "tuned-sae": ("tuned",), "base-sae": ("base",)}
        return right_k(self.pair, sources.get(method, ("difference",)), "batchtopk")

    def play(self, entrant: str, method: str, **training: Any) -> dict[str, Any]:
        row, dictionary, table = play(
            self.store,
            self.pair,
            method=method,
            tokens=self.tokens,
            batch=BATCH,
            seed=self.seed,
            **({"latents": self.latents} | training),
        )
        row |= {"pair": self.name, "seed": self.seed, "entrant": entrant}
        row["true_l0"] = true_l0(self.pair, dictionary.spec.sources)
        row["new"] = sum(feature.kind == "new" for feature in self.pair.features)
        if method == "crosscoder":
            row |= _flagged(table, dictionary, self.pair)
        if method == "base-sae":
            row |= _screen(dictionary, self.store, self.pair)
        return row


def _flagged(table: pl.DataFrame, dictionary: Dictionary, pair: PlantedPair) -> dict[str, Any]:
    """Count the flags of the live tuned-only latents."""
    new = [f.direction_tuned for f in pair.features if f.kind == "new"]
    directions = np.stack([direction for direction in new if direction is not None])
    true = pl.Series(cosines(dictionary.decoder[1].numpy(), directions).max(0) >= FOUND)
    some = table.with_columns(true=true).filter(pl.col("alive") & (pl.col("class") == TUNED_ONLY))
    shrunk = pl.col("complete_shrinkage").fill_null(False)
    return some.select(
        shrunk=shrunk.sum(),
        decoupled=pl.col("latent_decoupling").fill_null(False).sum(),
        shrunk_true=(shrunk & pl.col("true")).sum(),
        shrunk_false=(shrunk & ~pl.col("true")).sum(),
    ).row(0, named=True)


def _screen(dictionary: Dictionary, store: PairedStore, pair: PlantedPair) -> dict[str, Any]:
    """Rank the base's latents by how much their mean activation rises (docs/maths.md, section 6).

    The top N latents count, N being the number of new and scaled features. `screened_KIND` is the
    share of the kind's features whose tuned direction one of these latents matches.
    """
    rise = np.zeros(dictionary.n_latents)
    for block in store.blocks():
        for activations, sign in ((block.tuned, 1), (block.base, -1)):
            codes = dictionary.encode_inputs((activations,))
            rise += sign * np.bincount(codes.indices, codes.values, dictionary.n_latents)
    wanted = {
        kind: [f.direction_tuned for f in pair.features if f.kind == kind]
        for kind in ("new", "scaled")
    }
    looked_at = np.argsort(-rise, kind="stable")[: sum(map(len, wanted.values()))]
    rows = dictionary.decoder[0].numpy()[looked_at]
    return {
        f"screened_{kind}": float(
            (cosines(rows, np.stack([d for d in some if d is not None])).max(1) >= FOUND).mean()
        )
        for kind, some in wanted.items()
    }
