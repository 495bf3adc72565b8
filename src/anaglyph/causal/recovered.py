"""How much of the behavioural difference an edit carries: the causal tables.

All are made on held-out sequences only, the same that the store and the training of the
dictionaries keep apart (`corpus.heldout`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import polars as pl
import torch
from jaxtyping import Int64
from numpy import ndarray
from torch import Tensor

from anaglyph.causal import interventions as edits
from anaglyph.causal.frame import SCHEMA, frame_of, noise
from anaglyph.causal.interventions import Intervention
from anaglyph.causal.patching import TOKEN_BUDGET, Plan, measure
from anaglyph.causal.positions import token_mask
from anaglyph.causal.subsets import Subsets
from anaglyph.core.errors import InputError
from anaglyph.core.progress import Progress, silent
from anaglyph.core.settings import CausalSettings, Settings
from anaglyph.core.validation import check_type
from anaglyph.corpus import TokenCorpus, padded_batches
from anaglyph.dictionaries import Dictionary
from anaglyph.pair import ModelPair, Side
from anaglyph.store import DifferenceSpace
from anaglyph.subject import Subject

MAX_TOKENS = 8192


def kl_recovered(
    pair: ModelPair,
    dic: Dictionary,
    corpus: TokenCorpus,
    layer: int | float,
    table: pl.DataFrame | None = None,
    *,
    settings: CausalSettings | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> pl.DataFrame:
    """Measure how much of the KL between the models each edit recovers; see `causal_table`.

    Args:
        pair: Both models.
        dic: A dictionary trained on the pair's activations at the layer.
        corpus: Its held-out sequences are used.
        layer: Index, or fraction of the depth.
        table: The dictionary's latent table; without it no subsets are patched.
        settings: What to patch, and where predictions are judged. If None, the defaults on up to
            8192 tokens, judged at all of them, with every subset and control.
        seed: Of the sequences drawn, the controls and the bootstrap.
        progress: Called after each batch.

    Raises:
        InputError: As in `causal_table`.

    Example:
        >>> kl = kl_recovered(pair, dic, corpus, layer=13, table=table)         # doctest: +SKIP
        >>> kl.filter(intervention="reconstruction")["recovered"]               # doctest: +SKIP
    """
    if settings is None:
        settings = CausalSettings(positions=("all",), causal_tokens=MAX_TOKENS, full=True)
    subject = Subject.of(
        pair=pair, corpus=corpus, layer=layer, settings=Settings(seed=seed), progress=progress
    )
    return causal_table(subject, dic, table, settings)


@dataclass(frozen=True)
class Judged:
    """A dictionary to put into the models.

    Attributes:
        dictionary: Trained on the pair's activations at the layer.
        table: Its latent table; without it there are no subsets and no controls of them.
        alone: Latents that are also added one at a time.
    """

    dictionary: Dictionary
    table: pl.DataFrame | None = None
    alone: Sequence[int] = ()


class CausalTables(NamedTuple):
    """What came of putting a dictionary into the models."""

    edits: pl.DataFrame
    """One row an edit, place and model; see `causal_table`."""
    alone: pl.DataFrame
    """One row a latent, each added alone; see `latent_kl`."""


def causal_table(
    subject: Subject,
    dic: Dictionary,
    table: pl.DataFrame | None,
    settings: CausalSettings,
    *,
    token_budget: int = TOKEN_BUDGET,
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
    of "none", part of the change is after the layer. ``recovered`` is null where the layer shows
    no difference beyond numerical noise. Where the base model is patched ("base" in ``into``), what
    an edit adds to h_base is taken off h_tuned, kl is KL(p_base || p_patched), and there are no
    controls of subsets.

    Args:
        subject: Both models, their text and layer. Mean and components of the difference are the
            store's; a subject without one measures them on as many training tokens.
        dic: A dictionary trained on the pair's activations at the layer.
        table: The dictionary's latent table; without it there are no subsets and no controls of
            them.
        settings: What to patch, and where predictions are judged. Subsets by nu are of nu_error for
            a crosscoder and of nu_act for an SAE; subsets "top N" are by ``difference_share``.
        token_budget: Tokens in a batch.

    Raises:
        InputError: The models' widths differ, the dictionary or space is for another width, the
            table is another dictionary's or lacks a column, or the corpus has no held-out sequence.
    """
    check_type("dic", dic, Dictionary, "make one with train or Dictionary.load")
    judged = {"": Judged(dic, table)}
    return causal_tables(subject, judged, settings, token_budget=token_budget)[""].edits


def causal_tables(
    subject: Subject,
    judged: Mapping[str, Judged],
    settings: CausalSettings,
    *,
    token_budget: int = TOKEN_BUDGET,
) -> dict[str, CausalTables]:
    """Put several dictionaries into the models, in one pass over the text.

    Both models' own runs, and all rows that need no dictionary, are shared. See `causal_table` for
    the rows, the settings and the errors, and `latent_kl` for the latents that are added alone.

    Raises:
        InputError: As in `causal_table`, or a latent is out of range.
    """
    pair, settings = subject.pair, settings.widened()
    check_pair(pair)
    chosen = {name: _Chosen.of(each, settings, subject) for name, each in judged.items()}
    heldout = subject.corpus.draw_heldout(settings.causal_tokens, subject.seed)
    space = _space(subject, settings.causal_tokens, token_budget)
    ranks = sorted({rank for each in chosen.values() for rank in each.ranks})
    free = [edits.exact(), *_dictionary_free(space, ranks, settings.edit_at)]
    # Each plan is a queue of its own, so that none changes how another is batched.
    plans: list[tuple[str | None, Plan]] = []
    for side in settings.into:
        turned = edits.mirrored if side == "base" else _same
        plans.append((None, Plan(subject.layer, side, [turned(edit) for edit in free])))
        for name, each in chosen.items():
            for queue in (each.own, each.controls if side == "tuned" else []):
                own = [turned(edit) for edit in queue]
                plans.append((name, Plan(subject.layer, side, own, each.judged.dictionary)))
    measures_floor = "tuned" not in settings.into
    singles = []
    for each in chosen.values():
        own = [edits.exact(), *each.alone] if measures_floor else each.alone
        singles.append(Plan(subject.layer, "tuned", own, each.judged.dictionary))
    queued = [*(plan for _, plan in plans), *singles]
    measured = measure(subject, heldout, queued, settings.positions, token_budget)
    tables: dict[str, list[pl.DataFrame]] = {name: [] for name in judged}
    floors: dict[Side, float] = {}
    for (name, plan), found in zip(plans, measured, strict=False):
        if name is None:
            floors[plan.into] = noise(pair, plan.into, found.exact_kl)
        frame = frame_of(subject, plan, found, settings.positions, floors[plan.into])
        for own in judged if name is None else [name]:
            tables[own].append(frame)
    alone = {}
    for name, plan, found in zip(judged, singles, measured[len(plans) :], strict=True):
        place = settings.positions[:1]
        frame = frame_of(subject, plan, found, place, floors.get("tuned"))
        alone[name] = _of_latents(frame, judged[name].alone)
    return {
        name: CausalTables(_joined(frames, chosen[name].ranks), alone[name])
        for name, frames in tables.items()
    }


@dataclass(frozen=True)
class _Chosen:
    """The edits of one dictionary."""

    judged: Judged
    own: list[Intervention]
    controls: list[Intervention]
    alone: list[Intervention]
    ranks: list[int]
    """The PCA's, those at which it is compared."""

    @classmethod
    def of(cls, judged: Judged, settings: CausalSettings, subject: Subject) -> "_Chosen":
        dic, width = judged.dictionary, subject.pair.d_tuned
        _check_dictionary(subject.pair, dic)
        own = edits.whole_dictionary(dic)
        if settings.full:
            own += [own[0].only_at(place) for place in settings.edit_at if place != "all"]
        alone = _alone(dic, judged.alone)
        if judged.table is None:
            every = edits.variants(dic, "all", range(dic.n_latents), settings.biases)
            ranks = [count for count in settings.counts if count < width]
            return cls(judged, [*own, *every], [], alone, ranks)
        subsets = Subsets(dic, judged.table, settings, subject.seed)
        own += subsets.edits(settings.biases)
        return cls(judged, own, subsets.controls(), alone, subsets.ranks(width))


def latent_kl(
    subject: Subject,
    dic: Dictionary,
    latents: Sequence[int],
    settings: CausalSettings,
    *,
    token_budget: int = TOKEN_BUDGET,
) -> pl.DataFrame:
    """Add each latent alone to h_base; one row a latent, in the order given.

    Works for every method: a latent adds its decoder, or the difference of its two. Columns as in
    `causal_table`, and ``latent`` and ``closed`` (KL_none - KL_patch, nats a token). A latent that
    fires in none of the sequences has recovered 0 exactly. Predictions are judged at the first of
    the settings' positions, on the same sequences as in `causal_table`.

    Raises:
        InputError: As in `causal_table`, or a latent is out of range.
    """
    own = edit_kl(
        subject,
        _alone(dic, latents),
        dic,
        positions=settings.positions[:1],
        max_tokens=settings.causal_tokens,
        token_budget=token_budget,
    )
    return own.insert_column(0, pl.Series("latent", list(latents), pl.Int64))


def edit_kl(
    subject: Subject,
    chosen: Sequence[Intervention],
    dic: Dictionary | None = None,
    *,
    positions: Sequence[str] = ("all",),
    max_tokens: int = MAX_TOKENS,
    token_budget: int = TOKEN_BUDGET,
) -> pl.DataFrame:
    """Put each edit into the tuned model; one row an edit, in the order given.

    Columns as in `causal_table`, and ``closed`` (KL_none - KL_patch, nats a token). The sequences
    are the same for the same seed and max_tokens.

    Args:
        subject: Both models, their text and layer.
        chosen: The edits, of different names.
        dic: The dictionary of those that add latents.
        positions: The places whose predictions are judged, each on its own.
        max_tokens: Held-out tokens to use at most.
        token_budget: Tokens in a batch.

    Raises:
        InputError: As in `causal_table`, or a place is unknown.
    """
    check_pair(subject.pair)
    if dic is not None:
        _check_dictionary(subject.pair, dic)
    for place in positions:
        token_mask(subject.corpus, place)
    heldout = subject.corpus.draw_heldout(max_tokens, subject.seed)
    plan = Plan(subject.layer, "tuned", [edits.exact(), *chosen], dic)
    (found,) = measure(subject, heldout, [plan], positions, token_budget)
    frame = frame_of(subject, plan, found, positions)
    return _closed(frame, [edit.name for edit in chosen])


def layer_sweep(
    subject: Subject,
    layers: Sequence[int | float],
    settings: CausalSettings,
    *,
    ranks: Sequence[int] = (1, 16),
    texts: tuple[Int64[ndarray, " fitted"], Int64[ndarray, " judged"]] | None = None,
    token_budget: int = TOKEN_BUDGET,
) -> pl.DataFrame:
    """Put edits that need no dictionary in at several layers, in one pass over the prefix.

    Columns as in `causal_table`, rows by layer: none (how much of the change is up to the layer:
    compare its KL with that of "base model"), exact, exact at the places of ``edit_at``, mean
    difference, and the PCA of the difference at each of ``ranks``. The tuned model is patched.

    Args:
        subject: Both models and their text.
        layers: Where.
        settings: On how much text, and where predictions are judged.
        ranks: Of the PCA.
        texts: Sequences on which mean and components are fitted, and those on which edits are
            judged; drawn from the training and the held-out ones if None.
        token_budget: Tokens in a batch.

    Raises:
        InputError: As in `causal_table`; or there are no layers, or a rank is below 1.
    """
    if not layers:
        raise InputError("layers is empty: name at least one")
    pair = subject.pair
    wanted = list(dict.fromkeys(pair.resolve_layer(layer) for layer in layers))
    check_pair(pair)
    if any(rank < 1 for rank in ranks):
        raise InputError(f"a rank of the PCA is below 1: {list(ranks)}")
    if texts is None:
        heldout = subject.corpus.draw_heldout(settings.causal_tokens, subject.seed)
        texts = _training_texts(subject, settings.causal_tokens), heldout
    spaces = _spaces_on(subject, wanted, texts[0], token_budget)
    kept = [rank for rank in ranks if rank < pair.d_tuned]
    plans = []
    for layer in wanted:
        free = _dictionary_free(spaces[layer], kept, settings.edit_at)
        plans.append(Plan(layer, "tuned", [edits.exact(), *free]))
    measured = measure(subject, texts[1], plans, settings.positions, token_budget)
    return pl.concat(
        [
            frame_of(subject, plan, found, settings.positions)
            for plan, found in zip(plans, measured, strict=True)
        ]
    )


def check_pair(pair: ModelPair) -> None:
    """Refuse models of two widths.

    Raises:
        InputError: As said.
    """
    if pair.d_base != pair.d_tuned:
        raise InputError(
            f"the base model's width is {pair.d_base} and the tuned model's {pair.d_tuned}: "
            "activations of one cannot be put into the other"
        )


def _space(subject: Subject, max_tokens: int, token_budget: int) -> DifferenceSpace:
    layer, width = subject.layer, subject.pair.d_tuned
    if subject.has_space:
        space = subject.space
    else:
        training = _training_texts(subject, max_tokens)
        space = _spaces_on(subject, [layer], training, token_budget)[layer]
    if len(space.mean) != width:
        raise InputError(
            f"the mean difference has {len(space.mean)} entries, the models' width is {width}"
        )
    return space


def _training_texts(subject: Subject, max_tokens: int) -> Int64[ndarray, " chosen"]:
    corpus = subject.corpus
    return corpus.draw(~corpus.heldout, max_tokens, subject.seed)


@torch.no_grad()
def _spaces_on(
    subject: Subject,
    layers: Sequence[int],
    sequences: Int64[ndarray, " chosen"],
    token_budget: int,
) -> dict[int, DifferenceSpace]:
    """Measure mean and components of the difference on some sequences, in one pass."""
    pair, corpus = subject.pair, subject.corpus
    kept: dict[int, list[Tensor]] = {layer: [] for layer in layers}
    for _, ids, mask in padded_batches(corpus, sequences, token_budget):
        base = pair.run_to("base", ids, mask, layers)
        tuned = pair.run_to("tuned", ids, mask, layers)
        real = mask.bool()
        for layer in layers:
            kept[layer].append((tuned[layer].float() - base[layer].float())[real])
    return {layer: DifferenceSpace.of(blocks) for layer, blocks in kept.items()}


def _dictionary_free(
    space: DifferenceSpace, ranks: Sequence[int], edit_at: Sequence[str]
) -> list[Intervention]:
    """Return the interventions for which no dictionary is needed, "exact" left out."""
    return [
        *(edits.exact().only_at(place) for place in edit_at if place != "all"),
        edits.mean_difference(space),
        *(edits.principal_components(space, rank) for rank in ranks),
    ]


def _alone(dic: Dictionary, latents: Sequence[int]) -> list[Intervention]:
    for latent in latents:
        if not 0 <= latent < dic.n_latents:
            raise InputError(f"latent {latent} is out of range: there are {dic.n_latents}")
    return [edits.subset(dic, f"latent {latent}", [latent]) for latent in latents]


def _of_latents(frame: pl.DataFrame, latents: Sequence[int]) -> pl.DataFrame:
    own = _closed(frame, [f"latent {latent}" for latent in latents])
    return own.insert_column(0, pl.Series("latent", list(latents), pl.Int64))


def _closed(frame: pl.DataFrame, names: Sequence[str]) -> pl.DataFrame:
    """Keep the rows of some edits and add ``closed``, the nats a token of the gap that each closes.

    A name that stands there twice gives two rows.
    """
    none = frame.filter(pl.col("intervention") == "none").select("positions", none="kl")
    own = frame.filter(pl.col("intervention").is_in(names))
    own = own.join(none, on="positions", how="left", maintain_order="left")
    return own.with_columns(closed=pl.col("none") - pl.col("kl")).drop("none")


def _joined(frames: Sequence[pl.DataFrame], ranks: Sequence[int]) -> pl.DataFrame:
    """Put the plans' tables together, each row once, with the PCA at these ranks only."""
    keys = ["layer", "into", "positions", "intervention"]
    whole = pl.concat([pl.DataFrame(schema=SCHEMA), *frames])
    whole = whole.unique(keys, keep="first", maintain_order=True)
    name = pl.col("intervention")
    compared = name.is_in([f"pca rank {rank}" for rank in ranks])
    return whole.filter(~name.str.starts_with("pca rank ") | compared)


def _same(edit: Intervention) -> Intervention:
    return edit


def _check_dictionary(pair: ModelPair, dic: Dictionary) -> None:
    for decoder in dic.decoder:
        if decoder.shape[1] != pair.d_tuned:
            raise InputError(
                f"the dictionary is for width {decoder.shape[1]}, the models have {pair.d_tuned}"
            )
