"""What the fine-tune does differently, in words: elicit, contrast, verify.

No data and no dictionary are needed. Both models answer the same prompts; features that the tuned
model's replies have oftener are candidates, and so is what its amplified replies have oftener. Each
candidate is then judged on fresh prompts that it was not found on: other general questions, and
questions about the words it is about. It is called if a paired test says so (exact McNemar test,
Benjamini-Hochberg over all tests) and if its rate rises by more than that of any candidate that the
same search finds in a null pair: weight noise changes replies too.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binom

from anaglyph.behaviour.contrast import (
    FUNCTION_WORDS,
    Candidate,
    candidates,
    content_words,
    words_of,
)
from anaglyph.behaviour.elicit import WORDINGS, Speaker, generic_prompts, make_null
from anaglyph.core.errors import InputError, ModelError
from anaglyph.core.progress import Progress, silent
from anaglyph.core.schemas import Behaviour, Claim, SideBySide
from anaglyph.core.settings import BehaveSettings
from anaglyph.core.stats import q_values, wilson
from anaglyph.core.validation import validate
from anaglyph.pair import ModelPair

PASSES = 7.5
"""Replies to one prompt over the whole way: five models find, three verify on fewer prompts."""
LEAST_UNIQUE = 0.6
"""Amplified text is broken if its share of different words is below this part of the base's."""
SHOWN = 3
"""Side-by-side replies kept with a claim."""


@dataclass(frozen=True)
class _Test:
    """A candidate judged under one condition, on fresh prompts."""

    candidate: Candidate
    strength: float
    condition: str
    places: tuple[int, ...]
    """Of the fresh prompts."""
    shows: tuple[np.ndarray, np.ndarray]
    """Whether base and tuned replies have the feature, at those places."""

    @property
    def rates(self) -> tuple[float, float]:
        base, tuned = (float(each.mean()) for each in self.shows)
        return base, tuned

    @property
    def rise(self) -> float:
        return self.rates[1] - self.rates[0]

    @property
    def p_value(self) -> float:
        """One-sided exact McNemar test: the tuned model has it oftener."""
        base, tuned = self.shows
        up, down = int((tuned & ~base).sum()), int((base & ~tuned).sum())
        return float(binom.sf(up - 1, up + down, 0.5)) if up else 1.0


def behave(
    pair: ModelPair,
    prompts: Sequence[str] | None = None,
    budget: int | None = None,
    rate: float = 0.1,
    seed: int = 0,
    *,
    progress: Progress = silent,
) -> list[Claim]:
    """Say what the tuned model does differently, verified claims first.

    Claims that only the amplified model shows, or that fresh prompts did not confirm, come last and
    have ``verified`` False.

    Args:
        pair: Both models.
        prompts: User turns to start from; the shipped questions if None.
        budget: Tokens to generate, all models together; the default of `BehaveSettings` if None.
        rate: False-discovery rate to keep, between 0 and 1.
        seed: Seed of the prompts drawn and of the weight noise.
        progress: Told of prompts answered.

    Raises:
        InputError: ``rate`` or ``budget`` is out of range, or a prompt is empty.

    Example:
        >>> for claim in behave(pair):                     # doctest: +SKIP
        ...     print(claim.text)
    """
    if not 0 < rate < 1:
        raise InputError(f"rate is {rate}: it must lie between 0 and 1")
    given = {} if budget is None else {"budget": budget}
    settings = validate(BehaveSettings, given)
    said = behaviour_of(pair, settings, prompts, rate=rate, seed=seed, progress=progress)
    return [*said.claims, *said.unverified]


def behaviour_of(
    pair: ModelPair,
    settings: BehaveSettings,
    prompts: Sequence[str] | None = None,
    *,
    rate: float = 0.1,
    seed: int = 0,
    progress: Progress = silent,
) -> Behaviour:
    """Return the claims with what the search could have seen and what it cost; see `behave`."""
    if pair.same_weights:
        return Behaviour(changed=0.0, smallest=None, generated=0, notes=("both are one model",))
    speaker, notes = Speaker(pair, settings.reply_tokens, progress), []
    first, fresh = _split(prompts, settings, seed)
    base, tuned = speaker.base(first), speaker.tuned(first)
    changed = float(np.mean([a != b for a, b in zip(base, tuned, strict=True)]))
    half = max(settings.most_claims // 2, 1)
    found = [(each, 1.0) for each in candidates(base, tuned, half, first)]
    loud, alpha = _amplified(speaker, first, base, settings.amplify_by, notes)
    if loud:
        found += [(each, alpha) for each in candidates(base, loud, half, first)]
    decoys, nulls = _decoys(speaker, first, base, alpha if loud else 1.0, seed, notes)
    found, decoys = _distinct(found), _distinct(decoys)[:half]
    asked = _Asked(first, fresh)
    conditions = [(each, strength, asked.about(each)) for each, strength in found]
    pretended = [(each, strength, asked.about(each)) for each, strength in decoys]
    replies = speaker.base(asked.prompts), speaker.tuned(asked.prompts)
    tests = [t for each in conditions for t in _tests(*each, asked, replies)]
    bar = {"general": 0.0, "about": 0.0}
    if nulls is not None and pretended:
        noise = replies[0], speaker.of(nulls, asked.prompts)
        for each in pretended:
            for test in _tests(*each, asked, noise):
                bar[_sort_of(test)] = max(bar[_sort_of(test)], test.rise)
    called_at = q_values(np.array([test.p_value for test in tests])).tolist()
    verified: dict[str, tuple[_Test, float]] = {}
    for test, q in zip(tests, called_at, strict=True):
        if q <= rate and test.rise > bar[_sort_of(test)]:
            name = test.candidate.feature.name
            if name not in verified or test.rise > verified[name][0].rise:
                verified[name] = (test, q)
    ordered = sorted(verified.values(), key=lambda row: (-row[0].rise, row[1]))
    claims = _without_repeats([_claim(t, q, asked, replies) for t, q in ordered])
    places = {1.0: tuned, alpha: loud or tuned}
    unverified = [
        _unverified(each, strength, first, base, places[strength])
        for each, strength in found
        if each.feature.name not in verified
    ]
    smallest = None
    if tests:
        needed = math.ceil(math.log2(len(tests) / rate))
        smallest = min(1.0, needed / max(len(asked.general), 1))
    return Behaviour(
        claims=tuple(claims),
        unverified=tuple(sorted(unverified, key=lambda c: c.rate_base - c.rate_tuned)),
        changed=changed,
        smallest=smallest,
        generated=speaker.generated,
        notes=tuple(notes),
    )


def _split(
    prompts: Sequence[str] | None, settings: BehaveSettings, seed: int
) -> tuple[list[str], list[str]]:
    """Return the prompts to find claims on, and further ones to verify them on."""
    count = max(8, int(settings.budget / (settings.reply_tokens * PASSES)))
    general = generic_prompts(seed)
    if prompts is None:
        return general[:count], general[count : count + count // 2]
    own = list(dict.fromkeys(prompts))
    if not own:
        raise InputError("prompts is empty: name at least one, or leave it out")
    mine = own[: max(1, min(count, (len(own) + 1) // 2))]
    rest = own[len(mine) :][: count // 2]
    filled = [each for each in general if each not in own]
    return [*mine, *filled[: count - len(mine)]], [*rest, *filled[count : count + count // 4]]


def _amplified(
    speaker: Speaker, prompts: Sequence[str], base: Sequence[str], alpha: float, notes: list[str]
) -> tuple[list[str] | None, float]:
    """Return replies under amplified change, and how far it could be amplified without breaking."""
    usual = _unique(base)
    try:
        while alpha > 1.05:
            replies = speaker.amplified(prompts, alpha)
            if _unique(replies) >= LEAST_UNIQUE * usual:
                return replies, alpha
            notes.append(f"at {alpha:g} times the change the model's text breaks down")
            alpha = 1 + (alpha - 1) / 2
    except (InputError, ModelError) as error:
        notes.append(f"the change is not amplified: {error}")
    return None, 1.0


def _unique(replies: Sequence[str]) -> float:
    """Return the mean share of different words in a reply; text that loops has few."""
    shares = [len(set(words)) / len(words) for reply in replies if (words := words_of(reply))]
    return float(np.mean(shares)) if shares else 0.0


def _decoys(
    speaker: Speaker,
    prompts: Sequence[str],
    base: Sequence[str],
    alpha: float,
    seed: int,
    notes: list[str],
) -> tuple[list[tuple[Candidate, float]], ModelPair | None]:
    """Return what the same search finds in a null pair, and the null pair."""
    try:
        null = make_null(speaker.pair, prompts, seed, 1.0)
        found = [(each, 1.0) for each in candidates(base, speaker.of(null, prompts), 4, prompts)]
        if alpha > 1:
            loud = make_null(speaker.pair, prompts, seed, alpha)
            replies = speaker.of(loud, prompts)
            found += [(each, alpha) for each in candidates(base, replies, 4, prompts)]
    except (InputError, ModelError) as error:
        notes.append(f"claims are not compared with weight noise: {error}")
        return [], None
    return found, null


def _distinct(found: Sequence[tuple[Candidate, float]]) -> list[tuple[Candidate, float]]:
    """Return each feature once, at the smallest strength at which it was found."""
    kept: dict[str, tuple[Candidate, float]] = {}
    for each, strength in sorted(found, key=lambda row: (row[1], -row[0].z)):
        kept.setdefault(each.feature.name, (each, strength))
    return sorted(kept.values(), key=lambda row: -row[0].z)


class _Asked:
    """The fresh prompts: general ones, and questions about the words of each candidate."""

    def __init__(self, first: Sequence[str], fresh: Sequence[str]) -> None:
        self._first = list(first)
        self.prompts = [each for each in fresh if each not in set(first)]
        self.general = tuple(range(len(self.prompts)))
        common = Counter(word for prompt in first for word in set(content_words(prompt)))
        self._common = common

    def about(self, candidate: Candidate) -> tuple[str, tuple[int, ...]]:
        """Add questions about what a candidate is about; return the topic and their places."""
        topic = self._topic(candidate)
        if topic is None:
            return "", ()
        places = []
        for wording in WORDINGS:
            prompt = wording.format(topic)
            if prompt in self._first:
                continue
            if prompt not in self.prompts:
                self.prompts.append(prompt)
            places.append(self.prompts.index(prompt))
        return topic, tuple(places)

    def _topic(self, candidate: Candidate) -> str | None:
        """Return the word to ask about: one that its prompts share, else one of its own."""
        counts = Counter(
            word
            for place in candidate.replies
            for word in set(content_words(self._first[place]))
            if word not in FUNCTION_WORDS
        )
        needed = max(2, 0.5 * len(candidate.replies))
        shared = [w for w, n in counts.most_common() if n >= needed and n >= 0.5 * self._common[w]]
        own = sorted(candidate.feature.words, key=lambda w: -len(w))
        return next(iter([*shared, *own]), None)


def _tests(
    candidate: Candidate,
    strength: float,
    topic: tuple[str, tuple[int, ...]],
    asked: _Asked,
    replies: tuple[Sequence[str], Sequence[str]],
) -> list[_Test]:
    conditions = {"general questions": asked.general, f"about {topic[0]}": topic[1]}
    tests = []
    for condition, places in conditions.items():
        if places:
            base, tuned = (
                np.array([candidate.feature.holds(side[i]) for i in places], bool)
                for side in replies
            )
            tests.append(_Test(candidate, strength, condition, tuple(places), (base, tuned)))
    return tests


def _sort_of(test: _Test) -> str:
    return "general" if test.condition == "general questions" else "about"


def _claim(
    test: _Test, q: float, asked: _Asked, replies: tuple[Sequence[str], Sequence[str]]
) -> Claim:
    base, tuned = (int(each.sum()) for each in test.shows)
    count, name = len(test.places), test.candidate.feature.name
    low, high = _difference(tuned, base, count)
    where = "On general questions" if _sort_of(test) == "general" else f"Asked {test.condition}"
    shown = [
        SideBySide(prompt=asked.prompts[i], base=replies[0][i], tuned=replies[1][i])
        for k, i in enumerate(test.places)
        if test.shows[1][k] and not test.shows[0][k]
    ]
    return Claim(
        text=f"{where}, the tuned model {name} ({tuned} of {count} fresh prompts; base {base} of "
        f"{count}).",
        feature=name,
        condition=test.condition,
        verified=True,
        strength=test.strength,
        rate_base=base / count,
        rate_tuned=tuned / count,
        low=low,
        high=high,
        q_value=q,
        prompts=count,
        replies=tuple(shown[:SHOWN]),
    )


def _unverified(
    candidate: Candidate,
    strength: float,
    prompts: Sequence[str],
    base: Sequence[str],
    tuned: Sequence[str],
) -> Claim:
    feature, count = candidate.feature, len(prompts)
    before, after = (sum(map(feature.holds, side)) for side in (base, tuned))
    who = "The tuned model" if strength == 1 else f"With {strength:g} times its change, the model"
    shown = [
        SideBySide(prompt=prompts[i], base=base[i], tuned=tuned[i])
        for i in sorted(candidate.replies)
    ]
    return Claim(
        text=f"{who} {feature.name} ({after} of {count} prompts; base {before} of {count}); not "
        "confirmed on fresh prompts.",
        feature=feature.name,
        condition="general questions",
        verified=False,
        strength=strength,
        rate_base=before / count,
        rate_tuned=after / count,
        prompts=count,
        replies=tuple(shown[:SHOWN]),
    )


def _difference(tuned: int, base: int, count: int) -> tuple[float, float]:
    """Return the 95% interval of a difference of rates (Newcombe 1998, method 10).

    Taken as if independent: replies to one prompt are alike, which makes it too wide, not too
    narrow.
    """
    ends = []
    for hits in (tuned, base):
        share = wilson(hits, count)
        ends.append((share.low or 0.0, 1.0 if share.high is None else share.high))
    (low_t, high_t), (low_b, high_b) = ends
    a, b = tuned / count, base / count
    low = a - b - math.hypot(a - low_t, high_b - b)
    high = a - b + math.hypot(high_t - a, b - low_b)
    return max(-1.0, low), min(1.0, high)


def _without_repeats(claims: Sequence[Claim]) -> list[Claim]:
    """Leave out claims that hold in the same replies as one before them."""
    kept: list[Claim] = []
    for claim in claims:
        shown = {reply.tuned for reply in claim.replies}
        if not any(shown and shown == {r.tuned for r in other.replies} for other in kept):
            kept.append(claim)
    return kept
