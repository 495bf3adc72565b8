"""Quality of a dictionary on held-out sequences."""

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from anaglyph.dictionaries.dictionary import Dictionary
from anaglyph.store import Moments, PairedStore

JUDGED_TOKENS = 16_384


def heldout_stats(
    dictionary: Dictionary, store: PairedStore
) -> tuple[dict[str, float | int | None], Bool[np.ndarray, " latents"]]:
    """Return statistics on the held-out sequences, and which latents fire there.

    ``fve`` is the fraction of variance explained over all sources together, 1 - sum_d Var(x - xhat)
    / sum_d Var(x) (docs/maths.md, section 1); ``fve_base`` and so on are those of one source,
    ``fve_difference`` that of h_tuned - h_base if the dictionary reconstructs it. They leave out
    the ``massive_tokens`` that training pulled in (``outliers.py``), whose variance would hide all
    others'; ``fve_all`` is ``fve`` with them. ``l0`` is the mean number of active latents a token.
    Without held-out tokens, or where nothing varies, a value is None.
    """
    sources = dictionary.spec.sources
    ordinary: dict[str, _Variance] = {}
    everything: dict[str, _Variance] = {}
    fires = np.zeros(dictionary.n_latents, bool)
    tokens = active = massive = 0
    for block in store.blocks("heldout"):
        inputs = dictionary.spec.inputs(block.base, block.tuned)
        codes = dictionary.encode_inputs(inputs)
        rebuilt = dictionary.reconstruct(codes)
        pairs = dict(zip(sources, zip(inputs, rebuilt, strict=True), strict=True))
        difference = dictionary.spec.difference(rebuilt)
        if difference is not None:
            pairs["difference"] = (block.tuned - block.base, difference)
        kept = dictionary.pull_factors(inputs) == 1
        for name, (target, estimate) in pairs.items():
            everything.setdefault(name, _Variance()).add(target, target - estimate)
            target, estimate = target[kept], estimate[kept]
            ordinary.setdefault(name, _Variance()).add(target, target - estimate)
        fires[codes.indices] = True
        tokens += codes.n_tokens
        active += len(codes.indices)
        massive += int((~kept).sum())
    stats: dict[str, float | int | None] = {"fve": _explained(ordinary, sources)}
    for name in dict.fromkeys((*sources, *ordinary)):
        stats[f"fve_{name}"] = _explained(ordinary, (name,))
    stats["fve_all"] = _explained(everything, sources)
    stats["l0"] = active / tokens if tokens else None
    stats["heldout_tokens"] = tokens
    stats["massive_tokens"] = massive
    return stats, fires


def explained_by(
    dictionary: Dictionary, store: PairedStore, wanted: Bool[np.ndarray, " latents"]
) -> dict[str, float]:
    """Return the FVE and L0 of all latents and of some, on held-out sequences.

    ``fve`` and ``l0`` are as in ``heldout_stats``, without massive tokens and on at most
    ``JUDGED_TOKENS``. ``reproduced_fve`` and ``reproduced_l0`` use the latents ``wanted`` only;
    ``reproduced_latents`` is how many of these fire. The FVE is 0 where nothing varies.
    """
    whole, parts = _Variance(), _Variance()
    fires = np.zeros(dictionary.n_latents, bool)
    tokens = active = wanted_active = 0
    for block in store.blocks("heldout"):
        inputs = dictionary.spec.inputs(block.base, block.tuned)
        codes = dictionary.encode_inputs(inputs)
        kept = dictionary.pull_factors(inputs) == 1
        chosen = codes.only(wanted)
        for variance, used in ((whole, codes), (parts, chosen)):
            rebuilt = dictionary.reconstruct(used)
            # Concatenate the sources, because the variances of dimensions add up.
            variance.add(
                torch.cat(inputs, 1)[kept],
                torch.cat([x - y for x, y in zip(inputs, rebuilt, strict=True)], 1)[kept],
            )
        fires[chosen.indices] = True
        tokens += codes.n_tokens
        active += len(codes.indices)
        wanted_active += len(chosen.indices)
        if tokens >= JUDGED_TOKENS:
            break
    shares = {}
    for name, variance in (("fve", whole), ("reproduced_fve", parts)):
        total, error = variance.sums
        shares[name] = 1 - error / total if total > 0 else 0.0
    return shares | {
        "l0": active / tokens,
        "reproduced_l0": wanted_active / tokens,
        "reproduced_latents": float(fires.sum()),
    }


class _Variance:
    """Variance of a source and of its error over all added blocks."""

    def __init__(self) -> None:
        self._moments: tuple[Moments, Moments] | None = None

    def add(self, target: Tensor, error: Tensor) -> None:
        if len(target) == 0:
            return
        new = Moments.of(target), Moments.of(error)
        if self._moments is not None:
            new = self._moments[0].merge(new[0]), self._moments[1].merge(new[1])
        self._moments = new

    @property
    def sums(self) -> tuple[float, float]:
        if self._moments is None:
            return 0.0, 0.0
        return self._moments[0].variance_sum, self._moments[1].variance_sum


def _explained(variances: dict[str, _Variance], names: tuple[str, ...]) -> float | None:
    sums = [variances[name].sums for name in names if name in variances]
    total = sum(target for target, _ in sums)
    return 1 - sum(error for _, error in sums) / total if total > 0 else None
