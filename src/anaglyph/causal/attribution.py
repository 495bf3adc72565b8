"""Which latents account for a token where the models differ (docs/maths.md, section 5).

At a token of high KL the gradient of the KL by the activations says, to first order, what adding a
latent would take off: ``attr_j = -sum_s f_j(s) <grad_s KL(p_tuned || p(h_base)), v_j>`` over the
token itself and those before it (Aranguri, Drori and Nanda, 2025). First order is a guess, so the
top latents are then really added, each alone and all together, and the drop is measured.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from anaglyph.behaviour.kl import token_kl
from anaglyph.causal.interventions import codes_of, latent_sum, mask_of
from anaglyph.causal.patching import TOKEN_BUDGET
from anaglyph.causal.recovered import MAX_TOKENS, check_pair
from anaglyph.core.settings import AttributeSettings
from anaglyph.corpus import ROLES, TokenCorpus, padded_batches
from anaglyph.dictionaries import Dictionary
from anaglyph.dictionaries.vectors import latent_vectors
from anaglyph.pair import ModelPair
from anaglyph.subject import Subject

_SCHEMA = {
    "sequence": pl.Int64,
    "position": pl.Int64,
    "token_id": pl.Int64,
    "role": pl.String,
    "kl_models": pl.Float64,
    "kl": pl.Float64,
    "rank": pl.Int64,
    "latent": pl.Int64,
    "code": pl.Float64,
    "attributed": pl.Float64,
    "verified": pl.Float64,
    "verified_together": pl.Float64,
}


def attribute(
    subject: Subject,
    dic: Dictionary,
    settings: AttributeSettings,
    *,
    max_tokens: int = MAX_TOKENS,
    token_budget: int = TOKEN_BUDGET,
) -> pl.DataFrame:
    """Attribute held-out tokens of high KL to latents; one row a token and latent.

    Columns: sequence, position, token_id and role of the token at which the prediction is made;
    kl_models (KL(p_tuned || p_base), by which tokens are picked), kl (KL(p_tuned || p(h_base)), the
    base's activations at the layer in the tuned model), rank, latent, code (at the token itself),
    attributed and verified (how much the KL falls, nats, by the gradient and by adding the latent),
    verified_together (by adding all of the token's rows at once).

    Args:
        subject: Both models; the held-out sequences of its text are read.
        dic: A dictionary of any method at the layer.
        settings: How many tokens, and how many latents for each.
        max_tokens: Held-out tokens to look at.
        token_budget: Tokens in a batch.

    Raises:
        InputError: The models' widths differ, or the corpus has no held-out sequence.
    """
    pair, corpus, layer = subject.pair, subject.corpus, subject.layer
    check_pair(pair)
    heldout = corpus.draw_heldout(max_tokens, subject.seed)
    picked = _highest(pair, corpus, heldout, settings, token_budget)
    rows: list[dict[str, Any]] = []
    for number, (sequence, position, kl_models) in enumerate(picked):
        ids, roles = corpus.sequence(sequence)
        facts = {
            "sequence": sequence,
            "position": position,
            "token_id": int(ids[position]),
            "role": ROLES[int(roles[position])],
            "kl_models": kl_models,
        }
        text = torch.from_numpy(ids[: position + 1].astype(np.int64))[None]
        rows += [facts | row for row in _attributed(pair, dic, layer, text, settings.top)]
        subject.progress("attribute", number + 1, len(picked), "tokens")
    return pl.DataFrame(rows, schema=_SCHEMA)


@torch.no_grad()
def _highest(
    pair: ModelPair,
    corpus: TokenCorpus,
    sequences: Int64[np.ndarray, " chosen"],
    settings: AttributeSettings,
    token_budget: int,
) -> list[tuple[int, int, float]]:
    """Return (sequence, position, KL) of the tokens where the whole models differ most."""
    found: list[tuple[int, int, float]] = []
    for rows, ids, mask in padded_batches(corpus, sequences, token_budget):
        tuned, base = pair.logits("tuned", ids, mask), pair.logits("base", ids, mask)
        kl = token_kl(tuned.flatten(0, 1), base.flatten(0, 1)).cpu().view(mask.shape) * mask
        best = kl.topk(min(settings.per_sequence, kl.shape[1]), dim=1)
        for row, places, values in zip(rows, best.indices, best.values, strict=True):
            found += [
                (int(row), int(place), float(value))
                for place, value in zip(places, values, strict=True)
                if value > 0
            ]
    found.sort(key=lambda item: (-item[2], item[0], item[1]))
    return found[: settings.top_tokens]


def _attributed(
    pair: ModelPair, dic: Dictionary, layer: int, ids: Int64[Tensor, "one length"], top: int
) -> list[dict[str, Any]]:
    mask = torch.ones_like(ids)
    pair.check_related("patching one model with the other's activations")
    base = pair.run_to("base", ids, mask, [layer])[layer]
    tuned = pair.run_to("tuned", ids, mask, [layer])[layer]
    own = pair.logits("tuned", ids, mask)[0, -1].double().log_softmax(-1)
    h = base.clone().requires_grad_()
    patched = pair.run_from("tuned", layer, h, ids, mask)[0, -1].double().log_softmax(-1)
    kl = (own.exp() * (own - patched)).sum()
    (gradient,) = torch.autograd.grad(kl, h)
    gap = float(kl.detach())
    codes = codes_of(dic, base[0].float().cpu(), tuned[0].float().cpu())
    vectors = latent_vectors(dic)
    indices = torch.from_numpy(codes.indices).long()
    where = torch.from_numpy(codes.tokens()).long()
    pull = -(gradient[0].float().cpu()[where] * vectors[indices]).sum(1)
    shares = torch.zeros(dic.n_latents, dtype=torch.float64)
    shares.index_add_(0, indices, (pull * torch.from_numpy(codes.values)).double())
    fired = torch.unique(indices)
    chosen = fired[shares[fired].argsort(descending=True, stable=True)][:top].tolist()
    if not chosen:
        return []
    sets = [*([latent] for latent in chosen), chosen]
    flat = base[0].float().cpu()
    edited = [flat + latent_sum(codes, vectors, mask_of(dic, s).float()) for s in sets]
    left = _kl_of(pair, layer, own, torch.stack(edited), ids)
    last = dict(zip(*_last_codes(codes.offsets, codes.indices, codes.values), strict=True))
    return [
        {
            "kl": gap,
            "rank": rank,
            "latent": latent,
            "code": float(last.get(latent, 0.0)),
            "attributed": float(shares[latent]),
            "verified": gap - float(left[rank - 1]),
            "verified_together": gap - float(left[-1]),
        }
        for rank, latent in enumerate(chosen, 1)
    ]


@torch.no_grad()
def _kl_of(
    pair: ModelPair,
    layer: int,
    own: Float64[Tensor, " vocab"],
    edited: Tensor,
    ids: Int64[Tensor, "one length"],
) -> Float64[Tensor, " edits"]:
    rows = ids.repeat(len(edited), 1)
    logits = pair.run_from("tuned", layer, edited, rows, torch.ones_like(rows))[:, -1]
    return (own.exp() * (own - logits.double().log_softmax(-1))).sum(-1)


def _last_codes(
    offsets: np.ndarray, indices: np.ndarray, values: np.ndarray
) -> tuple[Sequence[int], Sequence[float]]:
    here = slice(int(offsets[-2]), int(offsets[-1]))
    return indices[here].tolist(), values[here].tolist()
