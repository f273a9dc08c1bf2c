"""Cutting a line into sentences: nothing is lost, and no part is long without need."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from flowcatd.links.voice_helper import sentences


def test_a_line_is_cut_at_its_sentences():
    """A full stop inside a number or a name without a space is no end."""
    assert sentences("It costs 3.50. Is that fine? Yes!") == [
        "It costs 3.50.",
        "Is that fine?",
        "Yes!",
    ]


def test_a_long_sentence_is_cut_at_its_commas():
    """A sentence of more than 160 characters is spoken clause by clause."""
    parts = sentences("one two three four five, " * 10)
    assert len(parts) == 10


@given(st.text(alphabet="ab .,!?;:", max_size=400))
def test_no_word_is_lost(text):
    """The words of the parts are the words of the line."""
    assert " ".join(sentences(text)).split() == text.split()
