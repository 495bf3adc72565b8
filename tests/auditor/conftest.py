"""A run of the tiny pair with planted findings: nothing is trained, so it is there at once."""

from pathlib import Path

import pytest
from fake_endpoint import KEY

from anaglyph.core.schemas import DIFFERENCE, NO_DIFFERENCE, Finding, Verdict, write_verdict
from anaglyph.core.settings import load_settings
from anaglyph.demo import tiny_pair
from anaglyph.run import Run
from anaglyph.subject import Subject


@pytest.fixture(autouse=True)
def _key(monkeypatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def planted(width: int) -> tuple[Finding, ...]:
    first = tuple(1.0 if i == 0 else 0.0 for i in range(width))
    window = {
        "sequence": 0,
        "start": 0,
        "position": 1,
        "tokens": ["The", " lantern", " is"],
        "roles": ["user"] * 3,
        "code": [0.0, 2.0, 0.5],
        "base": [0.1, 0.2, 0.3],
        "tuned": [0.1, 2.2, 0.8],
    }
    new = Finding(
        kind="new",
        direction_base=None,
        direction_tuned=first,
        effect=0.0123456,
        frequency_tuned=0.2,
        latents=(("diff-sae", 29),),
        examples=(window,),
        evidence={"beta_base": -1.0, "beta_tuned": 6.0},
    )
    # Neither strength nor examples are known of this one.
    removed = Finding(kind="removed", direction_base=first, direction_tuned=None, effect=0.0)
    return new, removed


def begin(folder: Path, tuned: Path, verdict: Verdict) -> Run:
    pair = tiny_pair()
    settings = load_settings(layer=1, threads=1)
    subject = Subject(str(pair.base), str(tuned), [str(pair.corpus[0])], settings=settings)
    bench = Run.begin(subject, folder)
    with bench.folder.stage("find", "planted", ["findings.json"]):
        write_verdict(folder / "findings.json", verdict)
    return bench


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The tiny pair; tests put their audits elsewhere."""
    folder = tmp_path_factory.mktemp("auditor") / "run"
    verdict = Verdict(verdict=DIFFERENCE, reason="planted", rate=0.1, seed=0)
    made = begin(folder, tiny_pair().tuned, verdict)
    found = verdict.model_copy(update={"findings": planted(made.subject.pair.d_base)})
    with made.folder.stage("find", "planted again", ["findings.json"]):
        write_verdict(folder / "findings.json", found)
    return made


@pytest.fixture(scope="session")
def same(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The tiny base beside itself: a control."""
    folder = tmp_path_factory.mktemp("same") / "run"
    verdict = Verdict(verdict=NO_DIFFERENCE, reason="the same", rate=0.1, seed=0)
    return begin(folder, tiny_pair().base, verdict)
