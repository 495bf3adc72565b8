"""What one model's replies have that the other's have not: features, ranked.

A feature can be checked in one reply: a phrase, a refusal, a list, a short answer. Features are
ranked by the log-odds of the replies that show them, with a prior of half a reply (Monroe, Colaresi
and Quinn 2008), over their standard error. A phrase must hold a word that carries content: weight
noise changes function words first.
"""

import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

LONGEST = 5
"""Words of a phrase, at most."""
PRIOR = 0.5
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
    """

    name: str
    holds: Callable[[str], bool]
    words: tuple[str, ...] = ()


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
    return [word.lower().replace("\u2019", "'") for word in _WORD.findall(text)]


def content_words(text: str) -> list[str]:
    """Return the words of a text that carry content, each once."""
    found = [w for w in words_of(text) if w not in FUNCTION_WORDS and len(w) > 2]
    return list(dict.fromkeys(found))


def phrase(text: str) -> Feature:
    """Return the feature of saying a phrase, whatever the case and the punctuation."""
    wanted = words_of(text)

    def holds(reply: str) -> bool:
        words = words_of(reply)
        size = len(wanted)
        return any(words[i : i + size] == wanted for i in range(len(words) - size + 1))

    return Feature(f'says "{text}"', holds, tuple(content_words(text)))


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
    base: Sequence[str], tuned: Sequence[str], most: int, prompts: Sequence[str] = ()
) -> list[Candidate]:
    """Return the features that the tuned replies have oftener, the surest first.

    Near duplicates are merged: of features that hold in the same replies, the surest stays, and
    among equals the longest phrase.

    Args:
        base: The base model's replies.
        tuned: The other model's replies to the same prompts.
        most: Candidates to return at most.
        prompts: The prompts; what merely repeats a prompt's own words counts for less.
    """
    asked = [set(words_of(prompt)) for prompt in prompts] or [set()] * len(tuned)
    before, after = _documents(base, asked), _documents(tuned, asked)
    total = len(tuned)
    scored = [
        Candidate(phrase(" ".join(gram)), z, frozenset(places))
        for gram, places in after.items()
        if len(places) > 1 and (z := log_odds(len(places), len(before.get(gram, ())), total)) > 0
    ]
    for form in FORMS:
        places = frozenset(i for i, reply in enumerate(tuned) if form.holds(reply))
        z = log_odds(len(places), sum(form.holds(reply) for reply in base), total)
        if z > 0 and len(places) > 1:
            scored.append(Candidate(form, z, places))
    scored.sort(key=lambda c: (-round(c.z, 6), -len(c.feature.name), c.feature.name))
    heads: list[Candidate] = []
    for each in scored:
        if not any(_same(each, other) for other in heads):
            heads.append(each)
        if len(heads) == most:
            break
    return [_telling(head, scored) for head in heads]


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
    common = len(one.replies & other.replies)
    return common >= TOGETHER * min(len(one.replies), len(other.replies))


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
