"""The settings of planted pairs, and the presets.

A planted pair is a pair of activation matrices. Every difference was put there on purpose, so the
right answer of a diff is known. The presets were fixed before any method was tuned on them. If you
change a preset, measure every published number on it again.
"""

from typing import Literal, get_args

from pydantic import Field

from anaglyph.core.errors import InputError
from anaglyph.core.validation import Bounded, validate

FeatureKind = Literal[
    "shared", "new", "removed", "scaled", "rotated", "retriggered", "refrequencied"
]
KINDS: tuple[FeatureKind, ...] = (
    "shared",
    "new",
    "removed",
    "scaled",
    "rotated",
    "retriggered",
    "refrequencied",
)
Null = Literal["identical", "noise", "rotation", "scale"]


class PlantedSettings(Bounded, frozen=True, extra="forbid"):
    """Everything that determines a planted pair, apart from its seed."""

    width: int = Field(default=64, ge=2, description="d of the base model's residual stream")
    tuned_width: int | None = Field(
        default=None, ge=2, description="d of the tuned model, if it differs"
    )
    tokens: int = Field(default=60_000, ge=100, description="tokens in the store")
    sequence: int = Field(default=50, ge=1, description="tokens of one sequence")
    topics: int = Field(default=8, ge=2, description="contexts; each sequence has one")
    shared: int = Field(default=60, ge=0, description="features alike in both models")
    new: int = Field(default=6, ge=0, description="features only the tuned model has")
    removed: int = Field(default=6, ge=0, description="features only the base model has")
    scaled: int = Field(default=6, ge=0, description="features whose strength changed")
    factors: tuple[float, ...] = Field(
        default=(0.1, 0.3, 0.5, 2.0, 2.5, 3.0), description="factors of the scaled, in turn"
    )
    rotated: int = Field(default=6, ge=0, description="features whose direction turned")
    angles: tuple[float, ...] = Field(
        default=(30.0, 45.0, 60.0, 90.0), description="degrees of the rotated, in turn"
    )
    retriggered: int = Field(
        default=6, ge=0, description="features that fire in other contexts: added, moved, in turn"
    )
    refrequencied: int = Field(
        default=0, ge=0, description="features that fire more or less often in their own contexts"
    )
    frequency_ratios: tuple[float, ...] = Field(
        default=(0.2, 5.0), description="tuned over base frequency of the refrequencied, in turn"
    )
    frequency: tuple[float, float] = Field(
        default=(0.02, 0.02), description="highest and lowest share of tokens a feature fires on"
    )
    changed_frequency: float | None = Field(
        default=None, gt=0, lt=1, description="one frequency for all features that changed"
    )
    mean_shift: float = Field(default=0.0, ge=0, description="norm of a constant added to tuned")
    subspace_rank: int = Field(default=0, ge=0, description="rank of a dense change of the tuned")
    subspace_size: float = Field(default=0.5, ge=0, description="rms norm of that dense change")
    noise: float = Field(
        default=0.02, ge=0, description="standard deviation a dimension, drawn for each model"
    )
    background: float = Field(
        default=0.0, ge=0, description="rms norm of a dense anisotropic part both models share"
    )
    background_rank: int = Field(default=8, ge=1, description="dimensions the background fills")
    correlated: int = Field(
        default=0,
        ge=0,
        description="pairs of shared features of which one mostly implies the other",
    )
    children: int = Field(
        default=0, ge=0, description="shared features that fire only where a parent fires"
    )
    null: Null | None = Field(default=None, description="no change but this; no changed features")
    layers: int = Field(
        default=1, ge=1, description="layers; features fire together at all, in other directions"
    )
    changed_layers: tuple[int, ...] = Field(
        default=(), description="layers at which the models differ (none: all)"
    )

    @property
    def d_tuned(self) -> int:
        """Width of the tuned model."""
        return self.tuned_width or self.width


_CHANGES = {
    "new": 0,
    "removed": 0,
    "scaled": 0,
    "rotated": 0,
    "retriggered": 0,
    "refrequencied": 0,
}
NULLS: tuple[Null, ...] = get_args(Null)
PRESETS: dict[str, dict[str, object]] = {
    "easy": {},
    "realistic": {
        "width": 128,
        "tokens": 120_000,
        "shared": 400,
        "new": 8,
        "removed": 8,
        "scaled": 8,
        "rotated": 8,
        "retriggered": 8,
        "frequency": (0.1, 0.002),
        "changed_frequency": 0.01,
        "noise": 0.03,
        "background": 1.0,
        "background_rank": 16,
        "correlated": 20,
        "children": 20,
        "mean_shift": 0.3,
    },
    "undercomplete": {
        "width": 96,
        "tokens": 100_000,
        "shared": 600,
        "new": 8,
        "removed": 8,
        "frequency": (0.03, 0.003),
        "changed_frequency": 0.01,
        "scaled": 0,
        "rotated": 0,
        "retriggered": 0,
    },
    "rare": {
        "tokens": 150_000,
        "new": 8,
        "removed": 8,
        "rotated": 8,
        "scaled": 0,
        "retriggered": 0,
        "changed_frequency": 0.004,
    },
    "layers": {"layers": 3, "changed_layers": (1, 2)},
    "null": {**_CHANGES, "null": "noise"},
}


def null_overrides(null: Null) -> dict[str, object]:
    """Return the fields that turn any preset into a null: only its shared features stay.

    Args:
        null: How the two models differ: "identical" not at all, "noise" by fresh noise in each,
            "rotation" and "scale" by one map of the whole space and noise.
    """
    return {**_CHANGES, "mean_shift": 0.0, "subspace_rank": 0, "null": null}


def planted_settings(preset: str = "easy", **overrides: object) -> PlantedSettings:
    """Return a preset's settings with single fields replaced.

    Raises:
        InputError: The preset is unknown, or a field is unknown or has a bad value.
    """
    if preset not in PRESETS:
        raise InputError(f"unknown preset {preset!r}; there are: {', '.join(PRESETS)}")
    settings = validate(PlantedSettings, {**PRESETS[preset], **overrides})
    if settings.null and any(getattr(settings, kind) for kind in _CHANGES):
        raise InputError(f"null={settings.null!r} allows no changed features; set them to 0")
    if settings.null and settings.tuned_width not in (None, settings.width):
        raise InputError("tuned_width: a null pair needs models of one width")
    if any(not 0 <= layer < settings.layers for layer in settings.changed_layers):
        raise InputError(f"changed_layers: they must be 0 to {settings.layers - 1}")
    if settings.changed_layers and settings.tuned_width not in (None, settings.width):
        raise InputError("changed_layers: a layer without change needs models of one width")
    return settings
