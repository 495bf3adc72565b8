"""The layer sweep: at which depth the difference is, and how simple it is there."""

from collections.abc import Sequence

import polars as pl

from anaglyph.causal import interventions as edits
from anaglyph.causal.frame import frame_of, noise
from anaglyph.causal.patching import Plan, measure
from anaglyph.causal.recovered import (
    MAX_TOKENS,
    TOKEN_BUDGET,
    check_pair,
    dictionary_free,
    training_space,
)
from anaglyph.core.errors import InputError
from anaglyph.core.progress import Progress, silent
from anaglyph.corpus import TokenCorpus
from anaglyph.pair import ModelPair


def layer_sweep(
    pair: ModelPair,
    corpus: TokenCorpus,
    layers: Sequence[int | float],
    *,
    ranks: Sequence[int] = (1, 16),
    positions: Sequence[str] = ("all",),
    edit_at: Sequence[str] = ("template",),
    seed: int = 0,
    max_tokens: int = MAX_TOKENS,
    token_budget: int = TOKEN_BUDGET,
    progress: Progress = silent,
) -> pl.DataFrame:
    """Put edits that need no dictionary in at several layers, in one pass over the prefix.

    Columns as in `causal.kl_recovered`, rows by layer: none (how much of the change lies up to the
    layer: compare its KL with that of "base model"), exact, exact at the places of ``edit_at``,
    mean difference, and the PCA of the difference at each of ``ranks``. Arguments and errors as
    there.

    Raises:
        InputError: As in `kl_recovered`; or there are no layers, or a rank is below 1.
    """
    if not layers:
        raise InputError("layers is empty: name at least one")
    wanted = list(dict.fromkeys(pair.resolve_layer(layer) for layer in layers))
    check_pair(pair, max_tokens)
    if any(rank < 1 for rank in ranks):
        raise InputError(f"a rank of the PCA is below 1: {list(ranks)}")
    heldout = corpus.draw_heldout(max_tokens, seed)
    spaces = training_space(pair, corpus, wanted, max_tokens, token_budget, seed)
    kept = [rank for rank in ranks if rank < pair.d_tuned]
    plans = [
        Plan(layer, "tuned", [edits.exact(), *dictionary_free(spaces[layer], kept, edit_at)])
        for layer in wanted
    ]
    measured = measure(pair, corpus, heldout, plans, positions, token_budget, progress)
    return pl.concat(
        [
            frame_of(pair, plan, found, positions, seed, noise(pair, "tuned", found.exact_kl))
            for plan, found in zip(plans, measured, strict=True)
        ]
    )
