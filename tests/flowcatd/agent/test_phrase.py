"""Facts about phrase patterns."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcatd.agent.phrase import (
    MAX_PATTERN,
    Form,
    PhraseError,
    Word,
    parse_phrase,
    sample,
    sentences,
    slots_in,
    words_in,
    words_of,
)

VOCABULARY = {
    "day": (Form("Mon", (Word("monday"),)), Form("Tue", (Word("tuesday"), Word("tues")))),
    "time": (
        Form("9:30", (parse_phrase("half past nine", None), parse_phrase("nine thirty", None))),
    ),
}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("yes", ["yes"]),
        ("Yes Please", ["yes please"]),
        ("yes | no", ["yes", "no"]),
        ("(on | for) [the] day", ["on the day", "on day", "for the day", "for day"]),
        ("[a | b] c", ["a c", "b c", "c"]),
        ("o'clock", ["o'clock"]),
        ("a ...", ["a", "a whatever", "a whatever whatever"]),
    ],
)
def test_a_pattern_says_its_sentences(text, said):
    """In the order of the pattern, optional parts taken first."""
    found = [sentence for sentence, _ in sentences(parse_phrase(text, VOCABULARY), VOCABULARY, 50)]
    assert found[: len(said)] == said
    assert len(found) == len(said) or "..." in text


def test_slots_get_the_value_of_the_form():
    """Under the vocabulary's name or the one given; the later of two wins."""
    tree = parse_phrase("not <day:old> <day>", VOCABULARY)
    assert slots_in(tree) == {"old", "day"}
    assert sentences(tree, VOCABULARY, 2) == [
        ("not monday monday", {"old": "Mon", "day": "Mon"}),
        ("not monday tuesday", {"old": "Mon", "day": "Tue"}),
    ]


def test_every_word_is_listed():
    """The words of the pattern and of the vocabularies it uses."""
    tree = parse_phrase("[please] at <time>", VOCABULARY)
    assert words_in(tree, VOCABULARY) == {"please", "at", "half", "past", "nine", "thirty"}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "at the end: nothing is said here"),
        ("a |", "at the end: nothing is said here"),
        ("()", "character 2: nothing is said here"),
        ("(a", "at the end: ')' is missing"),
        ("(a]", "character 3: ')' is missing"),
        ("a )", "character 3: ')' closes nothing"),
        ("a & b", "character 3: '&' is not understood"),
        ("a <b", "character 3: '<' is not understood"),
        ("<dai>", "character 1: no vocabulary 'dai', did you mean 'day'?"),
        ("<xyz>", "character 1: no vocabulary 'xyz'; there is day, time"),
        ("<day:1>", "character 1: '1' is no name for a slot"),
        ("[a]", "the pattern is also true of silence"),
        ("a | [b]", "the pattern is also true of silence"),
        ("...", "the pattern is also true of silence"),
        ("well um yes", "character 6: 'um' is dropped from what is heard"),
        ("(" * 9 + "a" + ")" * 9, "character 9: more than 8 brackets"),
        ("a" * (MAX_PATTERN + 1), "a pattern is longer than 500 characters"),
    ],
)
def test_a_wrong_pattern_is_refused_with_the_place(text, problem):
    """The message names the character and what is wrong."""
    with pytest.raises(PhraseError) as caught:
        parse_phrase(text, VOCABULARY)
    assert str(caught.value).startswith(problem)


def test_a_spoken_form_has_no_slots():
    """Vocabularies do not refer to each other."""
    with pytest.raises(PhraseError):
        parse_phrase("<day>", None)


@pytest.mark.parametrize(
    ("heard", "words"),
    [
        ("Um, Tuesday at nine, please.", ["tuesday", "at", "nine", "please"]),
        ("I'd like ten o'clock!", ["i'd", "like", "ten", "o'clock"]),
        ("'quoted' -- HMM", ["quoted'"]),
        ("", []),
        ("Ein Täxi", ["ein", "täxi"]),
    ],
)
def test_what_is_heard_becomes_words(heard, words):
    """Lower case, without punctuation and hesitations."""
    assert words_of(heard) == words


@given(st.text(st.sampled_from("ab <>()[]|.:day'"), max_size=40))
def test_any_text_is_a_pattern_or_refused(text):
    """A pattern that is accepted has a first sentence that is not silence."""
    try:
        tree = parse_phrase(text, VOCABULARY)
    except PhraseError:
        return
    said, _ = sample(tree, VOCABULARY, lambda _count: 0)
    assert said
