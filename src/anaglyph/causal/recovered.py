"""How much of the behavioural difference an edit carries: the causal tables.

Both tables are made on held-out sequences only, the same that the store and the training of the
dictionaries keep apart (`corpus.heldout`).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
import torch
from jaxtyping import Float, Float64, Int64

from anaglyph.causal import interventions as edits
from anaglyph.causal.interventions import Intervention
from anaglyph.causal.patching import SequenceKL, choose, measure
from anaglyph.corpus import TokenCorpus, padded_batches
from anaglyph.dictionaries import Dictionary
from anaglyph.direct import intervals
from anaglyph.errors import InputError
from anaglyph.pair import ModelPair
from anaglyph.progress import Progress, silent

MAX_TOKENS = 8192
TOKEN_BUDGET = 1024

_SCHEMA = {
    "intervention": pl.String,
    "dictionary": pl.String,
    "n_latents": pl.Int64,
    "kl": pl.Float64,
    "kl_low": pl.Float64,
    "kl_high": pl.Float64,
    "recovered": pl.Float64,
    "recovered_low": pl.Float64,
    "recovered_high": pl.Float64,
    "tokens": pl.Int64,
    "sequences": pl.Int64,
    "formula": pl.String,
}


def kl_recovered(
    pair: ModelPair,
    dic: Dictionary,
    corpus: TokenCorpus,
    layer: int | float,
    table: pl.DataFrame | None = None,
    *,
    nu: Sequence[float] = (0.3, 0.6),
    seed: int = 0,
    max_tokens: int = MAX_TOKENS,
    token_budget: int = TOKEN_BUDGET,
    mean_difference: Float[np.ndarray, " d"] | None = None,
    progress: Progress = silent,
) -> pl.DataFrame:
    """Patch the tuned model with each edit of section 4 of the maths; one row an intervention.

    Columns: intervention, dictionary (null where it plays no part), n_latents, kl (mean nats a
    token of KL(p_tuned || p_patched)), recovered (1 - KL_patch / KL_none), each of the two with
    the _low and _high ends of a 95% bootstrap interval over sequences, tokens, sequences, formula.
    The row "base model" is the base model itself, without any patching: where its KL is above that
    of "none", part of the change lies after the layer. ``recovered`` is null where the layer shows
    no difference beyond numerical noise.

    Args:
        pair: Both models.
        dic: A dictionary trained on the pair's activations at the layer.
        corpus: Its held-out sequences are used.
        layer: Index, or fraction of the depth.
        table: The dictionary's latent table; without it there are no subsets and no controls of
            them.
        nu: Thresholds of the subsets; nu_error for a crosscoder, nu_act for an SAE.
        seed: Of the sequences drawn, the control latents and the bootstrap.
        max_tokens: Held-out tokens to use at most (whole sequences, at least one).
        token_budget: Tokens in a batch.
        mean_difference: Mean of h_tuned - h_base over training tokens (the store's statistics);
            measured on as many training tokens if None.
        progress: Called after each batch.

    Raises:
        InputError: The models' widths differ, the dictionary or mean_difference is for another
            width, the table is another dictionary's or lacks its nu, or the corpus has no held-out
            sequence.
    """
    layer = pair.resolve_layer(layer)
    _check(pair, dic, max_tokens)
    heldout = _heldout(corpus, max_tokens, seed)
    if mean_difference is None:
        training = choose(~corpus.heldout, corpus, max_tokens, seed)
        mean_difference = _mean_difference(pair, corpus, layer, training, token_budget)
    if len(mean_difference) != pair.d_tuned:
        raise InputError(
            f"mean_difference has {len(mean_difference)} entries, the models' width is "
            f"{pair.d_tuned}"
        )
    shift = torch.from_numpy(np.asarray(mean_difference, dtype=np.float32))
    chosen = [
        edits.exact(),
        *edits.whole_dictionary(dic),
        *([] if table is None else _subsets(dic, table, nu, seed)),
        edits.constant("mean difference", "h_base + mean Delta", shift),
    ]
    counted = np.ones(len(corpus.token_ids), dtype=bool)
    kl = measure(pair, dic, corpus, layer, heldout, chosen, counted, token_budget, progress)
    floor = _noise(pair, kl.edited[0].sum() / kl.tokens.sum())
    rows = [
        ({"intervention": "none", "formula": "h_base"}, kl.none),
        ({"intervention": "base model", "formula": "base model, unpatched"}, kl.base),
        *zip((_names(edit, dic) for edit in chosen), kl.edited, strict=True),
    ]
    return _frame(rows, kl, floor, seed)


def latent_kl(
    pair: ModelPair,
    dic: Dictionary,
    corpus: TokenCorpus,
    layer: int | float,
    latents: Sequence[int],
    *,
    seed: int = 0,
    max_tokens: int = MAX_TOKENS,
    token_budget: int = TOKEN_BUDGET,
    progress: Progress = silent,
) -> pl.DataFrame:
    """Add each latent alone to h_base; one row a latent, in the order given.

    Columns as in `kl_recovered`, and ``latent``. A latent that fires in none of the sequences has
    recovered 0 exactly. Arguments and errors as in `kl_recovered`; the sequences are the same for
    the same seed and max_tokens.

    Raises:
        InputError: As in `kl_recovered`, or a latent is out of range.
    """
    layer = pair.resolve_layer(layer)
    _check(pair, dic, max_tokens)
    for latent in latents:
        if not 0 <= latent < dic.n_latents:
            raise InputError(f"latent {latent} is out of range: there are {dic.n_latents}")
    heldout = _heldout(corpus, max_tokens, seed)
    chosen = [edits.exact(), *(edits.subset(dic, f"latent {j}", [j]) for j in latents)]
    counted = np.ones(len(corpus.token_ids), dtype=bool)
    kl = measure(pair, dic, corpus, layer, heldout, chosen, counted, token_budget, progress)
    floor = _noise(pair, kl.edited[0].sum() / kl.tokens.sum())
    rows = [(_names(edit, dic), sums) for edit, sums in zip(chosen, kl.edited, strict=True)]
    latent = pl.Series("latent", list(latents), dtype=pl.Int64)
    return _frame(rows[1:], kl, floor, seed).insert_column(0, latent)


def _check(pair: ModelPair, dic: Dictionary, max_tokens: int) -> None:
    if pair.d_base != pair.d_tuned:
        raise InputError(
            f"the base model's width is {pair.d_base} and the tuned model's {pair.d_tuned}: "
            "activations of one cannot be put into the other"
        )
    for decoder in dic.decoder:
        if decoder.shape[1] != pair.d_tuned:
            raise InputError(
                f"the dictionary is for width {decoder.shape[1]}, the models have {pair.d_tuned}"
            )
    if max_tokens < 1:
        raise InputError(f"max_tokens is {max_tokens}: it must be at least 1")


def _heldout(corpus: TokenCorpus, max_tokens: int, seed: int) -> Int64[np.ndarray, " chosen"]:
    if not corpus.heldout.any():
        raise InputError("the corpus has no held-out sequence to measure KL on: give it more texts")
    return choose(corpus.heldout, corpus, max_tokens, seed)


@torch.no_grad()
def _mean_difference(
    pair: ModelPair,
    corpus: TokenCorpus,
    layer: int,
    sequences: Int64[np.ndarray, " chosen"],
    token_budget: int,
) -> Float64[np.ndarray, " d"]:
    """Return the mean of h_tuned - h_base over the sequences' tokens."""
    total, tokens = torch.zeros(pair.d_tuned, dtype=torch.float64), 0
    for _, ids, mask in padded_batches(corpus, sequences, token_budget):
        base = pair.run_to("base", ids, mask, [layer])[layer]
        tuned = pair.run_to("tuned", ids, mask, [layer])[layer]
        difference = (tuned.double() - base.double())[mask.bool()]
        total += difference.sum(0).cpu()
        tokens += len(difference)
    return (total / tokens).numpy()


def _subsets(
    dic: Dictionary, table: pl.DataFrame, thresholds: Sequence[float], seed: int
) -> list[Intervention]:
    """Return the subset of each threshold and its control, matched in count and norm."""
    column = "nu_error" if edits.has_two_models(dic) else "nu_act"
    missing = {"latent", "alive", column} - set(table.columns)
    if missing or len(table) != dic.n_latents:
        what = f"lacks {sorted(missing)}" if missing else f"has {len(table)} rows"
        raise InputError(
            f"the latent table {what}: it is not that of this dictionary ({dic.n_latents} latents)"
        )
    alive = table.filter("alive")["latent"].to_list()
    chosen = []
    for number, threshold in enumerate(thresholds):
        # An undetermined nu is null and belongs to no subset.
        latents = table.filter(pl.col(column) <= threshold)["latent"].to_list()
        name = f"nu<={threshold:g}"
        chosen += [
            edits.subset(dic, f"subset {name}", latents),
            edits.random_latents(dic, f"random latents {name}", latents, alive, seed, draw=number),
        ]
    return chosen


def _noise(pair: ModelPair, exact: float) -> float:
    """Return the KL per token, nats, up to which the unpatched gap counts as numerical noise.

    Ten times what is left when h_tuned itself is put in (ideally 0), and what rounding each logit
    by eight units of the model's precision would give (KL is quadratic in it).
    """
    with pair.side("tuned") as model:
        precision = torch.finfo(model.dtype).eps
    return max(10 * exact, (8 * precision) ** 2)


def _names(edit: Intervention, dic: Dictionary) -> dict[str, Any]:
    return {
        "intervention": edit.name,
        "dictionary": dic.method if edit.of_dictionary else None,
        "n_latents": edit.n_latents,
        "formula": edit.formula,
    }


def _frame(
    rows: Sequence[tuple[dict[str, Any], np.ndarray]], kl: SequenceKL, floor: float, seed: int
) -> pl.DataFrame:
    draws = intervals.sequence_draws(len(kl.tokens), seed)
    nil = kl.none.sum() <= floor * kl.tokens.sum()
    records = []
    for names, sums in rows:
        mean = intervals.mean_kl(sums, kl.tokens, draws)
        if nil or names["intervention"] == "base model":
            share = intervals.Interval(None, None, None)
        else:
            share = intervals.recovered(sums, kl.none, draws)
        records.append(
            names
            | {"kl": mean.value, "kl_low": mean.low, "kl_high": mean.high}
            | {
                "recovered": share.value,
                "recovered_low": share.low,
                "recovered_high": share.high,
                "tokens": int(kl.tokens.sum()),
                "sequences": len(kl.tokens),
            }
        )
    return pl.DataFrame(records, schema=_SCHEMA)
