"""Which findings carry a claim: what the models say without them, and with them.

The tuned model answers prompts that show a claim while all findings are taken out of its residual
stream at the layer where they were found. If that at least halves the claim's rate, each finding is
taken out alone: those that halve it alone carry the claim, or all of them together. What carries it
is then added to the base model, which shows whether it is enough.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack

import torch
from jaxtyping import Float
from torch import Tensor

from anaglyph.behaviour.contrast import Feature, feature_named
from anaglyph.behaviour.directions import Direction
from anaglyph.behaviour.generate import Sampling, end_tokens, reply_texts, side_stepper, write
from anaglyph.behaviour.prompts import all_prompt_ids
from anaglyph.behaviour.steering import hooked
from anaglyph.core.errors import InputError
from anaglyph.core.progress import Progress, silent
from anaglyph.core.schemas import Claim, Finding, Link
from anaglyph.pair import ModelPair, Side

CLAIMS = 3
FINDINGS = 5
PROMPTS = 8
"""Strongest claims and findings that are linked, and prompts that each link is tried on."""
HALF = 0.5

Change = Callable[[Tensor], Tensor]


def link(
    pair: ModelPair,
    claims: Sequence[Claim],
    findings: Sequence[Finding],
    layer: int,
    reply_tokens: int,
    *,
    progress: Progress = silent,
) -> list[Link]:
    """Return which findings carry each of the strongest verified claims.

    Args:
        pair: Both models.
        claims: Verified claims, the strongest first.
        findings: Findings of the same pair, the strongest first.
        layer: The layer at which they were found.
        reply_tokens: Longest reply.
        progress: Told of claims linked.

    Example:
        >>> link(run.subject.pair, claims, findings, 15, 28)    # doctest: +SKIP
    """
    chosen = list(findings[:FINDINGS])
    links = []
    for done, claim in enumerate(claims[:CLAIMS], 1):
        if chosen and claim.asked:
            links.append(_link(_Trials(pair, claim, layer, reply_tokens), claim, chosen))
        progress("link claims", done, min(CLAIMS, len(claims)), "claims")
    return links


class _Trials:
    """Rates of one claim while the residual stream is changed."""

    def __init__(self, pair: ModelPair, claim: Claim, layer: int, reply_tokens: int) -> None:
        self._pair, self._layer, self.width = pair, layer, pair.d_base
        self._feature: Feature = feature_named(claim.feature)
        self._ids = all_prompt_ids(pair.tokenizer, claim.asked[:PROMPTS])
        self._sampling = Sampling(reply_tokens, end_tokens(pair))

    def rate(self, side: Side, changes: Sequence[Change]) -> float:
        """Return the share of replies that show the claim."""
        pair = self._pair
        with ExitStack() as stack:
            for change in changes:
                stack.enter_context(hooked(pair, side, self._layer, change))
            said = write(lambda: side_stepper(pair, side), self._ids, self._sampling)
        texts = reply_texts(pair, [each.reply for each in said])
        return sum(map(self._feature.holds, texts)) / len(texts)


def _link(trials: _Trials, claim: Claim, findings: Sequence[Finding]) -> Link:
    rate = trials.rate("tuned", [])
    without = trials.rate("tuned", [_without(each) for each in findings])
    if rate == 0 or without > HALF * rate:
        return Link(claim=claim.text, rate_tuned=rate, rate_without=without)
    alone = [trials.rate("tuned", [_without(each)]) <= HALF * rate for each in findings]
    carriers = [i for i, halves in enumerate(alone, 1) if halves] or list(
        range(1, len(findings) + 1)
    )
    added = [_added(findings[i - 1], i, trials.width) for i in carriers]
    changes = [each for each in added if each is not None]
    return Link(
        claim=claim.text,
        findings=tuple(carriers),
        rate_tuned=rate,
        rate_without=without,
        rate_added=trials.rate("base", changes) if changes else None,
    )


def _without(finding: Finding) -> Change:
    """Return what takes a finding out of the tuned model's residual stream."""
    unit = _unit(finding)
    if finding.kind == "mean-shift":
        return lambda hidden: hidden - (finding.effect * unit).to(hidden)

    def project(hidden: Tensor) -> Tensor:
        along = unit.to(hidden)
        return hidden - (hidden @ along)[..., None] * along

    return project


def _added(finding: Finding, number: int, width: int) -> Change | None:
    """Return what adds a finding to the base model; None if it cannot be added."""
    try:
        vector = Direction.finding(finding, 0, number).vector
    except InputError:  # its strength is not known
        return None
    if len(vector) != width:
        return None
    return lambda hidden: hidden + vector.to(hidden)


def _unit(finding: Finding) -> Float[Tensor, " d"]:
    direction = finding.direction_tuned or finding.direction_base
    return torch.tensor(direction, dtype=torch.float32)
