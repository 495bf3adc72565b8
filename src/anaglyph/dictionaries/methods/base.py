"""The interface of a method: one small class per method (docs/maths.md, section 1).

A method defines which activations the dictionary reads, which decoders it has, the loss of their
errors, and constraints on its weights. Training, saving and scoring are the same for all. The
options of a method are the fields of its dataclass.
"""

import inspect
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from anaglyph.core.errors import InputError
from anaglyph.dictionaries.registry import Registry
from anaglyph.dictionaries.weights import Weights
from anaglyph.store.moments import Moments, Statistics

METHODS: "Registry[DictionaryMethod]" = Registry("method", "anaglyph.methods")
register = METHODS.register


@dataclass(frozen=True)
class DictionaryMethod:
    """A dictionary method; a subclass registers itself under its name.

    Every method reconstructs its own inputs, with one decoder per source. For the sources ``base``,
    ``tuned`` and ``difference`` the name is enough; for others override ``inputs``, ``widths`` and
    ``moments``. A subclass with options of its own is a dataclass too, and checks them in
    ``__post_init__``; an option named like a Python keyword has a field with a final underscore.
    """

    name: ClassVar[str]
    kind: ClassVar[Literal["crosscoder", "sae"]]
    sources: ClassVar[tuple[str, ...]]
    centred: ClassVar[bool]
    """Whether the decoder bias is subtracted from the input before encoding."""
    massive: ClassVar[tuple[float, float]] = (0.5, 5.0)
    """A quantile of the tokens' distances from the centre, and a factor: a token beyond the factor
    times that quantile is pulled in (``outliers.py``)."""
    common_scale: ClassVar[bool] = False
    """Whether all sources share one scale, because the method compares them with each other."""
    constrained: ClassVar[bool] = False
    """Whether ``constrain`` does anything."""
    default_k: ClassVar[int]
    scaling_targets: ClassVar[tuple[str, ...]]
    """Targets of Latent Scaling for this method (docs/maths.md, section 3)."""

    norm: str = "squared"
    """Loss of an error: "squared" ||e||^2, or "unsquared" ||e||, as in the paper with L1."""

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            InputError: An option is out of range.
        """
        if self.norm not in ("squared", "unsquared"):
            raise InputError(f"norm={self.norm!r} must be squared or unsquared")

    @property
    def options(self) -> dict[str, Any]:
        """The options under their public names."""
        return {name.rstrip("_"): value for name, value in asdict(self).items()}

    def inputs(
        self, base: Float[Tensor, "tokens d_base"], tuned: Float[Tensor, "tokens d_tuned"]
    ) -> tuple[Tensor, ...]:
        """Return the input of each source."""
        values = {"base": base, "tuned": tuned}
        return tuple(
            tuned - base if source == "difference" else values[source] for source in self.sources
        )

    def scoring_inputs(
        self, base: Float[Tensor, "tokens d_base"], tuned: Float[Tensor, "tokens d_tuned"]
    ) -> tuple[Tensor, ...]:
        """Return the inputs whose codes are used in Latent Scaling."""
        return self.inputs(base, tuned)

    def widths(self, d_base: int, d_tuned: int) -> tuple[int, ...]:
        """Return the width of each source.

        Raises:
            InputError: The method compares activations and the models differ in width.
        """
        if "difference" in self.sources and d_base != d_tuned:
            raise self._needs_one_width(d_base, d_tuned, "subtracts activations")
        values = {"base": d_base, "tuned": d_tuned, "difference": d_tuned}
        return tuple(values[source] for source in self.sources)

    def moments(self, statistics: Statistics) -> tuple[Moments, ...]:
        """Return the moments of each source, from the store."""
        found = []
        for source in self.sources:
            moments: Moments | None = getattr(statistics, source)
            if moments is None:
                raise InputError(f"{self.name}: the store has no statistics of the {source}")
            found.append(moments)
        return tuple(found)

    def loss(
        self, errors: tuple[Float[Tensor, "tokens _"], ...]
    ) -> tuple[float, tuple[Float[Tensor, "tokens _"], ...]]:
        """Return the loss of the errors (reconstruction minus input) and its gradient.

        The mean over tokens of the squared error, or of its norm, summed over sources.
        """
        tokens = errors[0].shape[0]
        if self.norm == "squared":
            value = sum(float(torch.linalg.vector_norm(error)) ** 2 for error in errors) / tokens
            return value, tuple(error * (2 / tokens) for error in errors)
        norms = [torch.linalg.vector_norm(error, dim=1, keepdim=True) for error in errors]
        value = sum(float(norm.sum()) for norm in norms) / tokens
        # An exact reconstruction has the subgradient zero.
        tiny = torch.finfo(torch.float32).tiny
        gradients = zip(errors, norms, strict=True)
        return value, tuple(error / (tokens * norm.clamp(min=tiny)) for error, norm in gradients)

    def constrain(self, weights: Weights) -> None:
        """Project weights onto the weights that the method allows, in place.

        The allowed weights are a linear space, so this works for the initial weights and for every
        gradient. Adam works element by element, so rows that start equal and get equal gradients
        stay equal, and rows that start at zero and get no gradient stay zero.
        """

    def prices(self, latents: int) -> Float[Tensor, " latents"] | None:
        """Return the relative cost of each active latent, or None if all cost one.

        A penalty is multiplied by it, a score is divided by it.
        """
        return None

    def budgets(self, k: int | float, latents: int) -> tuple[tuple[int, int | float], ...] | None:
        """Return (end, k) of each block of latents with its own k, or None."""
        return None

    def named_blocks(self, latents: int) -> dict[str, slice]:
        """Return the blocks of latents of the method, under their names in tables."""
        return {}

    def check(self, latents: int) -> None:
        """Check the options against the size of the dictionary.

        Raises:
            InputError: A block of latents would be empty.
        """

    def difference(self, rebuilt: tuple[Tensor, ...]) -> Tensor | None:
        """Return the reconstruction of h_tuned - h_base, or None if the method has none."""
        return None

    def _needs_one_width(self, d_base: int, d_tuned: int, why: str) -> InputError:
        return InputError(
            f"{self.name} {why} and needs models of one width: d_base={d_base}, "
            f"d_tuned={d_tuned} (a crosscoder takes differing widths)"
        )


def get_method(name: str, options: Mapping[str, Any] | None = None) -> DictionaryMethod:
    """Return the method of that name, with some options set.

    Raises:
        InputError: There is no such method or option (the message lists the known ones), or
            an option is out of range.
    """
    cls = METHODS.get(name)
    known = {field.name.rstrip("_"): field for field in fields(cls)}
    chosen = {}
    for option, value in (options or {}).items():
        if option not in known:
            raise InputError(
                f"unknown option {option!r} of {name}; known: {', '.join(sorted(known))}"
            )
        default = known[option].default
        if isinstance(value, bool) or not isinstance(value, _accepted(default)):
            raise InputError(f"{option}={value!r} must be {_WORDS[type(default)]}")
        chosen[known[option].name] = type(default)(value)
    return cls(**chosen)


_WORDS = {float: "a number", int: "a whole number", str: "a word"}


def _accepted(default: Any) -> tuple[type, ...]:
    return (int, float) if isinstance(default, float) else (type(default),)


def list_methods() -> list[str]:
    """Return the names of all methods, including those of installed packages."""
    return METHODS.names()


def describe_methods() -> list[dict[str, Any]]:
    """Return one row per method: name, kind, sources, default_k and the docstring's first line."""
    rows = []
    for name in list_methods():
        method = METHODS.get(name)
        rows.append(
            {
                "name": name,
                "kind": method.kind,
                "sources": list(method.sources),
                "default_k": method.default_k,
                "description": (inspect.getdoc(method) or "").partition("\n")[0],
            }
        )
    return rows
