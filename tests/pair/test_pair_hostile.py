"""Models of strangers: absurd numbers, rules without end, bad adapters: one line, and soon."""

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from anaglyph.core.errors import AnaglyphError, ModelError
from anaglyph.direct.weights import weight_changes
from anaglyph.pair import ModelPair
from anaglyph.pair.loading import load_config
from anaglyph.pair.numbers import check_adapter
from anaglyph.pair.sources import locate
from anaglyph.pair.tokens import load_tokenizer


def edited(folder: Path, out: Path, file: str, **changes: Any) -> Path:
    shutil.copytree(folder, out)
    config = json.loads((out / file).read_text()) | changes
    (out / file).write_text(json.dumps(config))
    return out


def one_line_or_none(read: Callable[[], Any]) -> None:
    """Read, or be refused in one line; any other exception goes on."""
    try:
        read()
    except AnaglyphError as error:
        said = str(error)
    else:
        said = ""
    assert "\n" not in said


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_hidden_layers", 10_000_000),
        ("num_hidden_layers", 10**18),
        ("hidden_size", 10**9),
        ("intermediate_size", 40_000_000),
        ("vocab_size", 10**12),
        ("max_position_embeddings", 10**11),
        ("num_attention_heads", 10**7),
        ("text_config", {"num_hidden_layers": 10**7}),
        ("rope_theta", float("nan")),
        ("num_local_experts", 10**8),
    ],
)
def test_a_model_that_its_files_cannot_hold(base_folder: Path, tmp_path: Path, field, value):
    folder = edited(base_folder, tmp_path / "m", "config.json", **{field: value})
    start = time.monotonic()
    with pytest.raises(ModelError) as caught:
        ModelPair.load(folder, folder)
    assert time.monotonic() - start < 5
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "field",
    ["intermediate_size_mlp", "unpadded_vocab_size", "audio_chunk_size", "attention_chunk_size"],
)
def test_numbers_that_a_model_does_not_use_are_let_through(
    base_folder: Path, tmp_path: Path, field: str
):
    folder = edited(base_folder, tmp_path / "m", "config.json", **{field: 200_000})
    assert ModelPair.load(folder, base_folder).n_layers == 4


def test_numbers_each_possible_but_not_together(base_folder: Path, tmp_path: Path):
    """A width and a vocabulary that are let through, and a matrix of both that is not."""
    folder = edited(
        base_folder, tmp_path / "m", "config.json", hidden_size=4096, intermediate_size=4096
    )
    config = json.loads((folder / "config.json").read_text())
    config |= {"num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 1024}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"describes a model of .* values"):
        ModelPair.load(folder, folder)


SOME = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.integers())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_config_of_any_values_is_read_or_refused(base_folder: Path, tmp_path: Path, data):
    config = json.loads((base_folder / "config.json").read_text())
    for name in data.draw(st.lists(st.sampled_from(sorted(config)), max_size=3)):
        config[name] = data.draw(SOME)
    out = tmp_path / "m"
    if not out.exists():
        shutil.copytree(base_folder, out)
    (out / "config.json").write_text(json.dumps(config))
    one_line_or_none(lambda: load_config(locate(out)))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.dictionaries(
        st.sampled_from(
            [
                "lora_alpha",
                "alpha_pattern",
                "rank_pattern",
                "r",
                "target_modules",
                "peft_type",
                "layer_replication",
                "exclude_modules",
                "layers_pattern",
                "use_rslora",
                "alpha",
            ]
        ),
        SOME | st.dictionaries(st.text(max_size=4), SOME, max_size=2),
    )
)
def test_an_adapter_config_of_any_values_is_read_or_refused(
    adapter_folder: Path, tmp_path: Path, changes
):
    out = tmp_path / "a"
    shutil.rmtree(out, ignore_errors=True)
    edited(adapter_folder, out, "adapter_config.json", **changes)
    one_line_or_none(lambda: check_adapter(locate(out)))


@pytest.mark.parametrize(
    "text", [b"\xff\xfe{", b"[" * 200_000, b"[]", b"", b'{"a": 1' + b"0" * 9999]
)
def test_a_config_that_is_no_config(base_folder: Path, tmp_path: Path, text: bytes):
    folder = Path(shutil.copytree(base_folder, tmp_path / "m"))
    (folder / "config.json").write_bytes(text)
    with pytest.raises(ModelError, match=r"config\.json"):
        load_config(locate(folder))


BAD_ADAPTERS = [
    {"lora_alpha": None},
    {"lora_alpha": float("nan")},
    {"lora_alpha": "16"},
    {"alpha_pattern": {"q_proj": float("inf")}},
    {"alpha_pattern": [1]},
    {"r": 10**9},
    {"r": 0},
    {"r": 3},
    {"rank_pattern": {".*": 10**9}},
    {"target_modules": "(a+)+b"},
    {"target_modules": "[a"},
    {"target_modules": ["no_such_module"]},
    {"target_modules": 7},
    {"peft_type": "NO_SUCH"},
    {"peft_type": None},
    {"layer_replication": [[0, 10**9]]},
    {"layer_replication": 7},
]


@pytest.mark.parametrize("changes", BAD_ADAPTERS, ids=str)
def test_weights_refuses_the_adapters_that_the_pair_refuses(
    base_folder: Path, adapter_folder: Path, tmp_path: Path, changes
):
    adapter = edited(adapter_folder, tmp_path / "a", "adapter_config.json", **changes)

    def weights() -> None:
        list(weight_changes(base_folder, adapter))

    for read in (lambda: ModelPair.load(base_folder, adapter), weights):
        start = time.monotonic()
        with pytest.raises(ModelError) as caught:
            read()
        assert time.monotonic() - start < 5
        assert "\n" not in str(caught.value)


RULES = {
    "a pattern that backtracks": {
        "pre_tokenizer": {
            "type": "Split",
            "pattern": {"Regex": "(?:a|a|aa|[a-z]+)+!$"},
            "behavior": "Isolated",
            "invert": False,
        }
    },
    "replacements that double": {
        "normalizer": {
            "type": "Sequence",
            "normalizers": [{"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}] * 40,
        }
    },
}


@pytest.mark.parametrize("rule", list(RULES))
def test_rules_of_a_tokenizer_without_end(base_folder: Path, tmp_path: Path, rule: str):
    folder = edited(base_folder, tmp_path / "m", "tokenizer.json", **RULES[rule])
    start = time.monotonic()
    with pytest.raises(ModelError, match=r"json is refused: its rules take too"):
        load_tokenizer(locate(folder))
    assert time.monotonic() - start < 20  # a busy machine


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff", b'{"model": {"type": "BPE"}}', b"[" * 99999]
)
def test_a_damaged_tokenizer(base_folder: Path, tmp_path: Path, content: bytes):
    folder = Path(shutil.copytree(base_folder, tmp_path / "m"))
    (folder / "tokenizer.json").write_bytes(content)
    with pytest.raises(ModelError, match="cannot load the tokenizer"):
        load_tokenizer(locate(folder))
