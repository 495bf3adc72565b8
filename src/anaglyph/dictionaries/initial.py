"""Where training starts: the scale of each source and the first weights."""

import math

import numpy as np
import torch

from anaglyph.dictionaries.methods import DictionaryMethod
from anaglyph.dictionaries.weights import Weights
from anaglyph.store.moments import Moments

# Keeps the initial weights apart from the order of the data, which has the same seed.
_INITIAL = 0x1A17
DECODER_NORM = 0.5


def source_scales(moments: tuple[Moments, ...]) -> tuple[float, ...]:
    """Return the factor of each source that brings mean ||x - mean x||^2 to its width.

    Then one learning rate serves all models, and no source outweighs another. A source that never
    varies keeps its scale.
    """
    return tuple(
        math.sqrt(part.mean.size / part.variance_sum) if part.variance_sum > 0 else 1.0
        for part in moments
    )


def initial_weights(
    method: DictionaryMethod,
    moments: tuple[Moments, ...],
    scales: tuple[float, ...],
    latents: int,
    seed: int,
    device: str = "cpu",
) -> Weights:
    """Return random weights for scaled activations.

    Decoder rows are random directions of norm ``DECODER_NORM``, equal for sources of one width;
    the encoder is the decoder; the decoder bias is the mean. Whether or not the method centres its
    input, codes start from centred activations: otherwise a large mean would switch some latents
    on everywhere and the rest off for good.
    """
    state = np.random.SeedSequence([seed, _INITIAL]).generate_state(2, np.uint32)
    generator = torch.Generator().manual_seed(int(state[0]) << 32 | int(state[1]))
    rows: dict[int, torch.Tensor] = {}
    for part in moments:
        width = part.mean.size
        if width not in rows:
            drawn = torch.randn(latents, width, generator=generator)
            rows[width] = drawn * (DECODER_NORM / torch.linalg.vector_norm(drawn, dim=1)[:, None])
    weights = Weights.zeros(latents, tuple(part.mean.size for part in moments), device)
    for source, (part, scale) in enumerate(zip(moments, scales, strict=True)):
        mean = torch.from_numpy(part.mean * scale).float()
        drawn = rows[part.mean.size]
        weights.decoder_bias[source].copy_(mean)
        weights.decoder[source].copy_(drawn)
        weights.encoder[source].copy_(drawn)
        if not method.centred:
            weights.encoder_bias.sub_((drawn @ mean).to(device))
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
    )
