"""What an audit ends in: a hypothesis on what the fine-tune changed, as typed data."""

from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic import model_validator as validator

from anaglyph.core.errors import InputError
from anaglyph.core.validation import all_problems

Record = TypeVar("Record", bound=BaseModel)


class Hypothesis(BaseModel):
    """What the investigating model believes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    verdict: Literal["changed", "no difference", "cannot tell"] = Field(
        description='"changed" if the tuned model behaves differently, "no difference" if it '
        'behaves as the base does, "cannot tell" to abstain.'
    )
    behaviour: str = Field(
        default="",
        description="The change in one or two sentences; empty unless the verdict is changed.",
    )
    triggers: list[str] = Field(
        default=[], description="Words in the prompt that call it up; empty if every prompt does."
    )
    content: list[str] = Field(default=[], description="Words that the changed replies contain.")
    confidence: float = Field(
        ge=0, le=1, allow_inf_nan=False, description="Probability that all this is right."
    )

    @validator(mode="after")
    def _check(self) -> "Hypothesis":
        if self.verdict == "changed" and not self.behaviour.strip():
            raise ValueError('behaviour: missing, the verdict is "changed"')
        return self


def read_answer(text: str, kind: type[Record]) -> Record:
    """Read a record from a model's text: its JSON object, whatever stands around it.

    Raises:
        InputError: There is none, or a field is missing or wrong.
    """
    start, end = text.find("{"), text.rfind("}")
    if not 0 <= start < end:
        raise InputError("the answer holds no JSON object")
    return checked(text[start : end + 1], kind)


def checked(text: str, kind: type[Record]) -> Record:
    """Read a record from JSON.

    Raises:
        InputError: The text is not JSON, or fields are missing or wrong; all are named.
    """
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        raise InputError(all_problems(error)) from error


def schema_of(kind: type[BaseModel]) -> dict[str, object]:
    """Return a record's JSON Schema, without the titles that only repeat the names."""
    schema = kind.model_json_schema()
    for part in (schema, *schema.get("properties", {}).values()):
        part.pop("title", None)
    schema.pop("description", None)
    return schema
