"""The settings of one run: every choice that `anaglyph diff` makes, in one validated record.

The field descriptions are the help texts of the command line and the documentation of `--config`.
"""

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from anaglyph.core.errors import InputError
from anaglyph.core.files import read_settings

DEFAULT_METHODS = ("diff-sae", "crosscoder", "tuned-sae")


class DiffConfig(BaseModel):
    """Settings of a run; the models, the data and the output folder are not among them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    layer: int | float = Field(
        default=0.5,
        description="residual stream after this block: an index (13) or a fraction of depth (0.5)",
    )
    methods: tuple[str, ...] = Field(
        default=DEFAULT_METHODS, min_length=1, description="dictionary methods to train"
    )
    sparsity: str = Field(default="batchtopk", description="activation function of the latents")
    latents: int = Field(default=4096, ge=1, description="dictionary size, in latents")
    k: int | float | Literal["auto"] | None = Field(
        default=None,
        description="active latents per token, or auto to choose it from the data; left out, each "
        "method's own default",
    )
    mu: float | None = Field(
        default=None, ge=0, description="weight of the penalty of l1; left out, from the width"
    )
    anneal: float = Field(
        default=0.0, ge=0, le=0.5, description="fraction of a training over which k falls to it"
    )
    options: dict[str, Any] = Field(
        default_factory=dict, description="options of the methods, such as norm: unsquared"
    )
    tokens: int | None = Field(
        default=None,
        ge=1,
        description="training tokens per dictionary, repeats counted; left out, from the data",
    )
    batch: int = Field(default=2048, ge=1, description="training batch, in tokens")
    lr: float | None = Field(default=None, gt=0, description="Adam's peak learning rate")
    context: int = Field(default=256, ge=2, description="longest sequence, in tokens")
    pack: bool = Field(default=False, description="pack documents into sequences of equal length")
    max_tokens: int | None = Field(
        default=None, ge=1, description="read at most so many tokens of the data"
    )
    dtype: Literal["float32", "bfloat16"] = Field(
        default="float32", description="number format of the stored activations"
    )
    nu: tuple[float, ...] = Field(
        default=(0.1, 0.3, 0.6),
        description="thresholds on nu for the subsets of latents that are patched",
    )
    counts: tuple[int, ...] = Field(
        default=(1, 4, 16, 64),
        description="sizes of the subsets that are patched, by share of the difference",
    )
    positions: tuple[str, ...] = Field(
        default=("all", "assistant", "first nine"),
        min_length=1,
        description="where predictions are judged: all, assistant, first nine, template",
    )
    edit_at: tuple[str, ...] = Field(
        default=("template",), description="where the whole difference is put in, beside all tokens"
    )
    into: tuple[Literal["base", "tuned"], ...] = Field(
        default=("tuned",), min_length=1, description="the model that is patched: tuned, base"
    )
    biases: Literal["out", "in", "both"] = Field(
        default="out", description="whether subsets are patched with the dictionary's constant"
    )
    causal_tokens: int = Field(
        default=4096, ge=1, description="held-out tokens on which KL is measured"
    )
    rate: float = Field(
        default=0.1, gt=0, lt=1, description="false-discovery rate that the findings keep"
    )
    candidates: int = Field(
        default=8, ge=0, description="latents whose own KL is measured, one at a time"
    )
    seed: int = Field(default=0, ge=0, description="seed of every random choice")
    threads: int | None = Field(
        default=None, ge=1, description="processor threads; left out, all of them"
    )

    @model_validator(mode="after")
    def _fits(self) -> "DiffConfig":
        if isinstance(self.k, int | float):
            if not self.k > 0:
                raise ValueError(f"k: {self.k} must be a positive number")
            if self.k > self.latents:
                raise ValueError(f"k={self.k} exceeds latents={self.latents}")
        return self

    def with_changes(self, **changes: Any) -> "DiffConfig":
        """Return these settings with some replaced, checked anew."""
        return load_config(None, **(self.model_dump() | changes))


def load_config(file: Path | None = None, **overrides: Any) -> DiffConfig:
    """Read settings from a JSON or TOML file, then let the overrides that are not None win.

    Args:
        file: A `.json` or `.toml` file whose fields are those of `DiffConfig`.
        **overrides: Fields given on the command line.

    Raises:
        InputError: The file cannot be read, or a field is unknown or has a bad value.
    """
    values: dict[str, Any] = read_settings(file) if file is not None else {}
    values |= {name: value for name, value in overrides.items() if value is not None}
    try:
        return DiffConfig.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        if not first["loc"]:
            raise InputError(first["msg"].removeprefix("Value error, ")) from error
        field = ".".join(str(part) for part in first["loc"])
        if field.startswith("k."):
            raise InputError(f"k: {first['input']!r} must be a number or auto") from error
        raise InputError(f"{field}: {first['msg']} (got {first['input']!r})") from error
