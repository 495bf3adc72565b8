"""The change of the weights, matrix by matrix, in its singular directions.

docs/maths.md, section 7. Each matrix's W_tuned - W_base is taken apart by a singular value
decomposition; a LoRA's change is s B A, whose exact decomposition comes from QR factors of B and of
A transposed and an r by r core, without ever forming the matrix. Matrices are oriented [out, in]
here, however a family stores them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import polars as pl
from jaxtyping import Float
from torch import Tensor

from anaglyph.core.errors import InputError, ModelError
from anaglyph.core.progress import Progress, silent
from anaglyph.direct.adapter_changes import Changes, adapter_changes
from anaglyph.direct.matching import Vocabularies, match_weights
from anaglyph.direct.matrix_change import EMBEDS, MatrixChange, change_of
from anaglyph.direct.weight_files import ModelFiles, block_of
from anaglyph.pair.sources import locate, pair_notes


@dataclass(frozen=True)
class Direction:
    """A candidate for findings: a direction of the residual stream that the weights point to.

    Attributes:
        matrix: The module whose change it is of.
        layer: Decoder block of that module; None outside the blocks.
        component: Which of the matrix's singular directions, from 0.
        side: "writes" if the module adds along the direction (to the block's output), "reads" if it
            reads along it (from the block's input, after the norm).
        sigma: Singular value.
        share: sigma^2 as a share of the squared norm of the whole model's change.
        vector: The unit vector; its largest entry is positive, for a singular vector has no sign.
    """

    matrix: str
    layer: int | None
    component: int
    side: Literal["writes", "reads"]
    sigma: float
    share: float
    vector: Float[Tensor, " d"]


def weight_changes(
    base: str | Path,
    tuned: str | Path,
    rank: int | None = 8,
    *,
    last_block: int | None = None,
    seed: int = 0,
    notes: list[str] | None = None,
    progress: Progress = silent,
) -> Iterator[MatrixChange]:
    """Yield every weight's change, one at a time.

    Quantised weights are compared dequantised, embeddings of different length by their tokens. A
    LoRA is read from its A and B, and no model is loaded; of adapters of other kinds the base is
    loaded and each layer merged by peft.

    Args:
        base: A whole model: folder, hub id or ``.gguf`` file.
        tuned: The same, or a PEFT adapter's folder.
        rank: Directions a matrix; None keeps all, so that `MatrixChange.delta` is the whole change.
        last_block: Leave out the decoder blocks after this one; None for none.
        seed: Of the randomised decomposition of large matrices.
        notes: Is given a line for all that was not compared (added tokens, a vision tower that one
            of the two lacks, files that were ignored) or that looks wrong (an adapter that names
            another base).
        progress: Told of weights done.

    Raises:
        InputError: The rank is not positive.
        ModelError: A model cannot be read, holds NaN, or the two do not fit.

    Example:
        >>> changes = list(weight_changes("base", "tuned"))  # doctest: +SKIP
        >>> weights_table(changes).head(3)  # doctest: +SKIP
    """
    if rank is not None and rank < 1:
        raise InputError(f"rank is {rank}: it must be at least 1")
    sources = locate(base), locate(tuned)
    if sources[0].is_adapter:
        raise ModelError(f"{base} is an adapter; base must be a whole model")
    said = [] if notes is None else notes
    said += pair_notes(*sources)
    before = ModelFiles(sources[0])
    if sources[1].is_adapter:
        changes = adapter_changes(before, sources[1], rank, seed, said)
    else:
        changes = _whole_changes(before, ModelFiles(sources[1]), rank, seed, said)
    wanted = [
        (name, make)
        for name, make in changes
        if last_block is None or (block_of(name) or 0) <= last_block
    ]
    for number, (_, make) in enumerate(wanted, 1):
        yield from make()
        progress("weights", number, len(wanted), "weights")


def directions(changes: Sequence[MatrixChange], per_matrix: int = 3) -> list[Direction]:
    """Return the leading residual-stream directions of all matrices, largest sigma first.

    Args:
        changes: From `weight_changes`, all of them: shares are of their total.
        per_matrix: Most directions of one matrix.
    """
    total = sum(change.norm**2 for change in changes)
    found = []
    for change in changes:
        vectors = change.residual_directions()
        if vectors is None or change.singular is None:
            continue
        writes = change.residual == "left" or EMBEDS.search(change.name) is not None
        for component, sigma in enumerate(change.singular[:per_matrix].tolist()):
            if sigma > 1e-6 * change.norm:
                vector = vectors[component]
                vector = vector * vector[vector.abs().argmax()].sign()
                place = (change.name, change.layer, component, "writes" if writes else "reads")
                found.append(Direction(*place, sigma, sigma**2 / total, vector))
    return sorted(found, key=lambda direction: -direction.sigma)


def weights_table(changes: Sequence[MatrixChange]) -> pl.DataFrame:
    """Lay out the changes, the largest first.

    Columns: matrix, layer, shape, norm (Frobenius norm of the change), relative (over the base's
    norm), share (of the squared norm of the whole change), stable_rank (||Delta||_F^2 / sigma_1^2),
    sigma_1, top_share (sigma_1^2 over the matrix's squared norm), svd ("exact" or "randomised").
    """
    total = sum(change.norm**2 for change in changes)
    rows = []
    for change in changes:
        is_matrix = change.singular is not None and len(change.singular) > 0
        sigma = float(change.singular[0]) if is_matrix and change.singular is not None else None
        changed = sigma is not None and change.norm > 0
        rows.append(
            {
                "matrix": change.name,
                "layer": change.layer,
                "shape": "x".join(map(str, change.shape)),
                "norm": change.norm,
                "relative": change.norm / change.base_norm if change.base_norm else None,
                "share": change.norm**2 / total if total > 0 else None,
                "stable_rank": change.stable_rank,
                "sigma_1": sigma,
                "top_share": (sigma / change.norm) ** 2 if changed and sigma else None,
                "svd": ("exact" if change.exact else "randomised") if is_matrix else None,
            }
        )
    return pl.DataFrame(rows, schema=_SCHEMA).sort("norm", descending=True, maintain_order=True)


def directions_table(
    found: Sequence[Direction], texts: Sequence[tuple[list[str], list[str]]]
) -> pl.DataFrame:
    """Lay out directions with the tokens at their two ends (`read_as_tokens`)."""
    return pl.DataFrame(
        {
            "matrix": [direction.matrix for direction in found],
            "layer": pl.Series([direction.layer for direction in found], dtype=pl.Int64),
            "component": pl.Series([direction.component for direction in found], dtype=pl.Int64),
            "side": pl.Series([direction.side for direction in found], dtype=pl.String),
            "sigma": pl.Series([direction.sigma for direction in found], dtype=pl.Float64),
            "share": pl.Series([direction.share for direction in found], dtype=pl.Float64),
            "tokens_up": pl.Series([high for high, _ in texts], dtype=pl.List(pl.String)),
            "tokens_down": pl.Series([low for _, low in texts], dtype=pl.List(pl.String)),
            "direction": pl.Series(
                [direction.vector.tolist() for direction in found], dtype=pl.List(pl.Float32)
            ),
        }
    )


_SCHEMA = {
    "matrix": pl.String,
    "layer": pl.Int64,
    "shape": pl.String,
    "norm": pl.Float64,
    "relative": pl.Float64,
    "share": pl.Float64,
    "stable_rank": pl.Float64,
    "sigma_1": pl.Float64,
    "top_share": pl.Float64,
    "svd": pl.String,
}


def _whole_changes(
    before: ModelFiles, after: ModelFiles, rank: int | None, seed: int, notes: list[str]
) -> Changes:
    match = match_weights(before, after)
    notes += match.notes
    vocabularies = Vocabularies(before.source, after.source)

    def make(name: str, theirs: str, own: str) -> list[MatrixChange]:
        new, original = after.read(theirs), before.read(own)
        is_vocabulary = bool(
            {theirs, own} & {before.embedding, before.head, after.embedding, after.head}
        )
        if new.shape != original.shape or (is_vocabulary and vocabularies.differ()):
            if not is_vocabulary or new.shape[1:] != original.shape[1:]:
                raise ModelError(
                    f"{after.name} has a weight {theirs} of shape {list(new.shape)} that does not"
                    f" fit {before.name}: there it is {list(original.shape)}"
                )
            rows = vocabularies.rows(name, len(original), len(new))
            notes.extend(rows.notes)
            if len(rows.added):
                size = float(new[rows.added].double().norm())
                notes.append(
                    f"{name}: the {len(rows.added)} rows that are only there have norm {size:.4g}"
                )
            new, original = new[rows.tuned], original[rows.base]
        return [change_of(before, name, new, original, rank, seed)]

    for pair in match.pairs:
        yield pair[0], partial(make, *pair)
