"""Property: the norms of `weights` are those of the loaded, dequantised, merged difference."""

import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peft import PeftModel
from peft_kinds import BIASES, KINDS, save_kind
from test_weights_quantised import METHODS, loaded, quantise
from tiny_models import make_model, make_tokenizer, save
from torch import Tensor

from anaglyph.direct.weights import weight_changes
from anaglyph.pair.loading import load_model
from anaglyph.pair.quiet import quiet
from anaglyph.pair.sources import locate

PLAIN = "plain"
STORED = [PLAIN, *METHODS]


def written(folder: Path, model: Any, stored: str) -> Path:
    if stored == PLAIN:
        return save(folder, model, make_tokenizer())
    return quantise(folder, model, stored)


def moved(seed: int, size: float) -> Any:
    """Return the model with some of its matrices changed."""
    model, generator = make_model(), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if torch.rand((), generator=generator) < 0.5:
                parameter += size * torch.randn(parameter.shape, generator=generator)
    return model


def merged(base: Path, adapter: Path) -> dict[str, Tensor]:
    """Return the weights after PEFT merged the adapter into the loaded base."""
    model = load_model(locate(base), torch.device("cpu"), torch.float32)
    with quiet(), torch.random.fork_rng():
        torch.manual_seed(0)
        wrapped: Any = PeftModel.from_pretrained(model, str(adapter))
        return dict(wrapped.merge_and_unload().state_dict())


@pytest.mark.slow
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    base_stored=st.sampled_from(STORED),
    tuned=st.sampled_from(STORED) | st.sampled_from(sorted(KINDS.keys() - BIASES.keys())),
    seed=st.integers(0, 2**31),
    size=st.sampled_from([0.0, 0.01, 0.1, 1.0]),
)
def test_norms_are_those_of_the_difference_of_what_is_loaded(
    tmp_path: Path, base_stored: str, tuned: str, seed: int, size: float
):
    shutil.rmtree(tmp_path)
    base = written(tmp_path / "base", make_model(), base_stored)
    before = loaded(base)
    if tuned in KINDS:
        other = save_kind(tmp_path / "tuned", tuned, size, seed)
        after = merged(base, other)
    else:
        other = written(tmp_path / "tuned", moved(seed, size), tuned)
        after = loaded(other)
    found = {change.name: change.norm for change in weight_changes(base, other)}
    norms = {
        name.removesuffix(".weight"): float((after[name].double() - weight.double()).norm())
        for name, weight in before.items()
    }
    # PEFT merges in float32, `weights` in float64: below this a change is rounding.
    least = {name: 2e-6 * float(weight.norm()) for name, weight in before.items()}
    for name, weight in before.items():
        path = name.removesuffix(".weight")
        assert found.get(path, 0.0) == pytest.approx(norms[path], rel=2e-4, abs=least[name])
        assert weight.dtype == torch.float32
    assert math.hypot(*found.values()) == pytest.approx(
        math.hypot(*norms.values()), rel=2e-4, abs=math.hypot(*least.values())
    )
