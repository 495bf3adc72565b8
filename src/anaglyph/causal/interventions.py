"""The edited activations that replace the tuned model's own (docs/maths.md, section 4).

An intervention is a name and a pure function from both models' activations (and the dictionary's
codes) to the edited activation. All start from h_base, the activation that the base model has at
the same token, so that 0% of the behavioural difference is carried by an edit that adds nothing.

| intervention | diff-SAE | crosscoder | SAE of one model |
|---|---|---|---|
| none | h_base | h_base | h_base |
| exact | h_tuned | h_tuned | h_tuned |
| template only | h_tuned at template tokens, h_base elsewhere | the same | the same |
| reconstruction | h_base + Delta-hat | h_base + (hhat_tuned - hhat_base) | hhat_tuned |
| error | h_base + (Delta - Delta-hat) | h_base + (Delta - (hhat_tuned - hhat_base)) | \
h_base + (h_tuned - hhat_tuned) |
| paired reconstruction | | | h_base + (hhat_tuned - hhat_base) |
| bias | h_base + b_dec | h_base + (b^tuned - b^base) | |
| subset S | h_base + sum_S f_j d_j | h_base + sum_S f_j (d_j^tuned - d_j^base) | \
h_base + sum_S f_j d_j |
| additive S | | h_base + sum_S f_j d_j^tuned | |
| paired S | | | h_base + sum_S (f_j - f_j(h_base)) d_j |

Delta = h_tuned - h_base. Codes f: of the difference for a diff-SAE, of both activations for a
crosscoder, of h_tuned for an SAE of one model (also for one trained on the base model). An SAE's
``reconstruction`` replaces the activation, so its error on what both models share counts against
it; its ``paired`` edits encode h_base as well and add only the difference of the two, which is what
the other dictionaries do by construction. ``subset all`` holds every live latent: for a diff-SAE or
crosscoder it is the reconstruction without biases. "with bias" adds the constant of the row "bias"
(an SAE's own b_dec). "mean difference" and "pca rank r" need no dictionary. Random controls of a
subset are in ``subsets.py``.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Float64
from torch import Tensor
from torch.nn.functional import embedding_bag

from anaglyph.core.errors import InputError
from anaglyph.dictionaries import Codes, Dictionary
from anaglyph.dictionaries.vectors import bias_of, has_two_models, latent_vectors, of_one_model
from anaglyph.store import DifferenceSpace


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


def exact() -> Intervention:
    """Return the check on the whole apparatus: h_tuned must recover 100%."""
    return Intervention("exact", "h_tuned", lambda a: a.tuned, of_dictionary=False)


def mean_difference(space: DifferenceSpace) -> Intervention:
    """Return the control that adds the mean difference at every token."""
    return shifted("mean difference", "h_base + mean Delta", space.mean)


def shifted(name: str, formula: str, vector: Float64[np.ndarray, " d"]) -> Intervention:
    """Return the edit that adds one vector at every token."""
    shift = torch.from_numpy(vector).float()
    return Intervention(name, formula, lambda a: a.base + shift, of_dictionary=False)


def principal_components(space: DifferenceSpace, rank: int) -> Intervention:
    """Return the difference cut to its mean and ``rank`` principal components."""
    shift = torch.from_numpy(space.mean).float()
    rows = torch.from_numpy(space.components[:rank]).float()
    return Intervention(
        f"pca rank {rank}",
        "h_base + mean Delta + P (Delta - mean Delta)",
        lambda a: a.base + shift + (a.tuned - a.base - shift) @ rows.T @ rows,
        of_dictionary=False,
    )


def weighted_latents(
    dic: Dictionary,
    name: str,
    weights: Float[Tensor, " latents"],
    vectors: Float[Tensor, "latents d"] | None = None,
) -> Intervention:
    """Return the intervention that adds the latents of non-zero weight to h_base, each so often.

    ``vectors`` stand in for the latents' own, with their codes.
    """
    own = latent_vectors(dic) if vectors is None else vectors
    return Intervention(
        name,
        "h_base + sum_S f_j (d_j^tuned - d_j^base)"
        if has_two_models(dic)
        else "h_base + sum_S f_j d_j",
        lambda a: a.base + latent_sum(a.codes, own, weights),
        latents=weights != 0,
    )


def subset(dic: Dictionary, name: str, latents: Sequence[int]) -> Intervention:
    """Return the intervention that adds the given latents to h_base."""
    return weighted_latents(dic, name, mask_of(dic, latents).float())


def with_bias(dic: Dictionary, edit: Intervention) -> Intervention:
    """Return the same edit with the dictionary's constant added."""
    bias = bias_of(dic)
    return replace(
        edit,
        name=f"{edit.name} with bias",
        formula=f"{edit.formula} + {'(b^tuned - b^base)' if has_two_models(dic) else 'b_dec'}",
        edit=lambda a: edit.edit(a) + bias,
    )


def variants(
    dic: Dictionary, label: str, latents: Sequence[int], biases: str
) -> list[Intervention]:
    """Return every way in which the method can put a subset of its latents in.

    Args:
        dic: The dictionary.
        label: What the subset is: the rows are "subset LABEL", "additive LABEL", "paired LABEL".
        latents: The subset.
        biases: "out", "in" or "both": whether the rows are without or with the constant.
    """
    edits = [subset(dic, f"subset {label}", latents)]
    weights = mask_of(dic, latents).float()
    if has_two_models(dic):
        own = dic.decoder[1]
        add = weighted_latents(dic, f"additive {label}", weights, own)
        edits.append(replace(add, formula="h_base + sum_S f_j d_j^tuned"))
    if of_one_model(dic):
        vectors = latent_vectors(dic)
        edits.append(
            Intervention(
                f"paired {label}",
                "h_base + sum_S (f_j - f_j(h_base)) d_j",
                lambda a: (
                    a.base
                    + (
                        latent_sum(a.codes, vectors, weights)
                        - latent_sum(a.base_codes, vectors, weights)
                    )
                ),
                latents=weights != 0,
            )
        )
    # A difference of two codings has no constant left; that of the additive row is the subset's.
    biased = [with_bias(dic, edits[0])]
    return {"out": edits, "in": biased, "both": edits + biased}[biases]


def whole_dictionary(dic: Dictionary) -> list[Intervention]:
    """Return the interventions that use all latents at once: the table's reconstruction rows."""
    if of_one_model(dic):
        return [
            Intervention("reconstruction", "hhat_tuned", lambda a: _rebuilt(dic, a.codes)),
            Intervention(
                "error",
                "h_base + (h_tuned - hhat_tuned)",
                lambda a: a.base + (a.tuned - _rebuilt(dic, a.codes)),
            ),
            Intervention(
                "paired reconstruction",
                "h_base + (hhat_tuned - hhat_base)",
                lambda a: a.base + (_rebuilt(dic, a.codes) - _rebuilt(dic, a.base_codes)),
            ),
        ]
    what = "(hhat_tuned - hhat_base)" if has_two_models(dic) else "Delta-hat"
    bias = bias_of(dic)
    return [
        Intervention(
            "reconstruction", f"h_base + {what}", lambda a: a.base + _difference(dic, a.codes)
        ),
        Intervention(
            "error",
            f"h_base + (Delta - {what})",
            lambda a: a.tuned - _difference(dic, a.codes),
        ),
        Intervention(
            "bias",
            "h_base + (b^tuned - b^base)" if has_two_models(dic) else "h_base + b_dec",
            lambda a: a.base + bias,
        ),
    ]


def mirrored(edit: Intervention) -> Intervention:
    """Return the edit for the other direction: what it adds to h_base is taken off h_tuned.

    The result goes into the base model, whose baseline is h_tuned.
    """
    return replace(
        edit,
        formula=f"h_tuned - (({edit.formula}) - h_base)",
        edit=lambda a: a.tuned - (edit.edit(a) - a.base),
    )


def codes_of(
    dic: Dictionary, base: Float32[Tensor, "tokens d"], tuned: Float32[Tensor, "tokens d"]
) -> Codes:
    """Encode what the dictionary is judged on, which is what its latent table is made of."""
    return dic.encode_inputs(dic.spec.scoring_inputs(base, tuned))


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


def mask_of(dic: Dictionary, latents: Sequence[int]) -> Bool[Tensor, " latents"]:
    """Return a mask over the dictionary's latents."""
    mask = torch.zeros(dic.n_latents, dtype=torch.bool)
    mask[torch.as_tensor(latents, dtype=torch.long)] = True
    return mask


def _rebuilt(dic: Dictionary, codes: Codes) -> Float32[Tensor, "tokens d"]:
    return dic.reconstruct(codes)[0]


def _difference(dic: Dictionary, codes: Codes) -> Float32[Tensor, "tokens d"]:
    difference = dic.difference(codes)
    if difference is None:
        raise InputError(f"method {dic.method!r} does not rebuild the difference of the models")
    return difference
