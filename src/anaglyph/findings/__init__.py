"""What a run says about a pair: typed findings, or that no difference was found."""

from anaglyph.findings.find import candidates, difference_is_nil, find, judge
from anaglyph.findings.finding import (
    DIFFERENCE,
    NO_DIFFERENCE,
    Finding,
    Verdict,
    findings_schema,
    read_verdict,
    write_verdict,
)

__all__ = [
    "DIFFERENCE",
    "NO_DIFFERENCE",
    "Finding",
    "Verdict",
    "candidates",
    "difference_is_nil",
    "find",
    "findings_schema",
    "judge",
    "read_verdict",
    "write_verdict",
]
