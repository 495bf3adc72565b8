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
(an SAE's own b_dec). Controls are in ``controls.py``.
"""

from collections.abc import Sequence
from dataclasses import replace

from jaxtyping import Float, Float32
from torch import Tensor

from anaglyph.causal.edits import (
    Intervention,
    bias_of,
    has_two_models,
    latent_sum,
    latent_vectors,
    mask_of,
    of_one_model,
)
from anaglyph.core.errors import InputError
from anaglyph.dictionaries import Codes, Dictionary


def exact() -> Intervention:
    """Return the check on the whole apparatus: h_tuned must recover 100%."""
    return Intervention("exact", "h_tuned", lambda a: a.tuned, of_dictionary=False)


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


def _rebuilt(dic: Dictionary, codes: Codes) -> Float32[Tensor, "tokens d"]:
    return dic.reconstruct(codes)[0]


def _difference(dic: Dictionary, codes: Codes) -> Float32[Tensor, "tokens d"]:
    difference = dic.difference(codes)
    if difference is None:
        raise InputError(f"method {dic.method!r} does not rebuild the difference of the models")
    return difference
