"""Both implementations against dense float64 sums."""

import importlib.util
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from anaglyph.core.errors import InputError
from anaglyph.dictionaries.kernels import Active, Adam, Kernels, choose_kernels
from anaglyph.dictionaries.kernels.torch_kernels import TorchKernels

BOTH = pytest.mark.parametrize("kernels", [choose_kernels("numba"), choose_kernels("torch")])
SHAPES = st.tuples(
    st.integers(1, 7), st.sampled_from([1, 3, 64, 65, 130]), st.integers(1, 5), st.integers(0, 99)
)


def case(shape: tuple[int, int, int, int]) -> tuple[Tensor, Tensor, Tensor, torch.Generator]:
    """Draw pre-activations, biases and bounds; values repeat, so that ties occur."""
    tokens, latents, _, seed = shape
    generator = torch.Generator().manual_seed(seed)
    pre = torch.randint(-3, 4, (tokens, latents), generator=generator).float()
    bias = torch.randint(-1, 2, (latents,), generator=generator).float()
    bounds = torch.randint(0, 3, (latents,), generator=generator).float()
    return pre, bias, bounds, generator


def dense(active: Active, latents: int) -> Tensor:
    out = torch.zeros(len(active.offsets) - 1, latents)
    for token in range(len(out)):
        part = slice(int(active.offsets[token]), int(active.offsets[token + 1]))
        assert active.indices[part].diff().gt(0).all()
        out[token, active.indices[part].long()] = active.values[part]
    return out


@BOTH
@given(shape=SHAPES)
def test_above_finds_exactly_the_entries_over_their_bound(
    kernels: Kernels, shape: tuple[int, int, int, int]
) -> None:
    pre, bias, bounds, _ = case(shape)
    value = pre + bias
    active = kernels.above(pre, bias, bounds)
    assert torch.equal(dense(active, shape[1]), value * (value > bounds))
    assert active.indices.dtype == torch.int32
    assert active.offsets.dtype == torch.int64


@BOTH
@given(shape=SHAPES, data=st.data())
def test_largest_keeps_the_first_of_equal_scores(
    kernels: Kernels, shape: tuple[int, int, int, int], data: st.DataObject
) -> None:
    pre, bias, bounds, _ = case(shape)
    active = kernels.above(pre, bias, bounds)
    if len(active.indices) < 2:
        return
    count = data.draw(st.integers(1, len(active.indices) - 1))
    kept, smallest = kernels.largest(active, active.values, count)
    order = np.argsort(-active.values.numpy(), kind="stable")[:count]
    expected = torch.zeros_like(active.values)
    expected[torch.from_numpy(order)] = active.values[torch.from_numpy(order)]
    assert len(kept.indices) == count
    assert smallest == float(active.values[order[-1]])
    wanted = dense(Active(active.indices, expected, active.offsets), shape[1])
    assert torch.equal(dense(kept, shape[1]), wanted)


@BOTH
@given(shape=SHAPES)
def test_sparse_products_equal_dense_ones(
    kernels: Kernels, shape: tuple[int, int, int, int]
) -> None:
    pre, bias, bounds, generator = case(shape)
    tokens, latents, width, _ = shape
    active = kernels.above(pre, bias, bounds)
    codes = dense(active, latents).double()
    mask = codes > 0
    decoder = torch.randn(latents, width, generator=generator)
    gradient = torch.randn(tokens, width, generator=generator)
    start = torch.randn(tokens, width, generator=generator)

    rebuilt = start.clone()
    kernels.decode(active, decoder, rebuilt)
    close(rebuilt, start.double() + codes @ decoder.double())

    inner = torch.ones_like(active.values)
    kernels.code_gradients(active, decoder, gradient, inner)
    close(inner, 1 + (gradient.double() @ decoder.double().T)[mask])

    columns = kernels.columns(active, latents)
    out = torch.full((latents, width), 7.0)
    squares = kernels.weight_gradients(columns, active.values, gradient, out)
    close(out, codes.T @ gradient.double())
    close(squares, (codes.T @ gradient.double()).square().sum(1))


@BOTH
def test_adam_equals_torch(kernels: Kernels) -> None:
    generator = torch.Generator().manual_seed(1)
    weights = torch.randn(5, 33, generator=generator)
    first, second = torch.zeros(5, 33), torch.zeros(5, 33)
    theirs = weights.double().requires_grad_()
    optimiser = torch.optim.Adam([theirs], lr=0.01)
    squares = torch.zeros(5)
    for step in range(4):
        gradient = torch.randn(5, 33, generator=generator)
        constants = Adam(
            0.01, 0.9, 0.999, 1e-8, 1 - 0.9 ** (step + 1), 1 - 0.999 ** (step + 1), 0.5
        )
        squares = kernels.adam(weights, gradient, first, second, constants)
        theirs.grad = gradient.double() * 0.5
        optimiser.step()
    close(weights, theirs.detach())
    close(squares, theirs.detach().square().sum(1))


@BOTH
@given(shape=SHAPES, limit=st.integers(1, 9))
def test_cap_rows_keeps_the_largest(
    kernels: Kernels, shape: tuple[int, int, int, int], limit: int
) -> None:
    codes = case(shape)[0].relu_()
    capped = codes.clone()
    kernels.cap_rows(capped, limit)
    kept = capped > 0
    assert torch.equal(capped[kept], codes[kept])
    for row, before in zip(capped, codes, strict=True):
        expected = before.sort(descending=True).values[:limit]
        found = row.sort(descending=True).values[:limit]
        assert torch.equal(found, expected)
        assert int((row > 0).sum()) <= limit


def test_threads_do_not_change_results() -> None:
    import numba

    kernels = choose_kernels("numba")
    pre, bias, bounds, generator = case((7, 130, 5, 3))
    decoder = torch.randn(130, 5, generator=generator)
    results = []
    for threads in (1, numba.config.NUMBA_NUM_THREADS):  # type: ignore[attr-defined]
        numba.set_num_threads(threads)
        active = kernels.above(pre, bias, bounds)
        out = torch.zeros(7, 5)
        kernels.decode(active, decoder, out)
        results.append(out)
    numba.set_num_threads(1)
    assert torch.equal(results[0], results[1])


def test_numba_is_for_the_cpu() -> None:
    assert type(choose_kernels("auto", "cpu")).__name__ == "NumbaKernels"
    with pytest.raises(InputError, match=r"'numba'.*'cuda'"):
        choose_kernels("numba", "cuda")
    with pytest.raises(InputError, match="'fast'"):
        choose_kernels("fast")


def test_triton_is_for_cuda_and_has_to_be_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Theirs:
        pass

    name = "anaglyph.dictionaries.kernels.triton_kernels"
    monkeypatch.setitem(sys.modules, name, SimpleNamespace(TritonKernels=Theirs))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name == "triton" or None)
    assert type(choose_kernels("triton", "cuda:1")) is Theirs
    assert type(choose_kernels("auto", "cuda")) is TorchKernels
    assert type(choose_kernels("torch", "cuda")) is TorchKernels
    assert type(choose_kernels("auto", "mps")) is TorchKernels
    with pytest.raises(InputError, match=r"'triton'.*'cpu'"):
        choose_kernels("triton", "cpu")

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"needs the triton extra"):
        choose_kernels("triton", "cuda")


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found.double(), expected.double(), rtol=1e-5, atol=1e-5)
