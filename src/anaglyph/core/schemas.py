"""Finding and Verdict: what a run says, as typed data that the report, the CLI and JSON share."""

import math
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, FiniteFloat, ValidationError
from pydantic import model_validator as validator

from anaglyph.core.errors import StoreError
from anaglyph.core.files import read_json, write_json

Kind = Literal[
    "new",
    "removed",
    "scaled",
    "rotated",
    "retriggered",
    "refrequencied",
    "twin",
    "mean-shift",
]

NO_DIFFERENCE = "no difference found"
DIFFERENCE = "difference found"

_UNIT = 1e-4


def _unit(direction: tuple[float, ...]) -> tuple[float, ...]:
    norm = math.hypot(*direction)
    if abs(norm - 1) > _UNIT:
        raise ValueError(f"a direction has norm {norm:g} instead of 1")
    return direction


Direction = Annotated[tuple[FiniteFloat, ...], AfterValidator(_unit)]
Share = Annotated[FiniteFloat, Field(ge=0, le=1)]


class Finding(BaseModel):
    """One difference between the two models, sized and tested."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Kind = Field(description="What happened to the concept.")
    direction_base: Direction | None = Field(
        description="Its unit direction in the base model; null if the base model lacks it."
    )
    direction_tuned: Direction | None = Field(
        description="Its unit direction in the tuned model; null if the tuned model lacks it."
    )
    effect: FiniteFloat = Field(
        description="Size, by kind. new, removed: strength in the other model relative to this one "
        "(0: none). scaled: strength in the tuned model over that in the base. rotated: degrees "
        "between its two directions. retriggered, refrequencied: frequency in the tuned model over "
        "that in the base. mean-shift: norm of the shift, in units of the activations."
    )
    low: FiniteFloat | None = Field(
        default=None, description="Lower end of the effect's 95% interval; null if it has no bound."
    )
    high: FiniteFloat | None = Field(
        default=None, description="Upper end of the effect's 95% interval; null if it has no bound."
    )
    q_value: Share | None = Field(
        default=None, description="False-discovery rate at which it is called; null if not tested."
    )
    frequency_base: Share | None = Field(
        default=None,
        description="Share of tokens on which the base model shows it; null if not measured.",
    )
    frequency_tuned: Share | None = Field(
        default=None,
        description="Share of tokens on which the tuned model shows it; null if not measured.",
    )
    frequency_base_low: Share | None = Field(
        default=None, description="Lower end of frequency_base's 95% interval."
    )
    frequency_base_high: Share | None = Field(
        default=None, description="Upper end of frequency_base's 95% interval."
    )
    frequency_tuned_low: Share | None = Field(
        default=None, description="Lower end of frequency_tuned's 95% interval."
    )
    frequency_tuned_high: Share | None = Field(
        default=None, description="Upper end of frequency_tuned's 95% interval."
    )
    latents: tuple[tuple[str, int], ...] = Field(
        default=(),
        description="The latents that show it (cosine >= 0.7), closest first: dictionary, index.",
    )
    kl_recovered: FiniteFloat | None = Field(
        default=None,
        description="Share of the KL gap that its latents close alone; null if not measured.",
    )
    examples: tuple[dict[str, Any], ...] = Field(
        default=(),
        description="Where it is strongest: windows of tokens with both models' strengths.",
    )
    evidence: dict[str, Any] = Field(
        default_factory=dict, description="The numbers that the kind was decided on."
    )

    @validator(mode="after")
    def _check(self) -> "Finding":
        if self.direction_base is None and self.direction_tuned is None:
            raise ValueError("a finding needs a direction in one of the models")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ValueError(f"the interval's low end {self.low:g} is above its high {self.high:g}")
        return self


class DetectionLimit(BaseModel):
    """The smallest new feature that the run would have seen."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: FiniteFloat = Field(
        description="Its mean strength where it fires, in units of the activations."
    )
    relative: FiniteFloat = Field(
        description="Size over the typical length of a tuned activation about its mean."
    )
    frequency: Share = Field(description="Share of tokens on which it fires.")
    probability: Share = Field(description="Chance that the run finds it.")
    trials: int = Field(description="Features that were planted to measure this.")
    found: int = Field(description="How many of them came back.")


class Verdict(BaseModel):
    """The answer of a whole run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    verdict: Literal["no difference found", "difference found"] = Field(
        description="Whether the models differ beyond numerical noise."
    )
    reason: str = Field(description="What the verdict rests on, one sentence for people.")
    rate: Share = Field(description="The false-discovery rate that was asked for.")
    seed: int = Field(description="Of everything drawn at random.")
    findings: tuple[Finding, ...] = Field(default=(), description="Strongest first.")
    like_noise: tuple[Finding, ...] = Field(
        default=(),
        description="What stands out of the activations, but is no more than random noise in the "
        "weights shows; strongest first.",
    )
    detection_limit: DetectionLimit | None = Field(
        default=None, description="What the run could have seen; null if not measured."
    )

    @validator(mode="after")
    def _check(self) -> "Verdict":
        if self.verdict == NO_DIFFERENCE and self.findings:
            raise ValueError(f"{NO_DIFFERENCE!r} with {len(self.findings)} findings")
        return self


def write_verdict(path: Path, verdict: Verdict) -> None:
    """Write ``findings.json``, whole or not at all."""
    write_json(path, verdict.model_dump(mode="json"))


def read_verdict(path: Path) -> Verdict:
    """Read ``findings.json``.

    Raises:
        StoreError: The file is missing, is not JSON, or a field is missing or malformed.
    """
    value = read_json(path)
    try:
        return Verdict.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "contents"
        raise StoreError(f"{path} is damaged: {where}: {first['msg']}") from error


def findings_schema() -> dict[str, Any]:
    """Return the JSON Schema of ``findings.json``."""
    return Verdict.model_json_schema()
