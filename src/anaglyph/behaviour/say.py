"""Claims as sentences, each with the prompts that show it best."""

from collections.abc import Sequence

from anaglyph.behaviour.contrast import as_written
from anaglyph.behaviour.verify import GENERAL, Bars, Found, Replies, Trial
from anaglyph.core.schemas import Claim, SideBySide

SHOWN = 3
"""Side-by-side replies kept with a claim."""


def claim(test: Trial, q: float, base: Replies, tuned: Replies) -> Claim:
    """Return a verified claim."""
    feature, prompts = test.found.candidate.feature, test.condition.prompts
    before, after = test.counts
    count = len(prompts)
    shown = [
        SideBySide(prompt=prompt, base=base[prompt], tuned=tuned[prompt])
        for prompt, has_base, has_tuned in zip(prompts, *test.shows, strict=True)
        if has_tuned and not has_base
    ]
    where = "On general questions" if test.condition.is_general else f"Asked {test.condition.name}"
    said = as_written(feature, [each.tuned for each in shown])
    low, high = test.interval
    return Claim(
        text=f"{where}, the tuned model {said} ({after} of {count} fresh prompts; base {before} of "
        f"{count}).",
        feature=feature.name,
        condition=test.condition.name,
        verified=True,
        strength=test.found.strength,
        rate_base=before / count,
        rate_tuned=after / count,
        low=low,
        high=high,
        q_value=q,
        prompts=count,
        replies=tuple(shown[:SHOWN]),
        asked=prompts,
    )


def unverified(
    found: Found, first: Sequence[str], base: Sequence[str], said: Sequence[str], why: str
) -> Claim:
    """Return what was seen where candidates were looked for, and not confirmed.

    Args:
        found: The candidate.
        first: The prompts that were answered.
        base: The base model's replies.
        said: Those of the model that showed it.
        why: What keeps it from being a claim; see `why_not`.
    """
    feature, count = found.candidate.feature, len(first)
    before, after = (sum(map(feature.holds, side)) for side in (base, said))
    who = (
        "The tuned model"
        if found.strength == 1
        else f"With {found.strength:g} times its weight change, the model"
    )
    shown = [
        SideBySide(prompt=first[i], base=base[i], tuned=said[i])
        for i in sorted(found.candidate.replies)
    ]
    return Claim(
        text=f"{who} {as_written(feature, [each.tuned for each in shown])} ({after} of {count} "
        f"prompts; base {before} of {count}); {why}.",
        feature=feature.name,
        condition=GENERAL,
        verified=False,
        strength=found.strength,
        rate_base=before / count,
        rate_tuned=after / count,
        prompts=count,
        replies=tuple(shown[:SHOWN]),
    )


def why_not(tested: Trial | None, bars: Bars) -> str:
    """Return what keeps a candidate from being a claim.

    Args:
        tested: What fresh prompts said of it; None if there was no budget for it.
        bars: What weight noise does.
    """
    if tested is None:
        return "no budget was left for fresh prompts"
    (before, after), count = tested.counts, len(tested.condition.prompts)
    counts = f"{after} of {count} fresh prompts, base {before} of {count}"
    if tested.interval[0] <= 0:
        return f"not confirmed on fresh prompts ({counts})"
    if not bars.passed(tested):
        return f"{counts}, but weight noise can change replies as much"
    return f"{counts}, too few to be sure of one candidate among many"
