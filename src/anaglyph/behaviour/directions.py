"""Directions of the residual stream by name: one grammar wherever a direction can be named.

| name | direction | strength 1 adds |
|---|---|---|
| latent:NAME/7 | latent 7 of dictionary NAME | its maximum activation |
| mean | mean difference of the activations | the mean difference |
| pca:0 | principal component of the difference, 0 the first | one standard deviation |
| finding:1 | finding 1 of findings.json | its mean strength where it fires |
| FILE.npy | the array in the file, one vector | the vector |
| FILE.parquet:ROW | a row of the column "direction", 0 the first | the vector |

The first four need a run. Reading a name gives a `Direction`; `behaviour.steering.Push` adds it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import torch
from jaxtyping import Float
from torch import Tensor

from anaglyph.core.errors import InputError
from anaglyph.core.files import check_name, check_regular, first_line
from anaglyph.core.schemas import Finding, Verdict
from anaglyph.core.settings import DIRECTIONS
from anaglyph.dictionaries import Dictionary
from anaglyph.dictionaries.vectors import latent_vectors
from anaglyph.pair import Side
from anaglyph.store import DifferenceSpace


@dataclass(frozen=True)
class Held:
    """What the named directions of a run are taken from, each part when it is asked for.

    Attributes:
        space: Gives mean and components of the difference.
        dictionary: Loads a trained dictionary by name.
        table: Reads a dictionary's latent table by name.
        verdict: Reads the findings.
    """

    space: Callable[[], DifferenceSpace]
    dictionary: Callable[[str], Dictionary]
    table: Callable[[str], pl.DataFrame]
    verdict: Callable[[], Verdict]


@dataclass(frozen=True)
class Direction:
    """What is added at a strength of 1.

    Attributes:
        name: As the grammar names it.
        layer: Index of the block after which it is added.
        vector: What a strength of 1 adds.
    """

    name: str
    layer: int
    vector: Float[Tensor, " d"]

    @classmethod
    def latent(
        cls, dic: Dictionary, layer: int, latent: int, max_activation: int | float
    ) -> "Direction":
        """Return a latent's direction; a strength of 1 is its maximum activation.

        Raises:
            InputError: There is no such latent, or it never fired.
        """
        if not 0 <= latent < dic.n_latents:
            raise InputError(f"latent {latent} is out of range: there are {dic.n_latents}")
        if not max_activation > 0:
            raise InputError(f"latent {latent} never fired: it has no strength to steer by")
        vector = latent_vectors(dic)[latent] * max_activation
        return cls(f"latent:{dic.method}/{latent}", layer, vector)

    @classmethod
    def mean_shift(cls, space: DifferenceSpace, layer: int) -> "Direction":
        """Return the mean difference; a strength of 1 is its own length."""
        return cls("mean", layer, torch.from_numpy(space.mean).float())

    @classmethod
    def component(cls, space: DifferenceSpace, layer: int, number: int) -> "Direction":
        """Return a principal component (0 is the first) at one standard deviation.

        Raises:
            InputError: There is no such component.
        """
        if not 0 <= number < len(space.components):
            raise InputError(f"pca:{number} is out of range: there are {len(space.components)}")
        vector = space.components[number] * space.deviations[number]
        return cls(f"pca:{number}", layer, torch.from_numpy(vector).float())

    @classmethod
    def finding(cls, finding: Finding, layer: int, number: int, into: Side = "base") -> "Direction":
        """Return a finding's direction in the model that is steered, or in the other if need be.

        A strength of 1 is how much of it the model has that has more, on average where it fires.

        Args:
            finding: What was found.
            layer: Where it was found.
            number: Its place among the findings, 1 the first.
            into: The model that is steered.

        Raises:
            InputError: Its strength is not known.
        """
        both = (finding.direction_base, finding.direction_tuned)
        first, second = both if into == "base" else both[::-1]
        unit = torch.tensor(first or second, dtype=torch.float32)
        return cls(f"finding:{number}", layer, unit * _strength(finding))


def read_direction(
    text: str, layer: int, held: Held | None = None, *, into: Side = "base"
) -> Direction:
    """Return the direction that a name stands for.

    Args:
        text: A name of the grammar above.
        layer: Index of the block after which it is added.
        held: Where latents, mean, components and findings are taken from.
        into: The model that is steered: a finding may have a direction in each.

    Raises:
        InputError: The name is not of the grammar, needs a run that is not given, or there is no
            such latent, component, finding, file or row.

    Example:
        >>> read_direction("pca:0", run.subject.layer, run.held).vector    # doctest: +SKIP
    """
    if text.partition(":")[0] in ("latent", "mean", "pca", "finding"):
        if held is None:
            raise InputError(f"direction {text!r} is of a run: name a run folder instead of models")
        return _held_direction(text, layer, held, into)
    if text.endswith(".npy"):
        return Direction(text, layer, _from_array(Path(text)))
    path, _, row = text.rpartition(":")
    if path.endswith(".parquet") and row.isdecimal():
        return Direction(text, layer, _from_table(Path(path), int(row)))
    raise InputError(f"direction {text!r} is unknown: use {DIRECTIONS}")


def direction_file(text: str) -> Path | None:
    """Return the file that a name reads, None if it names a part of a run."""
    if text.endswith(".npy"):
        return Path(text)
    path, _, _ = text.rpartition(":")
    return Path(path) if path.endswith(".parquet") else None


def _held_direction(text: str, layer: int, held: Held, into: Side) -> Direction:
    kind, _, rest = text.partition(":")
    name, _, index = rest.rpartition("/")
    if text == "mean":
        return Direction.mean_shift(held.space(), layer)
    if kind == "pca" and rest.isdecimal():
        return Direction.component(held.space(), layer, int(rest))
    if kind == "finding" and rest.isdecimal():
        findings = held.verdict().findings
        if not 1 <= int(rest) <= len(findings):
            raise InputError(f"there is no finding {rest}: the run has {len(findings)}")
        finding = findings[int(rest) - 1]
        own = finding.layers[0] if finding.depth else layer
        return Direction.finding(finding, own, int(rest), into)
    if kind == "latent" and name and index.isdecimal():
        dictionary, table = held.dictionary(name), held.table(name)
        latent = int(index)
        largest = table["max_activation"][latent] if latent < table.height else 1.0
        found = Direction.latent(dictionary, layer, latent, largest or 0.0)
        return Direction(text, layer, found.vector)
    raise InputError(f"direction {text!r} is unknown: use {DIRECTIONS}")


def _from_array(file: Path) -> Float[Tensor, " d"]:
    check_regular(file, InputError)
    try:
        values = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError, MemoryError) as error:
        reason = first_line(error)
        raise InputError(f"{file} cannot be read as a NumPy array: {reason}") from error
    is_vector = isinstance(values, np.ndarray) and values.ndim == 1
    if not is_vector or not np.issubdtype(values.dtype, np.number):
        shape = getattr(values, "shape", None)
        raise InputError(f"{file} has an array of shape {shape}: a direction is one vector")
    return torch.from_numpy(values.astype(np.float32))


def _from_table(file: Path, row: int) -> Float[Tensor, " d"]:
    check_regular(file, InputError)
    check_name(str(file))
    try:
        column = pl.read_parquet(file, columns=["direction"])["direction"]
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        reason = first_line(error)
        raise InputError(f"{file} has no readable column of directions: {reason}") from error
    if row >= len(column):
        raise InputError(f"{file} has {len(column)} rows, not a row {row}")
    vector = column[row]
    if vector is None:
        raise InputError(f"row {row} of {file} has no direction")
    return torch.tensor(vector.to_list(), dtype=torch.float32)


def _strength(finding: Finding) -> float:
    """Return how much of a finding the model has that has more of it, where it fires."""
    if finding.kind == "mean-shift":
        return finding.effect
    known = [finding.evidence.get(name) for name in ("beta_base", "beta_tuned")]
    found = [abs(value) for value in known if isinstance(value, int | float)]
    if not found or max(found) == 0:
        raise InputError("the strength of this finding is not known: it cannot be steered by")
    return float(max(found))
