import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from anaglyph.core.errors import InputError, StoreError
from anaglyph.dictionaries import Dictionary, Selection, Weights, get_method


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    weights = Weights.zeros(5, (3, 2))
    for tensor in weights.named().values():
        tensor.copy_(torch.randn(tensor.shape))
    dictionary = Dictionary(
        get_method("crosscoder"),
        weights,
        Selection(k=2, threshold=0.25, source_weights=(0.5, 1.5), radii=(9.0, 8.0)),
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
    with pytest.raises(StoreError, match=r"config\.json|format|widths"):
        Dictionary.load(saved)


def test_a_config_without_a_field_is_refused(saved: Path) -> None:
    path = saved / "config.json"
    config = json.loads(path.read_text())
    del config["threshold"]
    path.write_text(json.dumps(config))
    with pytest.raises(StoreError, match="threshold"):
        Dictionary.load(saved)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("threshold", float("nan"), "threshold: .* finite"),
        ("threshold", "0.25", "threshold: .* number"),
        ("threshold", -0.25, "threshold: .* greater than or equal to 0"),
        ("k", 6, "k=6 exceeds latents=5"),
        ("k", 0, "k: "),
        ("k", True, "k: "),
        ("k", "auto", "k: "),
        ("latents", 5.5, "latents: "),
        ("latents", -5, "latents: "),
        ("widths", [3, "2"], r"widths\.1: "),
        ("widths", 3, "widths: "),
        ("source_weights", [1.0], "source_weights: 1 values for 2 sources"),
        ("source_weights", [1.0, float("inf")], r"source_weights\.1: .* finite"),
        ("radii", [9.0, -8.0], r"radii\.1: .* greater than 0"),
        ("radii", {"a": 1}, "radii: "),
        ("method", 3, "method: "),
        ("method", ["crosscoder"], "method: "),
        ("sparsity", None, "sparsity: "),
        ("sparsity", "l0", "unknown sparsity 'l0'"),
        ("stats", {"fve": float("nan")}, "stats: "),
        ("stats", [], "stats: "),
        ("config", None, "config: "),
        ("options", {"norm": 2}, "norm=2 must be a word"),
        ("weights_digest", 7, "weights_digest: "),
        ("weights_digest", "0" * 32, "weights_digest"),
        ("format", 2, "format is 2; this version reads format 1"),
        ("format", "1", "format is '1'"),
        ("other", 1, "other: "),
    ],
)
def test_a_bad_field_of_the_config_is_named(
    saved: Path, field: str, value: object, message: str
) -> None:
    path = saved / "config.json"
    edited = json.loads(path.read_text()) | {field: value}
    del edited["digest"]
    path.write_text(json.dumps(edited))
    with pytest.raises(StoreError, match=message) as caught:
        Dictionary.load(saved)
    assert "config.json" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", "7", '"x"', "null", "{", '{"format": 1}'])
def test_a_config_that_is_no_config_is_refused(saved: Path, text: str) -> None:
    (saved / "config.json").write_text(text)
    with pytest.raises(StoreError, match=r"config\.json"):
        Dictionary.load(saved)


def test_any_flipped_bit_of_the_weights_is_seen(saved: Path) -> None:
    path = saved / "weights.safetensors"
    whole = path.read_bytes()
    for place in range(0, len(whole), 37):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << (place % 8)
        path.write_bytes(bytes(damaged))
        with pytest.raises(StoreError, match=r"weights\.safetensors is damaged"):
            Dictionary.load(saved)


def test_weights_of_another_dictionary_are_refused(saved: Path, tmp_path: Path) -> None:
    weights = Dictionary.load(saved)
    weights.weights.encoder_bias += 1
    weights.save(tmp_path / "other")
    (tmp_path / "other" / "weights.safetensors").replace(saved / "weights.safetensors")
    with pytest.raises(StoreError, match="digest"):
        Dictionary.load(saved)


def test_a_dictionary_from_before_the_digest_is_read_and_its_tensors_checked(saved: Path) -> None:
    path = saved / "config.json"
    config = json.loads(path.read_text())
    del config["weights_digest"], config["digest"]
    path.write_text(json.dumps(config))
    dictionary = Dictionary.load(saved)
    dictionary.weights.decoder[0][1, 2] = float("nan")
    save_file(dictionary.weights.named(), saved / "weights.safetensors")
    with pytest.raises(StoreError, match=r"tensor decoder\.0 has NaN or inf"):
        Dictionary.load(saved)


@pytest.mark.parametrize(
    ("field", "value"),
    [("threshold", 0.5), ("k", 1), ("source_weights", [1.0, 2.0]), ("stats", {})],
)
def test_a_good_value_that_was_not_written_is_refused(
    saved: Path, field: str, value: object
) -> None:
    path = saved / "config.json"
    config = json.loads(path.read_text())
    assert config[field] != value
    path.write_text(json.dumps(config | {field: value}))
    with pytest.raises(StoreError, match=r"config\.json is damaged: .*digest"):
        Dictionary.load(saved)


def test_an_unknown_method_is_named(saved: Path) -> None:
    path = saved / "config.json"
    config = json.loads(path.read_text()) | {"method": "coder"}
    del config["digest"]
    path.write_text(json.dumps(config))
    with pytest.raises(StoreError, match=r"config\.json: unknown method 'coder'"):
        Dictionary.load(saved)


def test_weights_that_do_not_fit_the_method_are_refused() -> None:
    with pytest.raises(InputError, match="do not fit crosscoder"):
        Dictionary(get_method("crosscoder"), Weights.zeros(4, (3,)), Selection(k=1))
