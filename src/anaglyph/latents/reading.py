"""One pass over a store with a dictionary: the sums from which the latent table is computed.

Each block of tokens is encoded (and, for a crosscoder, reconstructed) once. All sums are updated
before the next block is read.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int64, Shaped
from numpy import ndarray
from torch import Tensor

from anaglyph.core.errors import InputError
from anaglyph.core.progress import Progress
from anaglyph.dictionaries import Codes, Dictionary
from anaglyph.latents.bootstrap import MOST_BLOCKS, assign_blocks
from anaglyph.latents.centre import typical_activations
from anaglyph.latents.norms import BASE_ONLY, delta_norm, norm_classes, row_norms
from anaglyph.latents.refit import Refit
from anaglyph.latents.scaling import SIDES, LatentSums, Regressors
from anaglyph.store import PairedStore

# Memory for the sums of all blocks; large dictionaries get fewer, larger blocks of sequences.
_SUMS_BYTES = 256 * 2**20
_LEAST_BLOCKS = 32
_MIRRORED = {"base": "tuned", "tuned": "base"}


@dataclass(frozen=True)
class Reading:
    """The result of one pass over the store.

    Attributes:
        sums: Sums for every latent, on the tuned decoder (or on the only one).
        mirror_rows: The latents of class base-only, in the order of ``mirror``.
        mirror: Sums for those latents, on their base decoder and with the models exchanged: its
            "base" is the tuned model, and its nu is ``beta^tuned / beta^base``. None if there are
            no such latents.
        refit: Both models' directions; None if not requested or if the widths differ.
    """

    sums: LatentSums
    mirror_rows: Int64[ndarray, " mirrored"]
    mirror: LatentSums | None
    refit: Refit | None


def read(dic: Dictionary, store: PairedStore, progress: Progress, *, refit: bool) -> Reading:
    """Read the whole store once and return the sums; ``progress`` is called for every block."""
    crosscoder = dic.spec.kind == "crosscoder"
    centres: dict[str, ndarray] = dict(zip(SIDES, typical_activations(store), strict=True))
    regressors = _regressors(dic, centres)
    row_bytes = 8 * dic.n_latents * regressors.columns
    n_blocks = min(store.n_sequences, MOST_BLOCKS, max(_LEAST_BLOCKS, _SUMS_BYTES // row_bytes))
    block_of_token = assign_blocks(store.n_sequences, n_blocks)[store.sequence_of_tokens()]
    roles = store.roles
    sums = LatentSums(regressors, n_blocks)
    mirror_rows = np.flatnonzero(classes_of(dic) == BASE_ONLY)
    mirror = None
    if mirror_rows.size:
        mirror = LatentSums(_mirrored(dic, centres, mirror_rows), n_blocks)
    # Both models can be measured along one direction only if they have the same width.
    directions = None
    if refit and store.d_base == store.d_tuned:
        directions = Refit(dic.n_latents, store.d_tuned)
    for block in store.blocks():
        codes = scoring_codes(dic, block.base, block.tuned)
        activations = {"base": block.base.numpy(), "tuned": block.tuned.numpy()}
        rebuilt = {}
        if crosscoder:
            parts = zip(dic.spec.sources, dic.reconstruct(codes), strict=True)
            rebuilt = {source: part.numpy() for source, part in parts}
        block_ids, block_roles = block_of_token[block.tokens], roles[block.tokens]
        sums.add(codes, activations, rebuilt, block_ids, block_roles)
        if mirror is not None:
            mirror.add(
                renumbered(codes, mirror_rows, dic.n_latents),
                {_MIRRORED[side]: values for side, values in activations.items()},
                {_MIRRORED[side]: values for side, values in rebuilt.items()},
                block_ids,
                block_roles,
            )
        if directions is not None:
            # Neighbouring blocks of sequences go to different halves.
            without = rebuilt or centres
            targets = {side: activations[side] - without[side] for side in SIDES}
            directions.add(codes, targets, block_ids % 2)
        progress("score", sums.n_tokens, store.n_tokens)
    return Reading(sums, mirror_rows, mirror, directions)


def scoring_codes(
    dic: Dictionary, base: Float[Tensor, "tokens d_base"], tuned: Float[Tensor, "tokens d_tuned"]
) -> Codes:
    """Return the codes that latents are judged by: those of ``h^tuned`` even for a base-SAE."""
    return dic.encode_inputs(dic.spec.scoring_inputs(base, tuned))


def renumbered(codes: Codes, latents: Int64[ndarray, " chosen"], n_latents: int) -> Codes:
    """Return the codes of some latents only, renumbered by their place in ``latents``.

    Within a token they stay in ascending order if ``latents`` are.
    """
    wanted = np.zeros(n_latents, dtype=bool)
    wanted[latents] = True
    kept = codes.only(wanted)
    place = np.zeros(n_latents, dtype=np.int32)
    place[latents] = np.arange(latents.size)
    return Codes(place[kept.indices], kept.values, kept.offsets)


def check_widths(dic: Dictionary, store: PairedStore) -> None:
    """Refuse a dictionary that was trained on activations of other widths than the store's.

    Raises:
        InputError: They differ.
    """
    widths = dic.spec.widths(store.d_base, store.d_tuned)
    if dic.widths != widths:
        raise InputError(
            f"the {dic.method} dictionary reads activations of widths {dic.widths}, the store at "
            f"{store.path} has {widths}"
        )


def decoders_of(dic: Dictionary) -> dict[str, Float[ndarray, "latents _"]]:
    """Return the decoder of each source under its name."""
    matrices = (matrix.numpy() for matrix in dic.decoder)
    return dict(zip(dic.spec.sources, matrices, strict=True))


def norms_of(dic: Dictionary) -> dict[str, Float[ndarray, " latents"]]:
    """Return the decoder norms of both models; NaN for a model without a decoder of its own."""
    decoders = decoders_of(dic)
    undefined = np.full(dic.n_latents, np.nan)
    return {side: row_norms(decoders[side]) if side in decoders else undefined for side in SIDES}


def classes_of(dic: Dictionary) -> Shaped[ndarray, " latents"]:
    """Return the norm class of each latent, None where it has none (``norm_classes``)."""
    norms = norms_of(dic)
    return norm_classes(delta_norm(norms["base"], norms["tuned"]))


def _regressors(dic: Dictionary, centres: dict[str, ndarray]) -> Regressors:
    decoders = decoders_of(dic)
    crosscoder = dic.spec.kind == "crosscoder"
    directions = decoders["tuned"] if crosscoder else next(iter(decoders.values()))
    fitting = {side: c for side, c in centres.items() if c.size == directions.shape[1]}
    return Regressors(directions, fitting, {s: decoders[s] for s in fitting} if crosscoder else {})


def _mirrored(dic: Dictionary, centres: dict[str, ndarray], rows: ndarray) -> Regressors:
    decoders = decoders_of(dic)
    directions = decoders["base"][rows]
    fitting = {s: centres[_MIRRORED[s]] for s in SIDES}
    fitting = {side: c for side, c in fitting.items() if c.size == directions.shape[1]}
    return Regressors(directions, fitting, {s: decoders[_MIRRORED[s]][rows] for s in fitting})
