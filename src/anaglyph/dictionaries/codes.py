"""Sparse codes: which latents fire at which token, and how strongly.

Compressed sparse rows, one row per token, as plain numpy arrays: numba, polars, scipy and
``torch.from_numpy`` take them without a copy.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Int32, Int64

from anaglyph.core.errors import InputError


@dataclass(frozen=True, eq=False)
class Codes:
    """The non-zero activations of ``n_tokens`` tokens.

    Token ``t`` owns the entries ``offsets[t]:offsets[t + 1]``; its latents are in ascending order
    and each value is the unscaled activation f_j, always positive.
    """

    indices: Int32[np.ndarray, "active"]
    values: Float32[np.ndarray, "active"]
    offsets: Int64[np.ndarray, "tokens_plus_one"]

    def __post_init__(self) -> None:
        """Check that the arrays fit together."""
        if (
            len(self.offsets) == 0
            or self.offsets[0] != 0
            or len(self.indices) != len(self.values)
            or self.offsets[-1] != len(self.indices)
            or (np.diff(self.offsets) < 0).any()
        ):
            raise InputError(
                f"codes do not fit together: {len(self.indices)} indices, {len(self.values)} "
                f"values, offsets must rise from 0 to their number"
            )

    @property
    def n_tokens(self) -> int:
        """Number of tokens, including those without an active latent."""
        return len(self.offsets) - 1

    def tokens(self) -> Int64[np.ndarray, "active"]:
        """Return the token that each entry belongs to."""
        return np.repeat(np.arange(self.n_tokens), np.diff(self.offsets))

    def only(self, wanted: Bool[np.ndarray, "latents"]) -> "Codes":
        """Return the codes of the latents in the mask ``wanted`` only."""
        keep = wanted[self.indices]
        kept_before = np.concatenate([[0], np.cumsum(keep, dtype=np.int64)])
        return Codes(self.indices[keep], self.values[keep], kept_before[self.offsets])

    def dense(self, n_latents: int) -> Float32[np.ndarray, "tokens latents"]:
        """Return the codes as a dense matrix, for small cases."""
        matrix = np.zeros((self.n_tokens, n_latents), dtype=np.float32)
        matrix[self.tokens(), self.indices] = self.values
        return matrix

    @staticmethod
    def join(parts: list["Codes"]) -> "Codes":
        """Return the codes of consecutive runs of tokens as one."""
        if not parts:
            raise InputError("no codes to join")
        lengths = np.concatenate([np.diff(part.offsets) for part in parts])
        return Codes(
            np.concatenate([part.indices for part in parts]),
            np.concatenate([part.values for part in parts]),
            np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]),
        )
