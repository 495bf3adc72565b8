"""The hand-written step against dense float64 autograd."""

import pytest
import torch
from torch import Tensor

from anaglyph.dictionaries import Weights, get_method
from anaglyph.dictionaries.auxiliary import WEIGHT, auxiliary_tokens
from anaglyph.dictionaries.engine import Engine
from anaglyph.dictionaries.kernels import choose_kernels
from anaglyph.dictionaries.screen import Screen
from anaglyph.dictionaries.sparsity import SPARSITIES

TOKENS, LATENTS, K = 48, 96, 4
CASES = [
    ("tuned-sae", (24,)),
    ("diff-sae", (24,)),
    ("crosscoder", (24, 24)),
    ("crosscoder", (24, 17)),
]


def make(
    name: str, widths: tuple[int, ...], kernels: str, seed: int, dead: int, sparsity: str
) -> tuple[Engine, tuple[Tensor, ...]]:
    """Return an engine with random weights, of whose latents the first ``dead`` are dead."""
    generator = torch.Generator().manual_seed(seed)
    weights = Weights.zeros(LATENTS, widths)
    for tensor in weights.named().values():
        tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.3)
    for matrix in weights.decoder:
        # Short decoders score too low to be selected, while their activations are positive.
        matrix[:dead] *= 1e-3
    chosen = choose_kernels(kernels)
    engine = Engine(
        get_method(name),
        weights,
        SPARSITIES.get(sparsity)(K, chosen),
        chosen,
        batch=TOKENS,
        dead_after=1000,
    )
    engine.silent[:dead] = 10_000
    return engine, tuple(torch.randn(TOKENS, width, generator=generator) for width in widths)


def reference(
    engine: Engine, targets: tuple[Tensor, ...], dead: int, sparsity: str
) -> tuple[Tensor, dict[str, Tensor], float, float]:
    """Return dense codes, gradients, loss and auxiliary loss by float64 autograd."""
    named = {
        name: tensor.double().requires_grad_() for name, tensor in engine.weights.named().items()
    }
    sources = range(len(targets))
    exact = [target.double() for target in targets]
    pre: Tensor = named["encoder_bias"]
    for m in sources:
        values = exact[m] - named[f"decoder_bias.{m}"] if engine.method.centred else exact[m]
        pre = pre + values @ named[f"encoder.{m}"].T
    norms = sum(named[f"decoder.{m}"].norm(dim=1) for m in sources)
    scores = (pre.relu() * norms).detach()
    kept = torch.zeros_like(scores)
    if sparsity == "batchtopk":
        kept.view(-1)[scores.view(-1).topk(K * TOKENS).indices] = 1
    else:
        kept.scatter_(1, scores.topk(K, dim=1).indices, 1.0)
    codes = pre.relu() * kept * (scores > 0)
    errors = [
        codes @ named[f"decoder.{m}"] + named[f"decoder_bias.{m}"] - exact[m] for m in sources
    ]
    loss = torch.stack([error.square().sum() for error in errors]).sum() / TOKENS
    auxiliary = torch.zeros(())
    if dead:
        few = auxiliary_tokens(TOKENS, LATENTS, dead)
        strength = pre[:few, :dead].relu()
        limit = min(max(target.shape[1] for target in targets) // 2, dead)
        top = torch.zeros_like(strength).scatter_(1, strength.topk(limit, dim=1).indices, 1.0)
        residual = [-error[:few].detach() for error in errors]
        off = [residual[m] - (strength * top) @ named[f"decoder.{m}"][:dead] for m in sources]
        spread = sum((e - e.mean(0)).square().sum() for e in residual)
        auxiliary = torch.stack([e.square().sum() for e in off]).sum() / spread
    total = loss + WEIGHT * auxiliary
    gradients = dict(zip(named, torch.autograd.grad(total, list(named.values())), strict=True))
    return codes.detach(), gradients, loss.item(), auxiliary.item()


@pytest.mark.parametrize("kernels", ["numba", "torch"])
@pytest.mark.parametrize("sparsity", ["batchtopk", "topk"])
@pytest.mark.parametrize("dead", [0, 5, 30])
@pytest.mark.parametrize(("name", "widths"), CASES)
@pytest.mark.parametrize("seed", [0, 1])
def test_selection_and_gradients_equal_dense_autograd(
    name: str, widths: tuple[int, ...], kernels: str, dead: int, seed: int, sparsity: str
) -> None:
    engine, targets = make(name, widths, kernels, seed, dead, sparsity)
    codes, gradients, loss, auxiliary = reference(engine, targets, dead, sparsity)
    result, square = engine.backward(targets)

    found = torch.zeros(TOKENS, LATENTS, dtype=torch.float64)
    rows = torch.repeat_interleave(result.active.offsets.diff())
    found[rows, result.active.indices.long()] = result.active.values.double()
    assert torch.equal(found > 0, codes > 0)
    torch.testing.assert_close(found, codes, rtol=1e-5, atol=1e-5)
    assert result.loss == pytest.approx(loss, rel=1e-5)
    assert result.auxiliary_loss == pytest.approx(auxiliary, rel=1e-5)
    for name_, gradient in engine.gradients.named().items():
        expected = gradients[name_]
        torch.testing.assert_close(
            gradient.double(), expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max())
        )
    exact = sum(float(gradient.square().sum()) for gradient in gradients.values())
    assert square == pytest.approx(exact, rel=1e-5)


@pytest.mark.parametrize("kernels", ["numba", "torch"])
@pytest.mark.parametrize(("name", "widths"), CASES[::2])
def test_steps_follow_adam_with_a_global_clip(
    name: str, widths: tuple[int, ...], kernels: str
) -> None:
    engine, targets = make(name, widths, kernels, 3, 0, "batchtopk")
    twin, _ = make(name, widths, kernels, 3, 0, "batchtopk")
    parameters = [tensor.double().requires_grad_() for tensor in twin.weights.named().values()]
    optimiser = torch.optim.Adam(parameters, lr=1e-3)
    for step in range(5):
        for mine, theirs in zip(twin.weights.named().values(), parameters, strict=True):
            mine.copy_(theirs.detach())
        gradients = reference(twin, targets, 0, "batchtopk")[1]
        for parameter, gradient in zip(parameters, gradients.values(), strict=True):
            parameter.grad = gradient
        assert torch.nn.utils.clip_grad_norm_(parameters, 1.0) > 1.0
        optimiser.step()
        engine.step(targets, step, 1e-3)
    for mine, theirs in zip(engine.weights.named().values(), parameters, strict=True):
        torch.testing.assert_close(mine.double(), theirs.detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(engine.norms, engine.weights.norms((1.0,) * len(widths)))


def test_the_auxiliary_loss_is_optimised_not_only_reported() -> None:
    engine, targets = make("tuned-sae", (24,), "numba", 0, 30, "batchtopk")
    dead_before = engine.weights.decoder[0][:30].clone()
    losses = [engine.step(targets, step, 3e-3).auxiliary_loss for step in range(30)]
    moved = (engine.weights.decoder[0][:30] - dead_before).abs().max(1).values
    # Some may have no positive activation on the tokens that the loss is estimated on.
    assert moved.gt(0.05).sum() >= 25
    # Dead latents that rebuild nothing have a loss of 1, or a little more as e has a mean.
    assert losses[0] == pytest.approx(1.0, abs=0.2)
    assert losses[-1] < losses[0] - 0.05


def test_the_auxiliary_loss_sees_all_tokens_unless_many_latents_are_dead() -> None:
    assert auxiliary_tokens(2048, 8192, 400) == 2048
    assert auxiliary_tokens(2048, 8192, 1638) == 512
    assert auxiliary_tokens(4, 8, 8) == 1


def test_an_exact_reconstruction_has_no_auxiliary_loss() -> None:
    """Then e is zero and L_aux is 0/0, which counts as 0 and has no gradient."""
    engine, _ = make("crosscoder", (24, 24), "numba", 0, 5, "batchtopk")
    engine.weights.encoder_bias.fill_(-100.0)
    targets = tuple(bias.repeat(TOKENS, 1) for bias in engine.weights.decoder_bias)
    result, square = engine.backward(targets)
    assert (result.loss, result.auxiliary_loss, square) == (0.0, 0.0, 0.0)


def test_counters_tell_how_long_a_latent_was_silent() -> None:
    engine, targets = make("tuned-sae", (24,), "numba", 0, 0, "batchtopk")
    result, _ = engine.backward(targets)
    fired = torch.zeros(LATENTS, dtype=torch.bool)
    fired[result.active.indices.long()] = True
    assert 0 < fired.sum() < LATENTS
    assert torch.equal(engine.silent, torch.where(fired, 0, TOKENS))


@pytest.mark.parametrize(("name", "widths"), CASES)
@pytest.mark.parametrize("dead", [0, 10])
def test_a_screened_step_is_the_exact_one(name: str, widths: tuple[int, ...], dead: int) -> None:
    engines = []
    for screened in (False, True):
        engine, targets = make(name, widths, "numba", 5, dead, "batchtopk")
        if screened:
            engine._screen = Screen(engine.weights, engine.kernels, TOKENS)
        engines.append(engine)
    for step in range(3):
        exact, rough = (engine.step(targets, step, 1e-3) for engine in engines)
        assert engines[1].sparsity.exact is None if step == 0 else engines[1].sparsity.exact
        assert torch.equal(exact.active.indices, rough.active.indices)
        assert torch.equal(exact.active.offsets, rough.active.offsets)
        torch.testing.assert_close(exact.active.values, rough.active.values, rtol=1e-4, atol=1e-5)
        assert exact.auxiliary_loss == pytest.approx(rough.auxiliary_loss, rel=1e-4)
        assert (exact.auxiliary_loss > 0) == (dead > 0)
    for before, after in zip(*(engine.weights.named().values() for engine in engines), strict=True):
        torch.testing.assert_close(before, after, rtol=1e-3, atol=1e-4)
