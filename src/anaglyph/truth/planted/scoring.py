"""Score a dictionary and its latent table on a planted pair."""

from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Bool, Float, Shaped
from scipy.stats import rankdata

from anaglyph.dictionaries import Dictionary
from anaglyph.latents.norms import BASE_ONLY, OTHER, SHARED, TUNED_ONLY
from anaglyph.store import PairedStore
from anaglyph.truth.planted.generate import PlantedPair
from anaglyph.truth.planted.matching import (
    FOUND,
    Matching,
    cosines,
    feature_cosines,
    match,
    nearest_kinds,
)
from anaglyph.truth.planted.settings import KINDS

# Scores for "only the tuned model has it"; with the sign, larger means more specific.
EXCLUSIVITY = {"delta_norm": 1, "nu_error": -1, "nu_recon": -1, "nu_act": -1}
CLASSES = (TUNED_ONLY, BASE_ONLY, SHARED, OTHER)
PARTLY = ("rotated", "retriggered", "refrequencied")
"""Kinds with a part that only one model has; a crosscoder may store them as two latents."""
NO_FEATURE = "none"
OWNERS = (*KINDS, NO_FEATURE)


def score_planted(
    dictionary: Dictionary, table: pl.DataFrame, store: PairedStore, pair: PlantedPair
) -> dict[str, Any]:
    """Score one trained dictionary against the truth.

    Returns one flat row. Scores that do not apply to the method, or cannot be computed, are None:

    - `recall_KIND`: share of the kind's true features found at cosine >= 0.9 (`matching.py`). A
      rotated, retriggered or refrequencied feature counts as found by a crosscoder also when it is
      stored as two latents, one per model.
    - `class_KIND`: share of the found new / removed / shared features whose latent has the right
      class (tuned-only / base-only / shared); crosscoders only.
    - `tuned_only`: number of latents of class tuned-only. `rotated_tuned_only`: those at cosine >=
      0.9 to the tuned direction of a rotated feature, which also only the tuned model has.
      `false_tuned_only`: those at that cosine to neither this nor a new feature.
    - `confusion_KIND_CLASS`: live latents of a norm class whose longer decoder is at cosine >= 0.9
      to a feature of that kind (of KIND none: to no feature); crosscoders only.
    - `frequency_KIND`: geometric mean of the true frequencies of the kind's features found.
    - `flagged`: live latents that the method calls a change (crosscoders: those whose class is
      tuned-only or base-only; one-model SAEs: those with nu_act <= 0.3; others: all).
      `precision`: share of them that match a true change. If a crosscoder stores a rotated,
      retriggered or refrequencied feature as two latents, both count.
    - `auroc_SCORE`, `ap_SCORE`: how well a score separates latents of new features from latents of
      features that both models have. A crosscoder's latents are identified by their tuned decoder,
      so one whose base decoder was driven to zero counts as what it is. Latents of class base-only
      and those of features that are partly specific (`PARTLY`) are left out.
    - `ratio_error`: median |log(measured ratio / true ratio)| of the scaled features found.
    - `shared_leakage`: share of a diff-SAE's live latents that point along a shared feature.
    - `difference_recovered`: share of the difference's variance that the dictionary reconstructs.
    """
    similarity = feature_cosines(dictionary, pair)
    alive = table["alive"].to_numpy()
    similarity[:, ~alive] = 0.0
    matching = match(similarity)
    kinds = np.array([feature.kind for feature in pair.features])
    found = matching.cosine >= FOUND
    if dictionary.spec.kind == "crosscoder":
        found = found | _stored_as_a_pair(dictionary, pair, alive)
    row: dict[str, Any] = {
        f"recall_{kind}": float(found[kinds == kind].mean()) if (kinds == kind).any() else None
        for kind in KINDS
    }
    frequency = [max(f.frequency_base, f.frequency_tuned) for f in pair.features]
    for kind in KINDS:
        here = (kinds == kind) & found
        row[f"frequency_{kind}"] = (
            float(np.exp(np.log(np.array(frequency)[here]).mean())) if here.any() else None
        )
    owner = None
    if dictionary.spec.kind == "crosscoder":
        owner = _owners(dictionary, table, pair)
    row |= _classes(table, owner, matching, kinds)
    row |= _precision(dictionary, table, matching, kinds, owner)
    if dictionary.spec.kind == "crosscoder":
        nearest = nearest_kinds(dictionary, pair, "tuned")
        wanted = np.isin(nearest, ["new", "shared", "scaled"])
        wanted &= table["class"].to_numpy() != BASE_ONLY
    else:
        nearest = kinds[matching.best]
        wanted = (matching.best_cosine >= FOUND) & (nearest != "removed")
    row |= _exclusivity(table, nearest, wanted & alive)
    row["ratio_error"] = _ratio_error(table, matching, pair)
    row["shared_leakage"] = _leakage(dictionary, pair, alive)
    row["difference_recovered"] = difference_recovered(dictionary, store)
    return row


def _stored_as_a_pair(
    dictionary: Dictionary, pair: PlantedPair, alive: Bool[np.ndarray, " latents"]
) -> Bool[np.ndarray, " features"]:
    """Return which changed features a crosscoder stores as two latents, one per model."""
    base, tuned = (rows.numpy()[alive] for rows in dictionary.decoder)
    found = np.zeros(len(pair.features), bool)
    for i, feature in enumerate(pair.features):
        before, after = feature.direction_base, feature.direction_tuned
        if feature.kind in PARTLY and before is not None and after is not None:
            in_base = cosines(base, before[None, :]).max(initial=0.0)
            in_tuned = cosines(tuned, after[None, :]).max(initial=0.0)
            found[i] = min(in_base, in_tuned) >= FOUND
    return found


def _owners(
    dictionary: Dictionary, table: pl.DataFrame, pair: PlantedPair
) -> Shaped[np.ndarray, " latents"]:
    """Return the kind of the feature that each latent's longer decoder points along, or ""."""
    return np.where(
        table["delta_norm"].fill_null(0.5).to_numpy() >= 0.5,
        nearest_kinds(dictionary, pair, "tuned"),
        nearest_kinds(dictionary, pair, "base"),
    )


def _classes(
    table: pl.DataFrame,
    owner: Shaped[np.ndarray, " latents"] | None,
    matching: Matching,
    kinds: np.ndarray,
) -> dict[str, Any]:
    """Compare the norm class of the latents with the truth (docs/maths.md, section 2)."""
    classes = table["class"].to_numpy()
    expected = {"new": TUNED_ONLY, "removed": BASE_ONLY, "shared": SHARED}
    counts = ("tuned_only", "rotated_tuned_only", "false_tuned_only")
    cells = {(kind, name): f"confusion_{kind}_{name}" for kind in OWNERS for name in CLASSES}
    row: dict[str, Any] = dict.fromkeys(
        [*(f"class_{kind}" for kind in expected), *counts, *cells.values()]
    )
    if owner is None:
        return row
    for kind, wanted in expected.items():
        here = (kinds == kind) & (matching.cosine >= FOUND)
        if here.any():
            row[f"class_{kind}"] = float((classes[matching.latent[here]] == wanted).mean())
    alive = table["alive"].to_numpy()
    for (kind, name), column in cells.items():
        of_kind = owner == ("" if kind == NO_FEATURE else kind)
        row[column] = int((alive & of_kind & (classes == name)).sum())
    row["tuned_only"] = sum(row[cells[kind, TUNED_ONLY]] for kind in OWNERS)
    row["rotated_tuned_only"] = row[cells["rotated", TUNED_ONLY]]
    row["false_tuned_only"] = (
        row["tuned_only"] - row["rotated_tuned_only"] - row[cells["new", TUNED_ONLY]]
    )
    return row


def _precision(
    dictionary: Dictionary,
    table: pl.DataFrame,
    matching: Matching,
    kinds: np.ndarray,
    owner: Shaped[np.ndarray, " latents"] | None,
) -> dict[str, int | float | None]:
    if owner is not None:
        flagged = np.isin(table["class"].to_numpy(), ["tuned-only", "base-only"])
    elif _of_difference(dictionary):
        flagged = np.ones(table.height, bool)
    else:
        flagged = (table["nu_act"].fill_null(np.inf) <= 0.3).to_numpy()
    flagged = flagged & table["alive"].to_numpy()
    true = (matching.best_cosine >= FOUND) & (kinds[matching.best] != "shared")
    if owner is not None:
        true |= np.isin(owner, PARTLY)
    return {
        "flagged": int(flagged.sum()),
        "precision": float(true[flagged].mean()) if flagged.any() else None,
    }


def _exclusivity(
    table: pl.DataFrame, nearest: np.ndarray, known: Bool[np.ndarray, " latents"]
) -> dict[str, float | None]:
    row = {}
    for name, sign in EXCLUSIVITY.items():
        values = table[name].to_numpy().astype(float)
        used = known & np.isfinite(values)
        area, precision = ranking(sign * values[used], nearest[used] == "new")
        row |= {f"auroc_{name}": area, f"ap_{name}": precision}
    return row


def ranking(
    scores: Float[np.ndarray, " items"], positive: Bool[np.ndarray, " items"]
) -> tuple[float | None, float | None]:
    """Return the area under the ROC curve and the average precision; ties count half.

    None where one of the two classes is empty.
    """
    n_positive, n_negative = int(positive.sum()), int((~positive).sum())
    if n_positive == 0 or n_negative == 0:
        return None, None
    ranks = rankdata(scores)
    area = (ranks[positive].sum() - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative)
    # Average precision over distinct thresholds, so that ties need no order.
    thresholds, group = np.unique(-scores, return_inverse=True)
    hits = np.bincount(group, positive, len(thresholds))
    called = np.bincount(group, minlength=len(thresholds)).cumsum()
    precision = float((hits * hits.cumsum() / called).sum() / n_positive)
    return float(area), precision


def _ratio_error(table: pl.DataFrame, matching: Matching, pair: PlantedPair) -> float | None:
    """Compare measured with true strength ratios: of norms, or of betas for an SAE."""
    if table["norm_base"].null_count() < table.height:
        base, tuned = table["norm_base"].to_numpy(), table["norm_tuned"].to_numpy()
    else:
        base, tuned = table["beta_act_base"].to_numpy(), table["beta_act_tuned"].to_numpy()
    errors = []
    for i, feature in enumerate(pair.features):
        if feature.kind == "scaled" and matching.cosine[i] >= FOUND and feature.ratio:
            low, high = float(base[matching.latent[i]]), float(tuned[matching.latent[i]])
            if low > 0 and high > 0:
                errors.append(abs(np.log(high / low / feature.ratio)))
    return float(np.median(errors)) if errors else None


def _of_difference(dictionary: Dictionary) -> bool:
    return dictionary.spec.sources in (("difference",), ("reversed-difference",))


def _leakage(
    dictionary: Dictionary, pair: PlantedPair, alive: Bool[np.ndarray, " latents"]
) -> float | None:
    if not _of_difference(dictionary) or not alive.any():
        return None
    shared = [f.direction_base for f in pair.features if f.kind == "shared"]
    directions = [direction for direction in shared if direction is not None]
    if not directions:
        return 0.0
    close = np.abs(cosines(dictionary.decoder[0].numpy()[alive], np.stack(directions))).max(0)
    return float((close >= FOUND).mean())


def difference_recovered(dictionary: Dictionary, store: PairedStore) -> float | None:
    """Return 1 - Var(Delta - Delta-hat) / Var(Delta) on held-out sequences, or None.

    None if the method does not reconstruct the difference, or there is none.
    """
    if not _of_difference(dictionary) and set(dictionary.spec.sources) != {"base", "tuned"}:
        return None
    error_moments, moments = _Variance(), _Variance()
    for block in store.blocks("heldout"):
        if block.base.shape[1] != block.tuned.shape[1]:
            return None
        rebuilt = dictionary.difference(dictionary.encode(block.base, block.tuned))
        if rebuilt is None:
            return None
        delta = (block.tuned - block.base).double().numpy()
        moments.add(delta)
        error_moments.add(delta - rebuilt.double().numpy())
    return 1 - error_moments.total() / moments.total() if moments.total() > 0 else None


class _Variance:
    """Sum over dimensions of the population variance, in one pass over blocks."""

    def __init__(self) -> None:
        self._n, self._sum, self._squares = 0, np.zeros(()), 0.0

    def add(self, rows: np.ndarray) -> None:
        self._n += len(rows)
        self._sum = self._sum + rows.sum(0)
        self._squares += float((rows**2).sum())

    def total(self) -> float:
        if not self._n:
            return 0.0
        return self._squares / self._n - float(((self._sum / self._n) ** 2).sum())
