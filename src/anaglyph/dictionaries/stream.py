"""Training while the models run: no activation but a sample's is kept.

Both models read the training text once, in a random order that the seed draws, a window of whole
sequences at a time. A window's tokens are shuffled together, and every dictionary is trained on the
same batches of them. So memory holds one window and the dictionaries, and the disk holds the sample
and the checkpoints, however long the text is.

A window depends only on the text, the seed and its number. A stream that was stopped therefore
starts again with the window of the earliest checkpoint, and ends with the same dictionaries.

What needs stored activations (scales, held-out statistics, tables, findings, examples) reads the
sample: whole sequences, some held out from training as in a full store.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from anaglyph.core.devices import token_budget
from anaglyph.core.errors import InputError
from anaglyph.core.files import digest
from anaglyph.core.progress import Progress, silent
from anaglyph.core.rng import rng
from anaglyph.corpus import TokenCorpus, padded_batches, taken
from anaglyph.dictionaries.training import Training
from anaglyph.pair import ModelPair
from anaglyph.store.collecting import Window
from anaglyph.store.format import DType, plan_shards
from anaglyph.store.writer import Part


class Stream:
    """The training tokens of a text in a random order, made by the running models.

    Args:
        pair: Both models.
        corpus: The whole text; its held-out sequences are left out.
        layer: Which layer's activations.
        seed: Draws the order.
        window: Tokens shuffled together in memory.
        dtype: Number type to hold activations in.

    Attributes:
        n_tokens: Training tokens.
        key: Digest of all that determines the stream, the models apart.
    """

    def __init__(
        self,
        pair: ModelPair,
        corpus: TokenCorpus,
        layer: int,
        *,
        seed: int,
        window: int,
        dtype: DType = "float32",
    ) -> None:
        training = np.flatnonzero(~corpus.heldout)
        order = rng(seed, "stream order").permutation(training)
        self._pair, self._layer, self._seed = pair, layer, seed
        self._dtype: DType = dtype
        self._corpus = taken(corpus, order)
        offsets = self._corpus.offsets
        self._parts = [
            Part(index, slice(*ends), slice(*(int(offsets[end]) for end in ends)))
            for index, ends in enumerate(plan_shards(offsets, window))
        ]
        self.n_tokens = self._corpus.n_tokens
        self.key = digest([corpus.fingerprint, seed, window, dtype])

    @property
    def bytes(self) -> int:
        """Memory of the largest window, and of its shuffled batches' source."""
        width = self._pair.d_base + (0 if self._pair.same_weights else self._pair.d_tuned)
        largest = max(part.n_tokens for part in self._parts)
        return largest * width * torch.empty(0, dtype=getattr(torch, self._dtype)).element_size()

    def batches(
        self, batch: int, skip: int = 0, progress: Progress = silent
    ) -> Iterator[tuple[Float32[Tensor, "batch d_base"], Float32[Tensor, "batch d_tuned"]]]:
        """Yield shuffled batches until the text is read; what does not fill one is left out.

        Args:
            batch: Tokens per batch.
            skip: Skip this many batches; windows before them are not computed.
            progress: Told of tokens read.
        """
        out, filled = self._empty(batch), 0
        for part in self._parts:
            start = skip * batch - part.tokens.start
            if start >= part.n_tokens:
                continue
            window = self._computed(part, progress)
            shuffled = rng(self._seed, "stream order", part.index).permutation(part.n_tokens)
            rows = torch.from_numpy(shuffled[max(0, start) :])
            done = 0
            while done < len(rows):
                some = rows[done : done + batch - filled]
                for target, side in zip(out, ("base", "tuned"), strict=True):
                    target[filled : filled + len(some)] = window.sides[side][self._layer][some]
                done += len(some)
                filled += len(some)
                if filled == batch:
                    yield out
                    out, filled = self._empty(batch), 0

    def _computed(self, part: Part, progress: Progress) -> Window:
        pair = self._pair
        window = Window(pair, self._corpus, (self._layer,), self._dtype, part)
        with pair.side("base") as model:
            budget = token_budget(model.device)
        done = part.tokens.start
        for rows in padded_batches(self._corpus, window.sequences, budget):
            done += window.run(*rows)
            progress("stream activations", done, self.n_tokens)
        return window

    def _empty(self, batch: int) -> tuple[Tensor, Tensor]:
        return torch.empty(batch, self._pair.d_base), torch.empty(batch, self._pair.d_tuned)


def train_together(
    stream: Stream, trainings: Sequence[Training], progress: Progress = silent
) -> None:
    """Train dictionaries on the same batches, from the earliest of their checkpoints on.

    Args:
        stream: Gives the batches.
        trainings: The dictionaries, all of one batch size; those further on wait for the others.
        progress: Told of tokens read.

    Raises:
        InputError: A training needs more tokens than the text has, or the batches differ in size.
    """
    batches = {training.config.batch for training in trainings}
    if len(batches) != 1:
        raise InputError(f"batch: a stream has one batch for all dictionaries, not {batches}")
    (batch,) = batches
    steps = max(training.steps for training in trainings)
    if steps * batch > whole_batches(stream, batch):
        raise InputError(
            f"tokens: {steps * batch} are asked for, the text has {stream.n_tokens} training "
            "tokens, and a stream reads them once. Lower --tokens, add --data or use --store disk"
        )
    left = [training for training in trainings if training.done < training.steps]
    first = min((training.done for training in left), default=steps)
    numbered = zip(range(first, steps), stream.batches(batch, first, progress), strict=False)
    for step, (base, tuned) in numbered:
        for training in trainings:
            if training.done == step < training.steps:
                training.step(base, tuned)


def whole_batches(stream: Stream, batch: int) -> int:
    """Return how many of a stream's tokens fill whole batches."""
    return stream.n_tokens // batch * batch
