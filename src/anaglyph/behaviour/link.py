"""Which findings carry a claim: what the models say without them, and with them.

The tuned model answers prompts that show a claim while its residual stream, at the layer of the
findings, has the base's part along all findings (docs/maths.md, section 4: h + Q Qᵀ (h_base - h)).
The base reads the same tokens. If that at least halves the claim's rate, each finding is
taken out alone: those that halve it alone carry the claim, or all of them together. What carries it
is then put into the base model in the same way, which shows whether it is enough. The whole
activation is replaced too: if even that leaves the claim, it is decided behind the layer.
"""

from collections.abc import Iterable, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from anaglyph.behaviour.contrast import Feature, feature_named
from anaglyph.behaviour.generate import (
    Sampling,
    Stepper,
    end_tokens,
    replaced_stepper,
    reply_texts,
    side_stepper,
    write,
    writing,
)
from anaglyph.behaviour.prompts import all_prompt_ids
from anaglyph.core.progress import Progress, silent
from anaglyph.core.schemas import Claim, Finding, Link
from anaglyph.pair import ModelPair, Side

CLAIMS = 3
FINDINGS = 5
PROMPTS = 8
"""Strongest claims and findings that are linked, and prompts that each link is tried on."""
HALF = 0.5
Vectors = list[Sequence[float]]
_SAME = 1e-4
"""Directions that differ by less than this part of their length are one."""


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
        layer: Where they are taken out; those that do not show there are left alone.
        reply_tokens: Longest reply.
        progress: Told of claims linked.

    Raises:
        ModelError: The models are not of one architecture, so that neither can have a part of the
            other's activation.

    Example:
        >>> link(run.subject.pair, claims, findings, 15, 28)    # doctest: +SKIP
    """
    pair.check_related("taking findings out of one model")
    chosen = {i: _directions(each, layer) for i, each in enumerate(findings[:FINDINGS], 1)}
    links = []
    for done, claim in enumerate(claims[:CLAIMS], 1):
        if any(chosen.values()) and claim.asked:
            links.append(_link(_Trials(pair, claim, layer, reply_tokens), claim, chosen))
        progress("link claims", done, min(CLAIMS, len(claims)), "claims")
    return links


class _Trials:
    """Rates of one claim while the residual stream has a part of the other model's."""

    def __init__(self, pair: ModelPair, claim: Claim, layer: int, reply_tokens: int) -> None:
        self._pair, self._layer, self.width = pair, layer, pair.d_base
        self._feature: Feature = feature_named(claim.feature)
        self._ids = all_prompt_ids(pair.tokenizer, claim.asked[:PROMPTS])
        self._sampling = Sampling(reply_tokens, end_tokens(pair))

    def rate(self, side: Side, along: Float[Tensor, "d directions"] | None = None) -> float:
        """Return the share of replies that show the claim.

        Args:
            side: Who writes.
            along: Orthonormal directions along which it has the other model's part.
        """
        pair = self._pair

        def stepper() -> Stepper:
            if along is None:
                return side_stepper(pair, side)
            return replaced_stepper(pair, side, self._layer, along)

        with writing(pair, "base"), writing(pair, "tuned"):
            said = write(stepper, self._ids, self._sampling)
        texts = reply_texts(pair, [each.reply for each in said])
        return sum(map(self._feature.holds, texts)) / len(texts)


def _link(trials: _Trials, claim: Claim, findings: Mapping[int, Vectors]) -> Link:
    rate, whole = trials.rate("tuned"), trials.rate("tuned", torch.eye(trials.width))
    tried = {i: each for i, each in findings.items() if each}
    without = trials.rate("tuned", _along(tried.values()))
    facts = {"claim": claim.text, "rate_tuned": rate, "rate_whole": whole, "rate_without": without}
    facts["elsewhere"] = tuple(i for i in findings if i not in tried)
    if rate == 0 or without > HALF * rate:
        return Link(**facts)
    alone = [i for i, own in tried.items() if trials.rate("tuned", _along([own])) <= HALF * rate]
    carriers = alone or list(tried)
    added = trials.rate("base", _along([tried[i] for i in carriers]))
    return Link(**facts, findings=tuple(carriers), rate_added=added)


def _directions(finding: Finding, layer: int) -> Vectors:
    """Return the directions of a finding's part of the difference at a layer, members included."""
    if finding.depth and finding.layers[0] != layer:
        return [at.direction for at in finding.depth if at.layer == layer and at.direction]
    own = finding.direction or finding.direction_tuned or finding.direction_base
    members = [member.get("direction") for member in finding.evidence.get("members", ())]
    return [each for each in (own, *members) if each]


def _along(findings: Iterable[Vectors]) -> Float[Tensor, "d directions"]:
    """Return orthonormal directions that span those of some findings."""
    directions = [each for own in findings for each in own]
    basis, sizes, _ = torch.linalg.svd(torch.tensor(directions).T, full_matrices=False)
    return basis[:, sizes > _SAME * sizes[0]]
