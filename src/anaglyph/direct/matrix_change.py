"""One weight's change, W_tuned - W_base, in its singular directions.

Section 7 of docs/maths.md. Matrices are oriented [out, in] here, however a family stores them.
"""

import re
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from anaglyph.core.errors import InputError
from anaglyph.direct.weight_files import ModelFiles, block_of
from anaglyph.pair.names import is_text

_EXACT = 1024
"""Smaller side of a matrix up to which a few directions too are had from a full decomposition."""
# What reads the residual stream (through its norm) and what writes to it, by the module's name.
_READS = re.compile(
    r"(q_proj|k_proj|v_proj|qkv_proj|gate_proj|up_proj|gate_up_proj|c_attn|c_fc|query_key_value"
    r"|dense_h_to_4h|fc1|Wqkv|in_proj|w1|w3|attention\.(key|value|receptance)"
    r"|feed_forward\.(key|receptance)|lm_head|embed_out|^head)$"
)
_WRITES = re.compile(
    r"(o_proj|down_proj|c_proj|attention\.dense|dense_4h_to_h|out_proj|fc2|w2|attention\.output"
    r"|feed_forward\.value)$"
)
EMBEDS = re.compile(r"(embed_tokens|wte|wpe|embed_in|word_embeddings|embeddings)$")


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


def change_of(
    base: ModelFiles, name: str, new: Tensor, original: Tensor, rank: int | None, seed: int
) -> MatrixChange:
    """Take the change of one weight apart.

    Args:
        base: The base's files, for the width and how linear layers are stored.
        name: The weight's name, as to be reported.
        new: Of the tuned model; may be in float64.
        original: Of the base, of the same shape.
        rank: Directions to keep; None for all.
        seed: Of the randomised decomposition of a large matrix.
    """
    change = (new.double() - original.double()).float()
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
    residual = residual_side(path, shape, base.width)
    return MatrixChange(path, block_of(name), shape, *norms, *kept, residual, exact)


def residual_side(path: str, shape: tuple[int, int], width: int) -> Literal["left", "right"] | None:
    """Return which side of a matrix [out, in] is the residual stream, if either is."""
    if not is_text(path):
        return None
    if (_READS.search(path) or EMBEDS.search(path)) and shape[1] == width:
        return "right"
    if _WRITES.search(path) and shape[0] == width:
        return "left"
    if (shape[0] == width) != (shape[1] == width):
        return "left" if shape[0] == width else "right"
    return None
