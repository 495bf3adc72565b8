"""Match latents to true features one-to-one by the cosine of their directions.

A true feature counts as found if the best assignment (Hungarian, on cosines) gives it a latent at
cosine >= 0.9. A decoder is compared with what the dictionary reconstructs: the difference of a
feature for a diff-SAE, and for the others the feature's direction in the model that the decoder
belongs to.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int64, Shaped
from scipy.optimize import linear_sum_assignment

from anaglyph.dictionaries import Dictionary
from anaglyph.truth.planted.generate import PlantedPair, TrueFeature

FOUND = 0.9


@dataclass(frozen=True)
class Matching:
    """The latent assigned to each true feature, and how well it fits."""

    latent: Int64[np.ndarray, " features"]
    """-1 if a feature has none."""
    cosine: Float[np.ndarray, " features"]
    """0 if a feature has none."""
    best: Int64[np.ndarray, " latents"]
    """The true feature nearest to each latent, independent of the assignment."""
    best_cosine: Float[np.ndarray, " latents"]


def cosines(
    rows: Float[np.ndarray, "latents d"], directions: Float[np.ndarray, "features d"]
) -> Float[np.ndarray, "features latents"]:
    """Return the cosine of every feature with every latent; a zero row has cosine 0 with all."""
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    unit = np.divide(rows, norms, out=np.zeros_like(rows), where=norms > 0)
    return directions @ unit.T


def match(similarity: Float[np.ndarray, "features latents"]) -> Matching:
    """Assign latents to features so that the sum of cosines is largest."""
    features, latents = similarity.shape
    latent = np.full(features, -1)
    cosine = np.zeros(features)
    if features == 0 or latents == 0:
        return Matching(latent, cosine, np.full(latents, -1), np.zeros(latents))
    rows, columns = linear_sum_assignment(similarity, maximize=True)
    latent[rows] = columns
    cosine[rows] = similarity[rows, columns]
    return Matching(latent, cosine, similarity.argmax(0), similarity.max(0))


def feature_cosines(dictionary: Dictionary, pair: PlantedPair) -> np.ndarray:
    """Return the cosine of every true feature with every latent, [features, latents].

    A crosscoder latent matches a feature if its decoders match in every model that has the feature,
    so the smaller of the two cosines counts. A feature that the dictionary cannot show (a shared
    one in a difference, a removed one in the tuned model) has cosine 0.
    """
    decoders = {
        source: rows.numpy()
        for source, rows in zip(dictionary.spec.sources, dictionary.decoder, strict=True)
    }
    fits = []
    for source, rows in decoders.items():
        directions = [_direction(feature, source) for feature in pair.features]
        known = np.array([direction is not None for direction in directions])
        table = np.full((len(directions), len(rows)), np.nan, np.float32)
        if known.any():
            table[known] = cosines(rows, np.stack([d for d in directions if d is not None]))
        if source.endswith("difference"):
            # A feature that fires elsewhere both gains and loses the same direction.
            both = [feature.kind in ("retriggered", "refrequencied") for feature in pair.features]
            table[both] = np.abs(table[both])
        fits.append(table)
    stacked = np.stack(fits)
    unseen = np.isnan(stacked).all(0)
    return np.where(unseen, 0.0, np.nanmin(np.where(unseen, 0.0, stacked), axis=0))


def nearest_kinds(
    dictionary: Dictionary, pair: PlantedPair, source: str
) -> Shaped[np.ndarray, " latents"]:
    """Return the kind of the feature that each latent's decoder of one source points along.

    "" where no feature of the source is at cosine >= 0.9.
    """
    known = [(f.kind, _direction(f, source)) for f in pair.features]
    known = [(kind, direction) for kind, direction in known if direction is not None]
    rows = dictionary.decoder[dictionary.spec.sources.index(source)].numpy()
    if not known:
        return np.full(len(rows), "")
    table = cosines(rows, np.stack([direction for _, direction in known]))
    kinds = np.array([kind for kind, _ in known])[table.argmax(0)]
    return np.where(table.max(0) >= FOUND, kinds, "")


def _direction(feature: TrueFeature, source: str) -> np.ndarray | None:
    difference = feature.difference
    return {
        "base": feature.direction_base,
        "tuned": feature.direction_tuned,
        "difference": difference,
        "reversed-difference": None if difference is None else -difference,
    }[source]
