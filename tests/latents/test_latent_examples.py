import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small import arrays, random_dictionary, random_store

from anaglyph.core.errors import InputError
from anaglyph.corpus import ROLES
from anaglyph.dictionaries import Dictionary, Selection, Weights, get_method
from anaglyph.latents import top_examples
from anaglyph.latents.examples import Strongest
from anaglyph.store import PairedStore

METHODS = ("crosscoder", "diff-sae", "tuned-sae", "base-sae")


def by_hand(rows, values, tokens, sequences, n_rows, n):
    """Rank with plain Python: best firing of each sequence, then the n best sequences."""
    found = []
    for row in range(n_rows):
        best = {}
        for r, value, token, sequence in zip(rows, values, tokens, sequences, strict=True):
            if r == row:
                best[sequence] = min(best.get(sequence, (np.inf, 0)), (-value, token))
        ranked = sorted((*peak, sequence) for sequence, peak in best.items())[:n]
        found.append([(token, sequence, -value) for value, token, sequence in ranked])
    return found


@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(1, 6))
def test_strongest_equals_plain_python_however_it_is_fed(seed, n, parts):
    rng = np.random.default_rng(seed)
    tokens = np.repeat(np.arange(60), 2)
    rows = rng.integers(0, 3, tokens.size)
    values = rng.integers(1, 9, tokens.size).astype(np.float32)  # many ties
    sequences = tokens // 7
    strongest = Strongest(3, n)
    for part in np.array_split(np.arange(tokens.size), parts):
        strongest.update(rows[part], values[part], tokens[part], sequences[part])
    expected = by_hand(rows, values, tokens, sequences, 3, n)
    for row in range(3):
        kept = strongest.tokens[row] >= 0
        found = zip(
            strongest.tokens[row][kept],
            strongest.sequences[row][kept],
            strongest.values[row][kept],
            strict=True,
        )
        assert list(found) == expected[row]


@pytest.mark.parametrize("method", METHODS)
def test_examples_show_what_the_dictionary_and_the_models_say(method, tmp_path):
    rng = np.random.default_rng(1)
    roles = rng.integers(0, len(ROLES), 12 * 9).astype(np.uint8)
    store = random_store(tmp_path / "store", rng, sequences=12, length=9, roles=roles, mean=3.0)
    dic = random_dictionary(method, 6, (5, 5), rng)
    h = arrays(store)
    base, tuned = store.gather(np.arange(store.n_tokens))
    codes = dic.encode_inputs(dic.spec.scoring_inputs(base, tuned)).dense(6)
    shown = top_examples(dic, store, [4, 0, 2], n=3, window=2)
    json.dumps(shown, allow_nan=False)
    assert [entry["latent"] for entry in shown] == [4, 0, 2]
    assert shown[1]["examples"] == []  # latent 0 never fires
    for entry in (shown[0], shown[2]):
        j = entry["latent"]
        per_sequence = codes[:, j].reshape(12, 9).max(axis=1)
        expected = np.sort(per_sequence[per_sequence > 0])[::-1][:3]
        peaks = [example["code"][example["position"]] for example in entry["examples"]]
        assert peaks == pytest.approx(expected.tolist(), abs=1e-5)
        assert len({example["sequence"] for example in entry["examples"]}) == len(peaks)
        direction = dic.decoder[-1][j].double().numpy()
        direction = direction / np.linalg.norm(direction)
        for example in entry["examples"]:
            start = example["sequence"] * 9 + example["start"]
            span = np.arange(start, start + len(example["code"]))
            peak = example["start"] + example["position"]
            assert example["start"] == max(0, peak - 2)
            assert len(span) == min(9, peak + 3) - example["start"]
            assert example["token_ids"] == span.tolist()
            assert example["roles"] == [ROLES[roles[token]] for token in span]
            assert example["code"] == pytest.approx(codes[span, j].tolist(), abs=1e-5)
            for side in ("base", "tuned"):
                centre = np.median(h[side], axis=0)
                along = (h[side][span] - centre) @ direction
                assert example[side] == pytest.approx(along.tolist(), abs=1e-5)


@pytest.mark.parametrize("side", [0, 1])
def test_massive_tokens_do_not_come_first(side: int, tmp_path):
    rng = np.random.default_rng(2)
    both = [0.1 * rng.standard_normal((100, 3)).astype(np.float32) for _ in range(2)]
    # Each of four sequences begins with a token a thousand times as long, in one model or both,
    # where the difference is the largest, if not massive. Tokens 38, 63 and 84 are meant.
    both[1][:, 0] = 0
    both[0][:, 0] = 0
    both[side][::25, 1] = 1000.0
    both[1 - side][::25, 1] = 995.0
    both[1][::25, 0] = 5.0
    both[1][[38, 63, 84], 0] = [3.0, 2.0, 2.5]
    store = PairedStore.from_arrays(
        both[0],
        both[1],
        tmp_path / "store",
        token_ids=np.arange(100),
        sequence_ids=np.arange(100) // 25,
    )
    one = torch.eye(3)[:1]
    weights = Weights((one,), torch.zeros(1), (one,), (torch.zeros(3),))
    dic = Dictionary(get_method("diff-sae"), weights, Selection(k=1.0, threshold=0.5))
    (shown,) = top_examples(dic, store, [0], n=3, window=0)
    assert [example["token_ids"] for example in shown["examples"]] == [[38], [84], [63]]
    # What fires nowhere else is still shown, with its own code.
    (shown,) = top_examples(dic, store, [0], n=4, window=0)
    assert shown["examples"][3]["token_ids"] == [0]
    assert shown["examples"][3]["code"] == pytest.approx([5.0])


def test_strips_lie_along_the_decoder_that_the_latent_has(tmp_path):
    rng = np.random.default_rng(0)
    store = random_store(tmp_path / "store", rng)
    dic = random_dictionary("crosscoder", 3, (5, 5), rng)
    dic.decoder[1][1] *= 1e-3
    dic.decoder[0][2] = 0
    dic.decoder[1][2] = 0
    h = arrays(store)["tuned"].astype(np.float64)
    base_only, nowhere = top_examples(dic, store, [1, 2], n=1, window=0)
    (example,) = base_only["examples"]
    token = example["token_ids"][0]
    direction = dic.decoder[0][1].double().numpy()
    expected = (h[token] - np.median(h, axis=0)) @ direction / np.linalg.norm(direction)
    assert example["tuned"] == pytest.approx([expected], abs=1e-5)
    # A latent without a decoder lies along nothing.
    assert nowhere["examples"][0]["base"] == nowhere["examples"][0]["tuned"] == [None]


def test_a_model_of_another_width_has_nulls(tmp_path):
    rng = np.random.default_rng(0)
    store = random_store(tmp_path / "store", rng, widths=(4, 6))
    dic = random_dictionary("crosscoder", 3, (4, 6), rng)
    dic.decoder[1].mul_(3)  # no latent is base-only
    example = top_examples(dic, store, [1], n=1, window=1)[0]["examples"][0]
    assert set(example["base"]) == {None}
    assert None not in example["tuned"]


def test_many_latents_are_shown_in_parts_alike(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    store = random_store(tmp_path / "store", rng)
    dic = random_dictionary("tuned-sae", 8, (5, 5), rng)
    whole = top_examples(dic, store, range(8))
    monkeypatch.setattr("anaglyph.latents.examples._WINDOW_TOKENS", 1)
    assert [entry["latent"] for entry in whole] == list(range(8))
    for one, other in zip(whole, top_examples(dic, store, range(8)), strict=True):
        for left, right in zip(one["examples"], other["examples"], strict=True):
            for name in ("code", "base", "tuned"):
                assert left.pop(name) == pytest.approx(right.pop(name), abs=1e-6)
            assert left == right


@pytest.mark.parametrize(
    ("latents", "arguments", "named"),
    [
        ([3], {}, "latent 3 is not within 0 to 2"),
        ([-1], {}, "latent -1"),
        ([1, 1], {}, "twice"),
        ([1], {"n": 0}, "n=0"),
        ([1], {"window": -1}, "window=-1"),
    ],
)
def test_refuses_bad_arguments(latents, arguments, named, tmp_path):
    rng = np.random.default_rng(0)
    store = random_store(tmp_path / "store", rng)
    with pytest.raises(InputError, match=named):
        top_examples(random_dictionary("tuned-sae", 3, (5, 5), rng), store, latents, **arguments)


def test_no_latents_no_reading(tmp_path):
    rng = np.random.default_rng(0)
    store = random_store(tmp_path / "store", rng)
    assert top_examples(random_dictionary("tuned-sae", 3, (5, 5), rng), store, []) == []


def test_a_beginning_that_sequences_share_is_shown_once(tmp_path):
    rng = np.random.default_rng(4)
    dic = random_dictionary("tuned-sae", 4, (5, 5), rng)
    values = rng.standard_normal((10, 6, 5)).astype(np.float32)
    values[:, :2] = 9 * values[0, :2]  # the strongest of all, in every sequence
    ids = rng.integers(10, 10**6, (10, 6)).astype(np.int32)
    ids[:, :2] = 1, 2
    store = PairedStore.from_arrays(
        values.reshape(-1, 5),
        values.reshape(-1, 5),
        tmp_path / "store",
        sequence_ids=np.repeat(np.arange(10), 6),
        token_ids=ids.ravel(),
    )
    shared = 0
    for shown in top_examples(dic, store, range(4), n=10):
        places = [
            (each["sequence"], each["start"] + each["position"]) for each in shown["examples"]
        ]
        shared += sum(position < 2 for _, position in places)
        assert all(sequence == 0 for sequence, position in places if position < 2)
    assert shared > 0
