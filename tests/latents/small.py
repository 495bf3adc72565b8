"""Small random dictionaries and stores for the tests of the table and the examples."""

import numpy as np
import torch

from anaglyph.dictionaries import Dictionary, Selection, Weights, get_method
from anaglyph.store import PairedStore


def random_dictionary(method, latents, widths, rng, threshold=0.5):
    """Return an untrained dictionary whose latents fire now and then; latent 0 never does."""
    spec = get_method(method)
    sources = spec.widths(*widths)

    def matrices():
        return tuple(
            torch.from_numpy(rng.standard_normal((latents, width)).astype(np.float32))
            for width in sources
        )

    bias = torch.full((latents,), -0.5)
    bias[0] = -1e6
    decoder_bias = tuple(
        torch.from_numpy(rng.standard_normal(w).astype(np.float32)) for w in sources
    )
    weights = Weights(matrices(), bias, matrices(), decoder_bias)
    return Dictionary(spec, weights, Selection(k=2, threshold=threshold))


def random_store(folder, rng, *, sequences=12, length=7, widths=(5, 5), roles=None, mean=0.0):
    """Return a store of correlated random activations in sequences of one length."""
    tokens = sequences * length
    shared = rng.standard_normal((tokens, max(widths)))
    base, tuned = (
        (shared[:, :width] + 0.5 * rng.standard_normal((tokens, width)) + mean).astype(np.float32)
        for width in widths
    )
    return PairedStore.from_arrays(
        base,
        tuned,
        folder,
        token_ids=np.arange(tokens),
        sequence_ids=np.repeat(np.arange(sequences), length),
        roles=roles,
    )


def arrays(store):
    """Return all activations of a store as float32 arrays."""
    base, tuned = store.gather(np.arange(store.n_tokens))
    return {"base": base.numpy(), "tuned": tuned.numpy()}


def dense_codes(dic, h):
    """Encode in float64, straight from the formulas of docs/maths.md, section 1."""
    inputs = {
        "crosscoder": (h["base"], h["tuned"]),
        "diff-sae": (h["tuned"].astype(np.float64) - h["base"],),
        "tuned-sae": (h["tuned"],),
        "base-sae": (h["tuned"],),  # section 3: f = enc(h^tuned)
    }[dic.method]
    pre = dic.encoder_bias.double().numpy()
    norms = 0.0
    for x, encoder, decoder, bias in zip(
        inputs, dic.encoder, dic.decoder, dic.decoder_bias, strict=True
    ):
        centre = 0.0 if dic.method == "crosscoder" else bias.double().numpy()
        pre = pre + (x - centre) @ encoder.double().numpy().T
        norms = norms + np.linalg.norm(decoder.double().numpy(), axis=1)
    return np.where((pre > 0) & (pre * norms > dic.threshold), pre, 0.0)


def axis_dictionary(method, width, decoders=None, bias=None):
    """Return a dictionary that reads each axis of its (last) source into a latent of its own."""
    spec = get_method(method)
    eye, zeros = torch.eye(width), torch.zeros(width, width)
    encoder = (zeros,) * (len(spec.sources) - 1) + (eye,)
    biases = (torch.zeros(width) if bias is None else bias,) * len(spec.sources)
    weights = Weights(encoder, torch.zeros(width), decoders or (eye,) * len(spec.sources), biases)
    return Dictionary(spec, weights, Selection(k=1, threshold=0.0))
