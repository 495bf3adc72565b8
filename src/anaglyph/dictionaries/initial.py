"""Where training starts: what the activations are like, and the first weights."""

import math
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float64

from anaglyph.core.rng import sequence
from anaglyph.dictionaries.methods import DictionaryMethod
from anaglyph.dictionaries.weights import Weights
from anaglyph.store import Moments, PairedStore

DECODER_NORM = 0.5
SAMPLE_TOKENS = 8192


def training_tokens(store: PairedStore) -> int:
    """Return the number of tokens in the training sequences."""
    return int(np.diff(store.sequence_offsets)[~store.heldout].sum())


class Survey(NamedTuple):
    """What is known of each source before training, in raw units."""

    means: tuple[Float64[np.ndarray, " _"], ...]
    scales: tuple[float, ...]
    """Factor that brings mean ||x - mean x||^2 to the width: one learning rate then serves all
    models, and no source outweighs another. One for all where the method compares sources."""
    radii: tuple[float, ...] | None
    """Distance from the decoder bias beyond which a token is pulled in (``outliers.py``)."""
    varies: bool
    """False if every source is constant: a model compared with itself."""


def survey(store: PairedStore, method: DictionaryMethod, seed: int) -> Survey:
    """Measure the sources; a sample of training tokens tells where massive activations begin."""
    count = min(SAMPLE_TOKENS, training_tokens(store))
    inputs = method.inputs(*next(store.batches(count, seed, buffer=count)))
    distances = [
        torch.linalg.vector_norm(values - values.median(0).values, dim=1) for values in inputs
    ]
    quantile, multiple = method.massive
    radii = tuple(multiple * float(distance.quantile(quantile)) for distance in distances)
    ordinary = torch.ones(count, dtype=torch.bool)
    for distance, radius in zip(distances, radii, strict=True):
        ordinary &= distance <= radius
    if min(radii) == 0 or not ordinary.any():
        return _survey(method, method.moments(store.statistics), None)
    if ordinary.all():
        # No outlier among thousands of tokens: the moments of all tokens are the better ones.
        return _survey(method, method.moments(store.statistics), radii)
    return _survey(method, tuple(Moments.of(values[ordinary]) for values in inputs), radii)


def _survey(
    method: DictionaryMethod, moments: tuple[Moments, ...], radii: tuple[float, ...] | None
) -> Survey:
    sizes = [part.mean.size for part in moments]
    variances = [part.variance_sum for part in moments]
    if method.common_scale:
        sizes = [sum(sizes)] * len(moments)
        variances = [sum(variances)] * len(moments)
    return Survey(
        tuple(part.mean for part in moments),
        tuple(
            math.sqrt(size / variance) if variance > 0 else 1.0
            for size, variance in zip(sizes, variances, strict=True)
        ),
        radii,
        any(variance > 0 for variance in variances),
    )


def initial_weights(
    method: DictionaryMethod,
    known: Survey,
    latents: int,
    seed: int,
    device: str = "cpu",
) -> Weights:
    """Return random weights for scaled activations.

    Decoder rows are random directions of norm ``DECODER_NORM``, equal for sources of one width,
    as far as the method allows them; the encoder is the decoder, so a latent of one model starts by
    reading that model (of twelve features of one model, a dfc then has 11 among its dedicated
    latents, and 7 otherwise); the decoder bias is the mean. Whether or not the method centres its
    input, codes start from centred activations: otherwise a large mean would switch some latents
    on everywhere and the rest off for good.
    """
    state = sequence(seed, "dictionary start").generate_state(2, np.uint32)
    generator = torch.Generator().manual_seed(int(state[0]) << 32 | int(state[1]))
    rows: dict[int, torch.Tensor] = {}
    widths = tuple(mean.size for mean in known.means)
    for width in widths:
        if width not in rows:
            drawn = torch.randn(latents, width, generator=generator)
            rows[width] = drawn * (DECODER_NORM / torch.linalg.vector_norm(drawn, dim=1)[:, None])
    weights = Weights.zeros(latents, widths, device)
    for width, matrix in zip(widths, weights.decoder, strict=True):
        matrix.copy_(rows[width])
    method.constrain(weights)
    for source, (mean, scale) in enumerate(zip(known.means, known.scales, strict=True)):
        mean = torch.from_numpy(mean * scale).float()
        start = weights.decoder[source]
        weights.decoder_bias[source].copy_(mean)
        weights.encoder[source].copy_(start)
        if not method.centred:
            weights.encoder_bias.sub_((start.cpu() @ mean).to(device))
    return weights


def fold_scales(weights: Weights, scales: tuple[float, ...]) -> Weights:
    """Return weights on the CPU that take and give raw activations x instead of scale * x.

    Codes stay as they are: f = act(sum_m (s_m E_m) x_m + b), x_m = (f D_m + b_m) / s_m.
    """
    return Weights(
        tuple(matrix.cpu() * scale for matrix, scale in zip(weights.encoder, scales, strict=True)),
        weights.encoder_bias.cpu().clone(),
        tuple(matrix.cpu() / scale for matrix, scale in zip(weights.decoder, scales, strict=True)),
        tuple(bias.cpu() / scale for bias, scale in zip(weights.decoder_bias, scales, strict=True)),
        None if weights.threshold is None else weights.threshold.cpu().clone(),
    )
