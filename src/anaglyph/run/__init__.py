"""The whole way from two models to a report, stage by stage, in a folder that can be resumed."""

from anaglyph.run.folder import RunFolder
from anaglyph.run.gate import Gate, Policy, gate
from anaglyph.run.pipeline import diff
from anaglyph.run.run import Run
from anaglyph.run.tables import keep_tables, write_tables
from anaglyph.run.verify import Verification, verify

__all__ = [
    "Gate",
    "Policy",
    "Run",
    "RunFolder",
    "Verification",
    "diff",
    "gate",
    "keep_tables",
    "verify",
    "write_tables",
]
