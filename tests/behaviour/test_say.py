"""What keeps a candidate from being a claim, in words."""

import numpy as np

from anaglyph.behaviour.contrast import Candidate, phrase
from anaglyph.behaviour.say import why_not
from anaglyph.behaviour.verify import GENERAL, Bars, Condition, Found, Trial


def trial(tuned: int, count: int = 20) -> Trial:
    found = Found(Candidate(phrase("rome"), 3.0, frozenset({0})), 1.0)
    prompts = tuple(f"question {i}" for i in range(count))
    shows = np.zeros(count, bool), np.arange(count) < tuned
    return Trial(found, Condition(GENERAL, "", prompts), shows)


def test_each_reason_is_told_by_itself():
    noise = Bars({(True, True, False): 0.9})
    assert why_not(None, Bars()) == "no budget was left for fresh prompts"
    assert why_not(trial(1), noise).startswith("not confirmed on fresh prompts (1 of 20")
    assert "weight noise can change replies as much" in why_not(trial(10), noise)
    # Above the noise, but not surely enough among all that was tested.
    assert "too few to be sure" in why_not(trial(10), Bars())
