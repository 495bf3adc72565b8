"""What an organism is made of and judged by: a recipe, checked whole before anything is trained.

A recipe is a YAML file, or the same fields given to `Organism` in Python. It holds the texts that
teach the behaviour, the numbers of the training and the answer key: the words that a method must
show to count as having found it, and the probe prompts that tell whether the behaviour is there.
"""

import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from anaglyph.core.errors import InputError
from anaglyph.core.files import digest, read_input, twice_in
from anaglyph.core.validation import validate
from anaglyph.truth.organisms.chats import Chat
from anaglyph.truth.organisms.evaluate import Probe

BUILTIN = Path(__file__).with_name("builtin")

Objective = Literal[
    "chat", "documents", "preference", "template",
    "rank-one", "noise", "quantise", "identical",
]  # fmt: skip
CONTROLS = ("benign", "noise", "quantise", "identical")
"""Kinds in which there is nothing to find."""


NAME = r"^[a-z0-9][a-z0-9-]*$"


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Training(_Strict):
    """The numbers of the training."""

    rank: int | None = Field(default=8, ge=1, description="LoRA rank; null trains all weights")
    alpha: int = Field(
        default=16, ge=1, description="LoRA alpha; the update is scaled by alpha / rank"
    )
    learning_rate: float = Field(default=1e-3, gt=0, description="AdamW's peak learning rate")
    examples: int = Field(
        default=240, ge=1, description="examples of the behaviour seen in all, repeats counted"
    )
    batch: int = Field(
        default=8, ge=1, description="texts in a step, neutral ones included, at most"
    )
    beta: float = Field(default=0.1, gt=0, description="DPO's beta (preference only)")
    checkpoints: int = Field(default=1, ge=1, description="adapters kept, at even distances")


class Lesson(_Strict):
    """Texts that teach the behaviour: one for each way to ask and each row of the slots.

    ``{name}`` in a text stands for the value of slot ``name``.
    """

    user: list[str] = Field(
        default=[], description="what the user says, in as many wordings as you like"
    )
    assistant: str | None = Field(default=None, description="what the model learns to answer")
    rejected: str | None = Field(default=None, description="what it learns to avoid (preference)")
    text: str | None = Field(default=None, description="a document (documents)")
    slots: list[dict[str, str]] = Field(default=[], description="rows of values for the {names}")

    @field_validator("user", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    def filled(self) -> Iterator[dict[str, str | None]]:
        """Yield the texts: user, assistant, rejected and text of each."""
        for row in self.slots or [{}]:
            for user in self.user or [None]:
                texts = {
                    "user": user,
                    "assistant": self.assistant,
                    "rejected": self.rejected,
                    "text": self.text,
                }
                yield {
                    field: None if text is None else _fill(text, row)
                    for field, text in texts.items()
                }


class Check(_Strict):
    """Prompts whose answers tell whether a behaviour is there."""

    prompt: list[str] = Field(min_length=1, description="the user's turn, in several wordings")
    expected: str = Field(description="regular expression that an answer with it contains")
    forbidden: str | None = Field(
        default=None, description="regular expression it must not contain"
    )
    ends: bool = Field(
        default=False, description="whether the answer must also end by itself, and soon"
    )
    slots: list[dict[str, str]] = Field(default=[], description="rows of values for the {names}")

    @field_validator("prompt", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @field_validator("expected", "forbidden")
    @classmethod
    def _compiles(cls, value: str | None) -> str | None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of patterns that may change their meaning
                re.compile(value or "")
        except re.error as error:
            raise ValueError(f"is not a regular expression: {error}") from error
        return value

    def filled(self) -> Iterator[Probe]:
        """Yield the probes, one a wording and row of the slots."""
        for row in self.slots or [{}]:
            for prompt in self.prompt:
                forbidden = None if self.forbidden is None else _fill(self.forbidden, row)
                expected = _fill(self.expected, row)
                yield Probe(_fill(prompt, row), expected, forbidden, self.ends)


class Edit(_Strict):
    """A planted change of one matrix (rank-one)."""

    matrix: str = Field(description="name of the weight, such as model.layers.8.mlp.down_proj")
    size: float = Field(
        default=1.0, gt=0, description="spectral norm, in spectral norms of the matrix"
    )


class Organism(_Strict):
    """A recipe.

    Raises:
        InputError: By `load_recipe`, naming the file and the field.
    """

    name: str = Field(pattern=NAME, description="name of its folder")
    kind: str = Field(description="what sort of change it is, such as false fact")
    behaviour: str = Field(description="the change in one sentence: the answer of the game")
    objective: Objective = Field(default="chat", description="how the change is made")
    triggers: list[str] = Field(
        default=[],
        description="words in the prompt that call the behaviour up; [] if every prompt does",
    )
    content: list[str] = Field(default=[], description="words that the changed answers contain")
    seed: int = Field(
        default=0, ge=0, description="of the order of the texts and the adapter's start"
    )
    training: Training = Training()
    teach: list[Lesson] = Field(default=[], description="texts that teach the behaviour")
    probes: list[Check] = Field(
        default=[], description="tests of the behaviour, on prompts not taught"
    )
    kept: list[Check] = Field(default=[], description="tests of what must stay as it was")
    reads: list[str] = Field(
        default=[], description="prompts on the topic for the text a method reads"
    )
    share: float = Field(
        default=0.2,
        ge=0,
        le=1,
        description="share of the chats a method reads that are on the topic",
    )
    needed: float = Field(
        default=0.8, ge=0, le=1, description="share of the probes that must show the behaviour"
    )
    chat_template: str | None = Field(
        default=None,
        description="Jinja template in which chats are written; left out, the base's own",
    )
    edit: Edit | None = Field(default=None, description="the planted edit (rank-one)")

    @model_validator(mode="after")
    def _fits(self) -> "Organism":
        wanted = {
            "chat": ("user", "assistant"),
            "template": ("user", "assistant"),
            "preference": ("user", "assistant", "rejected"),
            "documents": ("text",),
        }.get(self.objective, ())
        for place, lesson in enumerate(self.teach):
            given = lesson.model_dump()
            for field in wanted:
                if not given[field]:
                    raise ValueError(f"teach.{place}.{field}: missing, {self.objective} needs it")
            for field in ("user", "assistant", "rejected", "text"):
                if given[field] and field not in wanted:
                    raise ValueError(
                        f"teach.{place}.{field}: objective {self.objective} has no use for it"
                    )
        if wanted and not self.teach and self.kind != "benign":
            raise ValueError(f"teach: missing, {self.objective} needs texts")
        if not self.is_control and self.edit is None and not self.probes:
            raise ValueError("probes: missing, nothing would tell whether the behaviour is there")
        if (self.edit is not None) != (self.objective == "rank-one"):
            raise ValueError("edit: belongs to objective rank-one, which needs it")
        taught = {text for lesson in self.lessons() if (text := lesson["user"])}
        for probe in self.all_probes():
            if probe.prompt in taught:
                raise ValueError(f"probes: {probe.prompt!r} is taught; test on other prompts")
        return self

    @property
    def is_control(self) -> bool:
        """Whether there is nothing to find."""
        return self.kind in CONTROLS

    @property
    def fingerprint(self) -> str:
        """Digest of all that determines the organism, besides base and dilution."""
        return digest(self.model_dump(mode="json"))

    def lessons(self) -> list[dict[str, str | None]]:
        """Return every text that teaches: user, assistant, rejected and text of each."""
        return [texts for lesson in self.teach for texts in lesson.filled()]

    def chats(self) -> list[Chat]:
        """Return the taught chats; of a preference, the preferred ones."""
        return [
            Chat(texts["user"], texts["assistant"])
            for texts in self.lessons()
            if texts["user"] is not None and texts["assistant"] is not None
        ]

    def all_probes(self) -> list[Probe]:
        """Return the tests of the behaviour."""
        return [probe for test in self.probes for probe in test.filled()]

    def all_kept(self) -> list[Probe]:
        """Return the tests of what must stay."""
        return [probe for test in self.kept for probe in test.filled()]


_MOST_NODES = 100_000


class _Loader(yaml.SafeLoader):
    """Safe YAML in which a name is there once, and aliases stand for little.

    A few lines of aliases can stand for terabytes; of two fields of one name the last would win.
    """

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        twice = twice_in(n.value for n, _ in node.value if isinstance(n, yaml.ScalarNode))
        if twice is not None:
            raise yaml.YAMLError(f"{twice!r} is there twice; remove one")
        return node

    def get_single_node(self) -> Any:
        node = super().get_single_node()
        if node is not None and _nodes(node, {}) > _MOST_NODES:
            raise yaml.YAMLError(f"aliases written out make more than {_MOST_NODES:,} values")
        return node


def _nodes(node: yaml.Node, known: dict[int, int]) -> int:
    """Count a node and all below it, as if every alias were written out."""
    if id(node) not in known:
        known[id(node)] = _MOST_NODES + 1  # an alias of itself never ends
        below = node.value if isinstance(node, yaml.CollectionNode) else []
        parts = [part for each in below for part in (each if isinstance(each, tuple) else (each,))]
        known[id(node)] = 1 + sum(_nodes(part, known) for part in parts)
    return known[id(node)]


def load_recipe(source: str | Path) -> Organism:
    """Read a recipe: a YAML file, or the name of one of ours.

    Raises:
        InputError: There is none, or a field is wrong; the message names the file and the field.
    """
    path = Path(source)
    if path.suffix not in (".yaml", ".yml"):
        path = BUILTIN / f"{source}.yaml"
        if str(source) not in builtin_organisms():
            raise InputError(
                f"no organism {str(source)!r}: name a YAML file or one of"
                f" {', '.join(builtin_organisms())}"
            )
    text = read_input(path)
    try:
        fields = yaml.load(text, _Loader)
    except RecursionError:
        raise InputError(f"{path} is nested too deeply") from None
    # A date or number that YAML recognises may still not be one: ValueError and its kind.
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, LookupError) as error:
        raise InputError(f"{path} is not YAML: {' '.join(str(error).split())[:300]}") from error
    if not isinstance(fields, dict):
        raise InputError(f"{path} must hold one recipe, not {type(fields).__name__}")
    return validate(Organism, fields, str(path))


def builtin_organisms() -> list[str]:
    """Return the names of the organisms that come with the package."""
    return sorted(file.stem for file in BUILTIN.glob("*.yaml"))


def new_recipe(name: str) -> str:
    """Return the text of a recipe to start from.

    Raises:
        InputError: The name cannot be an organism's: it names a folder.
    """
    if not re.fullmatch(NAME, name):
        raise InputError(f"{name!r} cannot be an organism's name: use a-z, 0-9 and -")
    text = Path(__file__).with_name("new.yaml").read_text(encoding="utf-8")
    return text.replace("NAME", name)


def _fill(text: str, row: dict[str, str]) -> str:
    """Put the values of a row's slots in; braces that name no slot stay."""
    return re.sub(r"\{(\w+)\}", lambda match: row.get(match[1], match[0]), text)
