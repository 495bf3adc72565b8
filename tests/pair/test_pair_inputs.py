"""Layers, token ids and shapes that a pair is asked for, and the texts of single tokens."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import make_tokenizer
from tokenizers import Tokenizer, decoders, models
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from anaglyph.core.errors import InputError
from anaglyph.pair import ModelPair
from anaglyph.pair.tokens import token_strings

Batch = tuple[Tensor, Tensor]


@pytest.fixture(scope="module")
def pair(base_folder: Path) -> ModelPair:
    return ModelPair.load(base_folder, base_folder)


@pytest.mark.parametrize(
    ("layer", "index"),
    [(0, 0), (3, 3), (0.0, 0), (0.24, 0), (0.25, 1), (0.5, 2), (0.99, 3), (1.0, 3)],
)
def test_layers_by_index_and_by_depth(pair: ModelPair, layer: float, index: int):
    assert pair.resolve_layer(layer) == index


@given(st.floats(0, 1))
def test_every_fraction_is_some_layer(pair: ModelPair, fraction: float):
    index = pair.resolve_layer(fraction)
    assert index == 3 if fraction == 1 else index <= fraction * 4 < index + 1


@pytest.mark.parametrize("layer", [4, -1, 1.5, -0.1, float("nan"), True])
def test_layers_out_of_range(pair: ModelPair, layer: float):
    with pytest.raises(InputError, match=f"layer {layer} is out of range"):
        pair.resolve_layer(layer)


def test_the_message_names_the_depth(pair: ModelPair, batch: Batch):
    with pytest.raises(
        InputError, match=r"layer 4 is out of range: the model has 4 layers .0 to 3"
    ):
        pair.run_to("base", *batch, [0, 4])
    with pytest.raises(InputError, match="the model has 4 layers"):
        pair.run_from("base", 4, torch.zeros(2, 9, 16), *batch)
    with pytest.raises(InputError, match="layers is empty"):
        pair.run_to("base", *batch, [])


def test_tokens_outside_the_vocabulary(pair: ModelPair, batch: Batch):
    ids, mask = batch
    with pytest.raises(InputError, match="token id 96 is outside the vocabulary of 96"):
        pair.logits("base", torch.full_like(ids, 96), mask)
    with pytest.raises(InputError, match="token id -1 is outside"):
        pair.logits("base", torch.full_like(ids, -1), mask)
    with pytest.raises(InputError, match="empty"):
        pair.logits("base", ids[:0], mask[:0])


@pytest.mark.parametrize("row", [[0, 1, 1], [1, 0, 1], [0, 0, 0]])
def test_padding_anywhere_but_on_the_right(pair: ModelPair, row: list[int]):
    ids, mask = torch.tensor([[5, 6, 7]]), torch.tensor([row])
    with pytest.raises(InputError, match="padded on the right"):
        pair.run_to("base", ids, mask, [0])


def test_edits_of_the_wrong_width(pair: ModelPair, batch: Batch):
    with pytest.raises(InputError, match=r"shape \(2, 9, 8\), .* need \(2, 9, 16\)"):
        pair.run_from("base", 1, torch.zeros(2, 9, 8), *batch)


def test_token_strings_keep_spaces_and_broken_characters():
    assert token_strings(make_tokenizer(extra=1), [0, 34, 1, 96]) == [" ", "A", "Ã", "<0>"]
    assert token_strings(make_tokenizer(), []) == []


def test_token_strings_where_the_decoder_strips_the_first_space():
    pieces = {"▁the": 0, "the": 1, "▁": 2, "<0xE2>": 3}
    tokenizer = Tokenizer(models.BPE(pieces, merges=[], byte_fallback=True))
    # As Llama's tokenizers have it: bytes are fused, and a text loses its first space.
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    assert token_strings(fast, [0, 1, 2, 3]) == [" the", "the", " ", "<0xE2>"]


def test_pairs_give_token_strings(pair: ModelPair):
    ids = pair.tokenizer("a b", add_special_tokens=False)["input_ids"]
    assert pair.token_strings(ids) == ["a", " ", "b"]
