"""Every public function that takes arrays takes NumPy and torch, in any floating-point type."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jaxtyping
import numpy as np
import pytest
import torch

import anaglyph as ag
from anaglyph.core.arrays import floats, from_numpy
from anaglyph.core.errors import InputError
from anaglyph.core.threads import use_threads

TOKENS, WIDTH = 60, 8


def read_only(array: np.ndarray) -> np.ndarray:
    array = array.copy()
    array.flags.writeable = False
    return array


FORMS: dict[str, Callable[[np.ndarray], Any]] = {
    "numpy float16": lambda array: array.astype(np.float16),
    "numpy float32": lambda array: array.astype(np.float32),
    "numpy float64": lambda array: array.astype(np.float64),
    "numpy long double": lambda array: array.astype(np.longdouble),
    "numpy big-endian": lambda array: array.astype(">f4"),
    "numpy reversed": lambda array: array[:, ::-1].astype(np.float32)[:, ::-1],
    "numpy Fortran": lambda array: np.asfortranarray(array.astype(np.float32)),
    "numpy read-only": lambda array: read_only(array.astype(np.float32)),
    "torch float16": lambda array: torch.from_numpy(array).half(),
    "torch bfloat16": lambda array: torch.from_numpy(array).bfloat16(),
    "torch float32": lambda array: torch.from_numpy(array).float(),
    "torch float64": lambda array: torch.from_numpy(array),
    "torch with gradient": lambda array: torch.from_numpy(array).requires_grad_(),
    "torch transposed": lambda array: torch.from_numpy(array).float().T.contiguous().T,
}


def activations() -> tuple[np.ndarray, np.ndarray]:
    """Return activations that even bfloat16 holds exactly."""
    generator = np.random.default_rng(0)
    base, change = generator.integers(-8, 9, (2, TOKENS, WIDTH)) / 4
    return base, base + change * (generator.random((TOKENS, 1)) < 0.5)


def stored(folder: Path, form: str = "numpy float64") -> ag.PairedStore:
    base, tuned = (FORMS[form](side) for side in activations())
    sequences = np.arange(TOKENS) // 5
    return ag.PairedStore.from_arrays(base, tuned, folder, sequence_ids=sequences)


@pytest.fixture(scope="module")
def dictionaries(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ag.Dictionary]:
    store = stored(tmp_path_factory.mktemp("arrays") / "store")
    methods = ("diff-sae", "crosscoder", "tuned-sae")
    settings: dict[str, Any] = {"latents": 16, "k": 2, "tokens": 600, "batch": 60}
    with use_threads(1):
        return {method: ag.train(store, method, **settings) for method in methods}


@pytest.mark.parametrize("form", FORMS)
def test_a_store_of_any_form_is_the_same(form: str, tmp_path: Path) -> None:
    assert stored(tmp_path / "a", form).key == stored(tmp_path / "b").key


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("method", ["diff-sae", "crosscoder", "tuned-sae"])
def test_activations_of_any_form_have_the_same_codes(
    method: str, form: str, dictionaries: dict[str, ag.Dictionary]
) -> None:
    dictionary = dictionaries[method]
    sides = activations()
    expected = dictionary.encode(*(side.astype(np.float32) for side in sides))
    given = [FORMS[form](side) for side in sides]
    for codes in (
        dictionary.encode(*given),
        dictionary.encode_inputs([FORMS[form](x) for x in inputs_of(method, *sides)]),
    ):
        np.testing.assert_array_equal(codes.indices, expected.indices)
        np.testing.assert_array_equal(codes.values, expected.values)
        np.testing.assert_array_equal(codes.offsets, expected.offsets)
    assert len(expected.indices) > 0
    assert len(dictionary.pull_factors([FORMS[form](x) for x in inputs_of(method, *sides)])) > 0


def inputs_of(method: str, base: np.ndarray, tuned: np.ndarray) -> tuple[np.ndarray, ...]:
    found = {"diff-sae": (tuned - base,), "crosscoder": (base, tuned), "tuned-sae": (tuned,)}
    return found[method]


@pytest.mark.parametrize("whole", [np.int16, np.uint8, np.int64, torch.int32, torch.int64])
def test_whole_numbers_of_any_width(whole: Any, tmp_path: Path) -> None:
    def made(values: np.ndarray) -> Any:
        is_torch = isinstance(whole, torch.dtype)
        return torch.from_numpy(values).to(whole) if is_torch else values.astype(whole)

    ids = {
        "token_ids": made(np.arange(TOKENS)),
        "sequence_ids": made(np.arange(TOKENS) // 5),
        "roles": made(np.arange(TOKENS) % 3),
    }
    store = ag.PairedStore.from_arrays(*activations(), tmp_path / "store", **ids)
    assert store.token_ids.tolist() == list(range(TOKENS))
    assert store.n_sequences == TOKENS // 5
    base, _ = store.gather(made(np.array([3, 1, 2])))
    np.testing.assert_array_equal(base.numpy(), activations()[0][[3, 1, 2]])


@pytest.mark.parametrize(
    ("base", "message"),
    [
        (np.zeros(8), r"base must be \[tokens, d\], but has shape \[8\]"),
        (np.zeros((2, 3, 8)), r"base must be \[tokens, d\], but has shape \[2, 3, 8\]"),
        (torch.zeros(()), r"base must be \[tokens, d\], but has shape \[\]"),
        (np.zeros((60, 8), int), "base must hold floating-point numbers, not int64"),
        (np.zeros((60, 8), bool), "base must hold floating-point numbers, not bool"),
        (np.zeros((60, 8), complex), "base must hold floating-point numbers, not complex128"),
        (np.full((60, 8), "a"), "base must hold floating-point numbers, not <U1"),
        (np.zeros((0, 8)), r"base is empty: its shape is \[0, 8\]"),
        (np.zeros((59, 8)), "base has 59 tokens, tuned has 60"),
    ],
)
def test_a_wrong_shape_is_named(
    base: Any, message: str, tmp_path: Path, dictionaries: dict[str, ag.Dictionary]
) -> None:
    tuned = activations()[1]
    with pytest.raises(InputError, match=message):
        ag.PairedStore.from_arrays(base, tuned, tmp_path / "store")
    for dictionary in dictionaries.values():
        with pytest.raises(InputError, match=message):
            dictionary.encode(base, tuned)


@pytest.mark.parametrize(("given", "kind"), [([[0.0] * 8] * 60, "list"), (None, "NoneType")])
def test_what_is_no_array_is_named(
    given: Any,
    kind: str,
    dictionaries: dict[str, ag.Dictionary],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # What the tests' type checker would refuse, a user can still give.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(
        InputError, match=f"base must be a NumPy array or torch tensor.* not {kind}"
    ):
        dictionaries["diff-sae"].encode(given, activations()[1])


def test_a_wrong_width_or_number_of_inputs_is_named(
    dictionaries: dict[str, ag.Dictionary],
) -> None:
    base, tuned = activations()
    expected = r"difference must be \[tokens, 8\], but has shape \[60, 7\]"
    with pytest.raises(InputError, match=expected):
        dictionaries["diff-sae"].encode(base[:, :7], tuned[:, :7])
    with pytest.raises(InputError, match="crosscoder reads base, tuned: got 1 arrays"):
        dictionaries["crosscoder"].encode_inputs([base])


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_the_first_token_that_is_not_finite_is_named(
    wrong: float, tmp_path: Path, dictionaries: dict[str, ag.Dictionary]
) -> None:
    base, tuned = activations()
    tuned[7, 3] = tuned[9, 0] = wrong
    with pytest.raises(InputError, match=r"tuned has NaN, inf or a number too large .* in row 7"):
        ag.PairedStore.from_arrays(base, tuned, tmp_path / "store")
    for dictionary in dictionaries.values():
        with pytest.raises(InputError, match="NaN or inf at 2 tokens; the first is 7"):
            dictionary.encode(base, tuned)


@pytest.mark.parametrize("picked", [np.zeros(60, bool), np.zeros(3), np.zeros((3, 1), int)])
def test_an_index_that_is_no_list_of_tokens_is_refused(picked: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="token_index must"):
        stored(tmp_path / "store").gather(picked)


def test_memory_is_shared_where_it_can_be() -> None:
    array = np.zeros((2, 3), np.float32)
    floats("array", array)[0, 0] = 5
    assert array[0, 0] == 5
    untouched = read_only(array)
    from_numpy(untouched)[0, 0] = 6
    assert untouched[0, 0] == 5
