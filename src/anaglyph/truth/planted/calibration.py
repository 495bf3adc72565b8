"""How often findings are right and wrong on planted pairs.

A finding is true if its direction is that of a planted change (cosine >= 0.9) that no earlier
finding has matched. All others are false, including a second finding of the same change.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from anaglyph.core.errors import InputError
from anaglyph.core.files import temporary_folder
from anaglyph.core.progress import Progress, silent
from anaglyph.core.schemas import Finding
from anaglyph.findings import find
from anaglyph.store import PairedStore
from anaglyph.truth.planted.generate import PlantedPair, TrueFeature, generate_layers
from anaglyph.truth.planted.matching import FOUND
from anaglyph.truth.planted.settings import planted_settings

KIND = "kind"


def calibrate(
    preset: str,
    seeds: Sequence[int],
    *,
    rate: float = 0.1,
    progress: Progress = silent,
    **overrides: object,
) -> pl.DataFrame:
    """Search planted pairs: one row per seed and finding, or missed change.

    Columns: ``preset``, ``seed``, ``truth`` (kind of the planted change; null for a false finding),
    ``kind`` (of the finding; null for a missed change), ``q_value``, ``effect``, ``low``, ``high``,
    ``true_effect`` and ``covered`` (whether the interval contains it; null where kinds differ). A
    pair with nothing planted and nothing found has one row of nulls.

    Args:
        preset: Name of the preset.
        seeds: One pair per seed.
        rate: Target false-discovery rate.
        progress: Called after each pair.
        **overrides: Fields of the preset to replace.

    Raises:
        InputError: A preset, field or number cannot be used.
    """
    settings = planted_settings(preset, **overrides)
    if not seeds:
        raise InputError("seeds: give at least one")
    rows: list[dict[str, Any]] = []
    for number, seed in enumerate(seeds):
        progress(f"findings of {preset}", number, len(seeds), "pairs")
        pairs = generate_layers(settings, seed)
        with temporary_folder() as folder:
            stores = [
                PairedStore.from_arrays(
                    pair.base,
                    pair.tuned,
                    Path(folder) / f"layer-{layer}",
                    sequence_ids=pair.sequence_ids,
                    layer=layer,
                )
                for layer, pair in enumerate(pairs)
            ]
            found = find(stores, rate, seed)
        rows += [{"preset": preset, "seed": seed} | row for row in compare(found, *pairs)]
    progress(f"findings of {preset}", len(seeds), len(seeds), "pairs")
    return pl.DataFrame(rows, schema=_SCHEMA)


_SCHEMA: dict[str, Any] = {
    "preset": pl.String,
    "seed": pl.Int64,
    "truth": pl.String,
    KIND: pl.String,
    "q_value": pl.Float64,
    "effect": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "true_effect": pl.Float64,
    "covered": pl.Boolean,
}


def compare(found: Sequence[Finding], *pairs: PlantedPair) -> list[dict[str, Any]]:
    """Compare findings with the truth; rows as in `calibrate`.

    Args:
        found: What was found.
        *pairs: The planted pair, at each of its layers: a change at several of them is one.
    """
    changed = [
        {
            i: f
            for i, f in enumerate(pair.features)
            if f.kind != "shared" and f.difference is not None
        }
        for pair in pairs
    ]
    missed = {i: f.kind for features in changed for i, f in features.items()}
    shifts = [pair.shift for pair in pairs]
    rows = []
    for finding in found:
        layer = finding.layers[0] if len(pairs) > 1 else 0
        here, shift = changed[layer], shifts[layer]
        row: dict[str, Any] = dict.fromkeys(_SCHEMA)
        row |= {KIND: finding.kind, "q_value": finding.q_value, "effect": finding.effect}
        row |= {"low": finding.low, "high": finding.high}
        if finding.kind == "mean-shift":
            if shift is not None and _cosine(finding.direction_tuned, shift) >= FOUND:
                row |= {"truth": finding.kind, "true_effect": float(np.linalg.norm(shift))}
                shifts = [None] * len(pairs)
        else:
            fits = {i: _fit(finding, here[i]) for i in missed if i in here}
            near = max(fits, key=lambda i: fits[i], default=None)
            if near is not None and fits[near] >= FOUND:
                del missed[near]
                row |= {"truth": here[near].kind, "true_effect": _effect(here[near])}
        bounded = finding.low is not None or finding.high is not None
        if row["truth"] == finding.kind and row["true_effect"] is not None and bounded:
            low = -math.inf if finding.low is None else finding.low
            high = math.inf if finding.high is None else finding.high
            row["covered"] = low <= row["true_effect"] <= high
        rows.append(row)
    rows += [dict.fromkeys(_SCHEMA) | {"truth": missed[i]} for i in sorted(missed)]
    if any(each is not None for each in shifts):
        rows.append(dict.fromkeys(_SCHEMA) | {"truth": "mean-shift"})
    return [_without_place(row) for row in rows] or [_without_place(dict.fromkeys(_SCHEMA))]


def _without_place(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in ("preset", "seed")}


def _fit(finding: Finding, feature: TrueFeature) -> float:
    """Return the cosine between a finding's change and the planted change."""
    base, tuned = finding.direction_base, finding.direction_tuned
    if finding.kind == "rotated" and base is not None and tuned is not None:
        change = np.array(tuned) - np.array(base)
        return _cosine(change, feature.difference)
    # For scaled down and removed the change is against the direction; for retriggered both ways.
    return abs(_cosine(tuned if tuned is not None else base, feature.difference))


def _cosine(first: Any, second: Any) -> float:
    first, second = np.asarray(first, float), np.asarray(second, float)
    if first.shape != second.shape:
        return 0.0
    return float(first @ second / max(np.linalg.norm(first) * np.linalg.norm(second), 1e-30))


def _effect(feature: TrueFeature) -> float | None:
    """Return the effect of a planted change in the unit of its kind (``Finding.effect``)."""
    if feature.kind in ("new", "removed"):
        return 0.0
    if feature.kind == "scaled":
        return feature.ratio
    if feature.kind == "rotated":
        return feature.angle
    if feature.frequency_base > 0:
        return feature.frequency_tuned / feature.frequency_base
    return None


def at_rate(rows: pl.DataFrame, rate: float) -> pl.DataFrame:
    """Return the rows as they are at a lower rate than that of the search.

    A finding is reported at every rate from its q-value on. A change that is not reported counts as
    missed.
    """
    uncalled = pl.col("q_value") > rate
    of_findings = [name for name in rows.columns if name not in ("preset", "seed", "truth")]
    return rows.with_columns(
        pl.when(uncalled).then(None).otherwise(pl.col(name)).alias(name) for name in of_findings
    )


def summarise_findings(rows: pl.DataFrame) -> pl.DataFrame:
    """Average over pairs: one row per preset.

    Columns: ``pairs``, ``findings`` per pair, ``false_share`` (the realised false-discovery rate,
    mean over pairs of false over all findings, 0 where there are none) with its 95% interval
    (``_low``, ``_high``, normal over pairs), ``silent`` (share of pairs without a false finding),
    ``recall_KIND`` and ``kind_KIND`` (share of found changes with the right kind) for every planted
    kind, ``recall``, ``right_kind`` and ``covered`` over all.
    """
    out = []
    for (preset,), group in rows.group_by(["preset"], maintain_order=True):
        found = group.filter(pl.col(KIND).is_not_null())
        per_pair = (
            group.group_by("seed")
            .agg(
                false=(pl.col(KIND).is_not_null() & pl.col("truth").is_null()).sum(),
                found=pl.col(KIND).is_not_null().sum(),
            )
            .with_columns(share=pl.col("false") / pl.col("found").clip(1))
        )
        share = per_pair["share"].to_numpy()
        half = 1.96 * share.std(ddof=1) / len(share) ** 0.5 if len(share) > 1 else None
        row: dict[str, Any] = {
            "preset": preset,
            "pairs": per_pair.height,
            "findings": found.height / per_pair.height,
            "false_share": float(share.mean()),
            "false_share_low": None if half is None else max(float(share.mean() - half), 0.0),
            "false_share_high": None if half is None else float(share.mean() + half),
            "silent": float((per_pair["false"].to_numpy() == 0).mean()),
        }
        planted = group.filter(pl.col("truth").is_not_null())
        row |= _rates(planted, "recall", "right_kind")
        row["covered"] = group["covered"].mean()
        for kind in sorted(planted["truth"].unique()):
            some = planted.filter(pl.col("truth") == kind)
            row |= _rates(some, f"recall_{kind}", f"kind_{kind}")
            row[f"covered_{kind}"] = some["covered"].mean()
        out.append(row)
    return pl.DataFrame(out, infer_schema_length=None)


def _rates(planted: pl.DataFrame, recall: str, right: str) -> dict[str, float | None]:
    hit = planted.filter(pl.col(KIND).is_not_null())
    return {
        recall: hit.height / planted.height if planted.height else None,
        right: float((hit[KIND] == hit["truth"]).to_numpy().mean()) if hit.height else None,
    }
