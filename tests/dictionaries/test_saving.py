import json
from pathlib import Path

import pytest
import torch

from anaglyph.core.errors import InputError, StoreError
from anaglyph.dictionaries import Dictionary, Weights, get_method


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    weights = Weights.zeros(5, (3, 2))
    for tensor in weights.named().values():
        tensor.copy_(torch.randn(tensor.shape))
    dictionary = Dictionary(
        get_method("crosscoder"),
        weights,
        k=2,
        threshold=0.25,
        source_weights=(0.5, 1.5),
        radii=(9.0, 8.0),
        config={"seed": 3},
        stats={"fve": None, "l0": 1.5},
    )
    dictionary.save(tmp_path / "dic")
    return tmp_path / "dic"


def test_everything_comes_back(saved: Path) -> None:
    first = Dictionary.load(saved)
    first.save(saved / "again")
    second = Dictionary.load(saved / "again")
    for name, tensor in first.weights.named().items():
        assert torch.equal(tensor, second.weights.named()[name])
    for name in ("method", "k", "sparsity", "threshold", "config", "stats"):
        assert getattr(first, name) == getattr(second, name)
    assert first.source_weights == (0.5, 1.5)
    assert first.radii == (9.0, 8.0)
    assert first.stats == {"fve": None, "l0": 1.5}
    assert first.widths == (3, 2)


def test_widths_that_differ_have_no_common_array(saved: Path) -> None:
    with pytest.raises(InputError, match=r"\(3, 2\)"):
        _ = Dictionary.load(saved).decoders


def test_a_missing_file_is_named(saved: Path) -> None:
    (saved / "weights.safetensors").unlink()
    with pytest.raises(StoreError, match=r"weights\.safetensors is missing"):
        Dictionary.load(saved)
    (saved / "config.json").unlink()
    with pytest.raises(StoreError, match=r"config\.json is missing"):
        Dictionary.load(saved)


@pytest.mark.parametrize("keep", [0, 10, 200])
def test_truncated_weights_are_refused(saved: Path, keep: int) -> None:
    path = saved / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(StoreError, match="damaged"):
        Dictionary.load(saved)


@pytest.mark.parametrize(
    ("field", "value"), [("latents", 6), ("widths", [3, 3]), ("format", 99), ("widths", [3])]
)
def test_a_config_of_other_weights_is_refused(saved: Path, field: str, value: object) -> None:
    path = saved / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
    with pytest.raises(StoreError, match=r"damaged|format"):
        Dictionary.load(saved)


def test_a_config_without_a_field_is_refused(saved: Path) -> None:
    path = saved / "config.json"
    config = json.loads(path.read_text())
    del config["threshold"]
    path.write_text(json.dumps(config))
    with pytest.raises(StoreError, match="threshold"):
        Dictionary.load(saved)


def test_an_unknown_method_is_named(saved: Path) -> None:
    path = saved / "config.json"
    path.write_text(path.read_text().replace('"crosscoder"', '"coder"'))
    with pytest.raises(InputError, match="unknown method 'coder'"):
        Dictionary.load(saved)


def test_weights_that_do_not_fit_the_method_are_refused() -> None:
    with pytest.raises(InputError, match="do not fit crosscoder"):
        Dictionary(get_method("crosscoder"), Weights.zeros(4, (3,)), k=1)
