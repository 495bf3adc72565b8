"""Whether a fine-tune may be released: a policy held against what a run found."""

from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from anaglyph.behaviour.contrast import phrase, words_of
from anaglyph.core.errors import InputError
from anaglyph.core.files import as_path, read_settings
from anaglyph.core.schemas import (
    Behaviour,
    Finding,
    Kind,
    Verdict,
    read_behaviour,
    read_verdict,
)
from anaglyph.core.settings import Section
from anaglyph.core.validation import validate
from anaglyph.run.folder import RunFolder


class Policy(Section, frozen=True):
    """What may differ. A rule that is left out is not checked."""

    allowed_claims: int | None = Field(
        default=None, ge=0, description="Verified claims at most, expected ones not counted."
    )
    expected: tuple[str, ...] = Field(
        default=(),
        description="Words or phrases of expected claims: what replies say, such as the new name.",
    )
    forbidden: tuple[str, ...] = Field(
        default=(), description="Words or phrases that no claim may be about, verified or not."
    )
    allowed_rise: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="Largest rise of a claim's rate over the base; expected claims not counted.",
    )
    allowed_findings: int | None = Field(default=None, ge=0, description="Findings at most.")
    kinds: dict[Kind, int] = Field(
        default_factory=dict, description="Findings at most, by kind: {new: 0}."
    )
    allowed_kl: float | None = Field(
        default=None,
        ge=0,
        description="Mean KL(tuned || base) at most, nats a token: the upper end of its interval.",
    )
    must_detect_claim: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="The run must have been able to verify a difference of rates this small.",
    )
    must_detect_finding: float | None = Field(
        default=None,
        ge=0,
        description="The detection limit of findings at most, relative to an activation's length.",
    )


class Rule(BaseModel):
    """One rule of a policy, and what the run says of it."""

    model_config = ConfigDict(frozen=True)

    rule: str = Field(description="Field of the policy.")
    allowed: str = Field(description="What the policy allows.")
    measured: str = Field(description="What the run found.")
    passed: bool = Field(description="Whether that is allowed; false if it was not measured.")


class Gate(BaseModel):
    """What `anaglyph gate` says."""

    model_config = ConfigDict(frozen=True)

    run: str = Field(description="The run folder.")
    passed: bool = Field(description="Whether all rules passed.")
    rules: tuple[Rule, ...] = Field(description="The rules of the policy.")

    @property
    def markdown(self) -> str:
        """A summary for a release page."""
        rows = [
            f"| {'pass' if each.passed else '**FAIL**'} | `{each.rule}` | {_cell(each.allowed)} "
            f"| {_cell(each.measured)} |"
            for each in self.rules
        ]
        failed = sum(not each.passed for each in self.rules)
        head = "passed" if self.passed else f"failed {failed} of {len(self.rules)} rules"
        table = ["| | rule | allowed | measured |", "|---|---|---|---|", *rows]
        return "\n".join([f"# Gate: {head}", "", *table])


def gate(run: str | Path, policy: str | Path | Policy) -> Gate:
    """Hold a policy against a finished run. A rule whose measure the run lacks fails.

    Args:
        run: A run folder.
        policy: The policy, or a JSON or TOML file of its fields.

    Raises:
        InputError: There is no run in the folder, or the policy cannot be read or has no rule.
        StoreError: A file of the run is damaged.

    Example:
        >>> gate("run", Policy(allowed_claims=0)).passed            # doctest: +SKIP
        True
    """
    if not isinstance(policy, Policy):
        file = as_path(policy)
        policy = validate(Policy, read_settings(file), str(file))
    folder = RunFolder.open(run, thorough=True)
    stages = folder.state.stages
    verdict = said = None
    if "find" in stages:
        folder.check_stage("find")
        verdict = read_verdict(folder.path / "findings.json")
    if "behave" in stages:
        folder.check_stage("behave")
        said = read_behaviour(folder.path / "behaviour.json", linked=False)
    rules = (*_of_claims(policy, said), *_of_findings(policy, verdict))
    if not rules:
        rules_of = ", ".join(name for name in Policy.model_fields if name != "expected")
        raise InputError(f"the policy has no rule: set one of {rules_of}")
    return Gate(run=str(run), passed=all(each.passed for each in rules), rules=rules)


def _of_claims(policy: Policy, said: Behaviour | None) -> list[Rule]:
    found = () if said is None else said.claims
    claims = [each for each in found if not _holds(policy.expected, each.feature)]
    rules = []
    if policy.allowed_claims is not None:
        texts = "; ".join(each.text for each in claims)
        found = f"{len(claims)}: {texts}" if claims else "0"
        rules.append(_rule("allowed_claims", policy.allowed_claims, found, len(claims)))
    if policy.forbidden:
        every = () if said is None else (*said.claims, *said.unverified)
        words = policy.forbidden
        bad = [each.text for each in every if _holds(words, each.feature, each.condition)]
        rules.append(
            Rule(
                rule="forbidden",
                allowed=f"none with {', '.join(words)}",
                measured="; ".join(bad) or "none",
                passed=not bad,
            )
        )
    if policy.allowed_rise is not None:
        rise = max((each.rate_tuned - each.rate_base for each in claims), default=0.0)
        rules.append(_rule("allowed_rise", policy.allowed_rise, f"{rise:.2f}", rise))
    if policy.must_detect_claim is not None:
        least = None if said is None else said.smallest
        if said is not None and said.changed == 0 and said.generated == 0:
            least = 0.0  # both are one model, and nothing had to be asked
        found = "no difference could have been verified" if least is None else f"{least:.2f}"
        rules.append(_rule("must_detect_claim", policy.must_detect_claim, found, least))
    return rules if said is not None else [_unmeasured(each, "behave") for each in rules]


def _holds(phrases: Sequence[str], *parts: str) -> bool:
    """Say whether a part of a claim has a phrase, in whole words.

    The claim's sentence has further words ("the tuned model says"), which must match nothing.
    """
    wanted = [phrase(each) for each in phrases if words_of(each)]
    return any(each.holds(part) for each in wanted for part in parts)


def _of_findings(policy: Policy, verdict: Verdict | None) -> list[Rule]:
    findings: tuple[Finding, ...] = () if verdict is None else verdict.findings
    rules = []
    if policy.allowed_findings is not None:
        count = len(findings)
        rules.append(_rule("allowed_findings", policy.allowed_findings, str(count), count))
    for kind, most in policy.kinds.items():
        count = sum(each.kind == kind for each in findings)
        rules.append(_rule(f"kinds.{kind}", most, str(count), count))
    if policy.allowed_kl is not None:
        apart = None if verdict is None else verdict.apart
        kl = None
        if apart is not None:
            kl = apart.kl if apart.kl_high is None else apart.kl_high
        found = "not measured" if kl is None else f"{kl:.4g} nats a token"
        rules.append(_rule("allowed_kl", policy.allowed_kl, found, kl))
    if policy.must_detect_finding is not None:
        limit = None if verdict is None else verdict.detection_limit
        size = None if limit is None else limit.relative
        found = "not measured" if size is None else f"{size:.3g}"
        rules.append(_rule("must_detect_finding", policy.must_detect_finding, found, size))
    return rules if verdict is not None else [_unmeasured(each, "find") for each in rules]


def _rule(name: str, most: int | float, found: str, value: int | float | None) -> Rule:
    passed = value is not None and value <= most
    return Rule(rule=name, allowed=f"at most {most:g}", measured=found, passed=passed)


def _unmeasured(rule: Rule, stage: str) -> Rule:
    said = f"not measured: the run has not finished the stage {stage}"
    return rule.model_copy(update={"measured": said, "passed": False})


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())
