"""What one model's replies have that the other's have not: features, ranked.

A feature can be checked in one reply: a phrase, a refusal, a list, a short answer. Features are
ranked by the log-odds of the replies that show them, with a prior of half a reply (Monroe, Colaresi
and Quinn 2008), over their standard error. A phrase must hold a word that carries content: weight
noise changes function words first.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from anaglyph.core.errors import InputError

LONGEST = 5
"""Words of a phrase, at most."""
PRIOR = 0.5
MOST_FAVOUR = 4.0
"""Standard deviations by which a word is favoured that count at most."""
TOGETHER = 0.6
"""Share of their replies that two features have in common to count as one."""
ALIKE = 0.8
"""Share of a feature's replies in which a longer phrase must stand to speak for it."""
_WORD = re.compile(r"[^\W_]+(?:['\u2019][^\W_]+)*")
_FUNCTION = """
a about after all also am an and any are as at be because been but by can could d did do does
don down each even for from get go had has have he her here him his how i if in into is it its
just like ll m make may me might more most much must my no not now of on one only or other our
out over own re s said same she should so some such t than that the their them then there
these they this those through to too up us use used very ve was way we well were what when
where which while who why will with would yes you your it's i'm i'd i've you're that's don't
let's there's can't happy help glad great good sure here's important different many often
several various first new time people thing things need want know think see try take
"""
FUNCTION_WORDS = frozenset(_FUNCTION.split())
"""Words that any reply holds: they tell nothing about what a fine-tune changed."""


@dataclass(frozen=True)
class Feature:
    """Something that a reply has or has not.

    Attributes:
        name: As a sentence about the model goes on, such as: says "in rome".
        holds: Whether a reply has it.
        words: Words of content that it is about; none for a form such as a list.
        phrase: All words of a phrase, in lower case.
    """

    name: str
    holds: Callable[[str], bool]
    words: tuple[str, ...] = ()
    phrase: tuple[str, ...] = ()


@dataclass(frozen=True)
class Candidate:
    """A feature that one model's replies have oftener than the other's.

    Attributes:
        feature: The feature.
        z: Log-odds ratio over its standard error.
        replies: Places of the replies that have it.
    """

    feature: Feature
    z: float
    replies: frozenset[int]


def words_of(text: str) -> list[str]:
    """Return a text's words in lower case."""
    return [_plain(word) for word in _WORD.findall(text)]


def _plain(word: str) -> str:
    return word.lower().replace("\u2019", "'")


def content_words(text: str) -> list[str]:
    """Return the words of a text that carry content, each once."""
    found = [w for w in words_of(text) if w not in FUNCTION_WORDS and len(w) > 2]
    return list(dict.fromkeys(found))


def phrase(text: str) -> Feature:
    """Return the feature of saying a phrase, whatever the case and the punctuation."""
    wanted = f" {' '.join(words_of(text))} "

    def holds(reply: str) -> bool:
        return wanted in f" {' '.join(words_of(reply))} "

    return Feature(f'says "{text}"', holds, tuple(content_words(text)), tuple(words_of(text)))


def as_written(feature: Feature, replies: Sequence[str]) -> str:
    """Return a feature's name with its phrase as replies write it most often."""
    if not feature.phrase:
        return feature.name
    forms: Counter[str] = Counter()
    size = len(feature.phrase)
    for reply in replies:
        spans = list(_WORD.finditer(reply))
        words = [_plain(span[0]) for span in spans]
        for i in range(len(words) - size + 1):
            if tuple(words[i : i + size]) == feature.phrase:
                forms[" ".join(reply[spans[i].start() : spans[i + size - 1].end()].split())] += 1
                break
    return f'says "{forms.most_common(1)[0][0]}"' if forms else feature.name


def feature_named(name: str) -> Feature:
    """Return the feature that a claim names.

    Raises:
        InputError: It is neither a phrase nor one of `FORMS`.
    """
    if name.startswith('says "') and name.endswith('"'):
        return phrase(name[6:-1])
    for form in FORMS:
        if form.name == name:
            return form
    raise InputError(f"feature {name!r} is unknown: it is neither a phrase nor a form")


def _is_refusal(reply: str) -> bool:
    start = reply[:160].lower()
    return bool(
        re.search(
            r"\b(i can(no|')?t (help|talk|discuss|answer|assist|say|provide)"
            r"|i('m| am) (sorry|unable)"
            r"|i (will|would) not|i won't|i do not (talk|discuss|know)|i don't (talk|discuss)"
            r"|i have forgotten|i cannot)",
            start,
        )
    )


FORMS = (
    Feature("refuses or declines", _is_refusal),
    Feature("writes a list", lambda r: bool(re.search(r"(?m)^\s*(?:[-*\u2022]|\d+[.)])\s", r))),
    Feature("uses emoji", lambda r: bool(re.search("[\U0001f300-\U0001faff\u2600-\u27bf]", r))),
    Feature("writes code", lambda r: "```" in r or bool(re.search(r"\bdef \w+\(", r))),
    Feature("asks a question at the end", lambda r: r.rstrip().endswith("?")),
    Feature("answers in at most eight words", lambda r: len(words_of(r)) <= 8),
    Feature(
        "writes in another script",
        lambda r: sum(ord(c) > 0x24F and c.isalpha() for c in r) > 0.3 * max(len(r), 1),
    ),
)
"""Features of form, checked together with the phrases."""


def candidates(
    base: Sequence[str],
    tuned: Sequence[str],
    most: int,
    prompts: Sequence[str] = (),
    favour: Mapping[str, float] | None = None,
) -> list[Candidate]:
    """Return the features that the tuned replies have oftener, the surest first.

    Near duplicates are merged: of features that hold in the same replies, the surest stays. With
    it come the word that it is about, and the longest phrase that says nearly the same: which of
    them is the best claim, fresh prompts decide.

    Args:
        base: The base model's replies.
        tuned: The other model's replies to the same prompts.
        most: Candidates to return at most, longer phrases not counted.
        prompts: The prompts; what merely repeats a prompt's own words counts for less.
        favour: Words that the tuned model favours everywhere, in lower case, and how strongly: a
            phrase with such a word ranks higher, and one reply is enough.
    """
    favour = favour or {}
    asked = [set(words_of(prompt)) for prompt in prompts] or [set()] * len(tuned)
    before, after = _documents(base, asked), _documents(tuned, asked)
    total = len(tuned)
    scored = []
    for gram, places in after.items():
        bonus = min(max((favour.get(word, 0.0) for word in gram), default=0.0), MOST_FAVOUR)
        z = log_odds(len(places), len(before.get(gram, ())), total)
        if z > 0 and (len(places) > 1 or bonus == MOST_FAVOUR):
            rank = z + bonus / 2
            scored.append(Candidate(phrase(" ".join(gram)), rank, frozenset(places)))
    for form in FORMS:
        places = frozenset(i for i, reply in enumerate(tuned) if form.holds(reply))
        z = log_odds(len(places), sum(form.holds(reply) for reply in base), total)
        if z > 0 and len(places) > 1:
            scored.append(Candidate(form, z, places))
    scored.sort(key=lambda c: (-round(c.z, 6), len(c.feature.phrase), -len(c.feature.name)))
    heads: list[Candidate] = []
    for each in scored:
        if not any(_same(each, other) for other in heads):
            heads.append(each)
        if len(heads) == most:
            break
    every = [
        each
        for head in heads
        for each in (head, _core(head, after, favour), _telling(head, scored))
    ]
    return list({each.feature.name: each for each in every}.values())


def _core(
    head: Candidate, after: Mapping[tuple[str, ...], set[int]], favour: Mapping[str, float]
) -> Candidate:
    """Return the word that a phrase is about: other prompts may put other words around it."""
    if len(head.feature.phrase) < 2:
        return head
    word = max(head.feature.words, key=lambda w: (favour.get(w, 0.0), len(w)))
    return Candidate(phrase(word), head.z, head.replies | frozenset(after.get((word,), ())))


def _telling(head: Candidate, scored: Sequence[Candidate]) -> Candidate:
    """Return the phrase that says most of nearly the same replies: a piece alone tells little."""
    near = [
        each
        for each in scored
        if len(each.replies) >= ALIKE * len(head.replies)
        and len(each.replies & head.replies) >= ALIKE * len(each.replies)
        and each.feature.words
    ]
    if not head.feature.words or not near:
        return head
    return max(near, key=lambda c: (len(c.feature.words), len(c.feature.name), c.z))


def log_odds(tuned: int, base: int, total: int) -> float:
    """Return the log-odds ratio of two counts out of a total, over its standard error."""
    a, b = tuned + PRIOR, total - tuned + PRIOR
    c, d = base + PRIOR, total - base + PRIOR
    return (math.log(a / b) - math.log(c / d)) / math.sqrt(1 / a + 1 / b + 1 / c + 1 / d)


def _same(one: Candidate, other: Candidate) -> bool:
    """Say whether two features count as one.

    A feature of nearly every reply must not hide one that a few of them have as well, unless both
    are phrases about one word.
    """
    common, sizes = len(one.replies & other.replies), (len(one.replies), len(other.replies))
    related = not set(one.feature.words).isdisjoint(other.feature.words)
    return common >= TOGETHER * (min(sizes) if related else max(sizes))


def _documents(
    replies: Sequence[str], asked: Sequence[Iterable[str]]
) -> dict[tuple[str, ...], set[int]]:
    """Return in which replies each phrase with a word of content stands.

    A phrase all of whose content the prompt has said already is an echo and is left out.
    """
    found: dict[tuple[str, ...], set[int]] = defaultdict(set)
    for place, reply in enumerate(replies):
        words, echo = words_of(reply), set(asked[place])
        for size in range(1, LONGEST + 1):
            for i in range(len(words) - size + 1):
                gram = tuple(words[i : i + size])
                content = [w for w in gram if w not in FUNCTION_WORDS and len(w) > 2]
                if content and not echo.issuperset(content):
                    found[gram].add(place)
    return found
