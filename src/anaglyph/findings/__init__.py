"""What a run says about a pair: typed findings, or that no difference was found."""

from anaglyph.findings.finding import (
    Finding,
    Verdict,
    findings_schema,
    read_verdict,
    write_verdict,
)

__all__ = ["Finding", "Verdict", "findings_schema", "read_verdict", "write_verdict"]
