"""What a kind of sparsity has to say: how to select in training, and how afterwards."""

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from anaglyph.core.errors import InputError
from anaglyph.core.processes import ALONE, Group
from anaglyph.core.settings import DictionarySettings
from anaglyph.dictionaries.kernels import Active, Columns, Kernels
from anaglyph.dictionaries.registry import Registry
from anaglyph.dictionaries.weights import Weights

SPARSITIES: "Registry[Sparsity]" = Registry("sparsity", "anaglyph.sparsities")
ANNEAL_FROM = 8
"""Annealing starts at this multiple of k."""


class Batch(NamedTuple):
    """What a penalty is computed from."""

    active: Active
    columns: Columns
    norms: Tensor
    """Price of a latent times s_j, float32 [latents]."""
    prices: Tensor | None
    """Price of a latent, float32 [latents]; None if all cost one."""
    code_gradients: Callable[[Active], Tensor]
    """Gradient of the reconstruction loss by any codes, active or not."""


class Penalty(NamedTuple):
    """A term added to the loss, and its gradients; None where there are none."""

    loss: float
    by_value: Tensor | None = None
    """By each active value, float32 [active]."""
    by_norm: Tensor | None = None
    """By each ``Batch.norms``, float32 [latents]."""
    by_threshold: Tensor | None = None
    """Of the whole loss by each learned threshold, float32 [latents]."""


class Sparsity:
    """Selects the active latents; a subclass registers itself under its name.

    Scores are v_j = f_j * s_j with s_j = sum_m ||d_j^m|| (``norms``), the kept value is the
    unscaled f_j: without the norms a latent could win by a short decoder (docs/maths.md, section
    1).

    Args:
        k: Mean number of active latents a token; None for a kind that does not take one.
        kernels: The sparse operations.
        steps: Length of the training.
        settings: How to train: the weight of the penalty, and for which part of the training k
            falls from ``ANNEAL_FROM`` times its value. None to select only.
    """

    name: ClassVar[str]
    takes_k: ClassVar[bool] = True
    takes_mu: ClassVar[bool] = False
    learns_threshold: ClassVar[bool] = False
    selects_k: ClassVar[bool] = False
    """Whether it keeps the k largest scores, so that k can be annealed or split over blocks."""
    whole_k: ClassVar[bool] = False
    """Whether each token has k active latents, so that k cannot be a fraction."""
    exact: Callable[[Active], Active] | None = None
    """Gives entries their exact values; set while ``select`` is given rough products."""
    group: Group = ALONE
    """The processes that train together: each selects of its share of a batch."""
    threshold: float | None = None
    """Inference keeps scores above it; None where inference selects as training does."""

    def __init__(
        self,
        k: int | float | None,
        kernels: Kernels,
        steps: int = 1,
        settings: DictionarySettings | None = None,
    ) -> None:
        self.k = k or 0
        self.kernels = kernels
        self.steps = steps
        self.settings = settings or DictionarySettings()
        self.k_now = self.k
        """What ``select`` goes by; above ``k`` while it is annealed."""

    @classmethod
    def check(cls, settings: DictionarySettings) -> None:
        """Refuse settings that this kind does not take, or lacks.

        Raises:
            InputError: The message names the setting and its value.
        """
        k, mu, anneal = settings.k, settings.mu, settings.anneal
        if cls.takes_k != (k is not None):
            raise InputError(f"k={k}: {cls.name} {_takes(cls.takes_k)} k")
        if isinstance(k, int | float):
            if cls.whole_k and k != int(k):
                raise InputError(f"k={k}: {cls.name} selects a whole number for each token")
            if k * settings.batch < 1:
                raise InputError(f"k={k} selects nothing of a batch of {settings.batch} tokens")
        if cls.takes_mu != (mu is not None):
            raise InputError(f"mu={mu}: {cls.name} {_takes(cls.takes_mu)} mu")
        if anneal > 0 and not cls.selects_k:
            raise InputError(f"anneal={anneal}: {cls.name} does not select by k")

    def prepare(self, weights: Weights) -> None:
        """Get to know the weights before training, and add to them what is learned besides."""

    def begin(self, step: int) -> None:
        """Set what depends on the step: k falls linearly and then stays."""
        falling = self.settings.anneal * self.steps
        left = max(0.0, 1 - step / falling) if falling > 0 else 0.0
        self.k_now = self.k * (1 + (ANNEAL_FROM - 1) * left)

    @property
    def can_screen(self) -> bool:
        """Whether ``select`` can do with rough products and ``exact`` in the next step."""
        return False

    def prefixes(self, latents: int) -> tuple[int, ...]:
        """Return the sizes of the nested dictionaries that each have to rebuild the input."""
        return (latents,)

    def select(self, pre: Tensor, bias: Tensor, norms: Tensor) -> Active:
        """Return the active latents of a training batch.

        Args:
            pre: Products with the encoder, float32 [tokens, latents], without the bias.
            bias: Encoder bias, float32 [latents].
            norms: s_j over the price, float32 [latents].
        """
        raise NotImplementedError

    def penalty(self, batch: Batch) -> Penalty | None:
        """Return what is added to the loss, or None."""
        return None

    def infer(self, pre: Tensor, bias: Tensor, norms: Tensor) -> Active:
        """Return the active latents of tokens that are each judged alone; as ``select``."""
        raise NotImplementedError

    def bounds(self, norms: Tensor) -> Tensor | None:
        """Return what each latent's f_j has to exceed after training, float32 [latents].

        None if one ``threshold`` for all scores says it, or inference selects as training does.
        """
        return None

    def state(self) -> dict[str, Any]:
        """Return what a later step depends on, for the checkpoint."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Take up a state that ``state`` returned."""

    def _above(self, score: float, pre: Tensor, bias: Tensor, norms: Tensor) -> Active:
        # A latent whose decoders are all zero scores nothing: score / tiny is out of reach.
        tiny = torch.finfo(norms.dtype).tiny
        return self.kernels.above(pre, bias, score / norms.clamp(min=tiny))


def _takes(wanted: bool) -> str:
    return "needs a" if wanted else "takes no"
