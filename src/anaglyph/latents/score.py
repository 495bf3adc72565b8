"""The latent table: one row a latent, every statistic of maths sections 2 and 3, in one pass.

The store is read once. Each block of tokens is encoded (and, for a crosscoder, rebuilt), and its
sparse codes are summed; what the table says is computed from those sums and the decoders.
"""

import numpy as np
import polars as pl
from jaxtyping import Float, Float64
from numpy import ndarray
from torch import Tensor

from anaglyph.corpus import ROLES
from anaglyph.dictionaries import Codes, Dictionary
from anaglyph.errors import InputError
from anaglyph.latents.bootstrap import MOST_BLOCKS, assign_blocks
from anaglyph.latents.centre import typical_activations
from anaglyph.latents.norms import decoder_cosine, delta_norm, norm_classes, row_norms
from anaglyph.latents.scaling import (
    SIDES,
    TARGET_CENTRES,
    TARGETS,
    Estimate,
    LatentSums,
    Regressors,
    betas,
    estimate,
)
from anaglyph.latents.twins import find_twins
from anaglyph.latents.usage import usage
from anaglyph.progress import Progress, silent
from anaglyph.store import PairedStore

COLUMNS = (
    *("latent", "alive", "frequency", "mean_activation", "max_activation"),
    *("norm_base", "norm_tuned", "delta_norm", "cosine"),
    *(f"beta_{target}_{side}" for target in TARGETS for side in SIDES),
    *(f"nu_{target}{end}" for target in TARGETS for end in ("", "_low", "_high")),
    *("active_tokens", "difference_share", "twin", "twin_cosine", "template_share"),
    *(f"share_{role}" for role in ROLES),
    *("class", "kind"),
    *(
        f"beta_{target}_{side}_{end}"
        for target in TARGETS
        for side in SIDES
        for end in ("low", "high")
    ),
)
# Sums of all blocks together; very wide dictionaries get fewer, larger blocks of sequences.
_SUMS_BYTES = 256 * 2**20
_LEAST_BLOCKS = 32


def score(
    dic: Dictionary,
    store: PairedStore,
    *,
    progress: Progress = silent,
    bootstrap: int = 200,
    seed: int = 0,
    target_centre: str = "none",
) -> pl.DataFrame:
    """Return the latent table of a dictionary over all tokens of a store, one row a latent.

    Columns (null where undefined; never NaN or inf):

    - ``latent``, ``alive`` (fired at least once), ``active_tokens``, ``frequency`` (share of all
      tokens), ``mean_activation`` (over active tokens), ``max_activation``; ``share_ROLE``, the
      share of the active tokens that have the role, and ``template_share``, that of bos and
      template tokens together.
    - ``norm_base``, ``norm_tuned``, ``delta_norm`` (1: tuned only), ``class``, ``cosine`` between
      the two decoders, ``twin`` and ``twin_cosine`` (a latent of the opposite class that points
      the same way, cosine above 0.9). A model without a decoder of its own has nulls.
    - ``beta_TARGET_MODEL``, ``nu_TARGET`` and, for each, ``_low`` and ``_high``: Latent Scaling
      with 95% intervals over sequences. ``error`` and ``recon`` exist for crosscoders only. The
      regressor is the tuned decoder of a crosscoder, the only decoder of an SAE. nu is null
      ("undetermined") where the latent never fired, where ``|beta^tuned| < 0.01``, and where the
      interval of ``beta^tuned`` contains 0. Latents active in fewer than five blocks of sequences
      have no interval.
    - ``difference_share``: what the latent contributes to the difference, the sum over tokens of
      ``(f - mean f)^2 ||e||^2`` over that of ``||Delta - mean Delta||^2``, with ``e`` the decoder
      of a diff-SAE, the difference of a crosscoder's two decoders, or, for an SAE of one model, the
      multiple of ``d`` by which ``f - mean f`` fits ``Delta`` best. What is always on, alike,
      contributes to the mean only and counts as 0. Latents overlap: shares need not add up to 1.
    - ``kind``: null here; findings fill it in.

    Args:
        dic: The dictionary. A base-SAE is scored on the codes it gives to the tuned model.
        store: Activations of the pair that the dictionary belongs to.
        progress: Told after each block of tokens.
        bootstrap: Number of resamples; 0 for no intervals.
        seed: Of the resamples.
        target_centre: What is taken from the target of ``beta_act``. "none": nothing, the target
            is ``h^m`` as published. "median": that model's typical activation; on real models
            this tells specific latents from shared ones far better (see ``scaling.py``).

    Raises:
        InputError: The dictionary's widths are not the store's, or an argument is out of range.
    """
    if target_centre not in TARGET_CENTRES:
        raise InputError(
            f"target_centre={target_centre!r}: give one of {', '.join(TARGET_CENTRES)}"
        )
    if bootstrap < 0 or seed < 0:
        raise InputError(f"bootstrap={bootstrap} and seed={seed} must be at least 0")
    check_widths(dic, store)
    sums = _read(dic, store, progress)
    beta, nu = estimate(sums, target_centre=target_centre, resamples=bootstrap, seed=seed)
    totals = sums.sums.sum(axis=0)
    columns = {
        "latent": np.arange(dic.n_latents),
        **usage(sums.firings, totals[:, 0], sums.largest, sums.n_tokens),
    }
    columns |= _geometry(dic, columns["alive"])
    undetermined = Estimate(*(np.full(dic.n_latents, np.nan) for _ in range(3)))
    for target in TARGETS:
        for side in SIDES:
            columns |= _with_interval(
                f"beta_{target}_{side}", beta.get((target, side), undetermined)
            )
        columns |= _with_interval(f"nu_{target}", nu.get(target, undetermined))
    columns["difference_share"] = _difference_share(dic, store, sums, totals)
    series = [_series(name, values) for name, values in columns.items()]
    twin = pl.when(pl.col("twin") >= 0).then("twin")
    return (
        pl.DataFrame(series).with_columns(twin=twin, kind=pl.lit(None, pl.String)).select(COLUMNS)
    )


def scoring_codes(
    dic: Dictionary, base: Float[Tensor, "tokens d_base"], tuned: Float[Tensor, "tokens d_tuned"]
) -> Codes:
    """Return the codes that latents are judged by: those of ``h^tuned`` even for a base-SAE."""
    return dic.encode_inputs(dic.spec.scoring_inputs(base, tuned))


def check_widths(dic: Dictionary, store: PairedStore) -> None:
    """Refuse a dictionary that was trained on activations of other widths than the store's.

    Raises:
        InputError: The widths differ; the message names them.
    """
    widths = dic.spec.widths(store.d_base, store.d_tuned)
    if widths != dic.widths:
        raise InputError(
            f"the {dic.method} dictionary reads activations of widths {dic.widths}, the store at "
            f"{store.path} has {widths}"
        )


def decoders_of(dic: Dictionary) -> dict[str, Float[ndarray, "latents _"]]:
    """Return the decoder of each source under its name."""
    matrices = (matrix.numpy() for matrix in dic.decoder)
    return dict(zip(dic.spec.sources, matrices, strict=True))


def _read(dic: Dictionary, store: PairedStore, progress: Progress) -> LatentSums:
    decoders = decoders_of(dic)
    crosscoder = dic.spec.kind == "crosscoder"
    directions = decoders["tuned"] if crosscoder else next(iter(decoders.values()))
    centres = {
        side: centre
        for side, centre in zip(SIDES, typical_activations(store), strict=True)
        if centre.size == directions.shape[1]
    }
    own = {side: decoders[side] for side in centres} if crosscoder else {}
    regressors = Regressors(directions, centres, own)

    row_bytes = 8 * dic.n_latents * regressors.columns
    n_blocks = min(store.n_sequences, MOST_BLOCKS, max(_LEAST_BLOCKS, _SUMS_BYTES // row_bytes))
    block_of_token = assign_blocks(store.n_sequences, n_blocks)[store.sequence_of_tokens()]
    roles = store.roles
    sums = LatentSums(regressors, n_blocks)
    for block in store.blocks():
        codes = scoring_codes(dic, block.base, block.tuned)
        activations = {"base": block.base.numpy(), "tuned": block.tuned.numpy()}
        rebuilt = {}
        if crosscoder:
            parts = zip(dic.spec.sources, dic.reconstruct(codes), strict=True)
            rebuilt = {source: part.numpy() for source, part in parts}
        sums.add(codes, activations, rebuilt, block_of_token[block.tokens], roles[block.tokens])
        progress("score", sums.n_tokens, store.n_tokens)
    return sums


def _geometry(dic: Dictionary, alive: ndarray) -> dict[str, ndarray]:
    decoders = decoders_of(dic)
    undefined = np.full(dic.n_latents, np.nan)
    norms = {side: row_norms(decoders[side]) if side in decoders else undefined for side in SIDES}
    delta = delta_norm(norms["base"], norms["tuned"])
    classes = norm_classes(delta)
    columns = {
        "norm_base": norms["base"],
        "norm_tuned": norms["tuned"],
        "delta_norm": delta,
        "class": classes,
        "cosine": undefined,
        "twin": np.full(dic.n_latents, -1),
        "twin_cosine": undefined,
    }
    if set(SIDES) <= set(decoders) and len({decoders[side].shape for side in SIDES}) == 1:
        base, tuned = decoders["base"], decoders["tuned"]
        twins = find_twins(base, tuned, classes, alive)
        columns["cosine"] = decoder_cosine(base, tuned)
        columns["twin"] = twins.index
        columns["twin_cosine"] = twins.cosine
    return columns


def _difference_share(
    dic: Dictionary, store: PairedStore, sums: LatentSums, totals: ndarray
) -> Float64[ndarray, " latents"]:
    difference = store.statistics.difference
    if difference is None or difference.variance_sum == 0:
        return np.full(dic.n_latents, np.nan)
    decoders = decoders_of(dic)
    fired, squares = totals[:, 0], totals[:, 1]
    spread = np.maximum(squares - fired**2 / sums.n_tokens, 0)
    # What rounding leaves of a latent that is always on, alike, is no spread.
    spread[spread <= 1e-9 * squares] = 0
    if "difference" in decoders:
        carried = spread * row_norms(decoders["difference"]) ** 2
    elif dic.spec.kind == "crosscoder":
        carried = spread * row_norms(decoders["tuned"] - decoders["base"]) ** 2
    else:
        directions = sums.regressors.directions
        plain = betas(totals, sums.regressors, "none")
        energy = row_norms(directions) ** 2
        covariance = squares * energy * (plain["act", "tuned"] - plain["act", "base"])
        covariance -= fired * (directions @ difference.mean)
        carried = np.zeros(dic.n_latents)
        moves = (spread > 0) & (energy > 0)
        np.divide(covariance**2, spread * energy, out=carried, where=moves)
    return carried / (difference.variance_sum * store.n_tokens)


def _with_interval(name: str, found: Estimate) -> dict[str, ndarray]:
    return {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}


def _series(name: str, values: ndarray) -> pl.Series:
    if values.dtype == object:
        return pl.Series(name, values.tolist(), dtype=pl.String)
    if values.dtype.kind == "f":
        return pl.Series(name, np.where(np.isfinite(values), values, np.nan)).fill_nan(None)
    return pl.Series(name, values)
