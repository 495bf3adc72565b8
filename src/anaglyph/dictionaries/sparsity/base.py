"""What a kind of sparsity has to say: how to select in training, and how afterwards."""

from typing import ClassVar

from torch import Tensor

from anaglyph.dictionaries.kernels import Active, Kernels
from anaglyph.dictionaries.registry import Registry

SPARSITIES: "Registry[Sparsity]" = Registry("sparsity", "anaglyph.sparsities")


class Sparsity:
    """Selects the active latents; a subclass registers itself under its name.

    Scores are v_j = f_j * s_j with s_j = sum_m ||d_j^m|| (``norms``), the kept value is the
    unscaled f_j: without the norms a latent could win by a short decoder (maths.md section 1).
    """

    name: ClassVar[str]
    threshold: float | None = None
    """Inference keeps scores above it; None where inference selects as training does."""

    def __init__(self, k: int, kernels: Kernels, steps: int = 1) -> None:
        self.k = k
        self.kernels = kernels
        self.steps = steps

    def select(self, pre: Tensor, bias: Tensor, norms: Tensor) -> Active:
        """Return the active latents of a training batch.

        Args:
            pre: Products with the encoder, float32 [tokens, latents], without the bias.
            bias: Encoder bias, float32 [latents].
            norms: s_j, float32 [latents].
        """
        raise NotImplementedError

    def infer(self, pre: Tensor, bias: Tensor, norms: Tensor) -> Active:
        """Return the active latents of tokens that are each judged alone; as ``select``."""
        raise NotImplementedError

    def state(self) -> dict[str, float | None]:
        """Return what a later step depends on, for the checkpoint."""
        return {}

    def restore(self, state: dict[str, float | None]) -> None:
        """Take up a state that ``state`` returned."""
