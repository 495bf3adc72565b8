"""A rough encoder product in bfloat16, which decides where to compute the exact one.

BatchTopK keeps scores above a threshold that moves little from step to step, and its filter is a
tenth below the last threshold. Half-precision inputs have an error of some thousandths of a typical
activation, far less than that tenth, so the same entries pass the filter. Their activations are
then computed exactly, one float32 inner product each, and the selection among them is exact. On a
processor that multiplies bfloat16 in hardware the dense product costs less than half. Elsewhere it
would cost more, so there is no screen.
"""

import torch
from torch import Tensor

from anaglyph.dictionaries.kernels import Active, Kernels
from anaglyph.dictionaries.weights import Weights


class Screen:
    """The buffers of the rough product, and the exact values of the entries that pass it.

    Args:
        weights: The dictionary in training.
        kernels: The sparse operations.
        batch: Tokens per batch.
    """

    def __init__(self, weights: Weights, kernels: Kernels, batch: int) -> None:
        self._weights, self._kernels = weights, kernels
        self._widths = [matrix.shape[1] for matrix in weights.encoder]
        latents, kind = len(weights.encoder_bias), torch.bfloat16
        device = weights.encoder_bias.device
        self._encoder = torch.empty(latents, sum(self._widths), dtype=kind, device=device)
        self._inputs = torch.empty(batch, sum(self._widths), dtype=kind, device=device)
        self._product = torch.empty(batch, latents, dtype=kind, device=device)

    def product(self, inputs: tuple[Tensor, ...], out: Tensor) -> None:
        """Set ``out`` [tokens, latents] to the rough sum of the sources' encoder products."""
        rows, product = self._inputs[: len(out)], self._product[: len(out)]
        for part, values in zip(rows.split(self._widths, 1), inputs, strict=True):
            part.copy_(values)
        parts = self._encoder.split(self._widths, 1)
        for part, matrix in zip(parts, self._weights.encoder, strict=True):
            part.copy_(matrix)
        out.copy_(torch.mm(rows, self._encoder.T, out=product))

    def exact(self, inputs: tuple[Tensor, ...], found: Active) -> Active:
        """Return the same entries with their exact activations, bias included."""
        values = self._weights.encoder_bias[found.indices.long()]
        for rows, matrix in zip(inputs, self._weights.encoder, strict=True):
            self._kernels.code_gradients(found, matrix, rows, values)
        return found._replace(values=values)
