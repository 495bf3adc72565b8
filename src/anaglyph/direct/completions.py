"""Which of some given completions the fine-tune made more likely: perplexity in both models."""

from collections.abc import Sequence

import numpy as np
import polars as pl

from anaglyph.behaviour.predictions import TOKEN_BUDGET, both_models
from anaglyph.behaviour.prompts import Completion, prompt_ids
from anaglyph.core.errors import InputError
from anaglyph.corpus import ROLES, TokenCorpus
from anaglyph.direct.tokens import next_logprobs
from anaglyph.pair import ModelPair
from anaglyph.subject import Subject


def rank_completions(
    subject: Subject, completions: Sequence[Completion], *, token_budget: int = TOKEN_BUDGET
) -> pl.DataFrame:
    """Rank completions by how much the fine-tune lowered their surprise.

    Columns: rank, prompt, completion, tokens (of the completion), nll_base and nll_tuned (mean nats
    a token of the completion), difference (nll_base - nll_tuned: positive where the tuned model
    finds it likelier; the ranking), perplexity_base, perplexity_tuned (exp of the NLL).

    Args:
        subject: Both models; its text is not read.
        completions: What is ranked.
        token_budget: Tokens in a batch.

    Raises:
        InputError: There are no completions, or one has no token.
    """
    if not completions:
        raise InputError("there are no completions")
    pair = subject.pair
    corpus, counted = _corpus(pair, completions)
    following = pair.foreseen(corpus.following)
    counted &= following >= 0  # a token that one model lacks has no probability in both
    if (np.add.reduceat(counted.astype(np.int64), corpus.offsets[:-1]) == 0).any():
        raise InputError("a completion has no token that both models have")
    surprise = {"base": np.zeros(corpus.n_tokens), "tuned": np.zeros(corpus.n_tokens)}
    done = 0
    for batch in both_models(pair, corpus, token_budget=token_budget):
        for chunk in batch.chunks():
            base, tuned = next_logprobs(chunk, following[chunk.tokens])
            surprise["base"][chunk.tokens] = -base
            surprise["tuned"][chunk.tokens] = -tuned
        done += len(batch.tokens)
        subject.progress("read completions", done, corpus.n_tokens)
    tokens = np.add.reduceat(counted.astype(np.int64), corpus.offsets[:-1])
    nll = {
        side: np.add.reduceat(np.where(counted, values, 0.0), corpus.offsets[:-1]) / tokens
        for side, values in surprise.items()
    }
    frame = pl.DataFrame(
        {
            "prompt": [item.prompt for item in completions],
            "completion": [item.completion for item in completions],
            "tokens": tokens,
            "nll_base": nll["base"],
            "nll_tuned": nll["tuned"],
            "difference": nll["base"] - nll["tuned"],
            "perplexity_base": np.exp(nll["base"]),
            "perplexity_tuned": np.exp(nll["tuned"]),
        }
    )
    ranked = frame.sort("difference", descending=True, maintain_order=True)
    return ranked.with_row_index("rank", offset=1)


def _corpus(pair: ModelPair, completions: Sequence[Completion]) -> tuple[TokenCorpus, np.ndarray]:
    """Return the completions as sequences, and True where a token of a completion comes next."""
    sequences, roles, counted = [], [], []
    for item in completions:
        prompt = prompt_ids(pair.tokenizer, item.prompt)
        ids = pair.tokenizer(item.completion, add_special_tokens=False)["input_ids"]
        if not ids:
            raise InputError(f"the completion {item.completion!r} has no token")
        sequences.append(np.concatenate([prompt, ids]))
        kinds = [ROLES.index("template")] * len(prompt) + [ROLES.index("assistant")] * len(ids)
        roles.append(np.array(kinds, np.uint8))
        here = np.zeros(len(sequences[-1]), bool)
        here[len(prompt) - 1 : -1] = True
        counted.append(here)
    lengths = [len(sequence) for sequence in sequences]
    corpus = TokenCorpus(
        token_ids=np.concatenate(sequences).astype(np.int32),
        roles=np.concatenate(roles),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        context=max(lengths),
    )
    return corpus, np.concatenate(counted)
