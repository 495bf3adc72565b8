"""Run both models over a corpus and store their residual streams; an interrupted run resumes.

Every sequence runs once, to the deepest layer wanted, in batches of similar length. Blocks that an
adapter leaves unchanged are computed once for both models (``ModelPair.run_both_to``). A second
thread writes, measures and hashes a finished shard while the models continue.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from anaglyph.core.devices import numbers_of
from anaglyph.core.devices import token_budget as budget_of
from anaglyph.core.errors import InputError, ModelError
from anaglyph.core.files import as_path, digest
from anaglyph.core.processes import ALONE, Group
from anaglyph.core.progress import Progress, silent
from anaglyph.core.validation import check_type
from anaglyph.corpus import Document, TokenCorpus, load_corpus, padded_batches
from anaglyph.pair import ModelPair
from anaglyph.store.format import (
    FORMAT,
    SHARD_TOKENS,
    TORCH_DTYPES,
    DType,
    Manifest,
    Shard,
    Side,
    check_dtype,
    to_stored,
)
from anaglyph.store.paired_store import PairedStore
from anaglyph.store.writer import Part, StoreWriter, Tokens, is_finished, write_shard

Others = Callable[[list[list[int]], dict[str, Any]], AbstractContextManager[Group]]
"""Given the plans of missing shards and of the work, returns the processes that share it."""


def nobody(parts: list[list[int]], plan: dict[str, Any]) -> AbstractContextManager[Group]:
    """Return this process alone."""
    return nullcontext(ALONE)


def collect(
    pair: ModelPair,
    corpus: str | Path | Sequence[Document] | TokenCorpus,
    layers: Sequence[int | float],
    out: str | Path,
    *,
    dtype: str = "float32",
    shard_tokens: int = SHARD_TOKENS,
    token_budget: int | None = None,
    progress: Progress = silent,
    context: int = 256,
    pack: bool = False,
    max_tokens: int | None = None,
    others: Others = nobody,
) -> PairedStore:
    """Store the outputs of decoder blocks ``layers`` of both models on the same tokens.

    The same call resumes a run that was stopped and ends with the same bytes; a finished store is
    opened.

    Args:
        pair: The two models.
        corpus: What to read; see ``anaglyph.load_corpus``.
        layers: Block indexes, or fractions of the depth as floats.
        out: Folder of the store.
        dtype: Number type to store activations in.
        shard_tokens: Maximum tokens per shard; fewer if a shard would exceed 512 MiB. A run that is
            killed loses the unfinished shard.
        token_budget: Maximum tokens per forward pass, with padding; None fits the device.
        progress: Told of tokens stored.
        context: Longest sequence, in tokens.
        pack: Join documents instead of keeping one per sequence.
        max_tokens: Maximum number of tokens to read.
        others: Lets other processes do their part (``Subject.collect``).

    Returns:
        The store, at its first layer.

    Raises:
        InputError: A layer, corpus or setting that cannot be used.
        ModelError: A model gives NaN or inf.
        StoreError: The folder holds a store of other models, data or settings.
    """
    kind = check_dtype(dtype)
    if not layers:
        raise InputError("no layer to collect: give at least one")
    check_type("pair", pair, ModelPair, "load it with ModelPair.load")
    check_type("layers", layers, Sequence)
    folder = as_path(out)
    wanted = tuple(sorted({pair.resolve_layer(layer) for layer in layers}))
    tokens = load_corpus(corpus, pair.tokenizer, context=context, pack=pack, max_tokens=max_tokens)
    with pair.side("base") as model:
        computed_in, budget = numbers_of(model.device, model.dtype), budget_of(model.device)
    budget = budget if token_budget is None else token_budget
    manifest = Manifest(
        key=digest(
            {
                "pair": pair.fingerprints,
                "computed in": computed_in,
                "corpus": tokens.fingerprint,
                "context": tokens.context,
                "layers": wanted,
                "dtype": kind,
                "format": FORMAT,
            }
        ),
        dtype=kind,
        layers=wanted,
        widths=(pair.d_base, pair.d_tuned),
        tokens=tokens.n_tokens,
        sequences=tokens.n_sequences,
        related=pair.related,
    )
    if not is_finished(folder, manifest.key):
        contents = Tokens(tokens.token_ids, tokens.roles, tokens.offsets)
        work = Work(pair, tokens, wanted, kind, budget)
        with StoreWriter(folder, manifest, contents, shard_tokens) as writer:
            missing = writer.missing()
            with others([part.plan for part in missing], work.plan) as group:
                work.run(folder, missing, group, writer.add, progress)
    progress("collect activations", tokens.n_tokens, tokens.n_tokens)
    return PairedStore.open(folder)


@dataclass(frozen=True)
class Work:
    """What it takes to fill shards: the models, what they read, and how.

    Attributes:
        pair: The two models.
        corpus: What they read.
        layers: Which layers.
        dtype: Number type to store activations in.
        budget: Tokens per forward pass.
    """

    pair: ModelPair
    corpus: TokenCorpus
    layers: tuple[int, ...]
    dtype: DType
    budget: int

    @property
    def plan(self) -> dict[str, Any]:
        """The numbers of it, for another process that has models and text."""
        return {"layers": list(self.layers), "dtype": self.dtype, "budget": self.budget}

    def run(
        self,
        folder: Path,
        parts: Sequence[Part],
        group: Group = ALONE,
        add: Callable[[Part, Shard], None] | None = None,
        progress: Progress = silent,
    ) -> None:
        """Write shards: process r of n those numbered r, r + n, ...

        Args:
            folder: The store's folder.
            parts: The missing shards.
            group: The processes that share them.
            add: Told of every shard that is written, by whatever process.
            progress: Told of tokens read by all.
        """
        contents = Tokens(self.corpus.token_ids, self.corpus.roles, self.corpus.offsets)
        total = self.corpus.n_tokens
        done = total - sum(part.n_tokens for part in parts)
        turn: Sequence[Part] = ()
        writing: Future[Shard] | None = None

        def end_turn() -> None:
            entry = None if writing is None else writing.result().model_dump(mode="json")
            for part, shard in zip(turn, group.exchange(entry), strict=False):
                if add is not None:
                    add(part, Shard.model_validate(shard))

        with ThreadPoolExecutor(1, "write-shard") as writer_pool:
            for first in range(0, len(parts), group.size):
                now = parts[first : first + group.size]
                own = now[group.rank] if group.rank < len(now) else None
                window = None
                if own is not None:
                    window = Window(self.pair, self.corpus, self.layers, self.dtype, own)
                    for rows in padded_batches(self.corpus, window.sequences, self.budget):
                        progress("collect activations", done, total)
                        done = min(done + window.run(*rows) * len(now), total)
                # At most one shard waits, so memory has two: one being written and one being
                # filled.
                end_turn()
                turn, writing = now, None
                if own is not None and window is not None:
                    base, tuned = window.sides["base"], window.sides["tuned"]
                    writing = writer_pool.submit(write_shard, folder, contents, own, base, tuned)
            end_turn()


class Window:
    """The activations of some consecutive sequences in the making, filled batch by batch.

    Args:
        pair: The two models.
        corpus: What they read.
        layers: Which layers.
        dtype: Number type to hold activations in.
        part: Which sequences.

    Attributes:
        sides: Layer to activations, for base and tuned.
    """

    def __init__(
        self,
        pair: ModelPair,
        corpus: TokenCorpus,
        layers: Sequence[int],
        dtype: DType,
        part: Part,
    ) -> None:
        self._pair, self._corpus, self._layers = pair, corpus, layers
        self._dtype: DType = dtype
        self._part = part
        self.sequences = np.arange(part.sequences.start, part.sequences.stop)
        self.sides = {"base": self._room(pair.d_base)}
        self.sides["tuned"] = self.sides["base"] if pair.same_weights else self._room(pair.d_tuned)

    def _room(self, width: int) -> dict[int, Tensor]:
        kind = TORCH_DTYPES[self._dtype]
        return {
            layer: torch.empty(self._part.n_tokens, width, dtype=kind) for layer in self._layers
        }

    def run(
        self,
        sequences: Int64[np.ndarray, " batch"],
        input_ids: Int64[Tensor, "batch length"],
        attention_mask: Int64[Tensor, "batch length"],
    ) -> int:
        """Run a batch of sequences through both models; return its number of tokens."""
        offsets = self._corpus.offsets
        spans = [np.arange(int(offsets[i]), int(offsets[i + 1])) for i in sequences]
        rows = torch.from_numpy(np.concatenate(spans) - self._part.tokens.start)
        layers = self._layers
        if self._pair.same_weights:
            streams = self._pair.run_to("base", input_ids, attention_mask, layers)
            found: dict[Side, dict[int, Tensor]] = {"base": streams}
        else:
            found = self._pair.run_both_to(input_ids, attention_mask, layers)
        for side, streams in found.items():
            for layer, stream in streams.items():
                kept = to_stored(stream[attention_mask.bool().to(stream.device)], self._dtype)
                self._check(side, layer, kept, sequences, spans)
                self.sides[side][layer][rows] = kept
        return len(rows)

    def _check(
        self,
        side: Side,
        layer: int,
        values: Float[Tensor, "tokens d"],
        sequences: Int64[np.ndarray, " batch"],
        spans: list[Int64[np.ndarray, " _"]],
    ) -> None:
        finite = torch.isfinite(values).all(dim=1)
        if finite.all():
            return
        row = int((~finite).nonzero()[0])
        at = int(np.searchsorted(np.cumsum([len(span) for span in spans]), row, side="right"))
        raise ModelError(
            f"the {side} model gives NaN or inf at layer {layer} in sequence {sequences[at]} "
            f"(stored as {self._dtype}); whole shards before it are kept"
        )
