"""Products in bfloat16 while replies are written: what they change, and what they leave."""

from typing import Any

import pytest
import torch
from tiny_models import make_model

from anaglyph.pair import rough
from anaglyph.pair.rough import rough_products


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A tiny model, on a processor that is said to have bfloat16, whose matrices all count."""
    monkeypatch.setattr(rough, "multiplies_bfloat16", lambda _device: True)
    monkeypatch.setattr(rough, "_LEAST_WEIGHTS", 1)
    return make_model()


IDS = torch.arange(6)[None]


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(IDS).logits


def test_logits_move_by_rounding_only_and_come_back(model: Any) -> None:
    exact = logits(model)
    with rough_products(model):
        moved = logits(model)
    assert moved.dtype == torch.float32
    assert not torch.equal(moved, exact)
    assert (moved - exact).std() < 0.05 * exact.std()
    assert torch.equal(logits(model), exact)
    assert not any("forward" in vars(module) for module in model.modules())


def test_the_output_embedding_stays_exact(model: Any) -> None:
    hidden = torch.randn(3, model.config.hidden_size)
    head = model.get_output_embeddings()
    exact = head(hidden)
    with rough_products(model):
        assert torch.equal(head(hidden), exact)


def test_a_second_entry_changes_nothing_and_leaves_the_first_in_place(model: Any) -> None:
    with rough_products(model):
        once = logits(model)
        with rough_products(model):
            assert torch.equal(logits(model), once)
        assert torch.equal(logits(model), once)


@pytest.mark.parametrize("name", ["_LEAST_WEIGHTS", "_MOST_WEIGHTS"])
def test_small_matrices_and_large_models_are_left_alone(
    model: Any, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(rough, name, 2**30 if name == "_LEAST_WEIGHTS" else 1)
    exact = logits(model)
    with rough_products(model):
        assert torch.equal(logits(model), exact)


def test_without_the_processor_nothing_changes(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rough, "multiplies_bfloat16", lambda _device: False)
    exact = logits(model)
    with rough_products(model):
        assert torch.equal(logits(model), exact)
