"""The loop that puts edited activations into the tuned model and counts the KL of every token.

For each batch both models run up to the layer once and the tuned model runs whole once; an edit
then costs only the tuned model's remaining layers, and only for those sequences of the batch that
it changes: elsewhere the patched model is the unpatched one, and its KL is copied. At most two
batches of logits are held at a time.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from anaglyph.causal.interventions import Activations, Intervention, codes_of
from anaglyph.corpus import TokenCorpus, padded_batches
from anaglyph.dictionaries import Dictionary
from anaglyph.direct.kl import token_kl
from anaglyph.errors import InputError
from anaglyph.pair import ModelPair
from anaglyph.progress import Progress

_SEED = 0xC3


@dataclass(frozen=True)
class SequenceKL:
    """KL(p_tuned || p_patched) summed over each evaluated sequence, in nats."""

    none: Float64[np.ndarray, " sequences"]
    """Under h_base, the baseline of all."""
    base: Float64[np.ndarray, " sequences"]
    """KL(p_tuned || p_base) of the whole models."""
    edited: Float64[np.ndarray, "interventions sequences"]
    tokens: Int64[np.ndarray, " sequences"]


def choose(
    mask: Bool[np.ndarray, " sequences"], corpus: TokenCorpus, max_tokens: int, seed: int
) -> Int64[np.ndarray, " chosen"]:
    """Draw sequences where ``mask`` holds until ``max_tokens`` tokens are reached, at least one.

    They are drawn in random order because a corpus is often sorted by kind of text.
    """
    generator = np.random.default_rng(np.random.SeedSequence([seed, _SEED]))
    order = generator.permutation(np.flatnonzero(mask))
    room = np.cumsum(np.diff(corpus.offsets)[order]) <= max_tokens
    return np.sort(order[: max(1, int(room.sum()))])


@torch.no_grad()
def measure(
    pair: ModelPair,
    dic: Dictionary,
    corpus: TokenCorpus,
    layer: int,
    sequences: Int64[np.ndarray, " sequences"],
    interventions: Sequence[Intervention],
    counted: Bool[np.ndarray, " tokens"],
    token_budget: int,
    progress: Progress,
) -> SequenceKL:
    """Run every intervention on the given sequences, all of whose tokens are edited.

    Args:
        pair: Both models.
        dic: The dictionary whose codes the interventions use.
        corpus: Where the sequences are from.
        layer: The layer at whose output the edited activation is put in.
        sequences: Which sequences, each once.
        interventions: What to put in.
        counted: The tokens of the corpus whose KL counts; a token's KL is that of the prediction
            made there.
        token_budget: Tokens in a batch.
        progress: Called after each batch.

    Raises:
        InputError: An edit or a model's logits hold NaN or infinity.
    """
    place = {int(sequence): row for row, sequence in enumerate(sequences)}
    none, base = np.zeros(len(sequences)), np.zeros(len(sequences))
    edited = np.zeros((len(interventions), len(sequences)))
    tokens = np.array([counted[corpus.offsets[s] : corpus.offsets[s + 1]].sum() for s in sequences])
    done, total = 0, int(np.diff(corpus.offsets)[sequences].sum())
    for indices, ids, mask in padded_batches(corpus, sequences, token_budget):
        rows = np.array([place[int(index)] for index in indices])
        counts = [counted[corpus.offsets[index] : corpus.offsets[index + 1]] for index in indices]
        batch = _Batch(pair, layer, ids, mask, counts)
        base[rows] = batch.base_kl()
        none[rows] = batch.patched_kl(batch.base, np.arange(len(rows)))
        edited[:, rows] = none[rows]
        for number, row, kl in batch.changed_kl(dic, interventions):
            edited[number, rows[row]] = kl
        done += int(mask.sum())
        progress("causal", done, total)
    return SequenceKL(none, base, edited, tokens)


class _Batch:
    """A batch of sequences with both models' activations and the tuned model's own logits."""

    def __init__(
        self,
        pair: ModelPair,
        layer: int,
        ids: Int64[Tensor, "batch length"],
        mask: Int64[Tensor, "batch length"],
        counts: Sequence[Bool[np.ndarray, " _"]],
    ) -> None:
        self._pair, self._layer, self._ids, self._mask = pair, layer, ids, mask
        self.base = pair.run_to("base", ids, mask, [layer])[layer]
        self.tuned = pair.run_to("tuned", ids, mask, [layer])[layer]
        self._counts = [torch.from_numpy(count).nonzero()[:, 0] for count in counts]
        self._reference = pair.logits("tuned", ids, mask)

    def base_kl(self) -> Float64[np.ndarray, " batch"]:
        """Return each sequence's KL sum between the whole models."""
        logits = self._pair.run_from("base", self._layer, self.base, self._ids, self._mask)
        return self._sums(logits, np.arange(len(self._ids)))

    def patched_kl(
        self, edited: Float[Tensor, "some length d"], rows: Int64[np.ndarray, " some"]
    ) -> Float64[np.ndarray, " some"]:
        """Return the KL sum of the given sequences with edited activations in the tuned model."""
        ids, mask = self._ids[rows], self._mask[rows]
        logits = self._pair.run_from("tuned", self._layer, edited, ids, mask)
        return self._sums(logits, rows)

    def changed_kl(
        self, dic: Dictionary, interventions: Sequence[Intervention]
    ) -> Iterator[tuple[int, int, float]]:
        """Yield (intervention, sequence of the batch, KL sum) wherever an edit changes something.

        The changed sequences of several interventions share a run, so that a hundred rare latents
        cost as much as their firings and not a hundred batches.
        """
        real = self._mask.bool()
        base, tuned = self.base[real].float().cpu(), self.tuned[real].float().cpu()
        activations = Activations(base, tuned, codes_of(dic, base, tuned))
        waiting: list[tuple[int, int, Tensor]] = []
        for number, intervention in enumerate(interventions):
            flat = intervention.edit(activations)
            if not flat.isfinite().all():
                raise InputError(f"the intervention {intervention.name!r} gives NaN or infinity")
            edited = self.base.clone()
            edited[real] = flat.to(edited)
            changed = (edited != self.base).any(dim=2).any(dim=1)
            rows = changed.nonzero()[:, 0].tolist()
            waiting += [(number, row, edited[row]) for row in rows]
            while len(waiting) >= len(real):
                yield from self._run(waiting[: len(real)])
                del waiting[: len(real)]
        if waiting:
            yield from self._run(waiting)

    def _run(self, jobs: list[tuple[int, int, Tensor]]) -> list[tuple[int, int, float]]:
        rows = np.array([row for _, row, _ in jobs])
        sums = self.patched_kl(torch.stack([edited for _, _, edited in jobs]), rows)
        return [(job[0], job[1], float(kl)) for job, kl in zip(jobs, sums, strict=True)]

    def _sums(
        self, logits: Float[Tensor, "some length vocab"], rows: Int64[np.ndarray, " some"]
    ) -> Float64[np.ndarray, " some"]:
        sums = []
        for own, row in enumerate(rows):
            counted = self._counts[row]
            kl = token_kl(self._reference[row, counted], logits[own, counted])
            sums.append(float(kl.sum()))
        return np.array(sums)
