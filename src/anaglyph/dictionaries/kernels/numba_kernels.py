"""The sparse operations on a CPU: torch tensors in and out, numba in between."""

import numpy as np
import torch
from torch import Tensor

from anaglyph.dictionaries.kernels import compiled
from anaglyph.dictionaries.kernels.types import Active, Adam, Columns


class NumbaKernels:
    """See ``types.Kernels``."""

    def __init__(self) -> None:
        self._found = np.empty((0, 0), np.int32)

    def above(self, pre: Tensor, bias: Tensor, bounds: Tensor) -> Active:
        """Return the entries that exceed their bound."""
        if self._found.shape[0] < pre.shape[0] or self._found.shape[1] != pre.shape[1]:
            # A token can have any number of entries. The system only allocates pages that are
            # written, near the starts of rows.
            self._found = np.empty(tuple(pre.shape), np.int32)
        counts = np.empty(pre.shape[0], np.int64)
        compiled.find_above(pre.numpy(), (bounds - bias).numpy(), self._found, counts)
        offsets = np.zeros(len(counts) + 1, np.int64)
        np.cumsum(counts, out=offsets[1:])
        indices = np.empty(offsets[-1], np.int32)
        values = np.empty(offsets[-1], np.float32)
        compiled.gather(pre.numpy(), bias.numpy(), self._found, offsets, indices, values)
        return _active(indices, values, offsets)

    def largest(self, active: Active, scores: Tensor, count: int) -> tuple[Active, float]:
        """Return the entries of largest score."""
        score = scores.numpy()
        # numpy's partition is a vectorised quickselect: 0.3 ms for 100k scores.
        kth = np.partition(score, len(score) - count)[len(score) - count]
        ties = count - int((score > kth).sum())
        indices = np.empty(count, np.int32)
        values = np.empty(count, np.float32)
        offsets = np.empty(len(active.offsets), np.int64)
        compiled.keep_largest(_arrays(active), score, kth, ties, (indices, values, offsets))
        return _active(indices, values, offsets), float(kth)

    def decode(self, active: Active, decoder: Tensor, out: Tensor) -> None:
        """Add the sparse reconstruction to ``out``."""
        compiled.decode(*_arrays(active), decoder.numpy(), out.numpy())

    def code_gradients(
        self, active: Active, decoder: Tensor, gradient: Tensor, out: Tensor
    ) -> None:
        """Add the inner products to ``out``."""
        indices, _, offsets = _arrays(active)
        compiled.code_gradients(indices, offsets, decoder.numpy(), gradient.numpy(), out.numpy())

    def columns(self, active: Active, n_latents: int) -> Columns:
        """Return the entries ordered by latent."""
        indices, _, offsets = _arrays(active)
        starts = np.zeros(n_latents + 1, np.int64)
        tokens = np.empty(len(indices), np.int64)
        entries = np.empty(len(indices), np.int64)
        compiled.columns(indices, offsets, starts, tokens, entries)
        return Columns(*(torch.from_numpy(array) for array in (starts, tokens, entries)))

    def weight_gradients(
        self, columns: Columns, values: Tensor, matrix: Tensor, out: Tensor
    ) -> Tensor:
        """Set the rows of ``out``."""
        squares = torch.empty(out.shape[0])
        compiled.weight_gradients(
            columns.offsets.numpy(),
            columns.tokens.numpy(),
            columns.entries.numpy(),
            values.numpy(),
            matrix.numpy(),
            out.numpy(),
            squares.numpy(),
        )
        return squares

    def cap_rows(self, codes: Tensor, limit: int) -> None:
        """Zero all but the largest of each row."""
        values = codes.numpy()
        compiled.cap_rows(values, values.view(np.int32), limit)

    def adam(
        self, weights: Tensor, gradient: Tensor, first: Tensor, second: Tensor, step: Adam
    ) -> Tensor:
        """Do one Adam step in place."""
        squares = torch.empty(weights.shape[0])
        compiled.adam(
            weights.numpy(),
            gradient.numpy(),
            first.numpy(),
            second.numpy(),
            tuple(np.float32(value) for value in step),
            squares.numpy(),
        )
        return squares


def _arrays(active: Active) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return active.indices.numpy(), active.values.numpy(), active.offsets.numpy()


def _active(indices: np.ndarray, values: np.ndarray, offsets: np.ndarray) -> Active:
    return Active(*(torch.from_numpy(array) for array in (indices, values, offsets)))
