"""The Triton kernels against torch's and dense float64 sums; see CONTRIBUTING.md on how to run it.

With TRITON_INTERPRET=1 Triton's interpreter runs them on a CPU; otherwise they need a GPU, the
compilation apart.
"""

import importlib
import os
import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from anaglyph.dictionaries import Weights, get_method
from anaglyph.dictionaries.engine import Engine
from anaglyph.dictionaries.kernels import Active, Adam, Kernels
from anaglyph.dictionaries.kernels.torch_kernels import TorchKernels
from anaglyph.dictionaries.sparsity import SPARSITIES

triton = pytest.importorskip("triton", reason="the triton extra is not installed")
triton_kernels: Any = importlib.import_module("anaglyph.dictionaries.kernels.triton_kernels")
WIDEST: int = triton_kernels.WIDEST

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
RUNS = pytest.mark.skipif(
    not INTERPRETED and not torch.cuda.is_available(), reason="no GPU, and not interpreted"
)
TRITON: Kernels = triton_kernels.TritonKernels()
TORCH = TorchKernels()
# A single column, not a power of two, one block exactly, and more than one.
WIDTHS = pytest.mark.parametrize("width", [1, 37, WIDEST, WIDEST + 6])
TOKENS, LATENTS = 9, 13


class Case(NamedTuple):
    active: Active
    codes: Tensor
    """float64 [tokens, latents]; token 4 and the last are empty, latents 0 and 5 never active."""
    decoder: Tensor
    gradient: Tensor
    start: Tensor


def make(width: int) -> Case:
    generator = torch.Generator().manual_seed(width)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(DEVICE)

    codes = normal(TOKENS, LATENTS).relu_()
    codes[[4, -1]] = 0
    codes[:, [0, 5]] = 0
    zeros = torch.zeros(LATENTS, device=DEVICE)
    active = TRITON.above(codes, zeros, zeros)
    assert len(active.indices) > LATENTS
    decoder, gradient = normal(LATENTS, width), normal(TOKENS, width)
    return Case(active, codes.double(), decoder, gradient, normal(TOKENS, width))


def agree(ours: Tensor, theirs: Tensor, exact: Tensor) -> None:
    torch.testing.assert_close(ours.double(), exact, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@RUNS
@WIDTHS
def test_decode_adds_each_tokens_sum(width: int) -> None:
    active, codes, decoder, _, start = make(width)
    ours, theirs = start.clone(), start.clone()
    TRITON.decode(active, decoder, ours)
    TORCH.decode(active, decoder, theirs)
    agree(ours, theirs, start.double() + codes @ decoder.double())
    assert torch.equal(ours[4], start[4])


@RUNS
@WIDTHS
def test_code_gradients_add_each_entrys_product(width: int) -> None:
    active, codes, decoder, gradient, _ = make(width)
    ours, theirs = torch.ones_like(active.values), torch.ones_like(active.values)
    TRITON.code_gradients(active, decoder, gradient, ours)
    TORCH.code_gradients(active, decoder, gradient, theirs)
    agree(ours, theirs, 1 + (gradient.double() @ decoder.double().T)[codes > 0])


@RUNS
@WIDTHS
def test_weight_gradients_set_each_row(width: int) -> None:
    active, codes, _, gradient, _ = make(width)
    columns = TRITON.columns(active, LATENTS)
    ours = torch.full((LATENTS, width), 7.0, device=DEVICE)
    theirs = ours.clone()
    squares = TRITON.weight_gradients(columns, active.values, gradient, ours)
    exact = codes.T @ gradient.double()
    their_squares = TORCH.weight_gradients(columns, active.values, gradient, theirs)
    agree(ours, theirs, exact)
    agree(squares, their_squares, exact.square().sum(1))
    assert not ours[[0, 5]].any()
    assert not squares[[0, 5]].any()


@RUNS
@WIDTHS
def test_adam_steps_like_torch(width: int) -> None:
    _, _, weights, _, _ = make(width)
    exact = weights.double().requires_grad_()
    optimiser = torch.optim.Adam([exact], lr=0.01)
    # Weights and both moments of either.
    ours = (weights, torch.zeros_like(weights), torch.zeros_like(weights))
    theirs = tuple(tensor.clone() for tensor in ours)
    for step in range(1, 4):
        gradient = torch.randn(weights.shape, generator=torch.Generator().manual_seed(step))
        gradient = gradient.to(DEVICE)
        constants = Adam(0.01, 0.9, 0.999, 1e-8, 1 - 0.9**step, 1 - 0.999**step, 0.5)
        given = gradient.clone()
        squares = TRITON.adam(ours[0], given, ours[1], ours[2], constants)
        their_squares = TORCH.adam(theirs[0], gradient, theirs[1], theirs[2], constants)
        exact.grad = gradient.double() * 0.5
        optimiser.step()
        assert torch.equal(given, gradient)
        agree(squares, their_squares, exact.detach().square().sum(1))
    state = optimiser.state[exact]
    for one, other, true in zip(
        ours, theirs, (exact.detach(), state["exp_avg"], state["exp_avg_sq"]), strict=True
    ):
        agree(one, other, true)


@RUNS
def test_nothing_active() -> None:
    zeros = torch.zeros(LATENTS, device=DEVICE)
    active = TRITON.above(torch.zeros(2, LATENTS, device=DEVICE), zeros, zeros)
    matrix, out = torch.ones(LATENTS, 3, device=DEVICE), torch.ones(2, 3, device=DEVICE)
    TRITON.decode(active, matrix, out)
    TRITON.code_gradients(active, matrix, out, active.values)
    assert torch.equal(out, torch.ones_like(out))
    columns = TRITON.columns(active, LATENTS)
    squares = TRITON.weight_gradients(columns, active.values, out, matrix)
    assert not matrix.any()
    assert torch.equal(squares, zeros)


def engine(kernels: Kernels, widths: tuple[int, ...]) -> Engine:
    """Return a crosscoder with random weights, of whose latents some are dead."""
    generator = torch.Generator().manual_seed(0)
    weights = Weights.zeros(64, widths, DEVICE)
    for tensor in weights.named().values():
        tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.3)
    for matrix in weights.decoder:
        # Short decoders score too low to be selected, while their activations are positive.
        matrix[:9] *= 1e-3
    sparsity = SPARSITIES.get("batchtopk")(4, kernels)
    made = Engine(get_method("crosscoder"), weights, sparsity, kernels, batch=32, dead_after=1000)
    made.silent[:9] = 10_000
    return made


@RUNS
def test_a_training_step_is_the_torch_paths() -> None:
    widths = (24, 17)
    generator = torch.Generator().manual_seed(1)
    targets = tuple(torch.randn(32, width, generator=generator).to(DEVICE) for width in widths)
    ours, again, theirs = (engine(kernels, widths) for kernels in (TRITON, TRITON, TORCH))
    result, _, expected = (made.step(targets, 0, 0.01) for made in (ours, again, theirs))
    assert torch.equal(result.active.indices, expected.active.indices)
    assert result.auxiliary_loss > 0
    assert result.loss == pytest.approx(expected.loss, rel=1e-5)
    for name, tensor in theirs.gradients.named().items():
        found = ours.gradients.named()[name]
        torch.testing.assert_close(found, tensor, rtol=1e-5, atol=1e-5)
    for name, tensor in theirs.weights.named().items():
        found = ours.weights.named()[name]
        torch.testing.assert_close(found, tensor, rtol=1e-5, atol=1e-5)
        assert torch.equal(found, again.weights.named()[name])
    torch.testing.assert_close(ours.norms, theirs.norms)


FLOATS = ("scale", "beta1", "rest1", "beta2", "rest2", "root", "epsilon", "rate")
TYPES = {
    "indices": "*i32",
    "offsets": "*i64",
    "tokens": "*i64",
    "entries": "*i64",
    "width": "i32",
    "block": "constexpr",
    **dict.fromkeys(FLOATS, "fp32"),
}


@pytest.mark.skipif(INTERPRETED, reason="the interpreter compiles nothing")
@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("name", ["_decode", "_code_gradients", "_weight_gradients", "_adam"])
def test_kernels_compile_without_atomics(
    name: str, capability: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    kernel = getattr(triton_kernels, name)
    source = triton.compiler.ASTSource(
        fn=kernel,
        signature={argument: TYPES.get(argument, "*fp32") for argument in kernel.arg_names},
        constexprs={"block": WIDEST},
    )
    target = triton.backends.compiler.GPUTarget("cuda", capability, 32)
    code = triton.compile(source, target=target).asm["ptx"]
    assert "st.global" in code
    # What atomics add up comes in any order.
    assert not re.search(r"\b(atom|red)\.", code)
