"""The latent table: one row a latent, made in one pass (docs/maths.md, sections 2 and 3).

The store is read once (``reading.py``). The table is computed from the sums over the sparse codes
and from the decoders. Only if there are twins is the store read again, for their divergence.
"""

import numpy as np
import polars as pl
from jaxtyping import Float64
from numpy import ndarray

from anaglyph.core.errors import InputError
from anaglyph.core.progress import Progress, silent
from anaglyph.core.validation import check_type
from anaglyph.corpus import ROLES
from anaglyph.dictionaries import Dictionary
from anaglyph.latents.flags import MIRRORED, add_flags
from anaglyph.latents.norms import BASE_ONLY, decoder_cosine, delta_norm, row_norms
from anaglyph.latents.ordinary import ordinary_difference_share
from anaglyph.latents.reading import check_widths, classes_of, decoders_of, norms_of, read
from anaglyph.latents.refit import Refit
from anaglyph.latents.scaling import (
    SIDES,
    TARGET_CENTRES,
    TARGETS,
    Estimate,
    LatentSums,
    betas,
    estimate,
)
from anaglyph.latents.twins import find_twins, twin_divergence
from anaglyph.latents.usage import usage
from anaglyph.store import PairedStore

COLUMNS = (
    *("latent", "alive", "frequency", "mean_activation", "max_activation"),
    *("norm_base", "norm_tuned", "delta_norm", "cosine"),
    *(f"beta_{target}_{side}" for target in TARGETS for side in SIDES),
    *(f"nu_{target}{end}" for target in TARGETS for end in ("", "_low", "_high")),
    *("active_tokens", "difference_share", "twin", "twin_cosine", "twin_divergence"),
    "template_share",
    *(f"share_{role}" for role in ROLES),
    *("class", "complete_shrinkage", "latent_decoupling", "angle"),
    *(f"nu_{target}_mirror{end}" for target in MIRRORED for end in ("", "_low", "_high")),
    *(
        f"beta_{target}_{side}_{end}"
        for target in TARGETS
        for side in SIDES
        for end in ("low", "high")
    ),
)

# Above this much memory the refit runs only on request.
_REFIT_BYTES = 2**30


def score(
    dic: Dictionary,
    store: PairedStore,
    *,
    progress: Progress = silent,
    bootstrap: int = 200,
    seed: int = 0,
    target_centre: str = "none",
    refit: bool | None = None,
) -> pl.DataFrame:
    """Return the latent table of a dictionary over all tokens of a store, one row per latent.

    Columns (null where undefined; never NaN or inf):

    - ``latent``, ``alive`` (fired at least once), ``active_tokens``, ``frequency`` (share of all
      tokens), ``mean_activation`` (over active tokens), ``max_activation``; ``share_ROLE``, the
      share of the active tokens that have the role, and ``template_share``, that of bos and
      template tokens together.
    - ``norm_base``, ``norm_tuned``, ``delta_norm`` (1: tuned only), ``class``, ``cosine`` between
      the two decoders, ``twin`` and ``twin_cosine`` (a latent of the opposite class that points
      the same way, cosine above 0.9), ``twin_divergence`` (share of the pair's strong firings at
      which the other is weak; 0: they fire together). A model without a decoder of its own has
      nulls.
    - ``beta_TARGET_MODEL``, ``nu_TARGET`` and, for each, ``_low`` and ``_high``: Latent Scaling
      with 95% intervals over sequences. ``error`` and ``recon`` exist for crosscoders only. The
      regressor is the tuned decoder of a crosscoder, the only decoder of an SAE. nu is null
      ("undetermined") where the latent never fired, where ``|beta^tuned| < 0.01``, and where the
      interval of ``beta^tuned`` contains 0. Latents active in fewer than five blocks of sequences
      have no interval.
    - ``nu_error_mirror`` and ``nu_recon_mirror``, with intervals: the same for the base model, for
      latents of class base-only and null for all others. The regressor is their base decoder and
      the ratio is ``beta^tuned / beta^base``: near 0 is specific to the base model.
    - ``complete_shrinkage`` and ``latent_decoupling``: the two ways in which a crosscoder shows a
      shared concept as specific to one model (rules in ``flags.py``). Null without a norm class,
      and for a specific latent whose nu is undetermined.
    - ``angle``: degrees between the two models' directions along the latent, refitted to the
      activations and corrected for noise (``refit.py``); null where a model has none. The ratio of
      their lengths has no column: it is nu_error for a crosscoder, and nu_act with
      ``target_centre="median"`` for an SAE.
    - ``difference_share``: what the latent contributes to the difference, the sum over tokens of
      ``(f - mean f)^2 ||e||^2`` over that of ``||Delta - mean Delta||^2``, with ``e`` the decoder
      of a diff-SAE, the difference of a crosscoder's two decoders, or, for an SAE of one model, the
      multiple of ``d`` by which ``f - mean f`` fits ``Delta`` best. A latent with a constant code
      contributes only to the mean and counts as 0. Latents overlap, so shares need not add up to 1.
      If the dictionary pulls massive tokens in, the shares of a diff-SAE or crosscoder are computed
      on the other tokens.

    Args:
        dic: The dictionary. A base-SAE is scored on the codes it gives to the tuned model.
        store: Activations of the pair that the dictionary belongs to.
        progress: Told after each block of tokens.
        bootstrap: Number of resamples; 0 for no intervals.
        seed: Of the resamples.
        target_centre: What is subtracted from the target of ``beta_act``. "none": nothing; the
            target is ``h^m`` as published. "median": that model's typical activation. On real
            models this separates specific from shared latents much better (see ``scaling.py``).
        refit: Whether to compute ``angle``, which takes 16 bytes per latent and dimension. None:
            only if that is at most 1 GiB.

    Raises:
        InputError: The dictionary's widths are not the store's, or an argument is out of range.
    """
    check_type("dic", dic, Dictionary, "make one with train or Dictionary.load")
    check_type("store", store, PairedStore, "make one with collect or PairedStore.from_arrays")
    if target_centre not in TARGET_CENTRES:
        raise InputError(
            f"target_centre={target_centre!r}: give one of {', '.join(TARGET_CENTRES)}"
        )
    if bootstrap < 0 or seed < 0:
        raise InputError(f"bootstrap={bootstrap} and seed={seed} must be at least 0")
    check_widths(dic, store)
    if refit is None:
        refit = Refit.size(dic.n_latents, store.d_tuned) <= _REFIT_BYTES
    reading = read(dic, store, progress, refit=refit)
    sums = reading.sums
    settings = {"target_centre": target_centre, "resamples": bootstrap, "seed": seed}
    beta, nu = estimate(sums, **settings)
    _, mirrored = estimate(reading.mirror, **settings) if reading.mirror else ({}, {})
    totals = sums.sums.sum(axis=0)
    columns = {
        "latent": np.arange(dic.n_latents),
        **usage(sums.firings, totals[:, 0], sums.largest, sums.n_tokens),
    }
    columns |= _geometry(dic, columns["alive"])
    lengths = np.where(columns["class"] == BASE_ONLY, columns["norm_base"], columns["norm_tuned"])
    columns["twin_divergence"] = twin_divergence(
        dic, store, columns["twin"], lengths, sums.largest.astype(np.float64), progress
    )
    undetermined = Estimate(*(np.full(dic.n_latents, np.nan) for _ in range(3)))
    for target in MIRRORED:
        found = undetermined
        if target in mirrored:
            found = mirrored[target].spread(reading.mirror_rows, dic.n_latents)
        columns |= _with_interval(f"nu_{target}_mirror", found)
    for target in TARGETS:
        for side in SIDES:
            columns |= _with_interval(
                f"beta_{target}_{side}", beta.get((target, side), undetermined)
            )
        columns |= _with_interval(f"nu_{target}", nu.get(target, undetermined))
    columns["angle"] = undetermined.value
    if reading.refit is not None:
        own = decoders_of(dic) if dic.spec.kind == "crosscoder" else {}
        columns["angle"] = reading.refit.angles(own)
    columns["difference_share"] = _difference_share(dic, store, sums, totals)
    series = [_series(name, values) for name, values in columns.items()]
    twin = pl.when(pl.col("twin") >= 0).then("twin")
    table = pl.DataFrame(series).with_columns(twin=twin)
    return add_flags(table, one_width=len(set(dic.widths)) == 1).select(COLUMNS)


def _geometry(dic: Dictionary, alive: ndarray) -> dict[str, ndarray]:
    decoders, norms, classes = decoders_of(dic), norms_of(dic), classes_of(dic)
    undefined = np.full(dic.n_latents, np.nan)
    columns = {
        "norm_base": norms["base"],
        "norm_tuned": norms["tuned"],
        "delta_norm": delta_norm(norms["base"], norms["tuned"]),
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
    # For a latent with a constant code, the rest is rounding.
    spread[spread <= 1e-9 * squares] = 0
    written = None
    if "difference" in decoders:
        written = row_norms(decoders["difference"])
    elif dic.spec.kind == "crosscoder":
        written = row_norms(decoders["tuned"] - decoders["base"])
    if written is not None and dic.radii is not None:
        return ordinary_difference_share(dic, store, written)
    if written is not None:
        carried = spread * written**2
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
