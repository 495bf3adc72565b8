"""Paired activations with known differences.

Each true feature i has a unit direction per model, v_i^base and v_i^tuned, and fires on some tokens
with a strength z_i >= 0 of mean one, so that

    h^m(x) = sum_i z_i^m(x) v_i^m + background(x) + shift^m + subspace^m(x) + noise^m(x).

Each kind changes one thing. A new feature has z^base = 0, a removed one z^tuned = 0, a scaled one
z^tuned = c z^base. A rotated one has two directions at a known angle. A retriggered one has the
same direction in other contexts (topics of sequences), a refrequencied one the same contexts at
another rate. Everything else is shared by both models.
"""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int64

from anaglyph.core.rng import sequence
from anaglyph.truth.planted.settings import KINDS, FeatureKind, PlantedSettings

# A constant of the generator's own: a training run with the same seed never draws these numbers.
CHUNK = 16_384
STRENGTH_SPREAD = 0.35


@dataclass(frozen=True)
class TrueFeature:
    """One planted feature, with its values as drawn."""

    kind: FeatureKind
    direction_base: Float[np.ndarray, " d_base"] | None
    direction_tuned: Float[np.ndarray, " d_tuned"] | None
    difference: Float[np.ndarray, " d"] | None
    """Unit direction of its part of the difference; None if it has none or the widths differ."""
    ratio: float | None
    """Strength in the tuned model / in the base, where it fires in both."""
    angle: float | None
    """Degrees between its two directions; None if a model lacks it or the widths differ."""
    frequency_base: float
    frequency_tuned: float


@dataclass(frozen=True)
class PlantedPair:
    """Activations of both models and the truth about them."""

    base: Float[np.ndarray, "tokens d_base"]
    tuned: Float[np.ndarray, "tokens d_tuned"]
    sequence_ids: Int64[np.ndarray, " tokens"]
    features: tuple[TrueFeature, ...]
    shift: Float[np.ndarray, " d_tuned"] | None
    subspace: Float[np.ndarray, "rank d_tuned"] | None


def generate(settings: PlantedSettings, seed: int = 0) -> PlantedPair:
    """Draw a planted pair; of several layers, the first at which the models differ.

    Args:
        settings: The settings of the pair.
        seed: Seed of the generator; the same seed gives the same pair bit for bit.
    """
    return _at_layer(settings, seed, min(settings.changed_layers, default=0))


def generate_layers(settings: PlantedSettings, seed: int = 0) -> list[PlantedPair]:
    """Draw a planted pair at each of its layers; arguments as for `generate`.

    The same features fire on the same tokens, with the same strengths. Directions, dense parts and
    noise are each layer's own.
    """
    return [_at_layer(settings, seed, layer) for layer in range(settings.layers)]


def _at_layer(settings: PlantedSettings, seed: int, layer: int) -> PlantedPair:
    streams = sequence(seed, "planted pair").spawn(4)
    if layer:
        own = sequence(seed, "planted pair", layer).spawn(2)
        streams = [own[0], streams[1], streams[2], own[1]]
    geometry, contexts, firing, dense = (np.random.default_rng(stream) for stream in streams)
    kinds: list[FeatureKind] = [kind for kind in KINDS for _ in range(getattr(settings, kind))]
    base_directions, tuned_directions, ratios = _directions(settings, kinds, geometry)
    whole = _map_of_all(settings, geometry)
    if whole is not None:
        mapped = tuned_directions @ whole
        ratios = np.linalg.norm(mapped, axis=1)
        tuned_directions = _unit(mapped)
    rates_base, rates_tuned = _rates(settings, kinds, contexts)
    sequences = -(-settings.tokens // settings.sequence)
    sequence_ids = np.repeat(np.arange(sequences), settings.sequence)[: settings.tokens]
    topics = contexts.integers(settings.topics, size=sequences)[sequence_ids]

    base = np.empty((settings.tokens, settings.width), np.float32)
    tuned = np.empty((settings.tokens, settings.d_tuned), np.float32)
    fired_base, fired_tuned = np.zeros(len(kinds)), np.zeros(len(kinds))
    for start in range(0, settings.tokens, CHUNK):
        rows = slice(start, min(start + CHUNK, settings.tokens))
        strengths_base, strengths_tuned = _strengths(
            settings, kinds, rates_base[:, topics[rows]].T, rates_tuned[:, topics[rows]].T, firing
        )
        strengths_tuned = strengths_tuned * ratios.astype(np.float32)
        fired_base += (strengths_base > 0).sum(0)
        fired_tuned += (strengths_tuned > 0).sum(0)
        base[rows] = strengths_base @ base_directions
        tuned[rows] = strengths_tuned @ tuned_directions
    features = _truth(
        settings,
        kinds,
        (base_directions, tuned_directions),
        ratios,
        (fired_base / settings.tokens, fired_tuned / settings.tokens),
    )
    if settings.changed_layers and layer not in settings.changed_layers:
        tuned = base.copy()
        settings = settings.model_copy(update={"mean_shift": 0.0, "subspace_rank": 0})
        features = tuple(replace(each, kind="shared", difference=None) for each in features)
    shift, subspace = _dense_parts(settings, base, tuned, whole, geometry, dense)
    return PlantedPair(
        base,
        tuned,
        sequence_ids.astype(np.int64),
        features,
        shift,
        subspace,
    )


def _unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


def _directions(
    settings: PlantedSettings, kinds: list[FeatureKind], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw each feature's direction in both models, and its strength ratio tuned / base."""
    base = _unit(rng.standard_normal((len(kinds), settings.width)))
    ratios = np.ones(len(kinds))
    tuned = base.copy()
    turn = _unit(rng.standard_normal(base.shape))
    for i, kind in enumerate(kinds):
        nth = i - kinds.index(kind)
        if kind == "scaled":
            ratios[i] = settings.factors[nth % len(settings.factors)]
        if kind == "rotated":
            angle = np.deg2rad(settings.angles[nth % len(settings.angles)])
            away = turn[i] - (turn[i] @ base[i]) * base[i]
            away /= np.linalg.norm(away)
            tuned[i] = np.cos(angle) * base[i] + np.sin(angle) * away
    if settings.d_tuned != settings.width:
        # Another width: an isometry (or its transpose) maps every shared direction.
        larger, smaller = sorted((settings.d_tuned, settings.width), reverse=True)
        frame = np.linalg.qr(rng.standard_normal((larger, smaller)))[0].astype(np.float32)
        tuned = _unit(tuned @ (frame.T if settings.d_tuned == larger else frame))
    return base, tuned, ratios


def _map_of_all(settings: PlantedSettings, rng: np.random.Generator) -> np.ndarray | None:
    """Return the map of the whole space between the models of a null pair, if there is one."""
    if settings.null == "rotation":
        return np.linalg.qr(rng.standard_normal((settings.width, settings.width)))[0]
    if settings.null == "scale":
        return 1.5 * np.eye(settings.width)
    return None


def _rates(
    settings: PlantedSettings, kinds: list[FeatureKind], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draw each feature's firing probability in each topic, [features, topics], per model."""
    high, low = settings.frequency
    count = len(kinds)
    frequency = np.geomspace(high, low, max(count, 1))[rng.permutation(count)]
    if settings.changed_frequency is not None:
        changed = np.array([kind != "shared" for kind in kinds], bool)
        frequency[changed] = settings.changed_frequency
    affinity = rng.lognormal(0.0, 0.5, (count, settings.topics))
    affinity /= affinity.mean(1, keepdims=True)
    base = np.minimum(frequency[:, None] * affinity, 0.9)
    tuned = base.copy()
    half = settings.topics // 2
    for i, kind in enumerate(kinds):
        nth = i - kinds.index(kind)
        if kind == "new":
            base[i] = 0
        elif kind == "removed":
            tuned[i] = 0
        elif kind == "retriggered":
            # Twice the rate in half of the topics keeps the overall frequency.
            order = rng.permutation(settings.topics)
            here, there = order[:half], order[half : 2 * half]
            rate = min(frequency[i] * settings.topics / half, 0.9)
            base[i], tuned[i] = 0, 0
            base[i, here] = rate
            tuned[i, there] = rate
            if nth % 2 == 0:
                tuned[i, here] = rate
        elif kind == "refrequencied":
            ratio = settings.frequency_ratios[nth % len(settings.frequency_ratios)]
            tuned[i] = np.minimum(base[i] * ratio, 0.9)
    return base, tuned


def _strengths(
    settings: PlantedSettings,
    kinds: list[FeatureKind],
    rates_base: np.ndarray,
    rates_tuned: np.ndarray,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Draw one chunk's strengths, [tokens, features] per model.

    One uniform number per token and feature decides for both models. So at equal rates a feature
    fires on the same tokens, and at unequal rates the rarer firings are a subset.
    """
    shape = (len(rates_base), len(kinds))
    chance = rng.random(shape, np.float32)
    strength = rng.lognormal(-(STRENGTH_SPREAD**2) / 2, STRENGTH_SPREAD, shape).astype(np.float32)
    base, tuned = chance < rates_base, chance < rates_tuned
    shared = kinds.count("shared")
    implied = rng.random((shape[0], settings.correlated), np.float32) < 0.7
    for pair in range(min(settings.correlated, shared // 2)):
        first, second = 2 * pair, 2 * pair + 1
        for fires in (base, tuned):
            fires[:, second] |= fires[:, first] & implied[:, pair]
    given = rng.random((shape[0], settings.children), np.float32) < 0.5
    for child in range(min(settings.children, shared // 2)):
        parent, own = shared // 2 - 1 - child, shared - 1 - child
        for fires in (base, tuned):
            fires[:, own] = fires[:, parent] & given[:, child]
    return strength * base, strength * tuned


def _dense_parts(
    settings: PlantedSettings,
    base: np.ndarray,
    tuned: np.ndarray,
    whole: np.ndarray | None,
    geometry: np.random.Generator,
    rng: np.random.Generator,
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Add the dense parts to the activations, in place."""
    tokens, narrow = len(base), min(settings.width, settings.d_tuned)
    shift = subspace = None
    if settings.background:
        rank = min(settings.background_rank, narrow)
        axes = np.linalg.qr(geometry.standard_normal((narrow, rank)))[0].T
        sizes = np.geomspace(1.0, 0.1, rank)
        sizes *= settings.background / np.linalg.norm(sizes)
        part = ((rng.standard_normal((tokens, rank)) * sizes) @ axes).astype(np.float32)
        base[:, :narrow] += part
        tuned[:, :narrow] += part if whole is None else (part @ whole).astype(np.float32)
    if settings.subspace_rank:
        rank = min(settings.subspace_rank, settings.d_tuned)
        frame = np.linalg.qr(geometry.standard_normal((settings.d_tuned, rank)))[0]
        subspace = frame.T.astype(np.float32)
        scale = settings.subspace_size / np.sqrt(rank)
        tuned += (rng.standard_normal((tokens, rank)) * scale).astype(np.float32) @ subspace
    if settings.mean_shift:
        direction = _unit(geometry.standard_normal(settings.d_tuned))
        shift = (settings.mean_shift * direction).astype(np.float32)
        tuned += shift
    if settings.noise and settings.null != "identical":
        for part in (base, tuned):
            part += settings.noise * rng.standard_normal(part.shape, np.float32)
    elif settings.noise:
        part = settings.noise * rng.standard_normal(base.shape, np.float32)
        base += part
        tuned += part
    return shift, subspace


def _truth(
    settings: PlantedSettings,
    kinds: list[FeatureKind],
    directions: tuple[np.ndarray, np.ndarray],
    ratios: np.ndarray,
    frequencies: tuple[np.ndarray, np.ndarray],
) -> tuple[TrueFeature, ...]:
    same_width = settings.width == settings.d_tuned
    features = []
    for i, kind in enumerate(kinds):
        base = None if kind == "new" else directions[0][i]
        tuned = None if kind == "removed" else directions[1][i]
        difference = angle = None
        if same_width:
            change = directions[1][i] * (ratios[i] if tuned is not None else 0.0)
            if kind not in ("retriggered", "refrequencied", "new"):
                change = change - directions[0][i]
            size = np.linalg.norm(change)
            difference = (change / size).astype(np.float32) if size > 1e-6 else None
            if base is not None and tuned is not None:
                cosine = float(np.clip(base.astype(float) @ tuned.astype(float), -1, 1))
                angle = float(np.degrees(np.arccos(cosine)))
        both = base is not None and tuned is not None
        features.append(
            TrueFeature(
                kind=kind,
                direction_base=base,
                direction_tuned=tuned,
                difference=difference,
                ratio=float(ratios[i]) if both else None,
                angle=angle,
                frequency_base=float(frequencies[0][i]),
                frequency_tuned=float(frequencies[1][i]),
            )
        )
    return tuple(features)
