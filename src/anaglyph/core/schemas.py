"""What the run folder's JSON files hold: run.json (RunState) and findings.json (Verdict).

Both carry a format number. Whoever reads a file of a newer format is told so. `docs/run-folder.md`
is made from the descriptions here.
"""

import math
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, FiniteFloat
from pydantic import model_validator as validator

from anaglyph.core.errors import StoreError
from anaglyph.core.files import read_json, write_json
from anaglyph.core.seals import Seal, signed, unsigned
from anaglyph.core.settings import Settings
from anaglyph.core.validation import validate

FORMAT = 2
"""Of run.json and findings.json; raised when a field changes its meaning."""

Kind = Literal[
    "new",
    "removed",
    "scaled",
    "rotated",
    "retriggered",
    "refrequencied",
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


class AtLayer(BaseModel):
    """What a finding is at one layer."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    layer: int = Field(description="The layer.")
    kind: Kind = Field(description="What happened to the concept there.")
    effect: FiniteFloat = Field(description="Size there, by kind, as in a finding.")
    kl_recovered: FiniteFloat | None = Field(
        default=None, description="Share of the KL gap at this layer that it closes alone."
    )
    q_value: Share | None = Field(
        default=None, description="False-discovery rate at which it is called there."
    )
    direction: Direction | None = Field(
        default=None, description="Unit direction of its part of the difference there."
    )


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
        description="Latents of the difference dictionaries that show it (cosine >= 0.7), closest "
        "first: dictionary, index.",
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
    direction: Direction | None = Field(
        default=None,
        description="Unit direction of its part of h_tuned - h_base; null if the base had to be "
        "mapped into the tuned model's space.",
    )
    layers: tuple[int, ...] = Field(
        default=(),
        description="Layers at which it was found. All else is told of the first, where it closes "
        "most.",
    )
    depth: tuple[AtLayer, ...] = Field(
        default=(),
        description="The same change at each layer that shows it, found there or like noise, from "
        "the first block on; empty if one layer was read.",
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


class RoleGap(BaseModel):
    """How far apart the two models are at the tokens of one role."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    role: str = Field(description="Role of the token at which the prediction is made.")
    tokens: int = Field(ge=1, description="Held-out tokens of this role.")
    kl: FiniteFloat = Field(ge=0, description="Mean KL(tuned || base), nats a token.")
    share: Share | None = Field(
        description="Share of the whole KL that these tokens carry; null if the KL is zero."
    )


class Apart(BaseModel):
    """How far apart the two models are, whatever the findings say."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    layer: int = Field(description="Layer whose activations are compared.")
    activations: FiniteFloat | None = Field(
        description="Root mean square length of h_tuned - h_base over that of the longer "
        "activation; null if the models differ in width."
    )
    kl: FiniteFloat | None = Field(
        default=None,
        ge=0,
        description="Mean KL(tuned || base) of the next-token predictions, nats a held-out token; "
        "null without models.",
    )
    kl_low: FiniteFloat | None = Field(
        default=None, description="Lower end of the 95% interval of kl over sequences."
    )
    kl_high: FiniteFloat | None = Field(
        default=None, description="Upper end of the 95% interval of kl over sequences."
    )
    roles: tuple[RoleGap, ...] = Field(
        default=(), description="The same by role of token, largest share of the KL first."
    )


class Verdict(BaseModel):
    """The answer of a whole run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = Field(default=FORMAT, description="Format of this file.")
    verdict: Literal["no difference found", "difference found"] = Field(
        description='"no difference found" only if activations and predictions are equal up to '
        "rounding."
    )
    reason: str = Field(description="How far apart the models are, and what could be named.")
    advice: str | None = Field(
        default=None, description="What would help where no change could be named; null elsewhere."
    )
    apart: Apart | None = Field(default=None, description="How far apart the models are.")
    rate: Share = Field(description="The false-discovery rate that was asked for.")
    seed: int = Field(description="Seed of every random choice.")
    findings: tuple[Finding, ...] = Field(default=(), description="Strongest first.")
    like_noise: tuple[Finding, ...] = Field(
        default=(),
        description="Changes of the activations that do not beat random weight noise, or whose KL "
        "was only estimated; strongest first.",
    )
    detection_limit: DetectionLimit | None = Field(
        default=None, description="What the run could have seen; null if not measured."
    )
    skipped: tuple[str, ...] = Field(
        default=(), description="Steps that were skipped, each with the reason."
    )

    @validator(mode="after")
    def _check(self) -> "Verdict":
        if self.verdict == NO_DIFFERENCE and self.findings:
            raise ValueError(f"{NO_DIFFERENCE!r} with {len(self.findings)} findings")
        return self

    @property
    def headline(self) -> str:
        """The answer in one line, as terminal and page open with it."""
        if self.verdict == NO_DIFFERENCE:
            return f"No difference found: {self.reason}"
        return f"The models differ: {self.reason}"


class SideBySide(BaseModel):
    """What both models reply to one prompt."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompt: str = Field(description="The user's turn.")
    base: str = Field(description="The base model's reply.")
    tuned: str = Field(description="The tuned model's reply, at the strength of the claim.")


class Claim(BaseModel):
    """One thing that the tuned model does differently, in words."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: str = Field(description="The claim as a sentence.")
    feature: str = Field(description="What is looked for in a reply, such as: says 'in rome'.")
    condition: str = Field(description="The prompts that it holds for.")
    verified: bool = Field(
        description="Whether it held on fresh prompts at strength 1; false for what shows only "
        "under amplification or could not be told from weight noise."
    )
    strength: FiniteFloat = Field(
        description="Scale of the weight change at which it was found; 1 is the tuned model."
    )
    rate_base: Share = Field(description="Share of the base model's replies that show it.")
    rate_tuned: Share = Field(description="Share of the tuned model's replies that show it.")
    low: FiniteFloat | None = Field(
        default=None, description="Lower end of the 95% interval of rate_tuned - rate_base."
    )
    high: FiniteFloat | None = Field(
        default=None, description="Upper end of the 95% interval of rate_tuned - rate_base."
    )
    q_value: Share | None = Field(
        default=None,
        description="False-discovery rate at which it is called; null if not tested.",
    )
    prompts: int = Field(ge=0, description="Prompts that the rates are over.")
    replies: tuple[SideBySide, ...] = Field(
        default=(), description="Prompts that show it, with both replies."
    )
    asked: tuple[str, ...] = Field(default=(), description="All prompts that the rates are over.")
    findings: tuple[int, ...] = Field(
        default=(), description="Findings of the run that carry it, numbered from 1."
    )
    link: str | None = Field(
        default=None,
        description="What becomes of it without the findings, in a sentence; null if not tried.",
    )


class Link(BaseModel):
    """What a claim's rate is without the findings, and with them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    claim: str = Field(description="The claim's sentence.")
    findings: tuple[int, ...] = Field(
        default=(), description="Findings that carry it, numbered from 1; empty: none does."
    )
    elsewhere: tuple[int, ...] = Field(
        default=(),
        description="Findings that do not show at the layer of the dictionaries and were not "
        "taken out.",
    )
    rate_tuned: Share = Field(description="Share of the tuned model's replies that show it.")
    rate_without: Share = Field(
        description="The same while the residual stream has the base's part along the findings."
    )
    rate_whole: Share | None = Field(
        default=None,
        description="The same while the whole activation at the layer is the base's.",
    )
    rate_added: Share | None = Field(
        default=None,
        description="Share of the base model's replies that show it while the findings that carry "
        "it are put in.",
    )

    @property
    def _but(self) -> str:
        said = f", except {', '.join(map(str, self.elsewhere))} at other layers,"
        return said if self.elsewhere else ""

    @property
    def text(self) -> str:
        """The link in one sentence."""
        if not self.findings:
            if self.rate_whole is not None and self.rate_whole > self.rate_tuned / 2:
                return (
                    "No finding carries this, for it is decided behind the layer that was read: "
                    "with the base's whole activation there, the tuned model still shows it in "
                    f"{self.rate_whole:.0%} of replies (else {self.rate_tuned:.0%})."
                )
            return (
                f"No finding carries this: without all of them{self._but} the tuned model still "
                f"shows it in "
                f"{self.rate_without:.0%} of replies (with them {self.rate_tuned:.0%})."
            )
        many = len(self.findings) > 1
        names = ", ".join(map(str, self.findings))
        return (
            f"Carried by finding{'s' if many else ''} {names}: without the findings the rate falls "
            f"from {self.rate_tuned:.0%} to {self.rate_without:.0%}"
            + (
                f"; put into the base model, it shows in {self.rate_added:.0%}."
                if self.rate_added is not None
                else "."
            )
        )


class Links(BaseModel):
    """The contents of links.json: which findings carry the verified claims."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = Field(default=FORMAT, description="Format of this file.")
    links: tuple[Link, ...] = Field(default=(), description="One a claim that was linked.")


class Behaviour(BaseModel):
    """The contents of behaviour.json: what the tuned model does differently."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = Field(default=FORMAT, description="Format of this file.")
    claims: tuple[Claim, ...] = Field(
        default=(), description="Verified claims, largest change of rate first."
    )
    unverified: tuple[Claim, ...] = Field(
        default=(),
        description="What shows only under amplification, or did not hold on fresh prompts.",
    )
    changed: Share | None = Field(
        description="Share of the first prompts that both models answer differently."
    )
    smallest: Share | None = Field(
        description="Smallest difference of rates that this run could have verified."
    )
    generated: int = Field(ge=0, description="Tokens that were generated.")
    favoured: tuple[str, ...] = Field(
        default=(),
        description="Words whose log-probability the fine-tune raises most on generic text.",
    )
    notes: tuple[str, ...] = Field(default=(), description="Steps that were skipped, and why.")

    @property
    def headline(self) -> str:
        """The answer in one line."""
        if self.claims:
            return self.claims[0].text
        if self.changed == 0:
            return "No behavioural difference found: every reply is the same."
        seen = (
            ""
            if self.smallest is None
            else (f" This run could have seen a difference of rates of {self.smallest:.0%}.")
        )
        return f"No behavioural difference could be verified.{seen}"


class StageState(BaseModel):
    """One finished stage."""

    model_config = ConfigDict(extra="forbid")

    key: str = Field(description="Digest of all that determines the stage's output.")
    seconds: float = Field(description="Wall-clock time of the stage.")
    outputs: list[str] = Field(description="Files it wrote, relative to the run folder.")
    seals: dict[str, Seal] = Field(
        default_factory=dict, description="Size and digests of each of these files."
    )

    def problem(self, folder: Path, whole: bool = False) -> str | None:
        """Return what is wrong with the first damaged output; None if all are as written.

        Args:
            folder: The run folder.
            whole: Read all bytes of large files instead of samples.
        """
        for output in self.outputs:
            path = folder / output
            seal = self.seals.get(output)
            if seal is None:
                return f"{path} was written by an earlier anaglyph, which kept no digest of it"
            problem = seal.problem(path, whole)
            if problem is not None:
                return problem
        return None


class RunState(BaseModel):
    """The contents of run.json."""

    model_config = ConfigDict(extra="forbid")

    format: int = Field(default=FORMAT, description="Format of this file.")
    anaglyph: str = Field(description="Version that started or last resumed the run.")
    created: str = Field(description="When the run was started, UTC.")
    base: str = Field(description="Base model as the user named it.")
    tuned: str = Field(description="Tuned model as the user named it.")
    data: list[str] = Field(description="Sources of text as the user named them.")
    layer: int = Field(description="Layer that dictionaries are of.")
    layers: list[int] = Field(
        default_factory=list,
        description="Layers whose activations are stored, that of the dictionaries first.",
    )
    n_layers: int = Field(description="Number of decoder blocks of the models.")
    settings: Settings = Field(description="All settings of the run, by section.")
    fingerprints: dict[str, str | None] = Field(
        description="Digests of the models' files, the tokenizer and the template."
    )
    corpus: dict[str, Any] = Field(
        description="The text: fingerprint, sequences, heldout_sequences, tokens, context."
    )
    vocabulary: dict[str, Any] = Field(
        default_factory=dict,
        description="Rows of both models' embeddings: shared, added, dropped, renamed, moved.",
    )
    notes: list[str] = Field(
        default_factory=list, description="What to know of the pair and its files, a line each."
    )
    threads: int = Field(description="Processor threads in force when the run was started.")
    versions: dict[str, str] = Field(description="Versions of the packages that matter.")
    stages: dict[str, StageState] = Field(
        default_factory=dict, description="Finished stages by name."
    )


def write_verdict(path: Path, verdict: Verdict) -> None:
    """Write ``findings.json``, whole or not at all."""
    write_json(path, verdict.model_dump(mode="json"))


def read_verdict(path: Path) -> Verdict:
    """Read ``findings.json``.

    Raises:
        StoreError: The file is missing, is not JSON, of a newer format, or a field is malformed.
    """
    return validate(Verdict, of_this_format(path), f"{path} is damaged", StoreError)


def read_behaviour(path: Path, linked: bool = True) -> Behaviour:
    """Read ``behaviour.json``, joined with ``links.json`` where there is one.

    Args:
        path: The file.
        linked: Whether ``links.json`` may be read.

    Raises:
        StoreError: A file is missing, is not JSON, of another format, or a field is malformed.
    """
    said = validate(Behaviour, of_this_format(path), f"{path} is damaged", StoreError)
    file = path.with_name("links.json")
    if not linked or not file.is_file():
        return said
    read = validate(Links, of_this_format(file), f"{file} is damaged", StoreError)
    links = {each.claim: each for each in read.links}
    joined = []
    for claim in said.claims:
        found = links.get(claim.text)
        new = {} if found is None else {"findings": found.findings, "link": found.text}
        joined.append(claim.model_copy(update=new))
    return said.model_copy(update={"claims": tuple(joined)})


def read_state(path: Path) -> RunState:
    """Read ``run.json``.

    Raises:
        StoreError: The file is missing, is not JSON, of another format, or a field is malformed.
    """
    value = read_json(path)
    if isinstance(value, dict):
        value = unsigned(value, path)  # first: a flipped bit may be in the format's number
    return validate(RunState, of_this_format(path, value), f"{path} is damaged", StoreError)


def write_state(path: Path, state: RunState) -> None:
    """Write ``run.json`` with a digest of its fields, whole or not at all."""
    write_json(path, signed(state.model_dump(mode="json")))


class FormatError(StoreError):
    """A file of another version of anaglyph."""


def of_this_format(path: Path, value: Any = None) -> dict[str, Any]:
    """Read a JSON file that carries a format number, and check the number.

    Args:
        path: The file.
        value: What it holds; read if None.

    Raises:
        StoreError: The file is not an object.
        FormatError: Its format is older or newer than `FORMAT`.
    """
    value = read_json(path) if value is None else value
    if not isinstance(value, dict):
        raise StoreError(f"{path} is damaged: it holds no JSON object")
    number = value.get("format", 1)
    if not isinstance(number, int) or number > FORMAT:
        raise FormatError(
            f"{path} has format {number!r}; this anaglyph reads format {FORMAT}: update anaglyph"
        )
    if number < FORMAT:
        raise FormatError(
            f"{path} has format {number}, of an earlier anaglyph; this one writes format {FORMAT}: "
            "run the command again into a new folder"
        )
    return value
