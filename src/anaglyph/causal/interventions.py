"""The edits of section 4 of the maths: what is put into the tuned model in place of its own layer.

An intervention is a name and a pure function from both models' activations (and the dictionary's
codes) to the edited activation. All start from h_base, the activation that the base model has at
the same token, so that 0% of the behavioural difference is carried by an edit that adds nothing.

| intervention | diff-SAE | crosscoder | SAE of one model |
|---|---|---|---|
| none | h_base | h_base | h_base |
| exact | h_tuned | h_tuned | h_tuned |
| reconstruction | h_base + Delta-hat | h_base + (hhat_tuned - hhat_base) | hhat_tuned |
| error | h_base + (Delta - Delta-hat) | h_base + (Delta - (hhat_tuned - hhat_base)) | \
h_base + (h_tuned - hhat_tuned) |
| paired reconstruction | | | h_base + (hhat_tuned - hhat_base) |
| bias | h_base + b_dec | | |
| subset S | h_base + sum_S f_j d_j | h_base + sum_S f_j (d_j^tuned - d_j^base) | \
h_base + sum_S f_j d_j |
| random latents | R in place of S | R in place of S | R in place of S |
| mean difference | h_base + mean Delta | h_base + mean Delta | h_base + mean Delta |

Delta = h_tuned - h_base. Codes f: of the difference for a diff-SAE, of both activations for a
crosscoder, of h_tuned for an SAE of one model (also for one trained on the base model). An SAE's
``reconstruction`` replaces the activation, so its error on what both models share counts against
it; its ``paired reconstruction`` encodes h_base as well and adds only the difference of the two,
which is what the other two dictionaries do by construction.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor
from torch.nn.functional import embedding_bag

from anaglyph.dictionaries import Codes, Dictionary
from anaglyph.errors import InputError

_SEED = 0xC2


@dataclass(frozen=True)
class Activations:
    """One layer's activations in both models at the same tokens, float32 on the CPU."""

    base: Float32[Tensor, "tokens d"]
    tuned: Float32[Tensor, "tokens d"]
    codes: Codes
    """The dictionary's codes: see `codes_of`."""


@dataclass(frozen=True)
class Intervention:
    """A named edit.

    Attributes:
        name: How the table calls it.
        formula: The edited activation, for people.
        edit: Activations to the edited activation [tokens, d].
        n_latents: How many latents take part; None where latents are not what is added.
        of_dictionary: False for those that are the same whatever the dictionary.
    """

    name: str
    formula: str
    edit: Callable[[Activations], Tensor]
    n_latents: int | None = None
    of_dictionary: bool = True


def exact() -> Intervention:
    """Return the check on the whole apparatus: h_tuned must recover 100%."""
    return Intervention("exact", "h_tuned", lambda a: a.tuned, of_dictionary=False)


def constant(name: str, formula: str, shift: Float[Tensor, " d"]) -> Intervention:
    """Return the intervention that adds one vector at every token."""
    return Intervention(name, formula, lambda a: a.base + shift, of_dictionary=False)


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


def weighted_latents(
    dic: Dictionary, name: str, weights: Float[Tensor, " latents"]
) -> Intervention:
    """Return the intervention that adds the latents of non-zero weight to h_base, each so often."""
    vectors = latent_vectors(dic)
    return Intervention(
        name,
        "h_base + sum_S f_j (d_j^tuned - d_j^base)"
        if has_two_models(dic)
        else "h_base + sum_S f_j d_j",
        lambda a: a.base + latent_sum(a.codes, vectors, weights),
        n_latents=int((weights != 0).sum()),
    )


def subset(dic: Dictionary, name: str, latents: Sequence[int]) -> Intervention:
    """Return the intervention that adds the given latents to h_base."""
    weights = torch.zeros(dic.n_latents)
    weights[torch.as_tensor(latents, dtype=torch.long)] = 1
    return weighted_latents(dic, name, weights)


def random_latents(
    dic: Dictionary,
    name: str,
    latents: Sequence[int],
    alive: Sequence[int],
    seed: int,
    draw: int,
) -> Intervention:
    """Return the control of a subset: as many other live latents, of the same norms.

    Each drawn latent stands in for one of the subset and its vector is scaled to that one's norm,
    so that the control pushes with the same length wherever it fires. Where fewer others are alive
    than the subset has, all of them are taken; `n_latents` tells. ``draw`` tells apart the
    controls of one table.
    """
    generator = np.random.default_rng(np.random.SeedSequence([seed, _SEED, draw]))
    norms = latent_vectors(dic).norm(dim=1).numpy()
    others = np.setdiff1d(np.asarray(alive, dtype=np.int64), np.asarray(latents, dtype=np.int64))
    others = others[norms[others] > 0]
    drawn = generator.permutation(others)[: len(latents)]
    wanted = generator.permutation(np.asarray(latents, dtype=np.int64))[: len(drawn)]
    weights = torch.zeros(dic.n_latents)
    weights[torch.from_numpy(drawn)] = torch.from_numpy(norms[wanted] / norms[drawn])
    return weighted_latents(dic, name, weights)


def whole_dictionary(dic: Dictionary) -> list[Intervention]:
    """Return the interventions that use all latents at once: the table's reconstruction rows."""
    if dic.spec.sources in (("base",), ("tuned",)):
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
                lambda a: (
                    a.base + (_rebuilt(dic, a.codes) - _rebuilt(dic, dic.encode_inputs((a.base,))))
                ),
            ),
        ]
    what = "(hhat_tuned - hhat_base)" if has_two_models(dic) else "Delta-hat"
    edits = [
        Intervention(
            "reconstruction", f"h_base + {what}", lambda a: a.base + _difference(dic, a.codes)
        ),
        Intervention(
            "error",
            f"h_base + (Delta - {what})",
            lambda a: a.tuned - _difference(dic, a.codes),
        ),
    ]
    if dic.spec.sources == ("difference",):
        bias = dic.decoder_bias[0]
        edits.append(Intervention("bias", "h_base + b_dec", lambda a: a.base + bias))
    return edits


def has_two_models(dic: Dictionary) -> bool:
    """Return whether the dictionary has a decoder for each model, as a crosscoder does."""
    return dic.spec.sources == ("base", "tuned")


def _rebuilt(dic: Dictionary, codes: Codes) -> Float32[Tensor, "tokens d"]:
    return dic.reconstruct(codes)[0]


def _difference(dic: Dictionary, codes: Codes) -> Float32[Tensor, "tokens d"]:
    difference = dic.difference(codes)
    if difference is None:
        raise InputError(f"method {dic.method!r} does not rebuild the difference of the models")
    return difference
