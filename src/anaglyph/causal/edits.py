"""What an edit is, and what it is made of: both models' activations and the sparse codes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Float32
from torch import Tensor
from torch.nn.functional import embedding_bag

from anaglyph.core.errors import InputError
from anaglyph.dictionaries import Codes, Dictionary


@dataclass(frozen=True, eq=False)
class Activations:
    """One layer's activations in both models at the same tokens, float32 on the CPU."""

    base: Float32[Tensor, "tokens d"]
    tuned: Float32[Tensor, "tokens d"]
    dictionary: Dictionary | None = None

    @cached_property
    def codes(self) -> Codes:
        """The codes that the dictionary is judged on: see `codes_of`."""
        return codes_of(self._needed, self.base, self.tuned)

    @cached_property
    def base_codes(self) -> Codes:
        """What an SAE of one model makes of h_base."""
        return self._needed.encode_inputs((self.base,))

    @property
    def _needed(self) -> Dictionary:
        if self.dictionary is None:
            raise InputError("this edit needs a dictionary, and none was given")
        return self.dictionary


@dataclass(frozen=True)
class Intervention:
    """A named edit.

    Attributes:
        name: How the table calls it.
        formula: The edited activation, for people.
        edit: Activations to the edited activation [tokens, d].
        latents: Which latents take part; None where latents are not what is added.
        of_dictionary: False for those that are the same whatever the dictionary.
        at: The place (`positions.PLACES`) at whose tokens the edit is put in.
    """

    name: str
    formula: str
    edit: Callable[[Activations], Tensor]
    latents: Bool[Tensor, " latents"] | None = None
    of_dictionary: bool = True
    at: str = "all"

    @property
    def n_latents(self) -> int | None:
        """How many latents take part."""
        return None if self.latents is None else int(self.latents.sum())

    def only_at(self, place: str) -> "Intervention":
        """Return the same edit put in at the tokens of one place only, h_base elsewhere."""
        name = "template only" if (self.name, place) == ("exact", "template") else None
        return replace(self, name=name or f"{self.name} at {place}", at=place)


def codes_of(
    dic: Dictionary, base: Float32[Tensor, "tokens d"], tuned: Float32[Tensor, "tokens d"]
) -> Codes:
    """Encode what the dictionary is judged on, which is what its latent table is made of."""
    return dic.encode_inputs(dic.spec.scoring_inputs(base, tuned))


def latent_vectors(dic: Dictionary) -> Float32[Tensor, "latents d"]:
    """Return what a latent of code 1 adds to h_base: its decoder, or the difference of its two."""
    if has_two_models(dic):
        base, tuned = dic.decoder
        return tuned - base
    if dic.spec.sources == ("reversed-difference",):
        return -dic.decoder[0]
    return dic.decoder[0]


def latent_sum(
    codes: Codes, vectors: Float[Tensor, "latents d"], weights: Float[Tensor, " latents"]
) -> Float[Tensor, "tokens d"]:
    """Return ``sum_j w_j f_j v_j`` of every token, straight from the sparse codes."""
    wanted = codes.only((weights != 0).numpy())
    indices = torch.from_numpy(wanted.indices).long()
    return embedding_bag(
        indices,
        vectors,
        torch.from_numpy(wanted.offsets),
        mode="sum",
        per_sample_weights=torch.from_numpy(wanted.values) * weights[indices],
        include_last_offset=True,
    )


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


def mask_of(dic: Dictionary, latents: Sequence[int]) -> Bool[Tensor, " latents"]:
    """Return a mask over the dictionary's latents."""
    mask = torch.zeros(dic.n_latents, dtype=torch.bool)
    mask[torch.as_tensor(latents, dtype=torch.long)] = True
    return mask
