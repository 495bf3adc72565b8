"""From base to tuned, layer by layer: where along the depth does the behaviour change?

docs/maths.md, section 7. The first n blocks are the tuned model's ("bottom"), or the last n
("top"), or all weights are interpolated; the mixture's predictions are compared with both models',
and it answers questions. The embedding goes with the first block, the final norm and the output
embedding with the last; none is base and all is tuned, bit for bit.
"""

from collections.abc import Sequence

import numpy as np
import polars as pl
import torch

from anaglyph.behaviour.generate import (
    continue_prompts,
    end_tokens,
    model_stepper,
    reply_texts,
)
from anaglyph.behaviour.kl import sequence_sums, token_kl
from anaglyph.behaviour.mixture import Mixer, Shares
from anaglyph.behaviour.prompts import all_prompt_ids
from anaglyph.core.errors import InputError
from anaglyph.core.settings import StitchSettings
from anaglyph.core.stats import Interval, mean_kl, recovered, sequence_draws
from anaglyph.corpus import padded_batches
from anaglyph.subject import Subject

KINDS = ("bottom", "top", "interpolation")


def stitched(n_layers: int, kind: str, n: int) -> Shares:
    """Return the shares of a mixture: ``n`` of ``n_layers`` steps from base to tuned.

    Raises:
        InputError: The kind is unknown or n is out of range.
    """
    if kind not in KINDS:
        raise InputError(f"kind {kind!r} is unknown: use {', '.join(KINDS)}")
    if not 0 <= n <= n_layers:
        raise InputError(f"{n} blocks is out of range: the model has {n_layers}")
    if kind == "interpolation":
        return Shares.everywhere(n_layers, n / n_layers)
    some, everything = float(n > 0), float(n == n_layers)
    blocks = (1.0,) * n + (0.0,) * (n_layers - n)
    if kind == "bottom":
        return Shares(some, blocks, everything)
    return Shares(everything, blocks[::-1], some)


def steps(n_layers: int, most: int | None) -> list[int]:
    """Return which n to visit: all of 0 to ``n_layers``, or ``most`` of them evenly spread.

    Raises:
        InputError: Fewer than the two ends are asked for.
    """
    if most is None or most > n_layers:
        return list(range(n_layers + 1))
    if most < 2:
        raise InputError(f"{most} steps is too few: none and all of the layers are always visited")
    return np.unique(np.linspace(0, n_layers, most).round().astype(int)).tolist()


@torch.no_grad()
def stitch_curve(
    subject: Subject, settings: StitchSettings | None = None, *, token_budget: int = 512
) -> pl.DataFrame:
    """Measure how near each mixture is to the two models.

    Columns: kind, n (blocks from the tuned model; for ``interpolation`` alpha times the depth),
    share (n over the depth), kl_to_tuned (KL(p_tuned || p_mixture), mean nats a token), kl_to_base
    (KL(p_base || p_mixture)), recovered (1 - kl_to_tuned / KL(p_tuned || p_base); null for a pair
    that predicts alike), each with _low and _high of a 95% bootstrap interval over sequences,
    tokens, sequences.

    Args:
        subject: Both models, and text, all of which is read. The seed draws the bootstrap.
        settings: Which n to visit.
        token_budget: Tokens in a batch.

    Raises:
        ModelError: The models cannot be mixed.
    """
    settings = settings or StitchSettings()
    pair, corpus, progress = subject.pair, subject.corpus, subject.progress
    mixer, visited = Mixer(pair), steps(pair.n_layers, settings.steps)
    wanted = [(kind, n) for kind in KINDS for n in visited]
    to_tuned = np.zeros((len(wanted), corpus.n_sequences))
    to_base = np.zeros_like(to_tuned)
    gap = np.zeros(corpus.n_sequences)
    batches = list(padded_batches(corpus, np.arange(corpus.n_sequences), token_budget))
    for number, (rows, ids, mask) in enumerate(batches):
        real = mask.bool()
        tuned = pair.logits("tuned", ids, mask)[real]
        base = pair.logits("base", ids, mask)[real]
        gap[rows] = sequence_sums(token_kl(tuned, base), mask)
        for place, (kind, n) in enumerate(wanted):
            with mixer.model(stitched(pair.n_layers, kind, n)) as model:
                mixed = model(
                    input_ids=ids.to(model.device),
                    attention_mask=mask.to(model.device),
                    use_cache=False,
                ).logits[real]
                mixed = pair.shared("tuned", mixed)
            to_tuned[place, rows] = sequence_sums(token_kl(tuned, mixed), mask)
            to_base[place, rows] = sequence_sums(token_kl(base, mixed), mask)
            progress("stitch", number * len(wanted) + place + 1, len(batches) * len(wanted), "runs")
    draws, lengths = sequence_draws(corpus.n_sequences, subject.seed), corpus.lengths
    records = []
    for place, (kind, n) in enumerate(wanted):
        record = {"kind": kind, "n": n, "share": n / pair.n_layers}
        record |= _columns("kl_to_tuned", mean_kl(to_tuned[place], lengths, draws))
        record |= _columns("kl_to_base", mean_kl(to_base[place], lengths, draws))
        record |= _columns("recovered", recovered(to_tuned[place], gap, draws))
        records.append(record | {"tokens": corpus.n_tokens, "sequences": corpus.n_sequences})
    return pl.DataFrame(records, infer_schema_length=None)


def stitch_replies(
    subject: Subject, questions: Sequence[str], settings: StitchSettings | None = None
) -> pl.DataFrame:
    """Let every mixture answer the questions greedily.

    Columns: question, kind, n, share, reply.

    Args:
        subject: Both models; its text is not read.
        questions: What is answered.
        settings: Which n to visit, and the longest reply.

    Raises:
        InputError: There is no question.
        ModelError: The models cannot be mixed.
    """
    settings, pair = settings or StitchSettings(), subject.pair
    mixer, visited = Mixer(pair), steps(pair.n_layers, settings.steps)
    prompts, ends = all_prompt_ids(pair.tokenizer, questions), end_tokens(pair)
    wanted = [(kind, n) for kind in KINDS for n in visited]
    records = []
    for number, (kind, n) in enumerate(wanted):
        with mixer.model(stitched(pair.n_layers, kind, n)) as model:
            replies = continue_prompts(
                lambda model=model: model_stepper(model),
                prompts,
                new_tokens=settings.new_tokens,
                ends=ends,
            )
        texts = reply_texts(pair, replies)
        records += [
            {"question": q, "kind": kind, "n": n, "share": n / pair.n_layers, "reply": text}
            for q, text in zip(questions, texts, strict=True)
        ]
        subject.progress("answer questions", number + 1, len(wanted), "mixtures")
    return pl.DataFrame(records)


def _columns(name: str, interval: Interval) -> dict[str, float | None]:
    return {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}
