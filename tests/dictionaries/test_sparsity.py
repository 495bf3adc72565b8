import pytest
import torch

from anaglyph.dictionaries.kernels import choose_kernels
from anaglyph.dictionaries.sparsity import BatchTopK, TopK


def flat(active: tuple) -> list[tuple[int, int, float]]:
    indices, values, offsets = active
    tokens = torch.repeat_interleave(offsets.diff()).tolist()
    return list(zip(tokens, indices.tolist(), values.tolist(), strict=True))


def test_selection_weighs_by_decoder_norm_and_keeps_the_unscaled_value() -> None:
    pre = torch.tensor([[1.0, 2.0, 0.0], [0.0, 1.5, 0.0]])
    norms = torch.tensor([4.0, 1.0, 1.0])
    active = BatchTopK(1, choose_kernels()).select(pre, torch.zeros(3), norms)
    # Scores 4, 2 and 1.5: by activation alone it would be 2 and 1.5.
    assert flat(active) == [(0, 0, 1.0), (0, 1, 2.0)]


def test_one_token_may_take_the_whole_batch() -> None:
    pre = torch.zeros(4, 10)
    pre[2] = torch.arange(1.0, 11.0)
    active = BatchTopK(2, choose_kernels()).select(pre, torch.zeros(10), torch.ones(10))
    assert active.offsets.tolist() == [0, 0, 0, 8, 8]
    assert active.indices.tolist() == list(range(2, 10))


def test_negative_and_zero_scores_are_never_kept() -> None:
    pre = torch.tensor([[-1.0, 0.0, 2.0, -3.0]])
    for kind in (BatchTopK, TopK):
        active = kind(3, choose_kernels()).select(pre, torch.zeros(4), torch.ones(4))
        assert flat(active) == [(0, 2, 2.0)]


def test_a_latent_without_decoder_is_never_kept() -> None:
    pre, norms = torch.tensor([[9.0, 1.0]]), torch.tensor([0.0, 1.0])
    sparsity = BatchTopK(1, choose_kernels())
    assert flat(sparsity.select(pre, torch.zeros(2), norms)) == [(0, 1, 1.0)]
    assert flat(sparsity.infer(pre * 2, torch.zeros(2), norms)) == [(0, 1, 2.0)]


@pytest.mark.parametrize("kernels", ["numba", "torch"])
def test_the_filter_never_changes_the_selection(kernels: str) -> None:
    """Batches of rising and falling scale make the last batch's bound too low and too high."""
    generator = torch.Generator().manual_seed(0)
    norms = torch.rand(50, generator=generator) + 0.5
    bias = torch.randn(50, generator=generator) * 0.1
    filtered = BatchTopK(3, choose_kernels(kernels), steps=100)
    for scale in (1.0, 5.0, 0.01, 1.0, 1e-6, 100.0, 0.0, 1.0):
        pre = torch.randn(20, 50, generator=generator) * scale
        fresh = BatchTopK(3, choose_kernels(kernels))
        found = filtered.select(pre, bias, norms)
        assert flat(found) == flat(fresh.select(pre, bias, norms))
        scores = (pre + bias).relu() * norms
        smallest = scores.flatten().sort(descending=True).values[59]
        assert len(found.indices) == 60
        assert found.values.mul(norms[found.indices]).min() == smallest


def test_threshold_starts_at_the_first_value_and_then_averages() -> None:
    sparsity = BatchTopK(1, choose_kernels(), steps=20)
    assert sparsity.decay == 0.5
    for top in (4.0, 8.0):
        sparsity.select(torch.tensor([[top, 1.0]]), torch.zeros(2), torch.ones(2))
    assert sparsity.threshold == 6.0
    kept = sparsity.infer(torch.tensor([[6.0, 6.5], [7.0, 0.0]]), torch.zeros(2), torch.ones(2))
    assert flat(kept) == [(0, 1, 6.5), (1, 0, 7.0)]


def test_long_runs_average_over_a_thousand_steps() -> None:
    assert BatchTopK(1, choose_kernels(), steps=100_000).decay == 0.999


def test_topk_takes_k_of_each_token() -> None:
    pre = torch.tensor([[5.0, 4.0, 3.0], [0.3, 0.1, 0.2]])
    sparsity = TopK(2, choose_kernels())
    expected = [(0, 0, 5.0), (0, 1, 4.0), (1, 0, 0.3), (1, 2, 0.2)]
    rounded = [
        (t, j, round(v, 4)) for t, j, v in flat(sparsity.infer(pre, pre[0] * 0, pre[0] * 0 + 1))
    ]
    assert rounded == expected
    assert sparsity.threshold is None
