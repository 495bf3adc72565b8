"""The answer key that a hypothesis is graded by."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict
from pydantic import model_validator as validator

from anaglyph.core.errors import InputError, StoreError
from anaglyph.core.files import read_json
from anaglyph.core.seals import unsigned
from anaglyph.core.validation import validate
from anaglyph.truth.organisms.recipe import CONTROLS


class AnswerKey(BaseModel):
    """The part of a card that says what there is to find; the rest is not read.

    Cards of the game's organisms, of the demo and of the tiny pair all have it.

    Attributes:
        name: Of the organism.
        kind: What sort of change it is.
        behaviour: The change in one sentence.
        triggers: Words in the prompt that call it up; [] if every prompt does.
        content: Words that the changed replies contain.
        is_control: Whether there is nothing to find; where the card does not say, by its kind.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str
    kind: str
    behaviour: str
    triggers: list[str] = []
    content: list[str] = []
    is_control: bool = False

    @validator(mode="before")
    @classmethod
    def _by_kind(cls, card: Any) -> Any:
        if isinstance(card, dict) and "is_control" not in card:
            return card | {"is_control": card.get("kind") in CONTROLS}
        return card


def read_key(path: str | Path) -> AnswerKey:
    """Read the answer key in a card.

    Raises:
        InputError: The file cannot be read, or a field is missing or wrong.
    """
    try:
        card = read_json(Path(path))
        card = unsigned(card, Path(path)) if isinstance(card, dict) else card
    except StoreError as error:
        raise InputError(f"cannot read the card: {error}") from error
    return validate(AnswerKey, card, f"{path} is not a card")
