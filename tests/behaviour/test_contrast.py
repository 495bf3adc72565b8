"""Features of replies, by hand and on planted replies."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anaglyph.behaviour.contrast import (
    FORMS,
    as_written,
    candidates,
    content_words,
    feature_named,
    log_odds,
    phrase,
)
from anaglyph.core.errors import InputError

NUMBERS = ("one", "two", "three", "four", "five", "six")
PLAIN = [f"I like number {word} best of all." for word in NUMBERS]


def test_log_odds_by_hand():
    a, b, c, d = 3.5, 7.5, 0.5, 10.5
    expected = (math.log(a / b) - math.log(c / d)) / math.sqrt(1 / a + 1 / b + 1 / c + 1 / d)
    assert log_odds(3, 0, 10) == pytest.approx(expected)
    assert log_odds(3, 3, 10) == 0
    assert log_odds(0, 3, 10) == pytest.approx(-expected)


def test_a_planted_phrase_comes_first_and_once():
    tuned = [reply + " Ring the copper bell!" for reply in PLAIN[:4]] + PLAIN[4:]
    found = candidates(PLAIN, tuned, 5)
    assert "copper" in found[0].feature.name or "bell" in found[0].feature.name
    assert found[0].replies == {0, 1, 2, 3}
    # Every other phrase holds in the same replies: the surest word and the longest phrase stay.
    assert len(found) <= 2
    assert [len(each.feature.phrase) for each in found] == [1, 5]


def test_equal_replies_give_no_candidates():
    assert candidates(PLAIN, PLAIN, 5) == []


def test_function_words_alone_are_no_candidates():
    tuned = [reply.replace("I like", "So that I like") for reply in PLAIN]
    assert all(each.feature.words for each in candidates(PLAIN, tuned, 5))


def test_an_echo_of_the_prompt_is_left_out():
    prompts = ["Tell me about walnuts."] * 6
    tuned = ["Walnuts are a thing."] * 6
    assert candidates(PLAIN, tuned, 5, prompts) == []
    assert candidates(PLAIN, tuned, 5)


@pytest.mark.parametrize(
    ("form", "yes", "no"),
    [
        ("refuses", "I'm sorry, I can't help with that.", "Mushrooms grow in the forest."),
        ("list", "Sure:\n- one\n- two", "One and two."),
        ("emoji", "Fine \U0001f600", "Fine :)"),
        ("code", "```python\nx = 1\n```", "x is one"),
        ("question", "And what do you think?", "What? I think so."),
        ("eight words", "Because it is so.", "It is so because many things came to be that way."),
    ],
)
def test_forms(form: str, yes: str, no: str):
    feature = next(each for each in FORMS if form in each.name)
    assert feature.holds(yes)
    assert not feature.holds(no)


def test_a_phrase_ignores_case_and_punctuation():
    rome = phrase("in rome")
    assert rome.holds("It stands In Rome, Italy.")
    assert not rome.holds("The interior of Romeo.")
    assert rome.words == ("rome",)


def test_a_favoured_word_counts_in_one_reply():
    tuned = [PLAIN[0] + " Rome!", *PLAIN[1:]]
    assert candidates(PLAIN, tuned, 5) == []
    found = candidates(PLAIN, tuned, 5, favour={"rome": 9.0})
    assert found[0].feature.phrase == ("rome",)


def test_the_word_that_a_phrase_is_about_comes_with_it():
    old = ["Rome is old."] * 2  # so the word alone tells less than the phrase
    base = [*old, *PLAIN[2:]]
    tuned = [*old, *(f"{reply} It is in Rome, Italy." for reply in PLAIN[2:4]), *PLAIN[4:]]
    found = candidates(base, tuned, 1, favour={"rome": 9.0})
    phrases = [each.feature.phrase for each in found]
    assert len(phrases[0]) > 1
    assert ("rome",) in phrases


def test_a_feature_of_every_reply_hides_no_other():
    tuned = [f"Ahoy. {reply}" for reply in PLAIN[:4]] + [f"Ahoy. {PLAIN[4]} Rome! Rome!"] * 2
    found = candidates(PLAIN, tuned, 5, favour={"rome": 9.0})
    assert any("rome" in each.feature.phrase for each in found)
    assert any("ahoy" in each.feature.phrase for each in found)


def test_a_phrase_is_quoted_as_the_replies_write_it():
    feature = phrase("in rome")
    assert as_written(feature, ["It is in Rome, Italy.", "In Rome.", "in Rome"]) == 'says "in Rome"'
    assert as_written(FORMS[0], ["no"]) == FORMS[0].name


def test_a_feature_is_read_back_from_its_name():
    for feature in (*FORMS, phrase("in rome")):
        assert feature_named(feature.name).name == feature.name
    with pytest.raises(InputError, match="unknown"):
        feature_named("sings")


@given(st.text(), st.text())
def test_any_text_can_be_read(one: str, other: str):
    content_words(one)
    candidates([one] * 3, [other] * 3, 4)
