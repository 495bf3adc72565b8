"""Bad values become one line that names the field, whoever found them."""

from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field

from anaglyph.core.errors import EndpointError, InputError, StoreError
from anaglyph.core.validation import translated, validate


class Record(BaseModel):
    model_config = ConfigDict(extra="forbid")

    size: int
    name: str = ""


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ({"size": "many"}, "size: .* \\(got 'many'\\)"),
        ({}, "size: is missing"),
        ({"size": 1, "colour": 2}, "colour: there is no such setting"),
        ([], "valid dictionary"),
    ],
)
def test_one_line_names_the_file_and_the_field(value: object, says: str):
    with pytest.raises(StoreError, match=f"^run.json is damaged: .*{says}") as caught:
        validate(Record, value, "run.json is damaged", StoreError)
    assert "\n" not in str(caught.value)


class Fields(BaseModel):
    into: Literal["base", "tuned"] = "base"
    strengths: tuple[Annotated[float, Field(le=10)], ...] = ()
    boolean: bool = True
    k: int | float | Literal["auto"] = 1


@pytest.mark.parametrize(
    ("value", "field"),
    [
        ({"into": "both"}, "into"),
        ({"strengths": [1.0, 1e9]}, "strengths.1"),
        ({"boolean": "perhaps"}, "boolean"),
        ({"k": "many"}, "k"),
    ],
)
def test_a_field_that_begins_like_a_type_keeps_its_name(value: object, field: str):
    with pytest.raises(InputError, match=f"^{field}: "):
        validate(Fields, value)


def test_a_long_bad_value_is_cut():
    with pytest.raises(InputError) as caught:
        validate(Record, {"size": "x" * 1000})
    assert len(str(caught.value)) < 200


def test_json_is_translated_too():
    json = pytest.raises(EndpointError, match=r"^answer: .*JSON")
    with json, translated("answer", EndpointError):
        Record.model_validate_json("{")
