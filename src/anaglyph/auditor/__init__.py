"""The auditor: a language model investigates a pair through tools; its hypothesis is graded.

The only room that talks to a language-model endpoint, and only when it is asked to. What is sent
there is told in docs/auditor.md.
"""

from anaglyph.auditor.agent import Mode, read_mode
from anaglyph.auditor.audit import Audit, audit
from anaglyph.auditor.endpoint import Endpoint
from anaglyph.auditor.grade import ABSTAINED, Grade, Judgement, score_of
from anaglyph.auditor.hypothesis import Hypothesis
from anaglyph.auditor.key import AnswerKey, read_key
from anaglyph.auditor.limits import Limits, Spent

__all__ = [
    "ABSTAINED",
    "AnswerKey",
    "Audit",
    "Endpoint",
    "Grade",
    "Hypothesis",
    "Judgement",
    "Limits",
    "Mode",
    "Spent",
    "audit",
    "read_key",
    "read_mode",
    "score_of",
]
