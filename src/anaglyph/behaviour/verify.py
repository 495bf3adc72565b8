"""Judging a candidate on fresh prompts: where it is tested, and when it becomes a claim.

A claim has to pass two tests. The tuned model shows the feature oftener than the base on the same
fresh prompts (exact McNemar test, Benjamini-Hochberg over all tests). And the lower end of its
rise's interval is above the largest rise of any candidate that the same search finds in a null
pair: weight noise changes replies too. A candidate that is likely and does not pass gets a second
look, on further prompts that are all new. So does what is likely in the null pair.
"""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from scipy.stats import binom

from anaglyph.behaviour.contrast import FUNCTION_WORDS, Candidate, content_words, words_of
from anaglyph.behaviour.elicit import REWORDINGS, WORDINGS
from anaglyph.core.stats import q_values, wilson

GENERAL = "general questions"
PROMPTS = 16
"""Fresh prompts about one topic."""
AGAIN = 24
"""More of them where the first were not enough."""
SHARES = {False: 0.8, True: 0.2}
"""Of the false-discovery rate, for first looks and for second ones."""
_MEMBERS = 6
"""Of them at most so many are prompts of the pool, which no claim was found on."""
_LONGEST_TOPIC = 4
_SOMEWHERE = 0.1
"""A feature that fewer of the first replies have is not tried on general questions."""
_EVERYWHERE = 0.4
"""A feature that this share of the first replies has needs no topic of its own."""
_BROAD = 0.25
"""Of a rate: a claim of all questions comes before one of a topic that rises this much more."""
_FEW = 3
"""Prompts without a common topic of which one's own topic is asked about."""
_TOKEN = re.compile(r"[^\W_]+(?:['\u2019-][^\W_]+)*")

Replies = Mapping[str, str]
"""A model's reply to each prompt."""


@dataclass(frozen=True)
class Found:
    """A candidate, and where it was found.

    Attributes:
        candidate: The feature and the replies that have it.
        strength: Scale of the weight change at which they were written.
    """

    candidate: Candidate
    strength: float


@dataclass(frozen=True)
class Condition:
    """Prompts that one can describe.

    Attributes:
        name: As a sentence goes on after "asked"; `GENERAL` for any question.
        topic: What the prompts are about; "" where they are wordings of the same questions.
        prompts: Fresh prompts of the kind.
        again: Whether this is a second look.
    """

    name: str
    topic: str
    prompts: tuple[str, ...]
    again: bool = False

    @property
    def is_general(self) -> bool:
        """Whether any question meets it."""
        return self.name == GENERAL


@dataclass(frozen=True)
class Trial:
    """A candidate judged under one condition."""

    found: Found
    condition: Condition
    shows: tuple[np.ndarray, np.ndarray]
    """Whether base and tuned replies have the feature, a prompt each."""

    @classmethod
    def of(cls, found: Found, condition: Condition, base: Replies, tuned: Replies) -> "Trial":
        """Look for the feature in both models' replies."""
        holds = found.candidate.feature.holds
        before, after = (
            np.array([holds(side[prompt]) for prompt in condition.prompts], bool)
            for side in (base, tuned)
        )
        return cls(found, condition, (before, after))

    @property
    def kind(self) -> tuple[bool, bool, bool]:
        """Whether it is of general questions, of words of content, and a second look."""
        condition = self.condition
        return condition.is_general, bool(self.found.candidate.feature.words), condition.again

    @property
    def counts(self) -> tuple[int, int]:
        """Replies that have it: base, tuned."""
        return int(self.shows[0].sum()), int(self.shows[1].sum())

    @property
    def rise(self) -> float:
        """Rate in tuned minus rate in base."""
        base, tuned = self.counts
        return (tuned - base) / len(self.condition.prompts)

    @property
    def interval(self) -> tuple[float, float]:
        """Its 95% interval."""
        base, tuned = self.counts
        return difference(tuned, base, len(self.condition.prompts))

    @property
    def p_value(self) -> float:
        """One-sided exact McNemar test: the tuned model has it oftener."""
        base, tuned = self.shows
        up, down = int((tuned & ~base).sum()), int((base & ~tuned).sum())
        return float(binom.sf(up - 1, up + down, 0.5)) if up else 1.0


@dataclass(frozen=True)
class Bars:
    """Largest rise of any candidate of the null pair, by kind of trial.

    Noise that breaks replies changes their form (length, lists, function words) long before it
    makes them all say one thing, so form and content have bars of their own.
    """

    rises: Mapping[tuple[bool, bool, bool], float] = field(default_factory=dict)
    """By `Trial.kind`."""

    @classmethod
    def of(cls, decoys: Sequence[Trial]) -> "Bars":
        """Take them from the tests of the null pair."""
        rises: dict[tuple[bool, bool, bool], float] = {}
        for test in decoys:
            rises[test.kind] = max(test.rise, rises.get(test.kind, 0.0))
        return cls(rises)

    def with_second_looks(self, again: Sequence[Trial], missed: Sequence[Trial]) -> "Bars":
        """Return the bars of second looks too.

        Args:
            again: Second looks at what was likely in the null pair.
            missed: What was likely there and got none; its first look stands for it.
        """
        first = [replace(test, condition=replace(test.condition, again=True)) for test in missed]
        return Bars({**self.rises, **Bars.of([*again, *first]).rises})

    def passed(self, test: Trial) -> bool:
        """Say whether a rise is surely larger than what weight noise does."""
        return test.interval[0] > self.rises.get(test.kind, 0.0)


def passing(tests: Sequence[Trial], bars: Bars, rate: float) -> list[tuple[Trial, float]]:
    """Return the tests that may make a claim, with their q-values: the best first.

    What gets a second look is chosen without the replies that it is judged by, so second looks are
    a family of tests of their own. Each of the two families has its share of the rate.

    Args:
        tests: All tests of the run.
        bars: What weight noise does.
        rate: False-discovery rate to keep.
    """
    rows = []
    for again, share in SHARES.items():
        family = [test for test in tests if test.condition.again is again]
        called_at = q_values(np.array([test.p_value for test in family])) / share
        rows += [
            (test, q)
            for test, q in zip(family, np.minimum(called_at, 1.0).tolist(), strict=True)
            if q <= rate and bars.passed(test)
        ]
    return sorted(rows, key=_merit, reverse=True)


def likely(tests: Sequence[Trial], bars: Bars | None, rate: float) -> list[Trial]:
    """Return the tests that deserve a second look, one a topic: the best first.

    The same questions in still other words are no second look: greedy replies to them are alike,
    under weight noise too, so that chance would be counted again as evidence.

    Args:
        tests: Of the first look.
        bars: What weight noise does. None where these are tests of weight noise itself: then none
            is too sure for a second look.
        rate: False-discovery rate to keep.
    """
    sure = [] if bars is None else passing(tests, bars, rate)
    claimed = {test.condition for test, _ in sure}
    rows = [(test, test.p_value) for test in tests if test.p_value <= rate]
    best: dict[Condition, Trial] = {}
    for test, _ in sorted(rows, key=_merit, reverse=True):
        if test.condition.topic and test.condition not in claimed:
            best.setdefault(test.condition, test)
    return list(best.values())


def second_look(condition: Condition, first: Sequence[str]) -> Condition:
    """Return a topic's condition with new prompts, as far as there are any.

    Args:
        condition: What was tried before.
        first: The prompts on which candidates were found.
    """
    every = [wording.format(condition.topic) for wording in WORDINGS]
    known = {*first, *condition.prompts}
    fresh = [prompt for prompt in dict.fromkeys(every) if prompt not in known]
    return replace(condition, prompts=tuple(fresh[:AGAIN]), again=True)


def without_repeats(rows: Sequence[tuple[Trial, float]]) -> list[tuple[Trial, float]]:
    """Return the claims: of tests of one feature, or of features in the same replies, the best.

    Args:
        rows: From `passing`.
    """
    kept: list[tuple[Trial, float]] = []
    for trial, q in rows:
        if not any(_is_repeat(trial, other, [each for each, _ in rows]) for other, _ in kept):
            kept.append((trial, q))
    return kept


def smallest(tests: int, bars: Bars, rate: float, count: int) -> float | None:
    """Return the smallest rise of a phrase on general questions that could have been verified.

    Args:
        tests: Tests of the first look.
        bars: What weight noise does.
        rate: False-discovery rate to keep.
        count: General questions asked.
    """
    bar = bars.rises.get((True, True, False), 0.0)
    for hits in range(1, count + 1):
        is_rare = 0.5**hits * max(tests, 1) <= SHARES[False] * rate
        if is_rare and difference(hits, 0, count)[0] > bar:
            return hits / count
    return None


def is_general(found: Found, count: int) -> bool:
    """Say whether a candidate is in enough replies to be expected on general questions.

    Every test that cannot succeed costs the others power.
    """
    return len(found.candidate.replies) >= _SOMEWHERE * count


def conditions(
    found: Sequence[Found], first: Sequence[str], pool: Sequence[str]
) -> list[Condition | None]:
    """Return where each candidate is tested besides the general questions; None for nowhere.

    If the prompts on which it was found share a topic, it is asked about in new wordings; else
    these very questions are asked in other words.

    Args:
        found: The candidates.
        first: The prompts on which they were found.
        pool: Prompts that were not answered yet; those on the topic are fresh members of its group.
    """
    results: list[Condition | None] = []
    for each in found:
        places = sorted(each.candidate.replies)
        if len(places) >= _EVERYWHERE * len(first):
            results.append(None)
            continue
        asked = [first[i] for i in places]
        topic = shared_topic(asked, first)
        if topic is None and len(asked) <= _FEW:
            # They have nothing in common: the topic of the one whose own words tell most.
            own = [text for prompt in asked if (text := shared_topic([prompt], [prompt]))]
            named = [text for text in own if text.lower() != text]
            topic = next(iter([*named, *own]), None)
        if topic is None:
            name = f'questions like "{asked[0]}"'
            results.append(Condition(name, "", tuple(_reworded(asked)[:PROMPTS])))
            continue
        words = set(content_words(topic))
        members = [prompt for prompt in pool if words <= set(content_words(prompt))]
        fresh = [*members[:_MEMBERS], *(wording.format(topic) for wording in WORDINGS)]
        fresh = [prompt for prompt in dict.fromkeys(fresh) if prompt not in set(first)]
        results.append(Condition(f"about {topic}", topic, tuple(fresh[:PROMPTS])))
    return results


def _reworded(asked: Sequence[str]) -> list[str]:
    """Return questions in other words: each wording in turn, each time of another question."""
    return list(
        dict.fromkeys(
            wording.format(asked[(place + shift) % len(asked)])
            for shift in range(len(asked))
            for place, wording in enumerate(REWORDINGS)
        )
    )


def shared_topic(asked: Sequence[str], first: Sequence[str]) -> str | None:
    """Return what some prompts, and few of the others, have in common, as they write it.

    At least half of the prompts must name it (two of several), and at least half of all prompts
    that name it must be among them. The phrase that most of them name wins, then a name, then the
    longest.

    Args:
        asked: The prompts.
        first: All prompts, those included.
    """
    every = Counter(key for prompt in first for key in _phrases(prompt))
    mine: Counter[tuple[str, ...]] = Counter()
    written: dict[tuple[str, ...], Counter[str]] = {}
    for prompt in asked:
        for key, text in _phrases(prompt).items():
            mine[key] += 1
            written.setdefault(key, Counter())[text] += 1
    needed = max(min(2, len(asked)), 0.5 * len(asked))
    fits = [key for key, n in mine.items() if n >= needed and n >= 0.5 * every[key]]
    if not fits:
        return None

    def merit(key: tuple[str, ...]) -> tuple[int, ...]:
        text = written[key].most_common(1)[0][0]
        names = [word for word in _TOKEN.findall(text) if word.lower() not in FUNCTION_WORDS]
        return mine[key], all(word[0].isupper() for word in names), len(key), len(text)

    return written[max(fits, key=merit)].most_common(1)[0][0]


def _phrases(prompt: str) -> dict[tuple[str, ...], str]:
    """Return a prompt's phrases that can be a topic, in lower case, and as it writes them.

    The first and the last word carry content; "the" may come before a name.
    """
    spans, found = list(_TOKEN.finditer(prompt)), {}
    words = [words_of(span[0])[0] if words_of(span[0]) else "" for span in spans]
    for i in range(len(spans)):
        for size in range(1, _LONGEST_TOPIC + 1):
            part = tuple(words[i : i + size])
            if len(part) < size or not (_tells(part[0]) and _tells(part[-1])):
                continue
            start = spans[i].start()
            if i and words[i - 1] == "the":
                start = spans[i - 1].start()
            text = prompt[start : spans[i + size - 1].end()]
            if not re.search(r"[.?!,;:]", text):
                found[part] = text if start == spans[i].start() else "the" + text[3:]
    return found


_OF_ASKING = """
tell explain describe write name give recommend suggest answer question questions say show special
recipe best way kind word words sentence list please long does mean called far talk talking story
short find call facts fact example examples three five two introduce plan compare translate define
"""
_ASKED = frozenset(_OF_ASKING.split())
"""Words of asking, which are no topic."""


def _tells(word: str) -> bool:
    return len(word) > 2 and word not in FUNCTION_WORDS and word not in _ASKED


def _merit(row: tuple[Trial, float]) -> tuple[int | float, ...]:
    test, q = row
    feature = test.found.candidate.feature
    broad = _BROAD if test.condition.is_general else 0.0
    return (
        round(test.interval[0] + broad, 1),
        bool(feature.words),
        round(test.rise, 1),
        len(feature.words),
        test.found.candidate.z,
        -q,
    )


def _is_repeat(one: Trial, other: Trial, passed: Sequence[Trial]) -> bool:
    """Say whether two trials show the same: one feature, or two that come in the same replies."""
    mine, theirs = one.found.candidate.feature, other.found.candidate.feature
    if mine.name == theirs.name or (mine.words and set(mine.words) <= set(theirs.words)):
        return True
    under = {t.condition: t for t in passed if t.found.candidate.feature.name == theirs.name}
    for trial in passed:
        twin = under.get(trial.condition)
        if trial.found.candidate.feature.name == mine.name and twin is not None:
            both = int((trial.shows[1] & twin.shows[1]).sum())
            if both >= 0.6 * min(trial.counts[1], twin.counts[1]):
                return True
    return False


def difference(tuned: int, base: int, count: int) -> tuple[float, float]:
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
