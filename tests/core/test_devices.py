"""Batches that do not fit are halved, and what fitted is remembered."""

import logging

import pytest
import torch

from anaglyph import ModelPair
from anaglyph.behaviour.generate import Sampling, side_stepper, write
from anaglyph.core.devices import Fitting, ahead, numbers_of, resolve_device
from anaglyph.core.errors import InputError
from anaglyph.demo import tiny_pair
from anaglyph.pair.blocks import BlockModel


def limited(rows: int, calls: list[slice]):
    def run(part: slice) -> list[int]:
        calls.append(part)
        if part.stop - part.start > rows:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB.")
        return list(range(part.start, part.stop))

    return run


def test_a_batch_is_halved_until_it_fits_and_the_next_one_starts_there(caplog):
    fitting, calls = Fitting(), []
    with caplog.at_level(logging.WARNING, "anaglyph"):
        parts = fitting.run(limited(3, calls), 8, 10)
    assert [row for part in parts for row in part] == list(range(8))
    assert [part.stop - part.start for part in calls] == [8, 4, 2, 2, 2, 2]
    assert "out of memory for 8 sequences of 10 tokens: the batch is halved" in caplog.text
    again: list[slice] = []
    fitting.run(limited(3, again), 4, 10)
    assert [part.stop - part.start for part in again] == [2, 2]
    longer: list[slice] = []
    fitting.run(limited(3, longer), 2, 20)
    assert [part.stop - part.start for part in longer] == [1, 1]


def test_one_sequence_that_does_not_fit_is_one_clear_line():
    with pytest.raises(InputError, match="one sequence of 10 tokens: use a shorter --context"):
        Fitting().run(limited(0, []), 4, 10)


@pytest.fixture
def pair() -> ModelPair:
    return ModelPair.load(tiny_pair().base, tiny_pair().tuned, device="cpu")


def test_models_and_replies_are_the_same_in_halves(pair, monkeypatch):
    ids = torch.arange(40).reshape(5, 8)
    mask = torch.ones_like(ids)
    mask[3, 5:] = 0
    prompts = [row.numpy() for row in ids]
    reply = Sampling(4, [])

    def everything():
        hidden = pair.run_both_to(ids, mask, [0, 2])
        return [
            *(hidden[side][layer] for side in ("base", "tuned") for layer in (0, 2)),
            pair.logits("tuned", ids, mask),
            pair.run_from("base", 1, hidden["base"][0], ids, mask),
            [each.tokens for each in write(lambda: side_stepper(pair, "tuned"), prompts, reply)],
        ]

    whole = everything()
    forward = BlockModel._forward

    def small(self, input_ids, attention_mask, keep=None):
        if len(input_ids) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return forward(self, input_ids, attention_mask, keep)

    monkeypatch.setattr(BlockModel, "_forward", small)
    *halves, replies = everything()
    for expected, found in zip(whole, halves, strict=False):
        torch.testing.assert_close(found, expected)
    assert replies == whole[-1]


def test_ahead_gives_the_same_items_and_passes_errors_on():
    assert list(ahead(iter(range(5)))) == list(range(5))

    def broken():
        yield 1
        raise InputError("the second is bad")

    items = ahead(broken())
    assert next(items) == 1
    with pytest.raises(InputError, match="the second is bad"):
        next(items)


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:x", "CPU", ""])
def test_an_unknown_device_is_named(name):
    with pytest.raises(InputError, match="is unknown: use auto, cpu, cuda, cuda:N or mps"):
        resolve_device(name)


def test_the_numbers_of_a_cpu_are_named_by_their_format():
    assert numbers_of(torch.device("cpu")) == "float32"
    assert numbers_of(torch.device("cuda", 3), torch.bfloat16) == "bfloat16 on cuda"
