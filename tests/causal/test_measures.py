"""The measures of a patched prediction against their definitions in float64."""

import math

import pytest
import torch

from anaglyph.behaviour.kl import token_kl
from anaglyph.causal.measures import Predictions, token_measures
from anaglyph.core.errors import InputError

VOCAB = 5000


def _logits(seed: int) -> torch.Tensor:
    return torch.randn(70, VOCAB, generator=torch.Generator().manual_seed(seed)) * 4


def test_by_hand() -> None:
    own = torch.tensor([[0.5, 0.25, 0.25]]).log()
    other = torch.tensor([[0.25, 0.5, 0.25]]).log()
    patched = torch.tensor([[0.25, 0.25, 0.5]]).log() + 3  # a logit's zero is arbitrary
    kl, kl_other, nll, top1 = token_measures(
        Predictions.of(own), Predictions.of(other), patched, torch.tensor([2])
    )
    # sum p ln(p / q): 0.5 ln 2 + 0 - 0.25 ln 2, the same from the other
    assert kl.item() == pytest.approx(0.25 * math.log(2), rel=1e-6)
    assert kl_other.item() == pytest.approx(0.25 * math.log(2), rel=1e-6)
    assert nll.item() == pytest.approx(math.log(2), rel=1e-6)
    assert top1.item() == 0


@pytest.mark.parametrize(("apart", "within"), [(1.0, 1e-6), (1e-2, 3e-5), (1e-4, 3e-3)])
def test_small_differences_keep_their_digits(apart: float, within: float) -> None:
    own, other = _logits(0), _logits(1)
    patched = own + apart * torch.randn(own.shape, generator=torch.Generator().manual_seed(2))
    found = token_measures(
        Predictions.of(own), Predictions.of(other), patched, torch.arange(len(own)) - 1
    )
    torch.testing.assert_close(found[0], token_kl(own, patched), rtol=within, atol=0)
    torch.testing.assert_close(found[1], token_kl(other, patched), rtol=1e-6, atol=0)
    surprise = torch.nn.functional.cross_entropy(
        patched[1:].double(), torch.arange(len(own) - 1), reduction="none"
    )
    torch.testing.assert_close(found[2, 1:], surprise)
    assert found[2, 0] == 0  # no token follows
    assert torch.equal(found[3].bool(), own.argmax(-1) == patched.argmax(-1))


def test_the_model_itself_is_no_distance_away() -> None:
    own = _logits(3)
    some = torch.tensor([69, 2, 40])
    kl, _, _, top1 = token_measures(
        Predictions.of(own[some]), Predictions.of(_logits(4)[some]), own[some], some
    )
    assert kl.max() < 1e-13
    assert top1.eq(1).all()


def test_a_logit_that_is_no_number_is_refused() -> None:
    own = _logits(5)
    patched = own.clone()
    patched[7, 9] = float("nan")
    with pytest.raises(InputError, match="NaN or infinite"):
        token_measures(
            Predictions.of(own), Predictions.of(own), patched, torch.zeros(70, dtype=torch.int64)
        )
