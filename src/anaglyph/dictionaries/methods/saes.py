"""Sparse autoencoders of one source: of either model or of their difference."""

from jaxtyping import Float
from torch import Tensor

from anaglyph.dictionaries.methods.base import DictionaryMethod, register
from anaglyph.store.massive import MASSIVE
from anaglyph.store.moments import Moments, Statistics


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
    # Most tokens may be unchanged, so the median says nothing of how large a real change is.
    massive = MASSIVE
    # A fine-tune changes few things at a token. With the k of an SAE, every change would be split
    # over many latents. FVE does not warn, because it still rises.
    default_k = 8

    def difference(self, rebuilt: tuple[Tensor, ...]) -> Tensor | None:
        """Return the reconstruction itself."""
        return rebuilt[0]


@register("diff-sae-reversed")
class ReversedDiffSAE(SAE):
    """An SAE of h_base - h_tuned, the mirror image of a diff-sae.

    The sign of the input only changes which random start belongs to which direction: the mirrored
    weights (-E, -D, -b) are a diff-sae with the same loss. Its source has its own name, so that its
    decoders are not added with the wrong sign.
    """

    sources = ("reversed-difference",)
    massive = DiffSAE.massive
    default_k = DiffSAE.default_k

    def inputs(
        self, base: Float[Tensor, "tokens d_base"], tuned: Float[Tensor, "tokens d_tuned"]
    ) -> tuple[Tensor, ...]:
        """Return the base's activations minus the tuned model's."""
        return (base - tuned,)

    def widths(self, d_base: int, d_tuned: int) -> tuple[int, ...]:
        """Return the width; models of different widths are refused."""
        if d_base != d_tuned:
            raise self._needs_one_width(d_base, d_tuned, "subtracts activations")
        return (d_base,)

    def moments(self, statistics: Statistics) -> tuple[Moments, ...]:
        """Return the moments of the difference, its mean with the other sign."""
        (moments,) = DiffSAE().moments(statistics)
        return (Moments(moments.count, -moments.mean, moments.m2),)

    def difference(self, rebuilt: tuple[Tensor, ...]) -> Tensor | None:
        """Return the reconstruction with its sign changed: h_tuned - h_base again."""
        return -rebuilt[0]


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
        """Return h_tuned, because scores ask what the base's latents do in the tuned model."""
        return (tuned,)
