"""Both models' predictions at every token of a corpus, a few rows of logits at a time.

A whole batch of logits is the largest thing in sight (1024 tokens of a vocabulary of 150k take
600 MB for each model). After the last block a token's logits depend on that token alone, so both
models run to their last block and only the final norm and the output embedding are applied chunk by
chunk, through the model's own forward (which also caps logits where a model does).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from anaglyph.corpus import TokenCorpus, padded_batches
from anaglyph.pair import ModelPair, Side

TOKEN_BUDGET = 1024
_CHUNK_ELEMENTS = 2**22
"""Logits of one model held at a time (16 MB in float32)."""


@dataclass(frozen=True)
class Chunk:
    """Some tokens of a corpus with what both models make of them.

    Attributes:
        tokens: Index of each token within the corpus.
        base: The base model's logits at each.
        tuned: The tuned model's.
    """

    tokens: Int64[np.ndarray, " tokens"]
    base: Float[Tensor, "tokens vocab"]
    tuned: Float[Tensor, "tokens vocab"]


@dataclass(frozen=True)
class Batch:
    """Some sequences of a corpus with both models' residual stream.

    Attributes:
        pair: The models.
        tokens: Index of each token within the corpus, padding left out.
        base: Layer to the base model's activations there, the last block's among them.
        tuned: The same of the tuned model.
    """

    pair: ModelPair
    tokens: Int64[np.ndarray, " tokens"]
    base: dict[int, Float[Tensor, "tokens d"]]
    tuned: dict[int, Float[Tensor, "tokens d"]]

    def chunks(self) -> Iterator[Chunk]:
        """Yield the logits of both models, some tokens at a time."""
        last = self.pair.n_layers - 1
        rows = max(1, _CHUNK_ELEMENTS // self.pair.vocabulary)
        for start in range(0, len(self.tokens), rows):
            part = slice(start, start + rows)
            base = head_logits(self.pair, "base", self.base[last][part])
            tuned = head_logits(self.pair, "tuned", self.tuned[last][part])
            yield Chunk(self.tokens[part], base, tuned)


@torch.no_grad()
def head_logits(
    pair: ModelPair, side: Side, hidden: Float[Tensor, "rows d"]
) -> Float[Tensor, "rows vocab"]:
    """Return the logits that the final norm and the output embedding make of residual vectors.

    This is the logit lens where ``hidden`` is not the last block's output (nostalgebraist, 2020).
    """
    # Every row is a sequence of one token, so that no model runs out of positions.
    ids = torch.zeros(len(hidden), 1, dtype=torch.int64)
    logits = pair.run_from(side, pair.n_layers - 1, hidden[:, None], ids, torch.ones_like(ids))
    return logits[:, 0]


@torch.no_grad()
def both_models(
    pair: ModelPair,
    corpus: TokenCorpus,
    layers: Sequence[int] = (),
    *,
    sequences: Int64[np.ndarray, " chosen"] | None = None,
    token_budget: int = TOKEN_BUDGET,
) -> Iterator[Batch]:
    """Run both models over a corpus once.

    Args:
        pair: Both models.
        corpus: What they read.
        layers: Layers whose activations are wanted beside the last block's.
        sequences: Which sequences; all if None.
        token_budget: Tokens in a batch, padding included.
    """
    wanted = [*layers, pair.n_layers - 1]
    chosen = np.arange(corpus.n_sequences) if sequences is None else sequences
    for rows, ids, mask in padded_batches(corpus, chosen, token_budget):
        real = mask.bool()
        spans = zip(corpus.offsets[rows].tolist(), corpus.offsets[rows + 1].tolist(), strict=True)
        tokens = np.concatenate([np.arange(first, end) for first, end in spans])
        reached = pair.run_both_to(ids, mask, wanted)
        base, tuned = (
            {layer: h[real] for layer, h in reached[side].items()} for side in ("base", "tuned")
        )
        yield Batch(pair, tokens, base, tuned)
