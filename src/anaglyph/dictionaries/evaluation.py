"""How well a dictionary does on sequences that it was not trained on."""

import numpy as np
from jaxtyping import Bool
from torch import Tensor

from anaglyph.dictionaries.dictionary import Dictionary
from anaglyph.store import Moments, PairedStore


def heldout_stats(
    dictionary: Dictionary, store: PairedStore
) -> tuple[dict[str, float | int | None], Bool[np.ndarray, " latents"]]:
    """Return statistics over the held-out sequences and which latents fire on them.

    ``fve`` is the fraction of variance explained over all sources together,
    1 - sum_d Var(x - xhat) / sum_d Var(x) (maths.md section 1); ``fve_base`` and so on are those of
    one source, ``fve_difference`` that of h_tuned - h_base where the dictionary rebuilds it.
    ``l0`` is the mean number of active latents a token. Without held-out tokens, or where nothing
    varies, a value is None.
    """
    moments: dict[str, tuple[Moments, Moments]] = {}
    fires = np.zeros(dictionary.n_latents, bool)
    tokens = active = 0
    for block in store.blocks("heldout"):
        inputs = dictionary.spec.inputs(block.base, block.tuned)
        codes = dictionary.encode_inputs(inputs)
        rebuilt = dictionary.reconstruct(codes)
        pairs = dict(zip(dictionary.spec.sources, zip(inputs, rebuilt, strict=True), strict=True))
        difference = dictionary.spec.difference(rebuilt)
        if difference is not None:
            pairs["difference"] = (block.tuned - block.base, difference)
        for name, (target, estimate) in pairs.items():
            moments[name] = _merged(moments.get(name), target, target - estimate)
        fires[codes.indices] = True
        tokens += codes.n_tokens
        active += len(codes.indices)
    sources = [moments[source] for source in dictionary.spec.sources if source in moments]
    stats: dict[str, float | int | None] = {"fve": _explained(sources)}
    for name in dict.fromkeys((*dictionary.spec.sources, *moments)):
        stats[f"fve_{name}"] = _explained([moments[name]] if name in moments else [])
    stats["l0"] = active / tokens if tokens else None
    stats["heldout_tokens"] = tokens
    return stats, fires


def _merged(
    so_far: tuple[Moments, Moments] | None, target: Tensor, error: Tensor
) -> tuple[Moments, Moments]:
    new = Moments.of(target), Moments.of(error)
    if so_far is None:
        return new
    return so_far[0].merge(new[0]), so_far[1].merge(new[1])


def _explained(moments: list[tuple[Moments, Moments]]) -> float | None:
    total = sum(target.variance_sum for target, _ in moments)
    return 1 - sum(error.variance_sum for _, error in moments) / total if total > 0 else None
