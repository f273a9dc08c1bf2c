"""Facts about key patterns."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcatd.agent.keypad import KEYS, KeypadError, parse_keys


@pytest.mark.parametrize(
    ("pattern", "pressed", "whole", "grows"),
    [
        ("1", "1", True, False),
        ("1", "2", False, False),
        ("1", "", False, True),
        ("[0-9]{4}", "123", False, True),
        ("[0-9]{4}", "1234", True, False),
        ("[0-9]{2,4}", "12", True, True),
        ("[0-9]{2,4}", "12#", False, False),
        ("[0-9]{1,8}#", "12", False, True),
        ("[0-9]{1,8}#", "12#", True, False),
        ("0[1-3]{0,2}", "0", True, True),
        ("[13579*]", "*", True, False),
        (".", "D", True, False),
    ],
)
def test_keys_so_far_are_whole_or_may_grow(pattern, pressed, whole, grows):
    """Both are asked after every key."""
    keys = parse_keys(pattern)
    assert (keys.accepts(pressed), keys.may_grow(pressed)) == (whole, grows)


@pytest.mark.parametrize(
    "pattern",
    [
        "",
        "x",
        "1x",
        "[]",
        "[a-z]",
        "[0-9",
        "1{0}",
        "1{3,2}",
        "1{99}",
        "[0-9]{0,5}",
        "9{60}9{60}",
        "[5-2]",
    ],
)
def test_a_wrong_pattern_is_refused(pattern):
    """Empty ones, other characters, impossible counts, and more than 64 keys."""
    with pytest.raises(KeypadError):
        parse_keys(pattern)


PATTERNS = ["1", "[0-9]{4}", "[1-3]{1,3}#", "0[2-5]{0,2}*", "12{0,1}3", "[0-9]{2,4}"]


@given(st.sampled_from(PATTERNS), st.text(st.sampled_from(KEYS), max_size=6))
def test_a_pattern_accepts_what_the_regular_expression_does(pattern, pressed):
    """`*` is the only character of ours that a regular expression reads otherwise."""
    expected = re.fullmatch(pattern.replace("*", "[*]"), pressed) is not None
    assert parse_keys(pattern).accepts(pressed) is expected


@given(st.sampled_from(PATTERNS), st.text(st.sampled_from("0123*#"), max_size=4))
def test_what_may_grow_has_a_longer_entry(pattern, pressed):
    """And what may not, has none: tried out over all continuations of up to four keys."""
    keys = parse_keys(pattern)
    frontier, longer = {pressed}, False
    for _ in range(4):
        frontier = {
            text + key
            for text in frontier
            for key in "0123456789*#"
            if keys.accepts(text + key) or keys.may_grow(text + key)
        }
        longer = longer or any(keys.accepts(text) for text in frontier)
    assert keys.may_grow(pressed) is longer
