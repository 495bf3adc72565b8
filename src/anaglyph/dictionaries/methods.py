"""The methods: what each dictionary reads and what it rebuilds.

One small class a method (maths.md section 1). It says which activations go in, which decoders
exist and how their errors make a loss; training, saving and scoring are the same for all.
"""

import inspect
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from anaglyph.dictionaries.registry import Registry
from anaglyph.errors import InputError
from anaglyph.store.moments import Moments, Statistics

METHODS: "Registry[DictionaryMethod]" = Registry("method", "anaglyph.methods")
register = METHODS.register


class DictionaryMethod:
    """What differs between dictionaries; a subclass registers itself under its name.

    Every method rebuilds its own inputs, one decoder a source. Sources called ``base``, ``tuned``
    and ``difference`` need no more than being named; for others override ``inputs``, ``widths``
    and ``moments``.
    """

    name: ClassVar[str]
    kind: ClassVar[Literal["crosscoder", "sae"]]
    sources: ClassVar[tuple[str, ...]]
    centred: ClassVar[bool]
    """Whether the decoder bias is taken from the input before encoding."""
    pulls_in: ClassVar[bool] = True
    """Whether tokens of massive activation are pulled in (``outliers.py``)."""
    default_k: ClassVar[int]
    scaling_targets: ClassVar[tuple[str, ...]]
    """Targets of Latent Scaling that make sense for this method (maths.md section 3)."""

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
        """Return the inputs whose codes Latent Scaling regresses on."""
        return self.inputs(base, tuned)

    def widths(self, d_base: int, d_tuned: int) -> tuple[int, ...]:
        """Return the width of each source.

        Raises:
            InputError: A difference is asked for and the models differ in width.
        """
        if "difference" in self.sources and d_base != d_tuned:
            raise InputError(
                f"{self.name} subtracts activations and needs models of one width: "
                f"d_base={d_base}, d_tuned={d_tuned} (a crosscoder takes differing widths)"
            )
        values = {"base": d_base, "tuned": d_tuned, "difference": d_tuned}
        return tuple(values[source] for source in self.sources)

    def moments(self, statistics: Statistics) -> tuple[Moments, ...]:
        """Return the moments of each source; the store's names are the sources' names."""
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

        The mean over tokens of the squared error, summed over sources.
        """
        tokens = errors[0].shape[0]
        value = sum(float(torch.linalg.vector_norm(error)) ** 2 for error in errors) / tokens
        return value, tuple(error * (2 / tokens) for error in errors)

    def difference(self, rebuilt: tuple[Tensor, ...]) -> Tensor | None:
        """Return h_tuned - h_base as rebuilt, or None if the method does not say."""
        return None


@register("crosscoder")
class Crosscoder(DictionaryMethod):
    """One code for both models, a decoder for each (arXiv 2504.02922)."""

    kind = "crosscoder"
    sources = ("base", "tuned")
    centred = False
    # Codes carry everything that either model represents, so k is that of an SAE.
    default_k = 32
    scaling_targets = ("error", "recon", "act")

    def difference(self, rebuilt: tuple[Tensor, ...]) -> Tensor | None:
        """Return the tuned reconstruction minus the base one, biases included."""
        base, tuned = rebuilt
        return tuned - base if base.shape == tuned.shape else None


class SAE(DictionaryMethod):
    """A sparse autoencoder of one source: f = act((x - b_dec) W_enc + b_enc)."""

    kind = "sae"
    centred = True
    default_k = 32
    scaling_targets = ("act",)


@register("diff-sae")
class DiffSAE(SAE):
    """An SAE of h_tuned - h_base."""

    sources = ("difference",)
    pulls_in = False
    # A fine-tune changes few things at a token: with the k of an SAE every change is split over
    # many latents while the explained variance still rises, so FVE does not warn.
    default_k = 8

    def difference(self, rebuilt: tuple[Tensor, ...]) -> Tensor | None:
        """Return the reconstruction itself."""
        return rebuilt[0]


@register("tuned-sae")
class TunedSAE(SAE):
    """An SAE of h_tuned ("chat-SAE")."""

    sources = ("tuned",)


@register("base-sae")
class BaseSAE(SAE):
    """An SAE of h_base, later applied to the tuned model as well."""

    sources = ("base",)

    def scoring_inputs(
        self, base: Float[Tensor, "tokens d_base"], tuned: Float[Tensor, "tokens d_tuned"]
    ) -> tuple[Tensor, ...]:
        """Return h_tuned: what the base's latents do in the tuned model is the question."""
        return (tuned,)


def get_method(name: str) -> DictionaryMethod:
    """Return the method of that name.

    Raises:
        InputError: There is none; the message lists the names that exist.
    """
    return METHODS.get(name)()


def list_methods() -> list[str]:
    """Return the names of all methods, those of installed packages included."""
    return METHODS.names()


def describe_methods() -> list[dict[str, Any]]:
    """Return one row a method: name, kind, sources, default_k and the docstring's first line."""
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
