"""From latents to findings: is there a difference at all, and which latents carry it?

First version. Findings are the strongest latents of a difference-SAE; their kind is read off the
strength that each model has along them, and nothing is tested: the q-values are null. Tests
against the run's own nulls, and the kinds that need them, take the place of `_kind` and
`candidates` later.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

from anaglyph.dictionaries import Dictionary, train
from anaglyph.errors import InputError
from anaglyph.findings.finding import DIFFERENCE, NO_DIFFERENCE, Finding, Kind, Verdict
from anaglyph.latents import score, top_examples
from anaglyph.progress import Progress, silent
from anaglyph.store import PairedStore

# How far apart two computations of one float32 activation may lie, relative to its length: eight
# units of its precision, for rounding adds up over layers.
_COMPUTED = 8 * 2.0**-23
# Stored as bfloat16, such a pair differs by one unit (2^-8) with probability _COMPUTED / 2^-8.
NOISE = {"float32": _COMPUTED, "bfloat16": math.sqrt(_COMPUTED * 2.0**-8)}

# What a model has less than this much of, relative to the other, it is said to lack.
LACKING = 0.3

_MOST_LATENTS = 2048
_NAME = "diff-sae"
_EVIDENCE = (
    *("beta_act_base", "beta_act_tuned", "nu_act", "nu_act_low", "nu_act_high"),
    *("difference_share", "active_tokens", "template_share"),
)


def find(
    store: PairedStore,
    rate: float = 0.1,
    seed: int = 0,
    *,
    dictionaries: Mapping[str, Dictionary] | None = None,
    tables: Mapping[str, pl.DataFrame] | None = None,
    causal: Mapping[str, pl.DataFrame] | None = None,
    limit: int = 10,
    progress: Progress = silent,
) -> list[Finding]:
    """Return what differs between the two models, strongest first; [] when nothing does.

    Arguments and errors as in `judge`, which also says why.
    """
    verdict = judge(
        store,
        rate,
        seed,
        dictionaries=dictionaries,
        tables=tables,
        causal=causal,
        limit=limit,
        progress=progress,
    )
    return list(verdict.findings)


def judge(
    store: PairedStore,
    rate: float = 0.1,
    seed: int = 0,
    *,
    dictionaries: Mapping[str, Dictionary] | None = None,
    tables: Mapping[str, pl.DataFrame] | None = None,
    causal: Mapping[str, pl.DataFrame] | None = None,
    limit: int = 10,
    progress: Progress = silent,
) -> Verdict:
    """Say whether the models differ at the store's layer, and how.

    Args:
        store: Both models' activations.
        rate: False-discovery rate to keep; recorded, not yet acted upon.
        seed: Of the dictionary, if one has to be trained, and of its table's intervals.
        dictionaries: Trained dictionaries by name. Findings rest on the first that is a
            difference-SAE; without one, one is trained.
        tables: Their latent tables (`score`) by the same names; made where missing.
        causal: `latent_kl` of some of their latents by the same names; what closes more of the KL
            gap comes first.
        limit: Findings at most.
        progress: Called during training and scoring.

    Raises:
        InputError: ``rate`` is not between 0 and 1, ``limit`` is negative, or the models differ in
            width, which a difference-SAE cannot read.
    """
    if not 0 < rate < 1:
        raise InputError(f"rate is {rate}: it must lie between 0 and 1")
    if limit < 0:
        raise InputError(f"limit is {limit}: it must not be negative")
    relative = relative_difference(store)
    if difference_is_nil(store):
        reason = (
            f"at layer {store.layer} the two models' activations are the same up to numerical "
            f"noise (relative difference {relative:.1g}, noise {NOISE[store.dtype]:.1g})"
        )
        return Verdict(verdict=NO_DIFFERENCE, reason=reason, rate=rate, seed=seed)

    name, dic = _difference_sae(store, dictionaries or {}, seed, progress)
    table = (tables or {}).get(name)
    if table is None:
        table = score(dic, store, seed=seed, target_centre="median", progress=progress)
    chosen = _ranked(table, (causal or {}).get(name)).head(limit)
    windows = top_examples(dic, store, chosen["latent"].to_list(), progress=progress)
    found = tuple(
        _finding(name, dic, row, tuple(shown["examples"]))
        for row, shown in zip(chosen.iter_rows(named=True), windows, strict=True)
    )
    where = "" if relative is None else f" by {relative:.2%} of their size"
    reason = f"at layer {store.layer} the two models' activations differ{where}"
    return Verdict(verdict=DIFFERENCE, reason=reason, rate=rate, seed=seed, findings=found)


def relative_difference(store: PairedStore) -> float | None:
    """Return ``sqrt(sum ||h_tuned - h_base||^2 / sum ||h||^2)``, h of the larger model.

    None where the models differ in width and so have no difference.
    """
    base, tuned, difference = store.statistics
    if difference is None:
        return None
    # rms is per dimension and all three have the same number of them.
    largest = max(base.rms, tuned.rms)
    return difference.rms / largest if largest > 0 else 0.0


def difference_is_nil(store: PairedStore) -> bool:
    """Return whether the models' activations are equal up to numerical noise.

    The rule: ``sum ||Delta||^2 <= noise^2 * sum ||h||^2`` over all tokens of the store, with noise
    8 * 2^-23 for float32, and the geometric mean of that and 2^-8 for bfloat16 (`NOISE`).
    """
    relative = relative_difference(store)
    return relative is not None and relative <= NOISE[store.dtype]


def candidates(table: pl.DataFrame, limit: int) -> list[int]:
    """Return the latents of a difference-SAE that are worth a causal test, foremost first.

    They carry much of the difference, and one model has much more of them than the other.
    """
    return _ranked(table, None).head(limit)["latent"].to_list()


def _ranked(table: pl.DataFrame, causal: pl.DataFrame | None) -> pl.DataFrame:
    base, tuned = pl.col("beta_act_base"), pl.col("beta_act_tuned")
    # 1 where only one model has it or the two are opposite, 0 where both have as much of it.
    specific = (tuned - base).abs() / (tuned.abs() + base.abs())
    alive = table.filter(
        pl.col("alive"), (base != 0) | (tuned != 0), pl.col("difference_share") > 0
    )
    if causal is None:
        measured = alive.with_columns(recovered=pl.lit(None, pl.Float64))
    else:
        measured = alive.join(
            causal.select("latent", "recovered").unique("latent"), "latent", "left"
        )
    return measured.sort(
        pl.col("recovered") * specific,
        pl.col("difference_share") * specific,
        "latent",
        descending=[True, True, False],
        nulls_last=True,
    )


def _difference_sae(
    store: PairedStore, dictionaries: Mapping[str, Dictionary], seed: int, progress: Progress
) -> tuple[str, Dictionary]:
    for name, dic in dictionaries.items():
        if dic.spec.sources == ("difference",):
            return name, dic
    latents = min(_MOST_LATENTS, 8 * store.d_tuned)
    return _NAME, train(store, _NAME, latents, seed=seed, progress=progress)


def _finding(
    name: str, dic: Dictionary, row: Mapping[str, Any], examples: tuple[dict[str, Any], ...]
) -> Finding:
    base, tuned = row["beta_act_base"], row["beta_act_tuned"]
    kind = _kind(base, tuned)
    stronger, weaker = (tuned, base) if abs(tuned) >= abs(base) else (base, tuned)
    vector = dic.decoder[0][row["latent"]].double().numpy()
    unit = tuple((math.copysign(1, stronger) * vector / np.linalg.norm(vector)).tolist())
    # The table's interval is of base over tuned; it has none of the inverse.
    nu = (row["nu_act_low"], row["nu_act_high"])
    bounded = stronger == tuned and None not in nu
    return Finding(
        kind=kind,
        direction_base=None if kind == "new" else unit,
        direction_tuned=None if kind == "removed" else unit,
        effect=1 - weaker / stronger,
        low=1 - nu[1] if bounded else None,
        high=1 - nu[0] if bounded else None,
        frequency_base=None if kind == "new" else row["frequency"],
        frequency_tuned=None if kind == "removed" else row["frequency"],
        latents=((name, row["latent"]),),
        kl_recovered=row["recovered"],
        examples=examples,
        evidence={column: row[column] for column in _EVIDENCE},
    )


def _kind(base: float, tuned: float) -> Kind:
    """Decide on the strengths (beta) that the two models have along a latent of the difference.

    The difference is the latent's direction d. Either the tuned model has d and base does not
    (new), or base has -d and the tuned model does not (removed), or both have the same, of another
    size (scaled). Where the signs are opposite the larger decides.
    """
    stronger, weaker = (tuned, base) if abs(tuned) >= abs(base) else (base, tuned)
    if weaker / stronger > LACKING:
        return "scaled"
    return "new" if stronger == tuned else "removed"
