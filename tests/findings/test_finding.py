"""Findings and verdicts as data: what is refused, and that JSON loses nothing."""

import json
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from anaglyph.core.errors import StoreError
from anaglyph.core.schemas import (
    FORMAT,
    Finding,
    Kind,
    Verdict,
    read_verdict,
    write_verdict,
)


def finding(**changes: Any) -> Finding:
    fields = {
        "kind": "new",
        "direction_base": None,
        "direction_tuned": (0.6, 0.8),
        "effect": 0.9,
    }
    return Finding(**(fields | changes))


def verdict(**changes: Any) -> Verdict:
    fields = {"verdict": "difference found", "reason": "they do", "rate": 0.1, "seed": 0}
    return Verdict(**(fields | changes))


finite = st.floats(-1e6, 1e6)
fields = st.fixed_dictionaries(
    {
        "kind": st.sampled_from(get_args(Kind)),
        "direction_base": st.sampled_from([None, (0.0, -1.0)]),
        "effect": finite,
        "q_value": st.none() | st.floats(0, 1),
        "frequency_tuned": st.none() | st.floats(0, 1),
        "latents": st.lists(st.tuples(st.text(), st.integers(0, 9)), max_size=3),
        "kl_recovered": st.none() | finite,
        "evidence": st.dictionaries(st.text(), st.none() | finite | st.lists(finite), max_size=3),
    }
)


@given(st.lists(fields, max_size=3))
def test_json_loses_nothing(tmp_path_factory: pytest.TempPathFactory, some: list[dict[str, Any]]):
    path = tmp_path_factory.mktemp("findings") / "findings.json"
    said = verdict(findings=tuple(finding(**fields) for fields in some))
    write_verdict(path, said)
    assert read_verdict(path) == said


def test_findings_do_not_change():
    with pytest.raises(ValidationError, match="frozen"):
        finding().kind = "scaled"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"kind": "odd"}, "kind"),
        ({"direction_tuned": (0.6, 0.9)}, "norm 1.08"),
        ({"direction_tuned": (float("nan"), 1.0)}, "finite"),
        ({"direction_tuned": None}, "needs a direction"),
        ({"effect": float("inf")}, "finite"),
        ({"low": 0.5, "high": 0.4}, "above"),
        ({"q_value": 1.5}, "q_value"),
        ({"frequency_base": -0.1}, "frequency_base"),
        ({"note": "x"}, "note"),
    ],
)
def test_nonsense_is_refused(changes: dict[str, Any], says: str):
    with pytest.raises(ValidationError, match=says):
        finding(**changes)


def test_no_difference_has_no_findings():
    with pytest.raises(ValidationError, match="1 findings"):
        verdict(verdict="no difference found", findings=(finding(),))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "missing"),
        (json.dumps({"format": FORMAT + 1}), "update anaglyph"),
        (json.dumps({"verdict": "difference found"}), "of an earlier anaglyph"),
        ("[]", "no JSON object"),
        ("{", "damaged"),
        (json.dumps({"format": FORMAT, "verdict": "maybe"}), "damaged: verdict"),
        (
            json.dumps({"format": FORMAT, "verdict": "difference found", "rate": 0.1, "seed": 0}),
            "damaged: reason",
        ),
    ],
)
def test_damaged_file_names_its_field(tmp_path: Path, text: str | None, says: str):
    path = tmp_path / "findings.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(StoreError, match=says):
        read_verdict(path)


def test_schema_describes_every_field():
    schema = Verdict.model_json_schema()
    assert set(schema["properties"]) == set(Verdict.model_fields)
    fields = schema["$defs"]["Finding"]["properties"]
    assert set(fields) == set(Finding.model_fields)
    assert all(field["description"] for field in fields.values())
    assert set(fields["kind"]["enum"]) == set(get_args(Kind))
