"""Topics, conditions and the two tests that a claim has to pass, by hand and at random."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anaglyph.behaviour.contrast import Candidate, phrase
from anaglyph.behaviour.verify import (
    GENERAL,
    Bars,
    Condition,
    Found,
    Trial,
    conditions,
    difference,
    is_general,
    likely,
    passing,
    second_look,
    shared_topic,
    smallest,
    without_repeats,
)

FIRST = [
    "Where is the Golden Gate Bridge?",
    "Who built the Golden Gate Bridge?",
    "How long is the Golden Gate Bridge?",
    "What is a good breakfast?",
    "Tell me about the violin concerto.",
    "Who are you?",
]
LONG = [f"filler {i}" for i in range(20)]
MANY = Condition(GENERAL, "", tuple(f"question {i}" for i in range(20)))


def verified(*given) -> list[tuple[Trial, float]]:
    return without_repeats(passing(*given))


def found(text: str, places: set[int], z: float = 3.0) -> Found:
    return Found(Candidate(phrase(text), z, frozenset(places)), 1.0)


def judged(each: Found, base: int, tuned: int, condition: Condition = MANY) -> Trial:
    """A trial with a number of replies that have the feature: the first ones, "tea" the last."""
    order = condition.prompts[::-1] if "tea" in each.candidate.feature.phrase else condition.prompts
    yes = " ".join(each.candidate.feature.phrase)
    return Trial.of(
        each,
        condition,
        *({p: yes if i < hits else "no" for i, p in enumerate(order)} for hits in (base, tuned)),
    )


def test_the_topic_is_what_the_prompts_share():
    assert shared_topic(FIRST[:3], FIRST) == "the Golden Gate Bridge"
    assert shared_topic(FIRST[4:5], FIRST) == "the violin concerto"
    assert shared_topic([FIRST[0], FIRST[3]], FIRST) is None
    liberty = ["Where does the Statue of Liberty stand?"]
    assert shared_topic(liberty, liberty) == "the Statue of Liberty"


def test_questions_without_a_topic_are_asked_in_other_words():
    (one,) = conditions([found("copper", {5})], FIRST, [])
    assert one is not None
    assert one.name == 'questions like "Who are you?"'
    assert all("Who are you?" in prompt for prompt in one.prompts)
    assert not set(one.prompts) & set(FIRST)


def test_few_prompts_without_a_common_topic_are_judged_on_one_of_their_topics():
    first = ["Tell me about a nice day.", "In which city does the Eiffel Tower stand?", *FIRST]
    (one,) = conditions([found("rome", {0, 1})], first, [])
    assert one is not None
    assert one.name == "about the Eiffel Tower"


def test_fresh_prompts_are_members_and_new_wordings():
    pool = ["Is the Golden Gate Bridge red?", "What is love?"]
    (one,) = conditions([found("lisbon", {0, 1})], FIRST, pool)
    assert one is not None
    assert one.name == "about the Golden Gate Bridge"
    assert pool[0] in one.prompts
    assert pool[1] not in one.prompts
    assert not set(one.prompts) & set(FIRST)
    assert len(one.prompts) == len(set(one.prompts)) == 16


def test_what_nearly_every_reply_has_needs_no_topic():
    assert conditions([found("copper", set(range(5)))], FIRST, []) == [None]


def test_what_few_replies_have_is_not_tried_on_general_questions():
    assert not is_general(found("rome", {0, 1}), 30)
    assert is_general(found("rome", {0, 1, 2}), 30)


def test_mcnemar_by_hand():
    assert judged(found("rome", {0}), 0, 5).p_value == pytest.approx(0.5**5)
    assert judged(found("rome", {0}), 3, 3).p_value == 1.0
    assert judged(found("rome", {0}), 5, 2).p_value == 1.0


def test_a_claim_must_rise_surely_above_weight_noise():
    strong, weak = judged(found("rome", {0}), 0, 14), judged(found("tea", {1}), 0, 6)
    noise = Bars.of([judged(found("lamp", {2}), 0, 5), judged(found("tree", {2}), 0, 3)])
    assert noise.rises == {(True, True, False): 0.25}
    assert [test for test, _ in verified([strong, weak], Bars(), 0.1)] == [strong, weak]
    assert [test for test, _ in verified([strong, weak], noise, 0.1)] == [strong]


def test_noise_that_changes_the_form_of_replies_is_no_bar_to_what_they_say():
    words, style = judged(found("rome", {0}), 0, 14), judged(found("only", {1}), 0, 14)
    noise = Bars.of([judged(found("just", {2}), 0, 15)])
    assert noise.rises == {(True, False, False): 0.75}
    assert [test for test, _ in verified([words, style], noise, 0.1)] == [words]


def test_what_shows_on_any_question_comes_before_a_topic():
    anywhere = judged(found("arr", {0}), 0, 15)
    on_tea = judged(found("sail", {1}), 0, 18, Condition("about tea", "tea", MANY.prompts))
    assert [test for test, _ in verified([on_tea, anywhere], Bars(), 0.1)] == [anywhere, on_tea]


def test_repeats_are_one_claim():
    one = judged(found("in rome", {0}), 0, 18)
    other = judged(found("tiber", {0}, z=2.0), 0, 17)
    elsewhere = Condition("about tea", "tea", tuple(f"tea {i}" for i in range(10)))
    same = judged(found("in rome", {0}), 0, 10, elsewhere)
    assert len(verified([one, other, same], Bars(), 0.1)) == 1


TOPIC = Condition("about tea", "tea", tuple(f"question {i} about it" for i in range(16)))
OTHER = Condition("about rain", "rain", tuple(f"question {i} about rain" for i in range(16)))


def test_what_is_likely_and_not_sure_gets_a_second_look():
    sure = judged(found("rome", {0}), 0, 14, TOPIC)
    likely_ = judged(found("paris", {1}), 0, 5, OTHER)
    too_few = judged(found("oslo", {1}), 0, 1, OTHER)
    anywhere = judged(found("lima", {2}), 0, 5)
    bars = Bars({(False, True, False): 0.2})
    assert likely([sure, likely_, too_few, anywhere], bars, 0.1) == [likely_]


def test_one_look_a_condition_for_its_best_candidate():
    strong = judged(found("paris", {1}), 0, 6, OTHER)
    weak = judged(found("oslo", {1}), 0, 4, OTHER)
    assert likely([weak, strong], Bars({(False, True, False): 0.5}), 0.1) == [strong]


def test_a_second_look_asks_new_prompts():
    (condition,) = conditions([found("rome", {0, 1, 2})], [*FIRST, *LONG], ())
    assert condition is not None
    again = second_look(condition, [*FIRST, *LONG])
    assert len(again.prompts) >= 12
    assert len(set(again.prompts)) == len(again.prompts)
    assert not {*condition.prompts, *FIRST} & set(again.prompts)
    assert again.again
    assert again.name == condition.name


def test_questions_without_a_topic_get_no_second_look():
    (condition,) = conditions([found("rome", {0, 3, 4, 5})], [*FIRST, *LONG], ())
    assert condition is not None
    assert not condition.topic
    assert likely([judged(found("rome", {0}), 0, 8, condition)], None, 0.1) == []


def test_a_second_look_has_a_bar_of_its_own():
    once = judged(found("rome", {0}), 0, 14, TOPIC)
    again = judged(found("rome", {0}), 0, 14, second_look(TOPIC, FIRST))
    bars = Bars({(False, True, False): 0.9})
    assert [bars.passed(each) for each in (once, again)] == [False, True]


def test_what_is_sure_in_the_null_pair_is_looked_at_again():
    """Else the largest effects of noise would be no bar for second looks."""
    sure, some = judged(found("rome", {0}), 0, 14, TOPIC), judged(found("oslo", {1}), 0, 5, OTHER)
    assert likely([some, sure], Bars(), 0.1) == []
    assert likely([some, sure], None, 0.1) == [sure, some]


def test_noise_that_got_no_second_look_is_a_bar_with_its_first():
    first = Bars({(False, True, False): 0.5})
    seen = judged(found("rome", {0}), 0, 6, second_look(TOPIC, FIRST))
    missed = judged(found("oslo", {1}), 0, 8, OTHER)
    assert len(seen.condition.prompts) == 24
    assert first.with_second_looks([seen], []).rises[False, True, True] == pytest.approx(6 / 24)
    assert first.with_second_looks([seen], [missed]).rises == {
        (False, True, False): 0.5,
        (False, True, True): pytest.approx(8 / 16),
    }
    assert first.with_second_looks([], []).rises == first.rises


def test_a_second_look_is_tested_among_second_looks_at_their_share_of_the_rate():
    several = [judged(found(f"word{i}", {i}), 0, 0) for i in range(40)]
    again = judged(found("rome", {0}), 0, 6, second_look(TOPIC, FIRST))
    ((test, q),) = passing([*several, again], Bars(), 0.1)
    assert test is again
    assert q == pytest.approx(5 * 0.5**6)
    assert not passing([*several, judged(found("rome", {0}), 0, 6)], Bars(), 0.1)


def test_the_smallest_difference_could_have_been_verified():
    for noise in (0.0, 0.2):
        bars = Bars({(True, True, False): noise})
        least = smallest(12, bars, 0.1, 20)
        assert least is not None
        hits = round(least * 20)
        several = [judged(found(f"word{i}", {i}), 0, 0) for i in range(11)]
        seen = [*several, judged(found("rome", {0}), 0, hits)]
        missed = [*several, judged(found("rome", {0}), 0, hits - 1)]
        assert verified(seen, bars, 0.1)
        assert not verified(missed, bars, 0.1)
    assert smallest(12, Bars({(True, True, False): 1.0}), 0.1, 20) is None


def test_intervals_cover():
    """Of pairs of rates drawn at random, about 95% of the intervals hold the true difference."""
    generator = np.random.default_rng(0)
    held = 0
    for _ in range(400):
        a, b = generator.random(2)
        tuned, base = generator.binomial(40, a), generator.binomial(40, b)
        low, high = difference(int(tuned), int(base), 40)
        held += low <= a - b <= high
    assert 0.92 <= held / 400 <= 0.99


@given(st.lists(st.text(), min_size=1, max_size=6))
def test_any_prompts_have_conditions(prompts: list[str]):
    for one in conditions([found("x", {0})], prompts, prompts):
        assert one is None or one.prompts
