from importlib.metadata import EntryPoint, EntryPoints

import pytest
import torch

from anaglyph.core.errors import InputError
from anaglyph.dictionaries import describe_methods, get_method, list_methods
from anaglyph.dictionaries import registry as registry_module
from anaglyph.dictionaries.methods import SAE, TunedSAE
from anaglyph.dictionaries.registry import Registry
from anaglyph.dictionaries.sparsity import SPARSITIES


def test_our_methods_are_known() -> None:
    assert {"base-sae", "crosscoder", "diff-sae", "tuned-sae"} <= set(list_methods())
    assert get_method("diff-sae").name == "diff-sae"


def test_unknown_names_are_refused_with_those_that_exist() -> None:
    with pytest.raises(InputError, match=r"unknown method 'difsae'.*crosscoder.*diff-sae"):
        get_method("difsae")
    with pytest.raises(InputError, match=r"unknown sparsity 'l7'.*batchtopk, .*topk"):
        SPARSITIES.get("l7")


def test_a_name_belongs_to_one_class() -> None:
    registry: Registry[SAE] = Registry("method", "anaglyph.nothing")
    registry.register("mine")(type("Mine", (SAE,), {}))
    with pytest.raises(InputError, match="registered twice"):
        registry.register("mine")(type("Other", (SAE,), {}))


def test_an_installed_package_brings_its_method(monkeypatch: pytest.MonkeyPatch) -> None:
    registry: Registry[SAE] = Registry("method", "anaglyph.methods")
    entry = EntryPoint("theirs", "anaglyph.dictionaries.methods:SAE", "anaglyph.methods")
    monkeypatch.setattr(registry_module, "entry_points", lambda group: EntryPoints([entry]))
    assert registry.names() == ["theirs"]
    assert registry.get("theirs") is SAE


def test_inputs_of_every_source() -> None:
    base, tuned = torch.tensor([[1.0, 2.0]]), torch.tensor([[4.0, 3.0]])
    picked = {name: get_method(name).inputs(base, tuned) for name in list_methods()}
    assert [x.tolist() for x in picked["crosscoder"]] == [[[1, 2]], [[4, 3]]]
    # The difference is tuned minus base, never the tuned activations themselves.
    assert [x.tolist() for x in picked["diff-sae"]] == [[[3, 1]]]
    assert [x.tolist() for x in picked["tuned-sae"]] == [[[4, 3]]]
    assert [x.tolist() for x in picked["base-sae"]] == [[[1, 2]]]
    scored = get_method("base-sae").scoring_inputs(base, tuned)
    assert [x.tolist() for x in scored] == [[[4, 3]]]


def test_only_the_difference_needs_equal_widths() -> None:
    assert get_method("crosscoder").widths(8, 6) == (8, 6)
    assert get_method("base-sae").widths(8, 6) == (8,)
    with pytest.raises(InputError, match=r"d_base=8, d_tuned=6"):
        get_method("diff-sae").widths(8, 6)


def test_difference_of_reconstructions() -> None:
    base, tuned = torch.tensor([[1.0, 2.0]]), torch.tensor([[4.0, 3.0]])
    both = get_method("crosscoder").difference((base, tuned))
    assert both is not None
    assert both.tolist() == [[3, 1]]
    assert get_method("crosscoder").difference((base, tuned[:, :1])) is None
    assert get_method("diff-sae").difference((base,)) is base
    assert TunedSAE().difference((tuned,)) is None


def test_every_method_is_described_in_one_line() -> None:
    rows = {row["name"]: row for row in describe_methods()}
    assert list(rows) == list_methods()
    assert rows["diff-sae"] == {
        "name": "diff-sae",
        "kind": "sae",
        "sources": ["difference"],
        "default_k": 8,
        "description": "An SAE of h_tuned - h_base.",
    }
    assert all(row["description"].endswith((".", ")")) for row in rows.values())
