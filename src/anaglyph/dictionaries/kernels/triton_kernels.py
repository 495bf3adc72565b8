"""The sparse operations as Triton kernels for a GPU; imported only on request.

One program computes a block of columns of one token or row, and takes the entries in their order.
There are no atomics, so results are the same bit for bit in every run. The kernels were checked in
Triton's interpreter; they were never timed on a GPU.
"""

# To pyright, kernels are plain functions where Triton is missing, and ill called where it is there.
# pyright: reportMissingImports=false, reportIndexIssue=false, reportArgumentType=false

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import triton
import triton.language as tl
from torch import Tensor

from anaglyph.dictionaries.kernels.torch_kernels import TorchKernels
from anaglyph.dictionaries.kernels.types import Active, Adam, Columns

# Columns per program: at least one for each thread of Triton's usual four warps (256 on AMD). With
# fewer, several threads would have the same number, and one might read what another has just
# overwritten.
NARROWEST, WIDEST = 256, 1024


class TritonKernels(TorchKernels):
    """See ``types.Kernels``; selecting and sorting use torch."""

    def decode(self, active: Active, decoder: Tensor, out: Tensor) -> None:
        """Add the sparse reconstruction to ``out``."""
        grid, block = _tiles(out)
        with _on(out):
            _decode[grid](*active, decoder, out, out.shape[1], block)

    def code_gradients(
        self, active: Active, decoder: Tensor, gradient: Tensor, out: Tensor
    ) -> None:
        """Add the inner products to ``out``."""
        (tokens, _), block = _tiles(gradient)
        with _on(out):
            _code_gradients[(tokens,)](
                active.indices, active.offsets, decoder, gradient, out, gradient.shape[1], block
            )

    def weight_gradients(
        self, columns: Columns, values: Tensor, matrix: Tensor, out: Tensor
    ) -> Tensor:
        """Set the rows of ``out``."""
        grid, block = _tiles(out)
        squares = torch.empty(grid, device=out.device)
        with _on(out):
            _weight_gradients[grid](*columns, values, matrix, out, squares, out.shape[1], block)
        return squares.sum(1)

    def adam(
        self, weights: Tensor, gradient: Tensor, first: Tensor, second: Tensor, step: Adam
    ) -> Tensor:
        """Do one Adam step in place, in one pass over memory."""
        grid, block = _tiles(weights)
        squares = torch.empty(grid, device=weights.device)
        with _on(weights):
            _adam[grid](
                weights,
                gradient,
                first,
                second,
                squares,
                weights.shape[1],
                step.scale,
                step.beta1,
                1 - step.beta1,
                step.beta2,
                1 - step.beta2,
                step.correction2**-0.5,
                step.epsilon,
                step.rate / step.correction1,
                block,
            )
        return squares.sum(1)


def _tiles(matrix: Tensor) -> tuple[tuple[int, int], int]:
    """Return the number of programs for a matrix, rows by blocks, and the width of a block."""
    rows, width = matrix.shape
    block = max(NARROWEST, min(WIDEST, 1 << (width - 1).bit_length()))
    return (rows, math.ceil(width / block)), block


@contextmanager
def _on(tensor: Tensor) -> Iterator[None]:
    """Launch on the tensor's GPU, which need not be the current one."""
    with torch.cuda.device_of(tensor):
        yield


# Rows are numbered in int64: a matrix may have more than 2^31 numbers.


@triton.jit
def _decode(indices, values, offsets, decoder, out, width, block: tl.constexpr):
    """Add the weighted decoder rows of one token to a block of its row."""
    token = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * block + tl.arange(0, block)
    inside = column < width
    target = out + token * width + column
    total = tl.load(target, mask=inside, other=0.0)
    for i in range(tl.load(offsets + token), tl.load(offsets + token + 1)):
        latent = tl.load(indices + i).to(tl.int64)
        direction = tl.load(decoder + latent * width + column, mask=inside, other=0.0)
        total += tl.load(values + i) * direction
    tl.store(target, total, mask=inside)


@triton.jit
def _code_gradients(indices, offsets, decoder, gradient, out, width, block: tl.constexpr):
    """Add the inner product of gradient and decoder row to each entry of one token."""
    token = tl.program_id(0).to(tl.int64)
    for i in range(tl.load(offsets + token), tl.load(offsets + token + 1)):
        latent = tl.load(indices + i).to(tl.int64)
        products = tl.zeros((block,), tl.float32)
        for start in range(0, width, block):
            column = start + tl.arange(0, block)
            inside = column < width
            row = tl.load(gradient + token * width + column, mask=inside, other=0.0)
            direction = tl.load(decoder + latent * width + column, mask=inside, other=0.0)
            products += row * direction
        tl.store(out + i, tl.load(out + i) + tl.sum(products, 0))


@triton.jit
def _weight_gradients(
    offsets, tokens, entries, values, matrix, out, squares, width, block: tl.constexpr
):
    """Set a block of one latent's row, and the square of that block."""
    latent = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * block + tl.arange(0, block)
    inside = column < width
    total = tl.zeros((block,), tl.float32)
    for i in range(tl.load(offsets + latent), tl.load(offsets + latent + 1)):
        source = matrix + tl.load(tokens + i) * width + column
        value = tl.load(values + tl.load(entries + i))
        total += value * tl.load(source, mask=inside, other=0.0)
    tl.store(out + latent * width + column, total, mask=inside)
    place = latent * tl.num_programs(1) + tl.program_id(1)
    tl.store(squares + place, tl.sum(total * total, 0))


@triton.jit
def _adam(
    weights,
    gradient,
    first,
    second,
    squares,
    width,
    scale,
    beta1,
    rest1,
    beta2,
    rest2,
    root,
    epsilon,
    rate,
    block: tl.constexpr,
):
    """Step a block of one row, and square the result."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * block + tl.arange(0, block)
    inside = column < width
    at = row * width + column
    g = tl.load(gradient + at, mask=inside, other=0.0) * scale
    m = beta1 * tl.load(first + at, mask=inside, other=0.0) + rest1 * g
    v = beta2 * tl.load(second + at, mask=inside, other=0.0) + rest2 * g * g
    tl.store(first + at, m, mask=inside)
    tl.store(second + at, v, mask=inside)
    w = tl.load(weights + at, mask=inside, other=0.0) - rate * m / (tl.sqrt(v) * root + epsilon)
    tl.store(weights + at, w, mask=inside)
    place = row * tl.num_programs(1) + tl.program_id(1)
    tl.store(squares + place, tl.sum(w * w, 0))
