"""token_kl against values worked out by hand and against many digits of arithmetic."""

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from anaglyph.behaviour import kl as kl_module
from anaglyph.behaviour.kl import token_kl
from anaglyph.core.errors import InputError


def test_two_outcomes_by_hand():
    # p = (3/4, 1/4), q = (1/2, 1/2): KL = 3/4 ln(3/2) + 1/4 ln(1/2).
    p = torch.tensor([[math.log(3.0), 0.0]])
    q = torch.tensor([[5.0, 5.0]])
    expected = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert token_kl(p, q).item() == pytest.approx(expected, abs=1e-8)


def test_direction_is_reference_first():
    p = torch.tensor([[math.log(3.0), 0.0]])
    q = torch.tensor([[5.0, 5.0]])
    reverse = 0.5 * math.log(2 / 3) + 0.5 * math.log(2)
    assert token_kl(q, p).item() == pytest.approx(reverse, abs=1e-8)


def test_equal_logits_give_exactly_zero_and_shifts_do_not_count():
    logits = torch.randn(5, 31, generator=torch.Generator().manual_seed(0))
    assert torch.equal(token_kl(logits, logits.clone()), torch.zeros(5, dtype=torch.float64))
    assert token_kl(logits, logits + 8).max() < 1e-12


def test_tiny_divergence_keeps_its_digits():
    # For p uniform over n and one logit raised by x: KL = ln(1 + (e^x - 1) / n) - x / n. The
    # series of it to fourth order in x is exact enough at x = 2^-10.
    n, x = 1000, Fraction(1, 2**10)
    mean = x / n
    second = Fraction(1, n) - Fraction(1, n) ** 2
    third = Fraction(1, n) * (1 - Fraction(1, n)) * (1 - Fraction(2, n))
    expected = float(second * x**2 / 2 + third * x**3 / 6)
    assert float(mean) > 1000 * expected  # float32 log-probabilities could not resolve it
    p, q = torch.zeros(1, n), torch.zeros(1, n)
    q[0, 3] = float(x)
    assert token_kl(p, q).item() == pytest.approx(expected, rel=1e-6)


def test_impossible_confidence_does_not_overflow():
    p = torch.tensor([[0.0, -2000.0]])
    q = torch.tensor([[-2000.0, 0.0]])
    assert token_kl(p, q).item() == pytest.approx(2000.0)


def test_slices_cover_every_row(monkeypatch: pytest.MonkeyPatch):
    generator = torch.Generator().manual_seed(1)
    p, q = torch.randn(2, 7, 11, generator=generator)
    whole = token_kl(p, q)
    monkeypatch.setattr(kl_module, "_SLICE", 22)
    assert torch.equal(token_kl(p, q), whole)


@given(arrays("float32", (2, 3, 6), elements=st.floats(-30, 30, width=32)))
def test_equals_the_definition_and_is_never_negative(logits):
    p, q = torch.from_numpy(logits)
    kl = token_kl(p, q)
    for row in range(3):
        weights = [[math.exp(x) for x in side[row].tolist()] for side in (p, q)]
        shares = [[w / sum(side) for w in side] for side in weights]
        expected = sum(a * math.log(a / b) for a, b in zip(*shares, strict=True))
        assert kl[row].item() == pytest.approx(expected, abs=1e-9)
    assert (kl >= 0).all()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_nan_and_infinity_are_refused(bad: float):
    p = torch.zeros(2, 3)
    q = p.clone()
    q[1, 2] = bad
    with pytest.raises(InputError, match="NaN or infinite"):
        token_kl(p, q)
