"""The angle between a latent's directions in the two models, refitted to the activations.

Decoders are trained for both models at once and under a sparsity penalty. So each model's direction
is refitted here by least squares, ``A_j^m = sum_x f_j(x) y^m(x)``. For a crosscoder ``y`` is the
error plus the latent's own part, ``eps^m + f_j d_j^m``. An SAE reconstructs neither model; for it
``y`` is ``h^m`` minus the model's typical activation, so whatever fires together with the latent
counts as part of it. The lengths of the ``A_j^m`` are not stored: their ratio along the decoder is
nu (``scaling.py``).

A plain angle would grow with noise, because two noisy copies of one direction are never parallel.
So each model is refitted twice, on halves of the sequences, and only products across halves are
used: ``cos = 1/2 (<b1, t2> + <b2, t1>) / sqrt(<b1, b2> <t1, t2>)`` (correction for attenuation,
Spearman 1904). Noise that the models share within a half drops out too. A model has a
direction at all only if its halves agree.
"""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float32, Float64, Int64
from numpy import ndarray

from anaglyph.dictionaries import Codes
from anaglyph.latents.kernels import add_rows

# If the halves have cosine r, their sum has cosine sqrt(2 r / (1 + r)) with the truth: 0.82 here.
LEAST_AGREEMENT = 0.5
# Latents computed at once; bounds memory to a few arrays of 256 x d float64.
_CHUNK = 256


class Refit:
    """Running sums ``sum f_j y`` of both models, separate for two halves of the sequences.

    Attributes:
        sums: For "base" and "tuned", [latents, halves, d].
        squares: [latents, halves], ``sum f_j^2``.
    """

    sums: dict[str, Float32[ndarray, "latents 2 d"]]
    squares: Float64[ndarray, "latents 2"]

    def __init__(self, n_latents: int, width: int):
        shape = (n_latents, 2, width)
        self.sums = {side: np.zeros(shape, dtype=np.float32) for side in ("base", "tuned")}
        self.squares = np.zeros((n_latents, 2))

    @staticmethod
    def size(n_latents: int, width: int) -> int:
        """Return the bytes that the sums take."""
        return 2 * 2 * 4 * n_latents * width

    def add(
        self,
        codes: Codes,
        targets: Mapping[str, Float32[ndarray, "tokens d"]],
        halves: Int64[ndarray, " tokens"],
    ) -> None:
        """Add a batch of tokens.

        Args:
            codes: Codes of the tokens.
            targets: For "base" and "tuned", ``y`` without the latent's own part: ``eps^m`` for a
                crosscoder, the centred ``h^m`` for an SAE.
            halves: 0 or 1 for each token, the same within a sequence.
        """
        if not codes.values.size:
            return
        tokens = codes.tokens()
        rows = 2 * codes.indices.astype(np.int64) + halves[tokens]
        order = np.argsort(rows, kind="stable")
        keys, first = np.unique(rows[order], return_index=True)
        starts = np.append(first, rows.size)
        for side, target in targets.items():
            flat = self.sums[side].reshape(-1, target.shape[1])
            add_rows(keys, starts, order, tokens, codes.values, target, flat)
        squares = codes.values.astype(np.float64) ** 2
        self.squares += np.bincount(rows, squares, self.squares.size).reshape(-1, 2)

    def angles(
        self, decoders: Mapping[str, Float32[ndarray, "latents d"]]
    ) -> Float64[ndarray, " latents"]:
        """Return the angle between the models in degrees, 0 to 180.

        NaN where a model's halves agree by less than a cosine of 0.5, because the latent then has
        no direction in that model. This is so if only the other model has it, or if it is active in
        one half only.

        Args:
            decoders: Decoders of "base" and "tuned", if the targets are without the latent's part.
        """
        n_latents = len(self.squares)
        angle = np.full(n_latents, np.nan)
        for start in range(0, n_latents, _CHUNK):
            rows = slice(start, start + _CHUNK)
            halves = {}
            for side, sums in self.sums.items():
                both = sums[rows].astype(np.float64)
                if side in decoders:
                    both += self.squares[rows, :, None] * decoders[side][rows, None]
                halves[side] = both[:, 0], both[:, 1]
            angle[rows] = _angles(halves["base"], halves["tuned"])
        return angle


def _angles(
    base: tuple[Float64[ndarray, "latents d"], Float64[ndarray, "latents d"]],
    tuned: tuple[Float64[ndarray, "latents d"], Float64[ndarray, "latents d"]],
) -> Float64[ndarray, " latents"]:
    def product(left: ndarray, right: ndarray) -> ndarray:
        return np.einsum("jd,jd->j", left, right)

    shared = [product(*halves) for halves in (base, tuned)]
    lengths = [
        np.sqrt(product(first, first) * product(second, second)) for first, second in (base, tuned)
    ]
    usable = np.ones(len(base[0]), dtype=bool)
    for own, length in zip(shared, lengths, strict=True):
        usable &= (length > 0) & (own >= LEAST_AGREEMENT * length)
    across = (product(base[0], tuned[1]) + product(base[1], tuned[0])) / 2
    cosine = np.full(usable.shape, np.nan)
    np.divide(across, np.sqrt(np.abs(shared[0] * shared[1])), out=cosine, where=usable)
    return np.rad2deg(np.arccos(np.clip(cosine, -1, 1)))
