"""Penalties, thresholds, prefixes, norms and constraints against dense float64 autograd."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from anaglyph.core.settings import DictionarySettings
from anaglyph.dictionaries import Weights, get_method
from anaglyph.dictionaries.engine import Engine
from anaglyph.dictionaries.kernels import choose_kernels
from anaglyph.dictionaries.methods import DictionaryMethod
from anaglyph.dictionaries.sparsity import jumprelu, make_sparsity

TOKENS, LATENTS, K, MU = 48, 96, 4, 0.7


@dataclass
class Case:
    """An engine with random weights that obey its method, and a batch."""

    engine: Engine
    targets: tuple[Tensor, ...]


def make(
    name: str,
    sparsity: str,
    options: dict[str, Any] | None = None,
    *,
    widths: tuple[int, ...] = (24, 24),
    kernels: str = "numba",
    seed: int = 0,
) -> Case:
    generator = torch.Generator().manual_seed(seed)
    method = get_method(name, options)
    weights = Weights.zeros(LATENTS, widths[: len(method.sources)])
    for tensor in weights.named().values():
        tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.3)
    method.constrain(weights)
    if sparsity == "jumprelu":
        weights.threshold = torch.rand(LATENTS, generator=generator) + 0.5
    chosen = choose_kernels(kernels)
    engine = Engine(
        method,
        weights,
        make_sparsity(
            DictionarySettings(
                sparsity=sparsity,
                k=None if sparsity == "l1" else K,
                mu=MU if sparsity == "l1" else None,
            ),
            chosen,
            budgets=method.budgets(K, LATENTS),
        ),
        chosen,
        batch=TOKENS,
        dead_after=1000,
    )
    targets = (torch.randn(TOKENS, len(b), generator=generator) for b in weights.decoder_bias)
    return Case(engine, tuple(targets))


class Jump(torch.autograd.Function):
    """z where z > theta, with the straight-through estimators of arXiv 2407.14435."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, theta: Tensor) -> Tensor:
        ctx.save_for_backward(z, theta)
        return z * (z > theta)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor]:
        z, theta = ctx.saved_tensors
        near = ((z - theta).abs() < jumprelu.BANDWIDTH / 2) & (z > 0)
        (grad,) = grad_outputs
        by_theta = -(theta / jumprelu.BANDWIDTH) * near * grad
        return grad * (z > theta), by_theta.sum(0)


class Step(torch.autograd.Function):
    """1 where z > theta; the derivative by z is zero."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, theta: Tensor) -> Tensor:
        ctx.save_for_backward(z, theta)
        return (z > theta).to(z.dtype)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[None, Tensor]:
        z, theta = ctx.saved_tensors
        near = ((z - theta).abs() < jumprelu.BANDWIDTH / 2) & (z > 0)
        (grad,) = grad_outputs
        return None, (near / -jumprelu.BANDWIDTH * grad).sum(0)


def error_loss(method: DictionaryMethod, errors: list[Tensor]) -> Tensor:
    """Return the loss as maths.md writes it, summed over tokens."""
    if hasattr(method, "lambda_"):
        base, tuned = errors
        squares = base.square().sum() + tuned.square().sum()
        return squares + 2 * method.lambda_ * (base * tuned).sum()  # type: ignore[attr-defined]
    power = 2 if method.norm == "squared" else 1
    return torch.stack([error.norm(dim=1).pow(power).sum() for error in errors]).sum()


def select(case: Case, sparsity: str, scores: Tensor) -> Tensor:
    """Return a mask of what is kept, by sorting."""
    budgets = case.engine.method.budgets(K, LATENTS) or ((LATENTS, K),)
    kept = torch.zeros_like(scores)
    start = 0
    for end, k in budgets:
        part = scores[:, start:end]
        if sparsity == "topk":
            kept[:, start:end].scatter_(1, part.topk(round(k), dim=1).indices, 1.0)
        else:
            kept[:, start:end] = (
                part >= part.flatten().topk(round(k * TOKENS)).values[-1]
            ).double()
        start = end
    return kept


def reference(case: Case, sparsity: str, prices: Tensor) -> tuple[dict[str, Tensor], float, float]:
    """Return gradients, reconstruction loss and penalty by float64 autograd."""
    method, weights = case.engine.method, case.engine.weights
    named = {name: tensor.double().requires_grad_() for name, tensor in weights.named().items()}
    sources = range(len(case.targets))
    exact = [target.double() for target in case.targets]
    pre: Tensor = named["encoder_bias"]
    for m in sources:
        values = exact[m] - named[f"decoder_bias.{m}"] if method.centred else exact[m]
        pre = pre + values @ named[f"encoder.{m}"].T
    norms = torch.stack([named[f"decoder.{m}"].norm(dim=1) for m in sources]).sum(0)
    penalty = torch.zeros((), dtype=torch.float64)
    if sparsity == "l1":
        codes = pre.relu()
        penalty = MU * (codes @ (norms * prices)).mean()
    elif sparsity == "jumprelu":
        codes = Jump.apply(pre, named["threshold"])
        l0 = (Step.apply(pre, named["threshold"]) @ prices).mean()
        width = sum(target.shape[1] for target in exact)
        penalty = jumprelu.WEIGHT * width * (l0 / K - 1).square()
    else:
        codes = pre.relu() * select(case, sparsity, (pre.relu() * norms / prices).detach())
    loss = torch.zeros((), dtype=torch.float64)
    prefixes = (6, 24, 96) if sparsity == "matryoshka" else (96,)
    for end in prefixes:
        errors = [
            codes[:, :end] @ named[f"decoder.{m}"][:end] + named[f"decoder_bias.{m}"] - exact[m]
            for m in sources
        ]
        loss = loss + error_loss(method, errors) / TOKENS / len(prefixes)
    found = torch.autograd.grad(loss + penalty, list(named.values()), materialize_grads=True)
    return dict(zip(named, found, strict=True)), loss.item(), penalty.item()


def check(case: Case, sparsity: str, prices: Tensor | None = None) -> None:
    prices = torch.ones(LATENTS, dtype=torch.float64) if prices is None else prices.double()
    expected, loss, penalty = reference(case, sparsity, prices)
    project(case.engine.method.name, expected)
    result, square = case.engine.backward(case.targets)
    assert result.loss == pytest.approx(loss, rel=1e-5)
    assert result.penalty == pytest.approx(penalty, rel=1e-5)
    for name, gradient in case.engine.gradients.named().items():
        torch.testing.assert_close(
            gradient.double(),
            expected[name],
            rtol=1e-4,
            atol=2e-5 * float(expected[name].abs().max()),
            msg=lambda text, name=name: f"{name}: {text}",
        )
    exact = sum(float(gradient.square().sum()) for gradient in expected.values())
    assert square == pytest.approx(exact, rel=1e-4)


def project(name: str, gradients: dict[str, Tensor]) -> None:
    """Project on what the method's decoders have to obey, written out once more."""
    base, tuned = gradients["decoder.0"], gradients.get("decoder.1")
    if name in ("designated-crosscoder", "delta-crosscoder") and tuned is not None:
        end = {"designated-crosscoder": 10, "delta-crosscoder": 72}[name]
        base[:end] = tuned[:end] = (base[:end] + tuned[:end]) / 2
    if name == "dfc" and tuned is not None:
        base[91:] = 0
        tuned[86:91] = 0


@pytest.mark.parametrize("kernels", ["numba", "torch"])
@pytest.mark.parametrize("norm", ["squared", "unsquared"])
@pytest.mark.parametrize("sparsity", ["l1", "jumprelu", "matryoshka", "batchtopk", "topk"])
@pytest.mark.parametrize(
    ("name", "widths"), [("tuned-sae", (24,)), ("crosscoder", (24, 24)), ("crosscoder", (24, 17))]
)
def test_gradients_equal_dense_autograd(
    name: str, widths: tuple[int, ...], sparsity: str, norm: str, kernels: str
) -> None:
    case = make(name, sparsity, {"norm": norm}, widths=widths, kernels=kernels)
    check(case, sparsity)


@pytest.mark.parametrize("sparsity", ["l1", "jumprelu", "matryoshka", "batchtopk", "topk"])
@pytest.mark.parametrize("lambda_", [-1.0, -0.3, 0.0])
def test_the_lambda_bridge_has_its_quadratic_form(lambda_: float, sparsity: str) -> None:
    check(make("lambda-bridge", sparsity, {"lambda": lambda_}), sparsity)


def test_the_lambda_bridge_ends_at_the_crosscoder_and_at_the_difference() -> None:
    errors = torch.randn(5, 7), torch.randn(5, 7)
    crosscoder = get_method("crosscoder").loss(errors)
    end = get_method("lambda-bridge", {"lambda": 0.0}).loss(errors)
    assert end[0] == crosscoder[0]
    assert all(torch.equal(a, b) for a, b in zip(end[1], crosscoder[1], strict=True))
    value, (base, tuned) = get_method("lambda-bridge", {"lambda": -1.0}).loss(errors)
    assert value == pytest.approx(float((errors[1] - errors[0]).square().sum()) / 5)
    torch.testing.assert_close(base, -tuned)


@pytest.mark.parametrize("sparsity", ["l1", "jumprelu", "matryoshka", "batchtopk", "topk"])
@pytest.mark.parametrize("name", ["designated-crosscoder", "dfc"])
def test_constrained_decoders(name: str, sparsity: str) -> None:
    case = make(name, sparsity)
    prices = torch.ones(LATENTS)
    if name == "designated-crosscoder":
        prices[:10] = 0.7
    check(case, sparsity, prices)


@pytest.mark.parametrize("sparsity", ["matryoshka", "batchtopk", "topk"])
def test_each_block_of_a_delta_crosscoder_has_its_own_k(sparsity: str) -> None:
    case = make("delta-crosscoder", sparsity)
    check(case, sparsity)
    active = case.engine.backward(case.targets)[0].active
    shared = int((active.indices < 72).sum())
    assert (shared, len(active.indices) - shared) == (3 * TOKENS, 1 * TOKENS)
    tokens = torch.repeat_interleave(active.offsets.diff())
    keys = tokens * LATENTS + active.indices
    assert bool((keys.diff() > 0).all())


@pytest.mark.parametrize(
    ("name", "sparsity"),
    [
        ("designated-crosscoder", "l1"),
        ("designated-crosscoder", "batchtopk"),
        ("dfc", "l1"),
        ("dfc", "matryoshka"),
        ("delta-crosscoder", "batchtopk"),
    ],
)
def test_steps_keep_the_constraints_to_the_bit(name: str, sparsity: str) -> None:
    case = make(name, sparsity)
    before = case.engine.weights.decoder[0].clone()
    for step in range(5):
        case.engine.step(case.targets, step, 1e-2)
    base, tuned = case.engine.weights.decoder
    assert not torch.equal(base, before)
    if name == "dfc":
        assert float(base[91:].abs().max()) == float(tuned[86:91].abs().max()) == 0
        assert float(tuned[91:].abs().min(1).values.max()) > 0
        assert not torch.equal(base[:86], tuned[:86])
    else:
        end = 10 if name == "designated-crosscoder" else 72
        assert torch.equal(base[:end], tuned[:end])
        assert not torch.equal(base[end:], tuned[end:])
