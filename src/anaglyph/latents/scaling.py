"""Latent Scaling: how much of each latent each model has, for all latents in one pass.

``beta_j`` is the scale at which ``beta * f_j(x) * d_j`` fits a target ``y(x)`` best in least
squares: ``<d_j, sum_x f_j y> / (||d_j||^2 sum_x f_j^2)``. ``nu_j = beta_j^base / beta_j^tuned`` is
near 0 for what only the tuned model has and near 1 for what both have (docs/maths.md, section 3,
after Minder, Dumas et al. 2025, arXiv 2504.02922). The same regressor ``d_j`` serves both models.

Only ``sum f``, ``sum f^2`` and ``sum f <y, d_j>`` are kept: a pass costs O(tokens * k * d). The
targets:

- ``error``: ``eps^m + f_j d_j^m``, for crosscoders. Its sum is the sum for ``eps`` plus
  ``<d_j^m, d_j> sum f^2``, so it needs no separate pass.
- ``recon``: ``hhat^m``, for crosscoders.
- ``act``: ``h^m``, or with ``target_centre="median"`` ``h^m`` minus that model's typical activation
  (``centre.py``; never the mean of the difference). A constant that both models share also has a
  part along ``d_j`` and biases the nu of plain ``h^m``: towards 1 if the latent is weak, anywhere
  if it happens to cancel. We planted features with a true nu of 0 in the activations of
  SmolLM2-135M, a third of a token's deviation strong. Measured nu (80% of them) was -0.09 to 0.09
  in plain targets, -0.18 to 0.11 with the mean subtracted (first tokens are outliers that shift the
  mean), and -0.01 to 0.01 with the median subtracted.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64, Int64, UInt8
from numpy import ndarray

from anaglyph.corpus import ROLES
from anaglyph.dictionaries import Codes
from anaglyph.latents.bootstrap import draw_weights, interval
from anaglyph.latents.kernels import accumulate, project

SIDES = ("base", "tuned")
TARGETS = ("error", "recon", "act")
TARGET_CENTRES = ("none", "median")
# If the tuned model has less than one hundredth of a latent, the ratio is meaningless.
BETA_FLOOR = 0.01
# The smallest number of independent draws whose range covers the median in 94% of cases.
LEAST_ACTIVE_BLOCKS = 5
# Latents resampled at once; bounds the memory to resamples x 1024 x columns float64.
_CHUNK = 1024


@dataclass(frozen=True)
class Regressors:
    """The directions that sums are projected on, and the constants that turn sums into betas.

    ``directions`` are the ``d_j``. ``decoders`` and ``centres`` map "base" and "tuned" to that
    model's values. A model of another width than the regressor is left out; its betas are
    undefined. ``decoders`` is empty for an SAE, which reconstructs neither model.
    """

    directions: Float32[ndarray, "latents d"]
    centres: Mapping[str, Float32[ndarray, " d"]]
    decoders: Mapping[str, Float32[ndarray, "latents d"]]

    @property
    def sides(self) -> tuple[str, ...]:
        """The models that can be regressed on these directions, base first."""
        return tuple(side for side in SIDES if side in self.centres)

    @property
    def parts(self) -> tuple[str, ...]:
        """Which parts of each model are projected: error and reconstruction, or activation."""
        return ("error", "rest") if self.decoders else ("rest",)

    @property
    def columns(self) -> int:
        """Number of sums kept of each latent."""
        return 2 + len(self.sides) * len(self.parts)

    def column(self, side: str, part: str) -> int:
        """Return the column with the sums of ``f * <part of side, d_j>``."""
        return 2 + self.sides.index(side) * len(self.parts) + self.parts.index(part)


class LatentSums:
    """Running sums of every latent over sparse codes, one set per block of sequences.

    Attributes:
        sums: [blocks, latents, columns]: ``sum f``, ``sum f^2``, then ``sum f <target, d_j>``.
        firings: [latents, roles], active tokens by the token's role.
        largest: [latents], highest code.
        n_tokens: Tokens read.
    """

    sums: Float64[ndarray, "blocks latents columns"]
    firings: Int64[ndarray, "latents roles"]
    largest: Float32[ndarray, " latents"]
    n_tokens: int

    def __init__(self, regressors: Regressors, n_blocks: int):
        self.regressors = regressors
        n_latents = regressors.directions.shape[0]
        self.sums = np.zeros((n_blocks, n_latents, regressors.columns))
        self.firings = np.zeros((n_latents, len(ROLES)), dtype=np.int64)
        self.largest = np.zeros(n_latents, dtype=np.float32)
        self.n_tokens = 0

    def add(
        self,
        codes: Codes,
        activations: Mapping[str, Float32[ndarray, "tokens _"]],
        reconstructions: Mapping[str, Float32[ndarray, "tokens _"]],
        blocks: Int64[ndarray, " tokens"],
        roles: UInt8[ndarray, " tokens"],
    ) -> None:
        """Add a batch of tokens: its codes, and ``h`` and ``hhat`` of each model.

        ``reconstructions`` is empty for an SAE. ``blocks`` gives the block of each token.
        """
        targets = []
        for side in self.regressors.sides:
            # Subtracting the centre keeps the sums small, so little cancels later.
            centre = self.regressors.centres[side]
            if self.regressors.decoders:
                targets.append(activations[side] - reconstructions[side])
                targets.append(reconstructions[side] - centre)
            else:
                targets.append(activations[side] - centre)
        products = project(codes.indices, codes.offsets, tuple(targets), self.regressors.directions)
        accumulate(
            (codes.indices, codes.values, codes.offsets),
            products,
            blocks,
            roles,
            (self.sums, self.firings, self.largest),
        )
        self.n_tokens += blocks.size


def betas(
    sums: Float64[ndarray, "*draws latents columns"],
    regressors: Regressors,
    target_centre: str,
    latents: slice = slice(None),
) -> dict[tuple[str, str], Float64[ndarray, "*draws latents"]]:
    """Turn sums into ``{(target, side): beta}``; NaN where the latent never fired or d_j is zero.

    Args:
        sums: Sums over blocks (or over draws of blocks), of the latents that ``latents`` selects.
        regressors: What the sums were projected on.
        target_centre: What is subtracted from the activation target, one of TARGET_CENTRES.
        latents: Which latents these are.
    """
    directions = regressors.directions[latents]
    fired, squares = sums[..., 0], sums[..., 1]
    energy = np.einsum("jd,jd->j", directions, directions, dtype=np.float64)
    scale = squares * energy
    found = {}

    def divide(numerator: ndarray) -> ndarray:
        beta = np.full(scale.shape, np.nan)
        np.divide(numerator, scale, out=beta, where=scale > 0)
        return beta

    for side in regressors.sides:
        offset = directions.astype(np.float64) @ regressors.centres[side].astype(np.float64)
        centred = sums[..., regressors.column(side, "rest")]
        if regressors.decoders:
            error = sums[..., regressors.column(side, "error")]
            own = np.einsum(
                "jd,jd->j", regressors.decoders[side][latents], directions, dtype=np.float64
            )
            found["error", side] = divide(error + squares * own)
            found["recon", side] = divide(centred + fired * offset)
            centred = centred + error
        found["act", side] = divide(
            centred if target_centre == "median" else centred + fired * offset
        )
    return found


@dataclass(frozen=True)
class Estimate:
    """A number for each latent with its 95% interval; NaN where undetermined."""

    value: Float64[ndarray, " latents"]
    low: Float64[ndarray, " latents"]
    high: Float64[ndarray, " latents"]

    def spread(self, rows: Int64[ndarray, " latents"], n_latents: int) -> "Estimate":
        """Return the estimate over ``n_latents``, where these are ``rows``; NaN for the others."""
        wide = Estimate(*(np.full(n_latents, np.nan) for _ in range(3)))
        wide.value[rows], wide.low[rows], wide.high[rows] = self.value, self.low, self.high
        return wide


def estimate(
    sums: LatentSums, *, target_centre: str, resamples: int, seed: int
) -> tuple[dict[tuple[str, str], Estimate], dict[str, Estimate]]:
    """Return ``{(target, side): beta}`` and ``{target: nu}`` with intervals over sequences.

    A latent active in fewer than five blocks gets no interval. nu is
    undetermined (NaN) where the latent never fired, where ``d_j`` is zero, where
    ``|beta^tuned| < 0.01``, and where the interval of ``beta^tuned`` contains 0.
    """
    regressors = sums.regressors
    n_blocks, n_latents, _ = sums.sums.shape
    weights = draw_weights(n_blocks, resamples, seed)
    enough = np.count_nonzero(sums.sums[:, :, 1], axis=0) >= LEAST_ACTIVE_BLOCKS
    beta: dict[tuple[str, str], Estimate] = {}
    nu: dict[str, Estimate] = {}

    def blank() -> Estimate:
        return Estimate(*(np.full(n_latents, np.nan) for _ in range(3)))

    for start in range(0, n_latents, _CHUNK):
        rows = slice(start, min(start + _CHUNK, n_latents))
        some = sums.sums[:, rows]
        points = betas(some.sum(axis=0), regressors, target_centre, rows)
        drawn = betas(np.tensordot(weights, some, axes=1), regressors, target_centre, rows)
        for name, value in points.items():
            into = beta.setdefault(name, blank())
            into.value[rows] = value
            _write_interval(into, rows, drawn[name], enough[rows])
        for target in TARGETS:
            if (target, "base") not in points or (target, "tuned") not in points:
                continue
            tuned = beta[target, "tuned"]
            with np.errstate(invalid="ignore"):
                straddles = (tuned.low[rows] <= 0) & (tuned.high[rows] >= 0)
                usable = (np.abs(tuned.value[rows]) >= BETA_FLOOR) & ~straddles
            into = nu.setdefault(target, blank())
            into.value[rows] = _ratio(points[target, "base"], points[target, "tuned"], usable)
            ratios = _ratio(drawn[target, "base"], drawn[target, "tuned"], usable)
            _write_interval(into, rows, ratios, enough[rows])
    return beta, nu


def _ratio(base: ndarray, tuned: ndarray, usable: ndarray) -> ndarray:
    ratio = np.full(base.shape, np.nan)
    with np.errstate(over="ignore"):
        np.divide(base, tuned, out=ratio, where=usable & (tuned != 0))
    return np.where(np.isfinite(ratio), ratio, np.nan)


def _write_interval(into: Estimate, rows: slice, draws: ndarray, enough: ndarray) -> None:
    low, high = interval(draws)
    into.low[rows] = np.where(enough, low, np.nan)
    into.high[rows] = np.where(enough, high, np.nan)
