"""Planted pairs: synthetic activations with known differences, and scores against the truth."""

from anaglyph.truth.planted.benchmark import run_planted, summarise
from anaglyph.truth.planted.calibration import at_rate, calibrate, summarise_findings
from anaglyph.truth.planted.generate import PlantedPair, TrueFeature, generate, generate_layers
from anaglyph.truth.planted.scoring import score_planted
from anaglyph.truth.planted.settings import (
    NULLS,
    PRESETS,
    PlantedSettings,
    null_overrides,
    planted_settings,
)

__all__ = [
    "NULLS",
    "PRESETS",
    "PlantedPair",
    "PlantedSettings",
    "TrueFeature",
    "at_rate",
    "calibrate",
    "generate",
    "generate_layers",
    "null_overrides",
    "planted_settings",
    "run_planted",
    "score_planted",
    "summarise",
    "summarise_findings",
]
