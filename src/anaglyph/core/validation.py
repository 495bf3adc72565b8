"""From what pydantic says of a value to one line that names the field and the way out."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError, field_validator
from pydantic_core import ErrorDetails

from anaglyph.core.errors import AnaglyphError, InputError

M = TypeVar("M", bound=BaseModel)
LARGEST = 2**53
"""Whole numbers up to this one are exact as floating-point numbers too."""
_LONGEST = 80  # characters of a bad value that a message repeats


class Bounded(BaseModel, frozen=True, allow_inf_nan=False):
    """Settings whose numbers are finite, and whose whole numbers a computer can count to."""

    @field_validator("*")
    @classmethod
    def _countable(cls, value: Any) -> Any:
        if isinstance(value, int) and abs(value) > LARGEST:
            raise ValueError(f"is larger than {LARGEST}")
        return value


def check_type(name: str, value: object, kind: type, way_out: str = "") -> None:
    """Refuse an argument of another type than the one that is meant.

    Raises:
        InputError: The message names the argument, both types and the way out.
    """
    if not isinstance(value, kind):
        more = f": {way_out}" if way_out else ""
        raise InputError(f"{name} must be a {kind.__name__}, not {type(value).__name__}{more}")


def check_rate(rate: object) -> None:
    """Refuse a false-discovery rate that is none.

    Raises:
        InputError: It is no number between 0 and 1.
    """
    if not isinstance(rate, int | float) or not 0 < rate < 1:
        raise InputError(f"rate is {rate!r}: it must lie between 0 and 1")


def validate(
    model: type[M], value: Any, where: str = "", error: type[AnaglyphError] = InputError
) -> M:
    """Return ``value`` as a model, or raise one line that names the first bad field.

    Args:
        model: A pydantic model.
        value: What was read or given, usually a dict.
        where: The file or option it came from; put before the message.
        error: Exception to raise: `InputError` for what a user wrote, `StoreError` for our files.

    Raises:
        AnaglyphError: Of the type ``error``, if a field is missing, unknown or has a bad value.

    Example:
        >>> from anaglyph.core.settings import TrainSettings
        >>> validate(TrainSettings, {"latents": 64}).latents
        64
    """
    with translated(where, error):
        return model.model_validate(value)


@contextmanager
def translated(where: str = "", error: type[AnaglyphError] = InputError) -> Iterator[None]:
    """Turn a `ValidationError` in the block into one line; arguments and errors as in `validate`.

    Example:
        >>> with translated("answer", EndpointError):
        ...     reply = Reply.model_validate_json(text)
    """
    try:
        yield
    except ValidationError as bad:
        raise error(": ".join(filter(None, (where, first_problem(bad))))) from bad


def first_problem(error: ValidationError) -> str:
    """Return the first thing that a validation found wrong, as ``field: problem (got value)``."""
    return _problem(error, error.errors()[0])


def all_problems(error: ValidationError) -> str:
    """Return everything that a validation found wrong, a semicolon between two fields."""
    said = [_problem(error, each) for each in error.errors()]
    return "; ".join(dict.fromkeys(said))


def _problem(error: ValidationError, first: ErrorDetails) -> str:
    message = first["msg"].removeprefix("Value error, ")
    field = _field(first)
    if not field:
        return message
    if first["type"] == "extra_forbidden":
        return f"{field}: there is no such setting"
    if first["type"] == "missing":
        return f"{field}: is missing"
    if first["type"] == "value_error":
        return message if message.startswith(field) else f"{field}: {message}"
    got = repr(first["input"])
    got = got if len(got) <= _LONGEST else got[: _LONGEST - 1] + "…"
    same = [each for each in error.errors() if _field(each) == field]
    wanted = list(dict.fromkeys(_wanted(each) for each in same))
    if len(same) > 1 and all(wanted):
        return f"{field}: {got} must be {' or '.join(filter(None, wanted))}"
    return f"{field}: {message} (got {got})"


def _field(problem: Any) -> str:
    # A union reports each of its members as a part of the place; users know the field alone.
    return ".".join(str(part) for part in problem["loc"] if not _is_member(part))


def _wanted(problem: Any) -> str | None:
    """Return what one member of a union would have taken; None if it is not about the type."""
    if problem["type"].startswith(("int_", "float_")):
        return "a number"
    if problem["type"] == "literal_error":
        return problem["ctx"]["expected"].replace("'", "")
    return None


def _is_member(part: int | str) -> bool:
    # "int" is a member of a union, "into" is a field.
    names = ("literal[", "function-", "constrained-", "tuple[", "list[", "dict[")
    return part in ("int", "float", "str", "bool") or str(part).startswith(names)
