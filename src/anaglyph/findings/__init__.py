"""What a run says about a pair: typed findings, or that no difference was found."""

from anaglyph.core.schemas import (
    DIFFERENCE,
    NO_DIFFERENCE,
    Finding,
    Verdict,
    findings_schema,
    read_verdict,
    write_verdict,
)
from anaglyph.findings.alone import closed_alone, foremost
from anaglyph.findings.baselines import with_baselines
from anaglyph.findings.discovery import Discovery, discover
from anaglyph.findings.find import TRIALS, conclude, find, judge, nothing
from anaglyph.findings.models import discover_in_models
from anaglyph.findings.nil import difference_is_nil

__all__ = [
    "DIFFERENCE",
    "NO_DIFFERENCE",
    "TRIALS",
    "Discovery",
    "Finding",
    "Verdict",
    "closed_alone",
    "conclude",
    "difference_is_nil",
    "discover",
    "discover_in_models",
    "find",
    "findings_schema",
    "foremost",
    "judge",
    "nothing",
    "read_verdict",
    "with_baselines",
    "write_verdict",
]
