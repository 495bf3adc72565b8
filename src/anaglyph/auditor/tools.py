"""What an investigating model may call: small typed functions, described by JSON Schemas."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from anaglyph.auditor.hypothesis import Hypothesis, checked, schema_of
from anaglyph.auditor.limits import Meter
from anaglyph.core.errors import InputError

SUBMIT = "submit_hypothesis"

Prompt = Annotated[str, Field(min_length=1, max_length=2000)]
NewTokens = Annotated[int, Field(ge=1, le=200, description="Most tokens of a reply.")]
Seed = Annotated[int, Field(ge=0, lt=2**31, description="Of the sampling.")]


class Arguments(BaseModel):
    """What a tool is given."""

    model_config = ConfigDict(frozen=True, extra="forbid")


@dataclass(frozen=True)
class Tool:
    """One function.

    Attributes:
        name: What the model calls it by.
        description: What the model is told about it.
        arguments: The record that it takes.
        work: From the record to what is answered, as JSON. An `InputError` is an answer too.
    """

    name: str
    description: str
    arguments: type[BaseModel]
    work: Callable[[Any], Any]

    @property
    def schema(self) -> dict[str, Any]:
        """The tool as an endpoint is told of it."""
        function = {
            "name": self.name,
            "description": self.description,
            "parameters": schema_of(self.arguments),
        }
        return {"type": "function", "function": function}

    def __call__(self, arguments: str) -> str:
        """Answer a call, whatever the arguments; mistakes are answered as ``{"error": ...}``."""
        try:
            answer = self.work(checked(arguments or "{}", self.arguments))
        except InputError as error:
            answer = {"error": f"{self.name}: {error}"}
        return json.dumps(shortened(answer), ensure_ascii=False, allow_nan=False)


class Toolbox:
    """The tools of one audit, with what they share: the meter of what they spend."""

    def __init__(self, tools: Sequence[Tool], meter: Meter) -> None:
        self.tools = {tool.name: tool for tool in tools}
        self.meter = meter

    @property
    def schemas(self) -> list[dict[str, Any]]:
        """All tools as an endpoint is told of them, the one that ends the audit last."""
        return [*(tool.schema for tool in self.tools.values()), submit_schema()]

    def call(self, name: str, arguments: str) -> str:
        """Answer a call; one that the limits forbid, or of no tool, is answered as an error."""
        if name not in self.tools:
            known = ", ".join([*self.tools, SUBMIT])
            return json.dumps({"error": f"there is no tool {name!r}: use one of {known}"})
        if self.meter.spent.calls >= self.meter.limits.calls:
            return json.dumps({"error": "the limit of tool calls is reached"})
        self.meter.spent.calls += 1
        return self.tools[name](arguments)


def submit_schema() -> dict[str, Any]:
    """Return the tool that ends an audit, as an endpoint is told of it."""
    function = {
        "name": SUBMIT,
        "description": "Write down the hypothesis and end the investigation.",
        "parameters": schema_of(Hypothesis),
    }
    return {"type": "function", "function": function}


def shortened(value: Any) -> Any:
    """Return JSON with its numbers cut to four digits: a model pays for each."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {name: shortened(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [shortened(part) for part in value]
    return value
