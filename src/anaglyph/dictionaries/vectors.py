"""What a latent adds to the base model's activation, whatever the method."""

from jaxtyping import Float32
from torch import Tensor

from anaglyph.dictionaries.dictionary import Dictionary


def latent_vectors(dic: Dictionary) -> Float32[Tensor, "latents d"]:
    """Return what a latent of code 1 adds to h_base: its decoder, or the difference of its two."""
    if has_two_models(dic):
        base, tuned = dic.decoder
        return tuned - base
    if dic.spec.sources == ("reversed-difference",):
        return -dic.decoder[0]
    return dic.decoder[0]


def bias_of(dic: Dictionary) -> Float32[Tensor, " d"]:
    """Return the constant that belongs to `latent_vectors`: what no latent adds."""
    if has_two_models(dic):
        base, tuned = dic.decoder_bias
        return tuned - base
    if dic.spec.sources == ("reversed-difference",):
        return -dic.decoder_bias[0]
    return dic.decoder_bias[0]


def has_two_models(dic: Dictionary) -> bool:
    """Return whether the dictionary has a decoder for each model, as a crosscoder does."""
    return dic.spec.sources == ("base", "tuned")


def of_one_model(dic: Dictionary) -> bool:
    """Return whether the dictionary is an SAE of either model."""
    return dic.spec.sources in (("base",), ("tuned",))
