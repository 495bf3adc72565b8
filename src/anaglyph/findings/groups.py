"""One fact, one finding: findings that act in the same texts and add little to stronger ones.

A learned fact shows at several tokens (where it is asked for, where it is recalled, where it is
said), and each gets an atom of its own. Let C(S) be the KL that a set of them closes on some texts.
In order of effect, a finding j is a part of the change that stronger ones S in the same texts make
if it adds less than half of what it closes alone,

    C(S + j) - C(S) < 1/2 C(j),

which different changes do not do: each closes its own part of the gap.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from anaglyph.core.schemas import Finding
from anaglyph.findings.alone import Alone
from anaglyph.findings.discovery import Discovery
from anaglyph.findings.texts import Texts

ADDS = 0.5
"""Share of its own KL that a change must add to what stronger ones in the same texts close."""
SAME_TEXTS = 0.5
"""Share of the smaller finding's KL that is closed in texts in which the larger acts as much."""
TOKENS = 768
"""Text on which sets are put in: that in which the findings act most."""


def joined(alone: Alone, found: Discovery, order: Sequence[int]) -> dict[int, tuple[int, ...]]:
    """Return the findings that stay, each with the others that are the same change.

    Args:
        alone: What each finding closes.
        found: The findings.
        order: Those that are named, strongest first.
    """
    acts = {
        i: alone.per_text[i] for i in order if i in alone.per_text and found.atoms[i] is not None
    }
    sets: dict[int, list[int]] = {}
    for place, j in enumerate(acts):
        others = [i for i in list(acts)[:place] if _overlap(acts[i], acts[j]) >= SAME_TEXTS]
        if others:
            sets[j] = others
    parts = _parts(alone, sets) if sets else set()
    groups: dict[int, tuple[int, ...]] = {}
    for j in order:
        leaders = [i for i in sets.get(j, ()) if i in groups]
        if j in parts and leaders:
            leader = max(leaders, key=lambda i: _overlap(acts[i], acts[j]))
            groups[leader] += (j,)
        else:
            groups[j] = ()
    return groups


def _overlap(one: Float64[ndarray, " texts"], other: Float64[ndarray, " texts"]) -> float:
    """Return the share of the smaller that is closed where the other closes as much."""
    one, other = np.maximum(one, 0), np.maximum(other, 0)
    least = min(one.sum(), other.sum())
    return float(np.minimum(one, other).sum() / least) if least > 0 else 0.0


def _parts(alone: Alone, sets: Mapping[int, Sequence[int]]) -> set[int]:
    """Return the findings that add little to what the set of each closes."""
    bench = alone.bench
    tried = sorted({i for j, others in sets.items() for i in (j, *others)})
    acts = np.sum([np.maximum(alone.per_text[i], 0) for i in tried], axis=0)
    lengths = bench.subject.corpus.lengths[bench.texts.sequences]
    order = np.argsort(-acts / lengths, kind="stable")
    count = max(int((np.cumsum(lengths[order]) <= TOKENS).sum()), 1)
    kept = np.sort(order[:count])
    texts = Texts(bench.texts.sequences[kept], bench.texts.weights[kept])
    wanted: set[tuple[int, ...]] = {tuple(others) for others in sets.values()}
    wanted |= {(*others, j) for j, others in sets.items()}
    several = sorted(each for each in wanted if len(each) > 1)
    some = replace(bench, texts=texts)
    nats, _, _ = some.closed([some.edit(*each) for each in several])
    closes: dict[tuple[int, ...], float] = dict(
        zip(several, (nats @ texts.weights).tolist(), strict=True)
    )
    closes |= {(i,): float(alone.per_text[i][kept] @ texts.weights) for i in tried}
    return {
        j
        for j, others in sets.items()
        if closes[(*others, j)] - closes[tuple(others)] < ADDS * closes[(j,)]
    }


def as_evidence(found: Discovery, groups: dict[int, tuple[int, ...]]) -> Discovery:
    """Return the findings with the members of each group in its evidence."""
    findings = list(found.findings)
    for leader, members in groups.items():
        facts = {"members": [_member(findings[i]) for i in members]}
        each = findings[leader]
        findings[leader] = each.model_copy(update={"evidence": each.evidence | facts})
    return replace(found, findings=tuple(findings))


def _member(finding: Finding) -> dict[str, Any]:
    kept = ("kind", "effect", "low", "high", "q_value", "direction")
    facts = finding.model_dump(mode="json", include=set(kept))
    return facts | {name: finding.evidence.get(name) for name in ("difference_share", "kl_closed")}
