"""The loop that puts edited activations into a model and measures every token's prediction.

For each batch both models run up to the deepest layer once, and whole once; an edit then costs only
the remaining layers of the model it is put into, and only for those sequences of the batch that it
changes: elsewhere the patched model is the unpatched one, and its numbers are copied. The changed
sequences of several edits share a run. Three batches of logits are held at a time, four where edits
go into both models.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from anaglyph.causal.interventions import Activations, Intervention
from anaglyph.causal.measures import MEASURES, Predictions, token_measures
from anaglyph.causal.positions import token_mask
from anaglyph.core.errors import InputError
from anaglyph.corpus import TokenCorpus, padded_batches
from anaglyph.dictionaries import Dictionary
from anaglyph.pair import ModelPair, Side
from anaglyph.subject import Subject

TOKEN_BUDGET = 768
"""Tokens in a batch."""


@dataclass(frozen=True)
class Plan:
    """What to put in where.

    Attributes:
        layer: The layer at whose output the edited activation is put in.
        into: The model whose remaining layers run; the baseline is the other model's activation.
        interventions: What to put in.
        dictionary: The dictionary whose codes the interventions use, if any.
    """

    layer: int
    into: Side
    interventions: Sequence[Intervention]
    dictionary: Dictionary | None = None


@dataclass(frozen=True)
class Measured:
    """The sums over each evaluated sequence of what a plan gave.

    ``none`` is the baseline, ``other`` the other model itself, unpatched; the measures are those of
    `measures.MEASURES`, the positions those that were asked for.
    """

    none: Float64[np.ndarray, "measures positions sequences"]
    other: Float64[np.ndarray, "measures positions sequences"]
    edited: Float64[np.ndarray, "interventions measures positions sequences"]
    tokens: Int64[np.ndarray, "positions sequences"]
    """Tokens whose prediction counts."""
    followed: Int64[np.ndarray, "positions sequences"]
    """Those of them that another token follows, over which ``nll`` is a mean."""
    push: Float64[np.ndarray, " interventions"]
    """Root mean square length of what an intervention adds to the baseline, over all tokens."""
    active: Float64[np.ndarray, " interventions"]
    """Mean active latents a token among those that take part."""

    @property
    def exact_kl(self) -> float:
        """The KL a token that the first intervention leaves, where that is h_tuned itself."""
        return float((self.edited[0, 0].sum(1) / np.maximum(1, self.tokens.sum(1))).max())


@torch.no_grad()
def measure(
    subject: Subject,
    sequences: Int64[np.ndarray, " sequences"],
    plans: Sequence[Plan],
    positions: Sequence[str],
    token_budget: int = TOKEN_BUDGET,
) -> list[Measured]:
    """Carry out every plan on the given sequences.

    Args:
        subject: Both models and their text; where it keeps predictions (`keep_predictions`), what
            no plan changes is kept for the next call.
        sequences: Which sequences, each once.
        plans: What to put in where.
        positions: The places (`positions.PLACES`) whose predictions count.
        token_budget: Tokens in a batch.

    Raises:
        InputError: An edit or a model's logits hold NaN or infinity.
    """
    pair, corpus = subject.pair, subject.corpus
    pair.check_related("patching one model with the other's activations")
    counted = np.stack([token_mask(corpus, position) for position in positions])
    following = pair.foreseen(corpus.following)
    where = {edit.at for plan in plans for edit in plan.interventions}
    masks = {at: token_mask(corpus, at) for at in where}
    tokens = _per_sequence(counted, corpus, sequences)
    followed = _per_sequence(counted & (following >= 0), corpus, sequences)
    shape = (len(MEASURES), len(positions), len(sequences))
    sums = [np.zeros((2 + len(plan.interventions), *shape)) for plan in plans]
    pushed = [np.zeros((2, len(plan.interventions))) for plan in plans]
    done, total = 0, int(np.diff(corpus.offsets)[sequences].sum())
    layers = sorted({plan.layer for plan in plans})
    into: set[Side] = {plan.into for plan in plans}

    def batches() -> Iterator[_Batch]:
        for indices, ids, mask in padded_batches(corpus, sequences, token_budget):
            spans = [slice(*corpus.offsets[i : i + 2].tolist()) for i in indices]
            own = [torch.from_numpy(counted[:, span]).double() for span in spans]
            after = [torch.from_numpy(following[span]) for span in spans]
            yield _Batch(pair, layers, into, _Text(indices, ids, mask, own, after))

    key = (pair, corpus, sequences.tobytes(), tuple(positions), token_budget, tuple(layers), into)
    place = {int(sequence): row for row, sequence in enumerate(sequences)}
    unpatched = subject.once("unpatched", Unpatched) if subject.keep_predictions else None
    for batch in batches() if unpatched is None else unpatched.of(key, batches):
        sequences = batch.text.sequences
        rows = np.array([place[int(index)] for index in sequences])
        own = np.concatenate([np.arange(*corpus.offsets[i : i + 2]) for i in sequences])
        edited = {at: torch.from_numpy(at_tokens[own]) for at, at_tokens in masks.items()}
        for number, plan in enumerate(plans):
            found = sums[number]
            found[:2, :, :, rows] = batch.unedited(plan)
            found[2:, :, :, rows] = found[0][:, :, rows]
            for edit, row, values in batch.changed(plan, edited, pushed[number]):
                found[2 + edit][:, :, rows[row]] = values
        done += len(own)
        subject.progress("causal", done, total)
    return [
        Measured(
            found[0], found[1], found[2:], tokens, followed, np.sqrt(p[0] / total), p[1] / total
        )
        for found, p in zip(sums, pushed, strict=True)
    ]


class Unpatched:
    """Both models' own runs, kept from one table on the same text to the next.

    All predictions at once: 4 bytes for each token of text and of the vocabulary, of either model.
    """

    def __init__(self) -> None:
        self._key: tuple[Any, ...] | None = None
        self._batches: list[_Batch] = []

    def of(
        self, key: tuple[Any, ...], make: Callable[[], Iterable["_Batch"]]
    ) -> Sequence["_Batch"]:
        """Return the batches that are kept under a key, or make them and let others go."""
        if key != self._key:
            self._key, self._batches = None, []
            self._batches = list(make())
            self._key = key
        return self._batches


@dataclass(frozen=True)
class _Text:
    """A batch of sequences, and which of their predictions count."""

    sequences: Int64[np.ndarray, " batch"]
    ids: Int64[Tensor, "batch length"]
    mask: Int64[Tensor, "batch length"]
    counted: list[Float64[Tensor, "positions _"]]
    following: list[Int64[Tensor, " _"]]

    @property
    def keep(self) -> Bool[Tensor, "batch length"]:
        """Where a prediction counts at any of the positions."""
        keep = torch.zeros(self.mask.shape, dtype=torch.bool)
        for row, own in enumerate(self.counted):
            keep[row, : own.shape[1]] = own.any(0)
        return keep


class _Batch:
    """A batch of sequences with both models' activations and own predictions, where they count."""

    def __init__(
        self, pair: ModelPair, layers: Sequence[int], into: set[Side], text: _Text
    ) -> None:
        self._pair, self.text, self._keep = pair, text, text.keep
        ids, mask = text.ids, text.mask
        ends = self._keep.sum(1).cumsum(0).tolist()
        self._rows = [slice(start, end) for start, end in pairwise([0, *ends])]
        self._unedited: dict[tuple[int, Side], np.ndarray] = {}
        self._others: dict[Side, np.ndarray] = {}
        self.activations = {side: pair.run_to(side, ids, mask, layers) for side in _SIDES}
        deepest = layers[-1]
        # The tuned model runs whole, so that putting in h_tuned tests the cut; base goes on.
        self.predictions: dict[Side, list[Predictions]] = {}
        self._waiting: dict[Side, Tensor] = {}
        hidden = self.activations["base"][deepest]
        self._take("base", pair.run_from("base", deepest, hidden, ids, mask, self._keep), into)
        self._take("tuned", pair.logits("tuned", ids, mask, self._keep), into)

    def _take(self, side: Side, logits: Float[Tensor, "kept vocab"], into: set[Side]) -> None:
        self.predictions[side] = [Predictions.of(logits[own]) for own in self._rows]
        if _other(side) in into:
            self._waiting[side] = logits

    def baseline(self, plan: Plan) -> Float[Tensor, "batch length d"]:
        """Return the activation that an edit which adds nothing leaves in place."""
        return self.activations[_other(plan.into)][plan.layer]

    def unedited(self, plan: Plan) -> Float64[np.ndarray, "two measures positions batch"]:
        """Return the sums under the baseline and those of the other model as it is."""
        key = (plan.layer, plan.into)
        every = np.arange(len(self.text.ids))
        if plan.into not in self._others:
            logits = self._waiting.pop(_other(plan.into))
            self._others[plan.into] = self.sums(plan.into, logits, every)
        if key not in self._unedited:
            none = self.patched(plan, self.baseline(plan), every)
            self._unedited[key] = np.stack([none, self._others[plan.into]])
        return self._unedited[key]

    def patched(
        self,
        plan: Plan,
        edited: Float[Tensor, "some length d"],
        rows: Int64[np.ndarray, " some"],
    ) -> Float64[np.ndarray, "measures positions some"]:
        """Return the sums of the given sequences with edited activations put in."""
        ids, mask, keep = self.text.ids[rows], self.text.mask[rows], self._keep[rows]
        logits = self._pair.run_from(plan.into, plan.layer, edited, ids, mask, keep)
        return self.sums(plan.into, logits, rows)

    def changed(
        self,
        plan: Plan,
        edited_at: dict[str, Bool[Tensor, " tokens"]],
        pushed: Float64[np.ndarray, "two interventions"],
    ) -> Iterator[tuple[int, int, Float64[np.ndarray, "measures positions"]]]:
        """Yield (intervention, sequence of the batch, sums) wherever an edit changes something.

        A hundred rare latents so cost as much as their firings and not a hundred batches. To
        ``pushed`` are added each intervention's squared length and active latents.
        """
        real = self.text.mask.bool()
        base, tuned = (self.activations[side][plan.layer][real].float().cpu() for side in _SIDES)
        activations = Activations(base, tuned, plan.dictionary)
        baseline = self.baseline(plan)
        start = tuned if plan.into == "base" else base
        counts = self._keep.any(1)
        waiting: list[tuple[int, int, Tensor]] = []
        for number, intervention in enumerate(plan.interventions):
            here = edited_at[intervention.at]
            flat = torch.where(here[:, None], intervention.edit(activations), start)
            if not flat.isfinite().all():
                raise InputError(f"the intervention {intervention.name!r} gives NaN or infinity")
            pushed[0, number] += float((flat - start).double().square().sum())
            if intervention.latents is not None:
                codes = activations.codes.only(intervention.latents.numpy())
                pushed[1, number] += len(codes.indices)
            edited = baseline.clone()
            edited[real] = flat.to(edited)
            changed = (edited != baseline).any(dim=2).any(dim=1).cpu() & counts
            rows = changed.nonzero()[:, 0].tolist()
            waiting += [(number, row, edited[row]) for row in rows]
            while len(waiting) >= len(real):
                yield from self._run(plan, waiting[: len(real)])
                del waiting[: len(real)]
        if waiting:
            yield from self._run(plan, waiting)

    def sums(
        self, side: Side, patched: Float[Tensor, "kept vocab"], rows: Int64[np.ndarray, " some"]
    ) -> Float64[np.ndarray, "measures positions some"]:
        """Return the measures of the given sequences, summed over the tokens that count.

        ``patched`` has the logits that count of the rows, one row after the other.
        """
        counted, following = self.text.counted, self.text.following
        found = np.zeros((len(MEASURES), len(counted[0]), len(rows)))
        start = 0
        for place, row in enumerate(rows):
            chosen = self._keep[row, : counted[row].shape[1]]
            count = int(chosen.sum())
            if count == 0:
                continue
            values = token_measures(
                self.predictions[side][row],
                self.predictions[_other(side)][row],
                patched[start : start + count],
                following[row][chosen],
            )
            found[:, :, place] = (values.cpu() @ counted[row][:, chosen].T).numpy()
            start += count
        return found

    def _run(
        self, plan: Plan, jobs: list[tuple[int, int, Tensor]]
    ) -> Iterator[tuple[int, int, Float64[np.ndarray, "measures positions"]]]:
        rows = np.array([row for _, row, _ in jobs])
        sums = self.patched(plan, torch.stack([edited for _, _, edited in jobs]), rows)
        for place, (number, row, _) in enumerate(jobs):
            yield number, row, sums[:, :, place]


_SIDES: tuple[Side, Side] = ("base", "tuned")


def _other(side: Side) -> Side:
    return "base" if side == "tuned" else "tuned"


def _per_sequence(
    mask: Bool[np.ndarray, "positions tokens"],
    corpus: TokenCorpus,
    sequences: Int64[np.ndarray, " sequences"],
) -> Int64[np.ndarray, "positions sequences"]:
    before = np.pad(mask.astype(np.int64).cumsum(1), ((0, 0), (1, 0)))
    return (before[:, corpus.offsets[1:]] - before[:, corpus.offsets[:-1]])[:, sequences]
