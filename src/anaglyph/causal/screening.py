"""Base-SAE screening: which of the base's concepts got stronger (docs/maths.md, section 6).

After arXiv 2506.19823: each latent's mean activation on evaluation prompts is compared before and
after the fine-tune, and those that increased most are steered at all positions. Kept are latents
that bring the behaviour out when added to the base and take it away when removed from the tuned
model.
"""

import importlib
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import polars as pl
import torch
from jaxtyping import Float64, Int64

from anaglyph.behaviour.generate import (
    Sampling,
    end_tokens,
    reply_texts,
    side_stepper,
    write,
)
from anaglyph.behaviour.prompts import all_prompt_ids
from anaglyph.behaviour.steering import Push, Steering
from anaglyph.core.errors import InputError
from anaglyph.core.settings import ScreenSettings
from anaglyph.dictionaries import Dictionary
from anaglyph.dictionaries.vectors import latent_vectors, of_one_model
from anaglyph.pair import ModelPair, Side
from anaglyph.subject import Subject

Scorer = Callable[[str, str], float]
"""From a prompt and a reply to how much of the behaviour the reply shows, 0 to 1."""


def make_scorer(text: str) -> Scorer:
    """Return the scorer that a word on the command line stands for.

    ``re:PATTERN`` is 1 where the pattern is found, ``py:MODULE:FUNCTION`` calls a function of
    prompt and reply, anything else is 1 where the reply contains it. Case does not matter.

    Raises:
        InputError: The pattern is broken, or there is no such function.
    """
    kind, _, rest = text.partition(":")
    if kind == "re":
        try:
            pattern = re.compile(rest, re.IGNORECASE)
        except re.error as error:
            raise InputError(f"{rest!r} is no regular expression: {error}") from error
        return lambda _prompt, reply: float(pattern.search(reply) is not None)
    if kind == "py":
        module, _, name = rest.partition(":")
        try:
            return getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError, ValueError) as error:
            raise InputError(f"{text!r} names no function: {error}") from error
    return lambda _prompt, reply: float(text.lower() in reply.lower())


def judge_scorer(ask: Callable[[str], str], question: str) -> Scorer:
    """Return a scorer that asks a judge a yes-or-no question about prompt and reply.

    Args:
        ask: From the judge's prompt to its answer.
        question: What is asked; an answer that begins with yes counts as 1.
    """

    def scored(prompt: str, reply: str) -> float:
        text = f"{question} Answer yes or no.\n\nPrompt: {prompt}\n\nReply: {reply}"
        return float(ask(text).strip().lower().startswith("yes"))

    return scored


def screen(
    subject: Subject,
    dic: Dictionary,
    prompts: Sequence[str],
    scorer: Scorer,
    settings: ScreenSettings,
    *,
    table: pl.DataFrame | None = None,
) -> pl.DataFrame:
    """Screen an SAE's latents for what a fine-tune turned up; one row a latent, by the increase.

    Columns: rank, latent, mean_base and mean_tuned (mean activation a token of the prompts),
    increase, unit (the activation that a strength of 1 adds), score_base and score_tuned (mean
    score of the unsteered replies), score_added (base, latent added), score_removed (tuned, latent
    taken off), kept (it moves the behaviour up in the base and down in the tuned model).

    Args:
        subject: Both models and the layer.
        dic: An SAE of one model, best of the base.
        prompts: Evaluation prompts, one user turn each.
        scorer: From prompt and reply to the behaviour's strength.
        settings: How many latents, how hard they are steered, and the length of replies.
        table: The latent table, whose max_activation is the unit; without it, or where it has none,
            the maximum on the prompts.

    Raises:
        InputError: The dictionary is not an SAE of one model, or there are no prompts.
    """
    if not of_one_model(dic):
        raise InputError(f"screening reads each model alone: {dic.method} is no SAE of one model")
    pair, layer = subject.pair, subject.layer
    pair.check_related("screening")
    ids = all_prompt_ids(pair.tokenizer, prompts)
    means, largest = _activations(pair, dic, layer, ids)
    if table is not None:
        known = table["max_activation"].fill_null(0.0).to_numpy()
        largest = np.where(known > 0, known, largest)
    increase = means[1] - means[0]
    order = np.argsort(-increase, kind="stable")[: settings.top]
    chosen = [int(latent) for latent in order if increase[latent] > 0]
    units = [latent_vectors(dic)[latent] * float(largest[latent]) for latent in chosen]
    sampling = Sampling(settings.new_tokens, end_tokens(pair))

    def scores(side: Side, sign: float) -> Float64[np.ndarray, " variants"]:
        """Return the mean score of the replies without a push, and with each latent's."""
        pushes = [None, *(Push(layer, sign * settings.strength * unit) for unit in units)]
        steering = Steering(pair, side, [push for push in pushes for _ in prompts])
        written = write(
            lambda: side_stepper(pair, side),
            ids * len(pushes),
            sampling,
            steering=steering,
            progress=subject.progress,
        )
        replies = reply_texts(pair, [each.reply for each in written])
        found = [scorer(prompts[i % len(prompts)], reply) for i, reply in enumerate(replies)]
        return np.array(found, np.float64).reshape(len(pushes), len(prompts)).mean(1)

    base, tuned = scores("base", 1.0), scores("tuned", -1.0)
    rows: list[dict[str, Any]] = [
        {
            "rank": place,
            "latent": latent,
            "mean_base": float(means[0][latent]),
            "mean_tuned": float(means[1][latent]),
            "increase": float(increase[latent]),
            "unit": float(largest[latent]),
            "score_base": float(base[0]),
            "score_tuned": float(tuned[0]),
            "score_added": float(base[place]),
            "score_removed": float(tuned[place]),
            "kept": bool(base[place] > base[0] and tuned[place] < tuned[0]),
        }
        for place, latent in enumerate(chosen, 1)
    ]
    return pl.DataFrame(rows, schema=_SCHEMA)


_MEANS = ("mean_base", "mean_tuned", "increase", "unit")
_SCORES = ("score_base", "score_tuned", "score_added", "score_removed")
_SCHEMA = {
    "rank": pl.Int64,
    "latent": pl.Int64,
    **dict.fromkeys((*_MEANS, *_SCORES), pl.Float64),
    "kept": pl.Boolean,
}


@torch.no_grad()
def _activations(
    pair: ModelPair, dic: Dictionary, layer: int, prompts: Sequence[Int64[np.ndarray, " _"]]
) -> tuple[Float64[np.ndarray, "two latents"], Float64[np.ndarray, " latents"]]:
    """Return each latent's mean activation in either model, and its largest in both."""
    sides: tuple[Side, Side] = ("base", "tuned")
    sums, largest, tokens = np.zeros((2, dic.n_latents)), np.zeros(dic.n_latents), 0
    for prompt in prompts:
        ids = torch.from_numpy(prompt)[None]
        for place, side in enumerate(sides):
            hidden = pair.run_to(side, ids, torch.ones_like(ids), [layer])[layer][0]
            codes = dic.encode_inputs((hidden.float().cpu(),))
            np.add.at(sums[place], codes.indices, codes.values.astype(np.float64))
            np.maximum.at(largest, codes.indices, codes.values.astype(np.float64))
        tokens += ids.shape[1]
    return sums / tokens, largest
