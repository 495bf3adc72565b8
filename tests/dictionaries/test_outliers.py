import pytest
import torch

from anaglyph.dictionaries import Dictionary, Selection, Weights, get_method
from anaglyph.dictionaries.outliers import pull_factors, pull_in


def test_factors_and_pull_by_hand() -> None:
    centre = torch.tensor([1.0, 0.0])
    inputs = (torch.tensor([[1.0, 2.0], [1.0, 10.0], [1.0, 0.0]]),)
    factors = pull_factors(inputs, (centre,), (5.0,))
    assert factors.tolist() == pytest.approx([1.0, 0.1, 1.0])
    (pulled,) = pull_in(inputs, (centre,), factors)
    assert pulled.tolist() == [[1, 2], [1, pytest.approx(1)], [1, 0]]


def test_the_source_that_is_farthest_out_decides_for_all() -> None:
    centres = (torch.zeros(1), torch.zeros(1))
    inputs = (torch.tensor([[10.0]]), torch.tensor([[3.0]]))
    assert pull_factors(inputs, centres, (5.0, 1.0)).tolist() == pytest.approx([1 / 15])


def test_ordinary_tokens_are_handed_on_untouched() -> None:
    inputs = (torch.randn(4, 3),)
    centres = (torch.zeros(3),)
    assert pull_in(inputs, centres, pull_factors(inputs, centres, (100.0,))) is inputs


def test_a_massive_token_keeps_its_relative_error() -> None:
    """The reconstruction of b + t (x - b) is b + t (xhat - b) once x is beyond the radius."""
    generator = torch.Generator().manual_seed(0)
    decoder = torch.randn(20, 8, generator=generator)
    weights = Weights((decoder,), torch.zeros(20), (decoder,), (torch.randn(8),))
    dictionary = Dictionary(
        get_method("tuned-sae"), weights, Selection(k=4, threshold=5.0, radii=(1.0,))
    )
    bias = dictionary.decoder_bias[0]
    away = 3 * torch.randn(6, 8, generator=generator)
    near, far = (
        dictionary.reconstruct(dictionary.encode(x, x))[0] for x in (bias + away, bias + 50 * away)
    )
    torch.testing.assert_close(far - bias, 50 * (near - bias), rtol=1e-4, atol=1e-3)
