"""The change of the weights, matrix by matrix, in its singular directions.

docs/maths.md, section 7. Each matrix's W_tuned - W_base is taken apart by a singular value
decomposition; a LoRA's change is s B A, whose exact decomposition comes from QR factors of B and of
A transposed and an r by r core, without ever forming the matrix. Matrices are oriented [out, in]
here, however a family stores them.
"""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import polars as pl
import torch
from jaxtyping import Float
from torch import Tensor

from anaglyph.core.errors import InputError, ModelError
from anaglyph.core.progress import Progress, silent
from anaglyph.direct.adapter_files import AdapterFiles
from anaglyph.direct.weight_files import ModelFiles, block_of
from anaglyph.pair.sources import locate

_EXACT = 1024
"""Smaller side of a matrix up to which a few directions too are had from a full decomposition."""
# What reads the residual stream (through its norm) and what writes to it, by the module's name.
_READS = re.compile(
    r"(q_proj|k_proj|v_proj|qkv_proj|gate_proj|up_proj|gate_up_proj|c_attn|c_fc|query_key_value"
    r"|dense_h_to_4h|fc1|lm_head|embed_out)$"
)
_WRITES = re.compile(r"(o_proj|down_proj|c_proj|attention\.dense|dense_4h_to_h|out_proj|fc2)$")
_EMBEDS = re.compile(r"(embed_tokens|wte|wpe|embed_in|word_embeddings)$")


@dataclass(frozen=True)
class MatrixChange:
    """One weight's change, W_tuned - W_base, in its singular directions.

    Attributes:
        name: The module's path, without ".weight".
        layer: Decoder block; None outside the blocks.
        shape: Of the weight, [out, in]; a vector's or other tensor's own shape.
        norm: Frobenius norm of the change.
        base_norm: Frobenius norm of the base's weight; None if it was not found.
        left: Singular vectors on the output's side; None for what is no matrix.
        singular: Singular values, falling.
        right: Singular vectors on the input's side.
        residual: Whether the left or right vectors live in the residual stream, if either do.
        exact: Whether the directions are from a full decomposition, or randomised (Halko et al.,
            2011), as the leading directions of large matrices are.
    """

    name: str
    layer: int | None
    shape: tuple[int, ...]
    norm: float
    base_norm: float | None
    left: Float[Tensor, "out rank"] | None = None
    singular: Float[Tensor, " rank"] | None = None
    right: Float[Tensor, "in rank"] | None = None
    residual: Literal["left", "right"] | None = None
    exact: bool = True

    @property
    def delta(self) -> Float[Tensor, "out in"]:
        """The change rebuilt from the directions that are held: all of it if all are.

        In float32; the error is below 1e-5 of the change's norm.

        Raises:
            InputError: This weight is no matrix.
        """
        if self.left is None or self.singular is None or self.right is None:
            raise InputError(f"{self.name} is no matrix and has no directions")
        return (self.left * self.singular) @ self.right.T

    @property
    def stable_rank(self) -> float | None:
        """||Delta||_F^2 / sigma_1^2; None where nothing changed."""
        if self.singular is None or len(self.singular) == 0 or self.singular[0] == 0:
            return None
        return self.norm**2 / float(self.singular[0]) ** 2

    def residual_directions(self) -> Float[Tensor, "rank d"] | None:
        """Return the unit vectors in the residual stream, a row a component; None if none are."""
        if self.residual is None:
            return None
        side = self.left if self.residual == "left" else self.right
        return None if side is None else side.T


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
    progress: Progress = silent,
) -> Iterator[MatrixChange]:
    """Yield every weight's change, one at a time; neither model is loaded.

    Args:
        base: A whole model: folder, hub id or ``.gguf`` file.
        tuned: The same, or a LoRA adapter's folder, which is read from its A and B.
        rank: Directions a matrix; None keeps all, so that `MatrixChange.delta` is the whole change.
        last_block: Leave out the decoder blocks after this one; None for none.
        seed: Of the randomised decomposition of large matrices.
        progress: Told of weights done.

    Raises:
        InputError: The rank is not positive.
        ModelError: A model cannot be read, the two do not fit, or the adapter is of a kind that is
            not an added product of two matrices.
    """
    if rank is not None and rank < 1:
        raise InputError(f"rank is {rank}: it must be at least 1")
    sources = locate(base), locate(tuned)
    if sources[0].is_adapter:
        raise ModelError(f"{base} is an adapter; base must be a whole model")
    before = ModelFiles(sources[0])
    if sources[1].is_adapter:
        adapter = AdapterFiles(sources[1])
        yield from _adapter_changes(before, adapter, rank, last_block, seed, progress)
        return
    after = ModelFiles(sources[1])
    names = [name for name in after.names if not _is_after(name, last_block)]
    for number, name in enumerate(names, 1):
        # A head that is tied in one of the two is stored there under the embedding's name alone.
        own = name if name in before else before.unembedding if name == after.unembedding else None
        if own is None or before.shape(own) != after.shape(name):
            raise ModelError(
                f"{tuned} has a weight {name} of shape {list(after.shape(name))} that does not fit"
                f" {base}"
            )
        original = before.read(own)
        change = (after.read(name).double() - original.double()).float()
        yield _change_of(before, name, change, original, rank, seed)
        progress("weights", number, len(names), "weights")


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
        writes = change.residual == "left" or _EMBEDS.search(change.name) is not None
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


def _is_after(name: str, last_block: int | None) -> bool:
    block = block_of(name)
    return last_block is not None and block is not None and block > last_block


def _adapter_changes(
    base: ModelFiles,
    adapter: AdapterFiles,
    rank: int | None,
    last_block: int | None,
    seed: int,
    progress: Progress,
) -> Iterator[MatrixChange]:
    products, replaced = (
        [path for path in paths if not _is_after(f"{path}.", last_block)]
        for paths in (adapter.products, adapter.replaced)
    )
    total = len(products) + len(replaced)
    for number, path in enumerate(products, 1):
        b, a = adapter.factors(path)
        left, singular, right = product_svd(b, a)
        stored = base.find(path)
        shape = (b.shape[0], a.shape[1])
        if stored is not None:
            own = base.shape(stored)
            if sorted(own) != sorted(shape):
                raise ModelError(
                    f"the adapter changes {path} by a matrix of {list(shape)}, the base's has"
                    f" {list(own)}"
                )
            norm = math.sqrt(sum(float(part.square().sum()) for part in base.row_slices(stored)))
        else:
            norm = None
        yield MatrixChange(
            path,
            block_of(f"{path}."),
            shape,
            float(singular.double().norm()),
            norm,
            left[:, :rank],
            singular[:rank],
            right[:, :rank],
            _residual(path, shape, base.width),
        )
        progress("weights", number, total, "weights")
    for number, path in enumerate(replaced, len(products) + 1):
        new, stored = adapter.replaced[path], base.find(path)
        if stored is None and path.endswith("lm_head"):
            stored = base.unembedding  # tied, and stored once
        if stored is None or base.shape(stored) != adapter.shape(new):
            raise ModelError(f"the adapter replaces {path}, which does not fit the base")
        original = base.read(stored)
        change = (adapter.read(new).double() - original.double()).float()
        if path not in adapter.products:
            yield _change_of(base, f"{path}.weight", change, original, rank, seed)
        elif change.any():
            # PEFT stores the embedding under a LoRA as well; usually it is the base's own.
            raise ModelError(
                f"the adapter changes {path} both by factors and as a whole: merge it and give the"
                " whole model"
            )
        progress("weights", number, total, "weights")


def product_svd(
    b: Float[Tensor, "out r"], a: Float[Tensor, "r in"]
) -> tuple[Float[Tensor, "out k"], Float[Tensor, " k"], Float[Tensor, "in k"]]:
    """Return the exact singular value decomposition of ``b @ a`` without forming it.

    b = Q_b R_b and a^T = Q_a R_a, so that b a = Q_b (R_b R_a^T) Q_a^T; only the core is decomposed.
    """
    q_b, r_b = torch.linalg.qr(b.double())
    q_a, r_a = torch.linalg.qr(a.double().T)
    u, s, vh = torch.linalg.svd(r_b @ r_a.T, full_matrices=False)
    return (q_b @ u).float(), s.float(), (q_a @ vh.T).float()


def _change_of(
    base: ModelFiles, name: str, change: Tensor, original: Tensor, rank: int | None, seed: int
) -> MatrixChange:
    path = name.removesuffix(".weight")
    norms = float(change.double().norm()), float(original.double().norm())
    if change.ndim != 2:
        return MatrixChange(path, block_of(name), tuple(change.shape), *norms)
    if base.transposed and block_of(name) is not None:
        change = change.T
    shape = (change.shape[0], change.shape[1])
    exact = rank is None or min(shape) <= max(_EXACT, rank)
    if norms[0] == 0:
        some = min(shape)
        left, right = torch.eye(shape[0], some), torch.eye(shape[1], some)
        singular = torch.zeros(some)
    elif exact:
        left, singular, vh = torch.linalg.svd(change, full_matrices=False)
        right = vh.T
    else:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            left, singular, right = torch.svd_lowrank(change, q=(rank or 0) + 8, niter=4)
    kept = (left[:, :rank], singular[:rank], right[:, :rank])
    residual = _residual(path, shape, base.width)
    return MatrixChange(path, block_of(name), shape, *norms, *kept, residual, exact)


def _residual(path: str, shape: tuple[int, int], width: int) -> Literal["left", "right"] | None:
    if (_READS.search(path) or _EMBEDS.search(path)) and shape[1] == width:
        return "right"
    if _WRITES.search(path) and shape[0] == width:
        return "left"
    if (shape[0] == width) != (shape[1] == width):
        return "left" if shape[0] == width else "right"
    return None
