"""How much of the behavioural difference an edit carries: the causal tables.

All are made on held-out sequences only, the same that the store and the training of the
dictionaries keep apart (`corpus.heldout`).
"""

from collections.abc import Iterator, Sequence

import numpy as np
import polars as pl
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from anaglyph.causal import interventions as edits
from anaglyph.causal.controls import mean_difference, principal_components
from anaglyph.causal.edits import Intervention
from anaglyph.causal.frame import SCHEMA, frame_of, noise
from anaglyph.causal.patching import Plan, Unpatched, measure
from anaglyph.causal.positions import token_mask
from anaglyph.causal.subsets import COUNTS, NU, Subsets
from anaglyph.core.errors import InputError
from anaglyph.core.progress import Progress, silent
from anaglyph.corpus import TokenCorpus, padded_batches
from anaglyph.dictionaries import Dictionary
from anaglyph.pair import ModelPair, Side
from anaglyph.store import DifferenceSpace

MAX_TOKENS = 8192
TOKEN_BUDGET = 1024
BIASES = ("out", "in", "both")


def kl_recovered(
    pair: ModelPair,
    dic: Dictionary,
    corpus: TokenCorpus,
    layer: int | float,
    table: pl.DataFrame | None = None,
    *,
    nu: Sequence[float] = NU,
    counts: Sequence[int] = COUNTS,
    positions: Sequence[str] = ("all",),
    edit_at: Sequence[str] = ("template",),
    into: Sequence[Side] = ("tuned",),
    biases: str = "out",
    seed: int = 0,
    max_tokens: int = MAX_TOKENS,
    token_budget: int = TOKEN_BUDGET,
    space: DifferenceSpace | None = None,
    known: pl.DataFrame | None = None,
    unpatched: Unpatched | None = None,
    progress: Progress = silent,
) -> pl.DataFrame:
    """Patch the tuned model with each edit of docs/maths.md, section 4; one row an intervention.

    With several ``positions`` or ``into`` there is one row for each of them. Columns: intervention,
    dictionary (null where it plays no part), n_latents, kl (mean nats a token of
    KL(p_tuned || p_patched)), recovered (1 - KL_patch / KL_none), tokens, sequences, formula,
    layer, into, positions, edited_at, l0 (mean active latents a token among those of the row),
    push (root mean square length of what is added), kl_other (KL to the model that is not patched),
    nll (nats a token of the text itself), top1 (share of tokens whose likeliest token is that of
    the model unpatched). kl, recovered, kl_other, nll and top1 have the _low and _high ends of a
    95% bootstrap interval over sequences.

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
        counts: Sizes of the subsets "top N", by ``difference_share``, and ranks of the PCA.
        positions: The places (`positions.PLACES`) whose predictions are judged, each on its own.
        edit_at: Places other than all at which the exact activation and the reconstruction are
            also put in, with the base's activation elsewhere.
        into: "tuned", and "base" for the other direction: what an edit adds to h_base is taken off
            h_tuned, which goes into the base model; kl is then KL(p_base || p_patched). Controls
            that are matched to subsets are left out there.
        biases: Whether the subsets are without ("out") or with ("in") the dictionary's constant, or
            both.
        seed: Of the sequences drawn, the controls and the bootstrap.
        max_tokens: Held-out tokens to use at most (whole sequences, at least one).
        token_budget: Tokens in a batch.
        space: Mean and components of h_tuned - h_base over training tokens (the store's);
            measured on as many training tokens if None.
        known: A table made with the same pair, corpus and settings, perhaps for another
            dictionary; its rows without a dictionary are taken over where this table has them, not
            measured again: the table is the same with or without.
        unpatched: Keeps both models' own predictions for the next table on the same text.
        progress: Called after each batch.

    Raises:
        InputError: The models' widths differ, the dictionary or space is for another width, the
            table is another dictionary's or lacks a column, a name is unknown, or the corpus has
            no held-out sequence.
    """
    layer = pair.resolve_layer(layer)
    check_pair(pair, max_tokens)
    _check_dictionary(pair, dic)
    _check_choices(corpus, (*positions, *edit_at), into, biases)
    heldout = corpus.draw_heldout(max_tokens, seed)
    if space is None:
        space = training_space(pair, corpus, [layer], max_tokens, token_budget, seed)[layer]
    _check_space(pair, space)
    subsets = None if table is None else Subsets(dic, table, nu, counts, seed)
    ranks = [count for count in counts if count < pair.d_tuned]
    if subsets is not None:
        ranks = subsets.ranks(pair.d_tuned)
    had = set() if known is None else set(known["intervention"])
    wanted = dictionary_free(space, ranks, edit_at)
    free = [edit for edit in wanted if edit.name not in had]
    chosen = _of_dictionary(dic, subsets, edit_at, biases)
    plans = []
    for side in into:
        turned = edits.mirrored if side == "base" else _same
        # Each in a queue of its own, so that neither changes how the other is batched.
        plans.append(Plan(layer, side, [turned(e) for e in [edits.exact(), *free]]))
        plans.append(Plan(layer, side, [turned(e) for e in chosen], dic))
        if side == "tuned" and subsets is not None:
            plans.append(Plan(layer, side, subsets.controls(), dic))
    measured = measure(pair, corpus, heldout, plans, positions, token_budget, progress, unpatched)
    frames, floor = [], 0.0
    for plan, found in zip(plans, measured, strict=True):
        if plan.dictionary is None:
            floor = noise(pair, plan.into, found.exact_kl)
        frame = frame_of(pair, plan, found, positions, seed, floor)
        if plan.dictionary is None and known is not None:
            frame = _completed(frame, known, [edit.name for edit in wanted], positions)
        frames.append(frame)
    return _joined(frames)


def latent_kl(
    pair: ModelPair,
    dic: Dictionary,
    corpus: TokenCorpus,
    layer: int | float,
    latents: Sequence[int],
    *,
    positions: Sequence[str] = ("all",),
    seed: int = 0,
    max_tokens: int = MAX_TOKENS,
    token_budget: int = TOKEN_BUDGET,
    progress: Progress = silent,
) -> pl.DataFrame:
    """Add each latent alone to h_base; one row a latent, in the order given.

    Works for every method: a latent adds its decoder, or the difference of its two. Columns as in
    `kl_recovered`, and ``latent`` and ``closed`` (KL_none - KL_patch, nats a token). A latent that
    fires in none of the sequences has recovered 0 exactly. Arguments and errors as in
    `kl_recovered`; the sequences are the same for the same seed and max_tokens.

    Raises:
        InputError: As in `kl_recovered`, or a latent is out of range.
    """
    for latent in latents:
        if not 0 <= latent < dic.n_latents:
            raise InputError(f"latent {latent} is out of range: there are {dic.n_latents}")
    own = edit_kl(
        pair,
        corpus,
        layer,
        [edits.subset(dic, f"latent {j}", [j]) for j in latents],
        dic,
        positions=positions,
        seed=seed,
        max_tokens=max_tokens,
        token_budget=token_budget,
        progress=progress,
    )
    return own.insert_column(0, pl.Series("latent", list(latents) * len(positions), pl.Int64))


def edit_kl(
    pair: ModelPair,
    corpus: TokenCorpus,
    layer: int | float,
    chosen: Sequence[Intervention],
    dic: Dictionary | None = None,
    *,
    positions: Sequence[str] = ("all",),
    seed: int = 0,
    max_tokens: int = MAX_TOKENS,
    token_budget: int = TOKEN_BUDGET,
    progress: Progress = silent,
) -> pl.DataFrame:
    """Put each edit into the tuned model; one row an edit, in the order given.

    Columns as in `kl_recovered`, and ``closed`` (KL_none - KL_patch, nats a token). The sequences
    are the same for the same seed and max_tokens.

    Args:
        pair: Both models.
        corpus: Its held-out sequences are used.
        layer: Index, or fraction of the depth.
        chosen: The edits, of different names.
        dic: The dictionary of those that add latents.
        positions: The places whose predictions are judged, each on its own.
        seed: Of the sequences drawn and the bootstrap.
        max_tokens: Held-out tokens to use at most.
        token_budget: Tokens in a batch.
        progress: Called after each batch.

    Raises:
        InputError: As in `kl_recovered`.
    """
    layer = pair.resolve_layer(layer)
    check_pair(pair, max_tokens)
    if dic is not None:
        _check_dictionary(pair, dic)
    _check_choices(corpus, positions, ("tuned",), "out")
    heldout = corpus.draw_heldout(max_tokens, seed)
    plan = Plan(layer, "tuned", [edits.exact(), *chosen], dic)
    (found,) = measure(pair, corpus, heldout, [plan], positions, token_budget, progress)
    floor = noise(pair, "tuned", found.exact_kl)
    frame = frame_of(pair, plan, found, positions, seed, floor)
    none = frame.filter(pl.col("intervention") == "none").select("positions", none="kl")
    own = frame.filter(pl.col("intervention").is_in([edit.name for edit in chosen]))
    own = own.join(none, on="positions", how="left", maintain_order="left")
    return own.with_columns(closed=pl.col("none") - pl.col("kl")).drop("none")


def dictionary_free(
    space: DifferenceSpace, ranks: Sequence[int], edit_at: Sequence[str]
) -> list[Intervention]:
    """Return the interventions for which no dictionary is needed, "exact" left out."""
    return [
        *(edits.exact().only_at(place) for place in edit_at if place != "all"),
        mean_difference(space),
        *(principal_components(space, rank) for rank in ranks),
    ]


def check_pair(pair: ModelPair, max_tokens: int) -> None:
    """Refuse models of two widths and a budget below one token.

    Raises:
        InputError: As said.
    """
    if pair.d_base != pair.d_tuned:
        raise InputError(
            f"the base model's width is {pair.d_base} and the tuned model's {pair.d_tuned}: "
            "activations of one cannot be put into the other"
        )
    if max_tokens < 1:
        raise InputError(f"max_tokens is {max_tokens}: it must be at least 1")


def training_space(
    pair: ModelPair,
    corpus: TokenCorpus,
    layers: Sequence[int],
    max_tokens: int,
    token_budget: int,
    seed: int,
) -> dict[int, DifferenceSpace]:
    """Measure mean and components of the difference on as many training tokens, in one pass."""
    training = corpus.draw(~corpus.heldout, max_tokens, seed)
    kept: dict[int, list[Tensor]] = {layer: [] for layer in layers}
    for differences in _differences(pair, corpus, layers, training, token_budget):
        for layer in layers:
            kept[layer].append(differences[layer])
    return {layer: DifferenceSpace.of(blocks) for layer, blocks in kept.items()}


@torch.no_grad()
def _differences(
    pair: ModelPair,
    corpus: TokenCorpus,
    layers: Sequence[int],
    sequences: Int64[np.ndarray, " chosen"],
    token_budget: int,
) -> Iterator[dict[int, Float[Tensor, "tokens d"]]]:
    for _, ids, mask in padded_batches(corpus, sequences, token_budget):
        base = pair.run_to("base", ids, mask, layers)
        tuned = pair.run_to("tuned", ids, mask, layers)
        real = mask.bool()
        yield {layer: (tuned[layer].float() - base[layer].float())[real] for layer in layers}


def _of_dictionary(
    dic: Dictionary, subsets: Subsets | None, edit_at: Sequence[str], biases: str
) -> list[Intervention]:
    whole = edits.whole_dictionary(dic)
    places = [whole[0].only_at(place) for place in edit_at if place != "all"]
    if subsets is not None:
        return [*whole, *places, *subsets.edits(biases)]
    every = range(dic.n_latents)
    return [*whole, *places, *edits.variants(dic, "all", every, biases)]


def _completed(
    frame: pl.DataFrame, known: pl.DataFrame, wanted: Sequence[str], positions: Sequence[str]
) -> pl.DataFrame:
    """Add the wanted rows that another table has, where they would stand had they been measured."""
    missing = [name for name in wanted if name not in frame["intervention"]]
    had = known.filter(
        pl.col("dictionary").is_null(),
        pl.col("intervention").is_in(missing),
        pl.col("into") == frame["into"][0],
    )
    # First what no edit makes (the baseline, the other model, "exact"), as `frame_of` has it.
    names = dict.fromkeys([*frame["intervention"].head(3), *wanted])
    return pl.concat([frame, had.select(list(SCHEMA))]).sort(
        pl.col("positions").cast(pl.Enum(list(dict.fromkeys(positions)))),
        pl.col("intervention").cast(pl.Enum(list(names))),
    )


def _joined(frames: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """Put the plans' tables together, each row once."""
    keys = ["layer", "into", "positions", "intervention"]
    parts = [pl.DataFrame(schema=SCHEMA), *frames]
    return pl.concat(parts).unique(keys, keep="first", maintain_order=True)


def _same(edit: Intervention) -> Intervention:
    return edit


def _check_dictionary(pair: ModelPair, dic: Dictionary) -> None:
    for decoder in dic.decoder:
        if decoder.shape[1] != pair.d_tuned:
            raise InputError(
                f"the dictionary is for width {decoder.shape[1]}, the models have {pair.d_tuned}"
            )


def _check_choices(
    corpus: TokenCorpus, places: Sequence[str], into: Sequence[str], biases: str
) -> None:
    for place in places:
        token_mask(corpus, place)
    for side in into:
        if side not in ("base", "tuned"):
            raise InputError(f"into={side!r} is unknown: use base or tuned")
    if biases not in BIASES:
        raise InputError(f"biases={biases!r} is unknown: use one of {', '.join(BIASES)}")


def _check_space(pair: ModelPair, space: DifferenceSpace) -> None:
    if len(space.mean) != pair.d_tuned:
        raise InputError(
            f"the mean difference has {len(space.mean)} entries, the models' width is "
            f"{pair.d_tuned}"
        )
