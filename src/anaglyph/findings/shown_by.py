"""Who else sees a finding: dictionaries whose latents point the same way, and cheap baselines."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from scipy.linalg import eigh

from anaglyph.core.schemas import Finding
from anaglyph.dictionaries import Dictionary
from anaglyph.findings.sample import column_medians

SEEN = 0.7
"""Cosine from which on a latent counts as one that shows the finding."""
_MOST = 8
COMPONENTS = 10
"""Principal components of the difference that a finding is compared with."""


def cheap_directions(delta: Float[ndarray, "tokens d"]) -> dict[str, Float[ndarray, "_ d"]]:
    """Return what needs no dictionary: the mean difference and its first principal components.

    Rows of length one; a mean of nothing is left out. Unlike those of `DifferenceSpace`, the
    components are about the median, as atoms are: a change at many tokens moves the mean.
    """
    mean = delta.mean(0, dtype=np.float64)
    length = float(np.linalg.norm(mean))
    centred = delta - column_medians(delta)
    covariance = (centred.T @ centred).astype(np.float64)
    width = len(covariance)
    wanted = (max(width - COMPONENTS, 0), width - 1)
    components = eigh(covariance, subset_by_index=wanted)[1].T
    found = {"mean difference": mean[None] / length} if length > 0 else {}
    return found | {"principal components": components}


def shown_by(
    dictionaries: Mapping[str, Dictionary],
    cheap: Mapping[str, Float[ndarray, "_ d"]],
    difference: Float[ndarray, " d"],
    sides: Mapping[str, Float[ndarray, " _"] | None],
) -> tuple[tuple[tuple[str, int], ...], dict[str, float]]:
    """Return the latents that show a finding, closest first, and everybody's best cosine.

    A latent is compared with what its dictionary writes: of a difference, with the finding's part
    of the difference; of one model, with the finding's direction in that model; of a crosscoder,
    with the difference of its decoders.

    Args:
        dictionaries: By name.
        cheap: From `cheap_directions`, by name; these have no sign.
        difference: Unit direction of the finding's part of the difference.
        sides: Its unit direction in "base" and "tuned"; None where a model lacks it.
    """
    latents: list[tuple[float, str, int]] = []
    best: dict[str, float] = {}
    for name, dic in dictionaries.items():
        cosine = _cosines(dic, difference, sides)
        if cosine is None:
            continue
        best[name] = float(cosine.max(initial=0.0))
        order = np.argsort(-cosine, kind="stable")[:_MOST]
        latents += [(-float(cosine[j]), name, int(j)) for j in order if cosine[j] >= SEEN]
    best |= {
        name: float(np.abs(rows @ difference).max(initial=0.0)) for name, rows in cheap.items()
    }
    return tuple((name, j) for _, name, j in sorted(latents)), best


def with_dictionaries(finding: Finding, dictionaries: Mapping[str, Dictionary]) -> Finding:
    """Return a finding with the latents of further dictionaries that show it, closest first.

    Findings are made from difference dictionaries alone; crosscoders and SAEs of one model may show
    them too. A finding without a direction of its own in the difference is returned as it is.

    Args:
        finding: From `find`.
        dictionaries: By name; names that the finding lists already are left out.
    """
    known = {name for name, _ in finding.latents} | set(finding.evidence.get("agreement", {}))
    further = {name: dic for name, dic in dictionaries.items() if name not in known}
    if finding.direction is None or "agreement" not in finding.evidence or not further:
        return finding
    sides = {"base": finding.direction_base, "tuned": finding.direction_tuned}
    vectors = {name: None if x is None else np.asarray(x, np.float32) for name, x in sides.items()}
    latents, best = shown_by(further, {}, np.asarray(finding.direction, np.float32), vectors)
    agreement = finding.evidence["agreement"] | best
    update = {
        "latents": (*finding.latents, *latents),
        "evidence": finding.evidence | {"agreement": agreement},
    }
    return finding.model_copy(update=update)


def _cosines(
    dic: Dictionary, difference: ndarray, sides: Mapping[str, ndarray | None]
) -> ndarray | None:
    sources, decoders = dic.spec.sources, [rows.numpy() for rows in dic.decoder]
    if sources == ("base", "tuned"):
        if decoders[0].shape != decoders[1].shape:
            return None
        rows, direction = decoders[1] - decoders[0], difference
    elif sources == ("reversed-difference",):
        rows, direction = -decoders[0], difference
    else:
        rows = decoders[0]
        direction = difference if sources == ("difference",) else sides.get(sources[0])
    if direction is None or rows.shape[1] != len(direction):
        return None
    lengths = np.linalg.norm(rows, axis=1)
    # Next to nothing beside the dictionary's other latents has no direction.
    floor = 1e-3 * max(float(lengths.max(initial=0.0)), 1e-30)
    return np.where(lengths > floor, rows @ direction / np.maximum(lengths, floor), 0.0)
