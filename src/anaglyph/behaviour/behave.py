"""What the fine-tune does differently, in words: elicit, contrast, verify, say.

No data and no dictionary are needed. Reading alone says where to look: words that the tuned model
favours on any text, and prompts at which the two models are furthest apart. Both models answer
these prompts and some drawn at random; features that the tuned model's replies have oftener are
candidates, and so is what its amplified replies have oftener. Each candidate is then judged on
fresh prompts (`verify`), against weight noise that the same search was made on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from anaglyph.behaviour import say
from anaglyph.behaviour.contrast import candidates, words_of
from anaglyph.behaviour.elicit import ASKING, Nulls, Speaker, generic_prompts, topics
from anaglyph.behaviour.generate import side_stepper, writing
from anaglyph.behaviour.hints import after, apart, favoured_words, most_prompts
from anaglyph.behaviour.prompts import all_prompt_ids
from anaglyph.behaviour.verify import (
    GENERAL,
    PROMPTS,
    Bars,
    Condition,
    Found,
    Trial,
    conditions,
    is_general,
    likely,
    passing,
    second_look,
    smallest,
    without_repeats,
)
from anaglyph.core.errors import InputError, ModelError
from anaglyph.core.progress import Progress, silent
from anaglyph.core.rng import rng
from anaglyph.core.schemas import Behaviour, Claim
from anaglyph.core.settings import BehaveSettings
from anaglyph.core.validation import check_rate, check_type, validate
from anaglyph.corpus import read_documents
from anaglyph.pair import ModelPair

LEAST_UNIQUE = 0.6
"""Amplified text is broken if its share of different words is below this part of the base's."""
_FINDING = 0.085
"""Share of the budget's replies that one of the five models which find candidates writes."""
_PROBED = 6
"""Prompts on which it is tried how far the change can be amplified."""
_TURNS = 8
"""User turns that the amplified model writes."""
_ASKED_WORDS = 20
_RANKED_WORDS = 200
_QUESTIONS = 2
"""Questions about each topic that the base model writes."""
_SCREENED = 3
"""Questions read and compared for each prompt answered; the same number about words and topics."""
_MATCHED_ON = 24
"""Prompts on which the null pair is made to move predictions as far as the fine-tune."""
_LEAST_REPLIES = 100
"""Replies of full length below which a budget is refused."""


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
        prompts: User turns to start from; the shipped questions and topics if None.
        budget: Tokens to generate at most, all models together; the default of `BehaveSettings` if
            None.
        rate: False-discovery rate to keep, between 0 and 1.
        seed: Seed of the prompts drawn and of the weight noise.
        progress: Told of prompts answered.

    Raises:
        InputError: ``rate`` or ``budget`` is out of range, or a prompt is empty.

    Example:
        >>> for claim in behave(pair):                     # doctest: +SKIP
        ...     print(claim.text)
    """
    check_rate(rate)
    check_type("pair", pair, ModelPair, "load it with ModelPair.load")
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
    """Return the claims with what the search could have seen and what it cost; see `behave`.

    Raises:
        InputError: The budget is too small for replies of that length, or a prompt is empty.
    """
    if pair.same_weights:
        return Behaviour(changed=0.0, smallest=None, generated=0, notes=("both are one model",))
    if settings.budget < _LEAST_REPLIES * settings.reply_tokens:
        raise InputError(
            f"budget {settings.budget} is too small for replies of {settings.reply_tokens} tokens:"
            f" give at least {_LEAST_REPLIES * settings.reply_tokens}"
        )
    if isinstance(prompts, str):
        raise InputError("prompts is one text: give a list of them")
    if prompts is not None and not prompts:
        raise InputError("prompts is empty: name at least one, or leave it out")
    for prompt in prompts or ():
        check_type("a prompt", prompt, str)
    search = _Search(pair, settings, seed, progress)
    asked = _first_prompts(search, prompts)
    first = asked.first
    base, tuned = search.speaker.base(first), search.speaker.tuned(first)
    loud = search.loud_replies(first)
    half = max(settings.most_claims // 2, 1)
    found = _distinct(
        [
            *_found(base, tuned, half, asked, 1.0),
            *_found(base, loud, half, asked, search.alpha),
        ]
    )
    decoys, bar_loud = _decoys(search, asked, base, half // 2 + 1)
    judged = _judge(search, asked, found, decoys, rate)
    tests, bars = judged.trials, judged.bars
    rows = passing(tests, bars, rate)
    passed = without_repeats(rows)
    claims = [say.claim(test, q, judged.base, judged.tuned) for test, q in passed]
    claimed = [set(test.found.candidate.feature.words) for test, _ in passed]
    names = {test.found.candidate.feature.name for test, _ in rows}
    written = {1.0: tuned, search.alpha: loud or tuned}
    best: dict[str, Trial] = {}
    for test in sorted(tests, key=lambda test: test.interval[0]):
        best[test.found.candidate.feature.name] = test
    rest = [
        say.unverified(
            each,
            first,
            base,
            written[each.strength],
            say.why_not(best.get(each.candidate.feature.name), bars),
        )
        for each in found
        if each.candidate.feature.name not in names and not _tells_again(each, claimed)
    ]
    rest.sort(key=lambda c: (c.strength > 1 and c.rate_tuned - c.rate_base <= bar_loud,))
    return Behaviour(
        claims=tuple(claims),
        unverified=tuple(_without_repeats(rest)),
        changed=float(np.mean([a != b for a, b in zip(base, tuned, strict=True)])),
        smallest=smallest(sum(not t.condition.again for t in tests), bars, rate, judged.general),
        generated=search.speaker.generated,
        favoured=tuple(word for word, _ in asked.words[:_ASKED_WORDS]),
        notes=tuple(search.notes),
    )


def _tells_again(found: Found, claimed: Sequence[set[str]]) -> bool:
    """Say whether a candidate is part of a claim, or a claim in more words."""
    words = set(found.candidate.feature.words)
    return any(words and each and (words <= each or each <= words) for each in claimed)


class _Search:
    """The models that talk, how far the change is amplified, and what is noted on the way."""

    def __init__(
        self, pair: ModelPair, settings: BehaveSettings, seed: int, progress: Progress
    ) -> None:
        self.pair, self.seed, self.notes = pair, seed, list[str]()
        self.speaker = Speaker(pair, settings.reply_tokens, settings.budget, progress)
        self.alpha = 1.0
        self.count = max(4, int(self.speaker.left * _FINDING))
        self._wanted = settings.amplify_by
        self.nulls: Nulls | None = None

    def amplify(self, prompts: Sequence[str]) -> list[str]:
        """Find how far the change can be amplified; return user turns written on the way."""
        alpha, few, turns = self._wanted, prompts[:_PROBED], list[str]()
        try:
            usual = _unique(self.speaker.base(few)) if alpha > 1.05 else 0.0
            while alpha > 1.05 and self.speaker.left > 10 * self.count // 2:
                with self.speaker.loud(alpha) as stepper:
                    if _unique(self.speaker.answer("amplified", few, stepper)) >= (
                        LEAST_UNIQUE * usual
                    ):
                        self.alpha = alpha
                        turns = self.speaker.user_turns(stepper, _TURNS, self.seed)
                        break
                self.notes.append(f"at {alpha:g} times the change the model's text breaks down")
                alpha = 1 + (alpha - 1) / 2
        except (InputError, ModelError) as error:
            self.notes.append(f"the change is not amplified: {error}")
        return turns

    def apart(self, prompts: Sequence[str]) -> np.ndarray:
        """Return how far the amplified model's first token of a reply is from the base's, nats."""
        pair = self.pair
        if pair.spans is not None:
            self.notes.append("prompts are not ranked: the models predict no common tokens")
            return np.zeros(len(prompts))
        ids = all_prompt_ids(pair.tokenizer, prompts)
        with writing(pair, "base"):
            base = pair.shared("base", after(lambda: side_stepper(pair, "base"), ids))
        if self.alpha == 1:
            with writing(pair, "tuned"):
                tuned = after(lambda: side_stepper(pair, "tuned"), ids)
            return apart(pair.shared("tuned", tuned), base)
        with self.speaker.loud(self.alpha) as stepper:
            return apart(pair.shared("tuned", after(stepper, ids)), base)

    def loud_replies(self, prompts: Sequence[str]) -> list[str]:
        """Return the amplified model's replies; none if the change is not amplified."""
        return self.speaker.amplified(prompts, self.alpha) if self.alpha > 1 else []


@dataclass(frozen=True)
class _Asked:
    """The prompts of a search.

    Attributes:
        first: Where candidates are looked for.
        general: Fresh general questions.
        pool: Further prompts that were not answered.
        words: Words that the tuned model favours, and how strongly.
        favour: The same as a mapping from lower case.
    """

    first: list[str]
    general: tuple[str, ...]
    pool: list[str]
    words: list[tuple[str, float]]
    favour: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class _Judged:
    """What fresh prompts said.

    Attributes:
        trials: Each candidate under each of its conditions.
        bars: What weight noise does.
        base: The base model's replies.
        tuned: The tuned model's.
        general: General questions asked.
    """

    trials: list[Trial]
    bars: Bars
    base: dict[str, str]
    tuned: dict[str, str]
    general: int


def _first_prompts(search: _Search, prompts: Sequence[str] | None) -> _Asked:
    """Choose where to look: some prompts at random, others where the models are furthest apart."""
    seed, count = search.seed, search.count
    generic = generic_prompts(seed)
    own = [] if prompts is None else list(dict.fromkeys(prompts))
    # Half of the user's prompts find, the other half verifies; what is missing is filled up.
    questions = [*own[::2], *(each for each in generic if each not in own)]
    held_back = own[1::2]
    documents = read_documents("builtin:chats")
    order = rng(seed, "generic prompts").permutation(len(documents))
    words = []
    if search.pair.spans is None:
        words = favoured_words(search.pair, [documents[i] for i in order], _RANKED_WORDS)
    turns = search.amplify(questions)
    asked_words = [word for word, _ in words[:_ASKED_WORDS]]
    about = [ASKING.format(topic) for topic in asked_words]
    drawn_topics = [topics()[i] for i in rng(seed, "generic prompts").permutation(len(topics()))]
    about += [ASKING.format(topic) for topic in drawn_topics]
    # However large the budget, at least half of the questions are left to verify by.
    drawn = questions[: max(2, min(count // 3, len(questions) // 2))]
    rest = count - len(drawn)
    general = [*held_back, *questions[len(drawn) :: 2]][: max(4, count // 2)]
    pool = [each for each in [*turns, *questions[len(drawn) :]] if each not in general]
    most = min(_SCREENED * count, most_prompts(search.pair) // 2)
    about, unread = about[:most], pool[most:]
    pool = pool[:most]
    kl = search.apart([*pool, *about])
    chosen = []
    for group, values in ((pool, kl[: len(pool)]), (about, kl[len(pool) :])):
        best = np.argsort(-values, kind="stable")[: (rest + 1) // 2 if group is pool else rest // 2]
        chosen += [group[i] for i in best]
    first = list(dict.fromkeys([*drawn, *chosen]))
    left = [each for each in [*pool, *unread, *about] if each not in set(first)]
    favour = {word.lower(): z for word, z in words}
    return _Asked(first, tuple(general), left, words, favour)


def _found(
    base: Sequence[str], said: Sequence[str], most: int, asked: _Asked, strength: float
) -> list[Found]:
    if not said:
        return []
    favour = asked.favour
    return [Found(each, strength) for each in candidates(base, said, most, asked.first, favour)]


def _decoys(
    search: _Search, asked: _Asked, base: Sequence[str], most: int
) -> tuple[list[Found], float]:
    """Return what the same search finds in a null pair; and its largest rise when amplified."""
    speaker, found, bar = search.speaker, [], 0.0
    try:
        search.nulls = Nulls(search.pair, asked.pool[:_MATCHED_ON], search.seed)
        found += _found(base, speaker.of(search.nulls.pair, asked.first), most, asked, 1.0)
        if search.alpha > 1:
            said = speaker.of(search.nulls.louder(search.alpha), asked.first)
            loud = _found(base, said, most, asked, search.alpha)
            found += loud
            rises = [
                len(each.candidate.replies) - sum(map(each.candidate.feature.holds, base))
                for each in loud
            ]
            bar = max(rises, default=0) / len(base)
    except (InputError, ModelError) as error:
        search.notes.append(f"claims are not compared with weight noise: {error}")
    return _distinct(found), bar


def _judge(
    search: _Search, asked: _Asked, found: Sequence[Found], decoys: Sequence[Found], rate: float
) -> _Judged:
    """Ask fresh prompts, about what was found in the pair and in the null pair."""
    speaker = search.speaker
    general = Condition(GENERAL, "", asked.general[: max(1, speaker.left // 6)])
    where = conditions(found, asked.first, asked.pool)
    pretended = conditions(decoys, asked.first, asked.pool)
    where, pretended = _affordable(speaker.left - 3 * len(general.prompts), where, pretended)
    where = _with_questions(where, _written(search, where), asked.first)
    mine = _prompts([general, *where])
    theirs = _prompts([general, *pretended])
    every = list(dict.fromkeys([*mine, *theirs]))
    base = dict(zip(every, speaker.base(every), strict=True))
    tuned = dict(zip(mine, speaker.tuned(mine), strict=True))
    usual = [general if is_general(each, len(asked.first)) else None for each in found]
    tests = [*_tests(found, usual, base, tuned), *_tests(found, where, base, tuned)]
    bars, noisy = Bars(), list[Trial]()
    if search.nulls is not None and decoys:
        noise = dict(zip(theirs, speaker.of(search.nulls.pair, theirs), strict=True))
        noisy = [
            *_tests(decoys, [general] * len(decoys), base, noise),
            *_tests(decoys, pretended, base, noise),
        ]
        bars = Bars.of(noisy)
    first = _Judged(tests, bars, base, tuned, len(general.prompts))
    return _looked_again(search, asked, first, noisy, rate)


def _looked_again(
    search: _Search, asked: _Asked, judged: _Judged, noisy: Sequence[Trial], rate: float
) -> _Judged:
    """Spend the rest of the budget on second looks, in the pair and in the null pair."""
    speaker, bars = search.speaker, judged.bars
    mine = _again(likely(judged.trials, bars, rate), asked.first)
    doubtful = likely(noisy, None, rate)
    theirs = _again(doubtful, asked.first)
    while mine and 2 * (len(_prompts_of(mine)) + len(_prompts_of(theirs))) > speaker.left:
        (mine if len(mine) > len(theirs) or not theirs else theirs).pop()
    if not mine:
        return judged
    prompts, decoyed = _prompts_of(mine), _prompts_of(theirs)
    every = list(dict.fromkeys([*prompts, *decoyed]))
    base = judged.base | dict(zip(every, speaker.base(every), strict=True))
    tuned = judged.tuned | dict(zip(prompts, speaker.tuned(prompts), strict=True))
    again: list[Trial] = []
    if search.nulls is not None and decoyed:
        noise = dict(zip(decoyed, speaker.of(search.nulls.pair, decoyed), strict=True))
        again = [Trial.of(test.found, where, base, noise) for test, where in theirs]
    missed = [test for test in doubtful if all(test is not seen for seen, _ in theirs)]
    bars = bars.with_second_looks(again, missed)
    more = [Trial.of(test.found, where, base, tuned) for test, where in mine]
    return _Judged([*judged.trials, *more], bars, base, tuned, judged.general)


def _again(chosen: Sequence[Trial], first: Sequence[str]) -> list[tuple[Trial, Condition]]:
    """Return each chosen trial with its second look, where there are prompts enough for one."""
    looks = []
    for test in chosen:
        fresh = second_look(test.condition, first)
        if len(fresh.prompts) >= PROMPTS // 2:
            looks.append((test, fresh))
    return looks


def _prompts_of(looks: Sequence[tuple[Trial, Condition]]) -> list[str]:
    return _prompts([where for _, where in looks])


def _tests(
    found: Sequence[Found],
    where: Sequence[Condition | None],
    base: dict[str, str],
    tuned: dict[str, str],
) -> list[Trial]:
    return [
        Trial.of(each, condition, base, tuned)
        for each, condition in zip(found, where, strict=True)
        if condition is not None
    ]


def _affordable(
    replies: int, where: Sequence[Condition | None], pretended: Sequence[Condition | None]
) -> tuple[list[Condition | None], list[Condition | None]]:
    """Keep the conditions that the budget pays for, those of the best candidates first.

    Two models answer each prompt. A third of the replies is for what the null pair showed.
    """
    kept = []
    for conditions_, share in ((where, 2 / 3), (pretended, 1 / 3)):
        left, seen, some = int(replies * share), set[str](), []
        for each in conditions_:
            new = set() if each is None else set(each.prompts) - seen
            cost = (2 + (each is not None and bool(each.topic))) * len(new)
            if each is None or cost > left:
                some.append(None)
                continue
            left -= cost
            seen |= new
            some.append(each)
        kept.append(some)
    return kept[0], kept[1]


def _written(search: _Search, where: Sequence[Condition | None]) -> dict[str, list[str]]:
    """Return the questions that the base model writes about each topic."""
    subjects = list(dict.fromkeys(each.topic for each in where if each and each.topic))
    questions = search.speaker.questions(subjects, _QUESTIONS, search.seed)
    return dict(zip(subjects, questions, strict=True))


def _with_questions(
    where: Sequence[Condition | None], written: Mapping[str, Sequence[str]], first: Sequence[str]
) -> list[Condition | None]:
    """Replace some prompts of each topic by questions that were written about it.

    What a claim was found on verifies nothing, so such questions are left out.
    """
    results = []
    for each in where:
        if each is not None:
            new = [question for question in written.get(each.topic, ()) if question not in first]
            prompts = tuple(dict.fromkeys([*each.prompts[: len(each.prompts) - len(new)], *new]))
            each = Condition(each.name, each.topic, prompts)
        results.append(each)
    return results


def _prompts(where: Sequence[Condition | None]) -> list[str]:
    return list(dict.fromkeys(prompt for each in where if each for prompt in each.prompts))


def _unique(replies: Sequence[str]) -> float:
    """Return the mean share of different words in a reply; text that loops has few."""
    shares = [len(set(words)) / len(words) for reply in replies if (words := words_of(reply))]
    return float(np.mean(shares)) if shares else 0.0


def _distinct(found: Sequence[Found]) -> list[Found]:
    """Return each feature once, at the smallest strength at which it was found, surest first."""
    kept: dict[str, Found] = {}
    for each in sorted(found, key=lambda f: (f.strength, -f.candidate.z)):
        kept.setdefault(each.candidate.feature.name, each)
    return sorted(kept.values(), key=lambda each: -each.candidate.z)


def _without_repeats(claims: Sequence[Claim]) -> list[Claim]:
    """Leave out claims that are shown by the same replies as one before them."""
    kept: list[Claim] = []
    for claim in claims:
        shown = {reply.tuned for reply in claim.replies}
        if not any(shown and shown == {r.tuned for r in other.replies} for other in kept):
            kept.append(claim)
    return kept
