"""The findings of a pair of models: what the activations show, weighed by what it does."""

from collections.abc import Mapping
from dataclasses import replace

from anaglyph.core.errors import InputError, ModelError
from anaglyph.core.progress import Progress, silent
from anaglyph.corpus import TokenCorpus
from anaglyph.dictionaries import Dictionary
from anaglyph.findings.alone import closed_alone
from anaglyph.findings.decoys import find_decoys, held_against
from anaglyph.findings.discovery import Discovery, discover
from anaglyph.pair import ModelPair
from anaglyph.store import PairedStore


def discover_in_models(
    pair: ModelPair,
    corpus: TokenCorpus,
    store: PairedStore,
    rate: float,
    seed: int,
    *,
    most: int,
    max_tokens: int,
    dictionaries: Mapping[str, Dictionary] | None = None,
    trials: int = 0,
    progress: Progress = silent,
) -> tuple[Discovery, dict[int, float]]:
    """Find what differs, and which of it noise in the weights would show too (``decoys.py``).

    Args:
        pair: Both models.
        corpus: The text that the store was collected from.
        store: Their activations at one layer.
        rate: As in `discover`.
        seed: As in `discover`.
        most: How many of the largest findings are put through the model.
        max_tokens: Held-out tokens for that at most.
        dictionaries: As in `discover`.
        trials: As in `discover`.
        progress: Told of each stage.

    Returns:
        The findings, and the share of the KL gap that each closes alone, by index, where it was
        measured.

    Raises:
        InputError: As in `latent_kl`.
    """
    found = discover(store, rate, seed, dictionaries=dictionaries, trials=trials, progress=progress)
    closed = closed_alone(
        pair,
        corpus,
        store.layer,
        found,
        most=most,
        seed=seed,
        max_tokens=max_tokens,
        progress=progress,
    )
    recovered = {i: each.share for i, each in closed.items()}
    if not found.findings:
        return found, recovered
    try:
        decoys = find_decoys(
            pair,
            corpus,
            store,
            rate,
            seed,
            most=most,
            max_tokens=max_tokens,
            progress=progress,
        )
    except (InputError, ModelError) as error:
        return replace(found, unasked=str(error)), recovered
    return held_against(found, closed, decoys, rate), recovered
