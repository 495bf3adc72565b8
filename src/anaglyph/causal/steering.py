"""Steering: a direction added to the residual stream while a model writes, side by side.

Base, tuned and the steered model answer the same prompts. The direction is added at absolute
positions of the text; what an earlier token left in the key-value cache was computed with its own
push, and stays so (`behaviour.generate`).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from anaglyph.behaviour.directions import Direction
from anaglyph.behaviour.generate import (
    Sampling,
    Written,
    end_tokens,
    reply_texts,
    side_stepper,
    write,
)
from anaglyph.behaviour.prompts import all_prompt_ids
from anaglyph.behaviour.steering import Push, Steering
from anaglyph.core.errors import InputError
from anaglyph.core.settings import SteerSettings
from anaglyph.pair import ModelPair, Side
from anaglyph.subject import Subject


def steer(
    subject: Subject,
    prompts: Sequence[str],
    direction: Direction,
    settings: SteerSettings | None = None,
) -> pl.DataFrame:
    """Let base, tuned and the steered model answer the same prompts; one row an answer.

    Columns: prompt, model ("base", "tuned", "steered"), direction and strength (null where nothing
    is added), reply, tokens, logprob (mean a token, nats, under the model that wrote it).

    Args:
        subject: Both models; its text is not read. The seed draws the samples.
        prompts: One user turn each.
        direction: What is added.
        settings: How much is added where, and how replies are written.

    Raises:
        InputError: There are no prompts, the place is unknown, or the direction has another width.
    """
    settings = settings or SteerSettings()
    pair, into, strengths = subject.pair, settings.into, settings.strength
    pair.check_related("steering")
    ids = all_prompt_ids(pair.tokenizer, prompts)
    vector, at = direction.vector, places(settings.at)
    # Checked before anything is written.
    pushes = [Push(direction.layer, vector * strength, at) for strength in strengths]
    steering = Steering(pair, into, [push for push in pushes for _ in prompts])
    sampling = Sampling(settings.new_tokens, end_tokens(pair), settings.temperature, subject.seed)

    def written(side: Side, asked: Sequence[np.ndarray], pushed: Steering | None) -> list[Written]:
        make = lambda: side_stepper(pair, side)  # noqa: E731
        return write(make, asked, sampling, steering=pushed, progress=subject.progress)

    base, tuned = written("base", ids, None), written("tuned", ids, None)
    steered = written(into, ids * len(strengths), steering)
    rows = []
    for number, prompt in enumerate(prompts):
        rows.append(_row(pair, prompt, base[number]) | {"model": "base"})
        rows.append(_row(pair, prompt, tuned[number]) | {"model": "tuned"})
        for place, strength in enumerate(strengths):
            row = _row(pair, prompt, steered[place * len(prompts) + number])
            row |= {"model": "steered", "direction": direction.name, "strength": float(strength)}
            rows.append(row)
    return pl.DataFrame(rows, schema=_SCHEMA)


def places(text: str) -> str | tuple[int, ...]:
    """Read where a direction is added: a name of `generate.WHERE`, or positions such as 0,5,6.

    Raises:
        InputError: A position is beyond what any text has.
    """
    parts = text.split(",")
    if any(part.isdecimal() and len(part) > 9 for part in parts):
        raise InputError(f"--at {text:.40} is beyond the end of any text")
    return tuple(int(part) for part in parts) if all(p.isdecimal() for p in parts) else text


_SCHEMA = {
    "prompt": pl.String,
    "model": pl.String,
    "direction": pl.String,
    "strength": pl.Float64,
    "reply": pl.String,
    "tokens": pl.Int64,
    "logprob": pl.Float64,
}


def _row(pair: ModelPair, prompt: str, written: Written) -> dict[str, Any]:
    (reply,) = reply_texts(pair, [written.reply])
    return {
        "prompt": prompt,
        "direction": None,
        "strength": None,
        "reply": reply,
        "tokens": len(written.tokens),
        "logprob": float(np.mean(written.logprobs)),
    }
