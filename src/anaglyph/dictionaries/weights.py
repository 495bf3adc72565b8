"""The tensors of a dictionary, in one layout for training, saving and inference."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Weights:
    """Row-major weights: row j of a matrix belongs to latent j.

    With rows, the clipping, the optimiser and the sparse operations work on whole latents.
    """

    encoder: tuple[Tensor, ...]
    """One per source, float32 [latents, d]."""
    encoder_bias: Tensor
    """float32 [latents]."""
    decoder: tuple[Tensor, ...]
    """One per source, float32 [latents, d]."""
    decoder_bias: tuple[Tensor, ...]
    """One per source, float32 [d]."""
    threshold: Tensor | None = None
    """float32 [latents], the threshold of each f_j; None if the sparsity has none."""

    @classmethod
    def zeros(cls, latents: int, widths: tuple[int, ...], device: str = "cpu") -> "Weights":
        """Return zero weights; also used for gradients and moments."""
        return cls(
            tuple(torch.zeros(latents, width, device=device) for width in widths),
            torch.zeros(latents, device=device),
            tuple(torch.zeros(latents, width, device=device) for width in widths),
            tuple(torch.zeros(width, device=device) for width in widths),
        )

    def zeros_like(self) -> "Weights":
        """Return zeros of the same shapes."""
        return Weights(
            tuple(torch.zeros_like(matrix) for matrix in self.encoder),
            torch.zeros_like(self.encoder_bias),
            tuple(torch.zeros_like(matrix) for matrix in self.decoder),
            tuple(torch.zeros_like(bias) for bias in self.decoder_bias),
            None if self.threshold is None else torch.zeros_like(self.threshold),
        )

    def to(self, device: torch.device) -> "Weights":
        """Return the weights on a device; those that are there already are shared."""
        return Weights(
            tuple(matrix.to(device) for matrix in self.encoder),
            self.encoder_bias.to(device),
            tuple(matrix.to(device) for matrix in self.decoder),
            tuple(bias.to(device) for bias in self.decoder_bias),
            None if self.threshold is None else self.threshold.to(device),
        )

    @staticmethod
    def shapes(latents: int, widths: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        """Return the shape of every tensor but the threshold, under the names of ``named``."""
        shapes: dict[str, tuple[int, ...]] = {"encoder_bias": (latents,)}
        for source, width in enumerate(widths):
            shapes[f"encoder.{source}"] = shapes[f"decoder.{source}"] = (latents, width)
            shapes[f"decoder_bias.{source}"] = (width,)
        return shapes

    def named(self) -> dict[str, Tensor]:
        """Return every tensor under the name in the saved file."""
        named = {"encoder_bias": self.encoder_bias}
        if self.threshold is not None:
            named["threshold"] = self.threshold
        for source in range(len(self.encoder)):
            named[f"encoder.{source}"] = self.encoder[source]
            named[f"decoder.{source}"] = self.decoder[source]
            named[f"decoder_bias.{source}"] = self.decoder_bias[source]
        return named

    def norms(self, source_weights: tuple[float, ...]) -> Tensor:
        """Return s_j = sum_m w_m ||d_j^m||, float32 [latents]."""
        total = torch.zeros_like(self.encoder_bias)
        for weight, matrix in zip(source_weights, self.decoder, strict=True):
            total += weight * torch.linalg.vector_norm(matrix, dim=1)
        return total
