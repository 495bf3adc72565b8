"""Groups: what adds nothing to a stronger finding joins it; what does stays on its own."""

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from test_decoys import finding

from anaglyph.findings.alone import Alone, Bench
from anaglyph.findings.discovery import Discovery
from anaglyph.findings.groups import as_evidence, joined
from anaglyph.findings.texts import Texts

# Four findings in four texts: the first two act in the same texts, and so does the third; the last
# acts elsewhere.
PER_TEXT = {
    0: np.array([4.0, 4.0, 0.0, 0.0]),
    1: np.array([2.0, 2.0, 0.0, 0.0]),
    2: np.array([2.0, 1.0, 0.0, 0.0]),
    3: np.array([0.0, 0.0, 2.0, 2.0]),
}


@dataclass(frozen=True)
class Fake(Bench):
    """A bench on which one finding closes what another closes already."""

    subject: Any = field(
        default_factory=lambda: SimpleNamespace(corpus=SimpleNamespace(lengths=np.full(4, 10)))
    )
    found: Any = None
    texts: Texts = field(default_factory=lambda: Texts(np.arange(4), np.ones(4)))
    place: str = "all"
    tokens: int = 40
    fired: Any = None
    tried: list[Any] = field(default_factory=list)

    def edit(self, *chosen: int) -> Any:
        self.tried.append(chosen)
        return chosen

    def closed(self, edits: Any) -> Any:
        kept = self.texts.sequences
        rows = [
            # 1 closes nothing that 0 does not; all else adds up.
            sum(PER_TEXT[i] for i in each if i != 1 or 0 not in each)
            for each in edits
        ]
        return np.stack(rows)[:, kept], None, None


def alone_on(bench: Bench, per_text: dict[int, np.ndarray]) -> Alone:
    return Alone({}, per_text, bench)


def test_what_stands_in_for_another_joins_it():
    bench = Fake()
    found = Discovery((finding(0.5),) * 4, None, (0, 1, 2, 3), None, None)
    assert joined(alone_on(bench, PER_TEXT), found, [0, 3, 1, 2]) == {0: (1,), 3: (), 2: ()}
    # What acts in other texts is not even tried.
    assert set(bench.tried) == {(0, 1), (0, 1, 2)}


def test_what_was_not_put_in_stays_on_its_own():
    found = Discovery((finding(0.5),) * 2, None, (0, None), None, None)
    assert joined(alone_on(Fake(), {}), found, [1, 0]) == {1: (), 0: ()}


def test_members_are_the_finding_s_evidence():
    found = Discovery((finding(0.5), finding(0.25)), None, (0, 1), None, None)
    told = as_evidence(found, {0: (1,)})
    (member,) = told.findings[0].evidence["members"]
    assert member["difference_share"] == pytest.approx(0.25)
    assert told.findings[1].evidence == found.findings[1].evidence
