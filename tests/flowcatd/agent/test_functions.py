"""Facts about the values of templates."""

from __future__ import annotations

import pytest

from flowcatd.agent.functions import TABLE, TemplateError, member, text_of


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        (True, "true"),
        (3, "3"),
        (3.0, "3"),
        (0.1, "0.1"),
        (float("inf"), "inf"),
        ({"b": 1, "a": None}, "map[a: b:1]"),
        ([1, "x", [True]], "[1 x [true]]"),
    ],
)
def test_every_value_has_a_text(value, text):
    """What is missing is nothing, so that it is never spoken."""
    assert text_of(value) == text


def test_deep_values_are_cut_off():
    """Printing ends after eight levels."""
    value: list[object] = []
    for _ in range(5_000):
        value = [value]
    assert text_of(value) == "[[[[[[[[…]]]]]]]]"


def test_a_value_of_another_kind_is_refused():
    """Nothing of Python is printed."""
    with pytest.raises(TemplateError):
        text_of(object())


def test_members_of_what_is_missing_are_missing():
    """A path through nothing is nothing, through a text an error."""
    assert member({"a": {}}, ("a", "b", "c")) is None
    with pytest.raises(TemplateError):
        member({"a": "text"}, ("a", "b"))


def test_every_function_says_how_many_values_it_takes():
    """The counts of the table are a range."""
    assert all(1 <= row.least <= row.most for row in TABLE.values())
