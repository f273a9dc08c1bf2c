"""Facts about matching what was said against many patterns at once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcatd.agent.matcher import MAX_WORDS, Matcher
from flowcatd.agent.phrase import Form, PhraseError, parse_phrase, sample

VOCABULARY = {
    "day": tuple(Form(day.title(), (parse_phrase(day, None),)) for day in ("monday", "tuesday")),
    "time": (
        Form("9:00", (parse_phrase("nine [o'clock]", None),)),
        Form("9:30", (parse_phrase("nine thirty", None), parse_phrase("half past nine", None))),
    ),
}


def matcher(*patterns: str) -> Matcher:
    """Build a matcher whose owners are the patterns' numbers."""
    trees = [(number, parse_phrase(text, VOCABULARY)) for number, text in enumerate(patterns)]
    return Matcher(trees, VOCABULARY)


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ("monday", {0: {"day": "Monday"}}),
        ("on monday at nine", {1: {"day": "Monday", "time": "9:00"}}),
        ("on monday at nine thirty please", {1: {"day": "Monday", "time": "9:30"}}),
        ("monday nine o'clock", {1: {"day": "Monday", "time": "9:00"}}),
        ("not monday tuesday", {2: {"old": "Monday", "day": "Tuesday"}}),
        ("on", {}),
        ("on monday at", {}),
        ("monday monday", {}),
        ("", {}),
        ("i need to talk about billing now", {3: {}}),
        ("billing", {3: {}}),
    ],
)
def test_a_sentence_finds_its_pattern_and_slots(said, found):
    """The whole sentence must be explained."""
    patterns = (
        "[on] <day>",
        "[on] <day> [at] <time> [please]",
        "not <day:old> <day>",
        "... billing ...",
    )
    assert matcher(*patterns).match(said.split()) == found


def test_all_patterns_that_fit_are_found_the_first_preferred():
    """A transition whose condition fails leaves the sentence to the next."""
    found = matcher("yes", "... yes", "yes [please]").match(["yes"])
    assert list(found) == [0, 1, 2]


def test_one_owner_may_have_many_patterns():
    """The first of them that fits fills the slots."""
    trees = [(7, parse_phrase(text, VOCABULARY)) for text in ("<day:first>", "<day:second>")]
    assert Matcher(trees, VOCABULARY).match(["monday"]) == {7: {"first": "Monday"}}


def test_any_words_are_at_most_six():
    """`...` is bounded, and prefers to take few."""
    keyword = matcher("... billing <day>")
    assert keyword.match([*["x"] * 6, "billing", "monday"]) == {0: {"day": "Monday"}}
    assert keyword.match([*["x"] * 7, "billing", "monday"]) == {}
    assert keyword.match(["billing", "billing", "monday"]) == {0: {"day": "Monday"}}


def test_a_very_long_utterance_matches_nothing():
    """The work is bounded by the words looked at."""
    assert matcher("... yes").match(["yes"] * (MAX_WORDS + 1)) == {}


def test_a_nasty_pattern_takes_linear_time():
    """Optional parts that could each take any word do not multiply: 2 to the 30th would not end."""
    nasty = matcher(" ".join(["[a]"] * 30) + " b")
    assert nasty.match(["a"] * 30 + ["b"]) == {0: {}}
    assert nasty.match(["a"] * 31 + ["b"]) == {}


def test_too_many_patterns_are_refused():
    """The automaton of a state is bounded."""
    with pytest.raises(PhraseError):
        matcher(*["... " * 100 + "x"] * 100)


def test_without_patterns_nothing_matches():
    """Also not silence."""
    assert matcher().match(["yes"]) == {}
    assert matcher().match([]) == {}


PATTERNS = (
    "[on] <day> [at <time>]",
    "(a | b [c] | <time>) ... end",
    "[no] not <day:old> [but] <day> [please]",
)


@given(st.data(), st.sampled_from(range(len(PATTERNS))))
def test_every_sentence_of_a_pattern_matches_with_its_slots(data, number):
    """What the pattern can say, the matcher understands, among others as well as alone."""
    tree = parse_phrase(PATTERNS[number], VOCABULARY)
    said, slots = sample(tree, VOCABULARY, lambda count: data.draw(st.integers(0, count - 1)))
    assert matcher(*PATTERNS).match(said)[number] == slots


@given(
    st.lists(
        st.sampled_from(["on", "monday", "nine", "at", "a", "end", "no", "not", "x"]), max_size=9
    )
)
def test_matching_is_deterministic(words):
    """The same words give the same answer, in the same order."""
    built = matcher(*PATTERNS)
    assert list(built.match(words).items()) == list(built.match(words).items())
