"""Facts about lengths of time in dialog files."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcatd.agent.duration import LONGEST, maybe_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("15s", 15.0),
        ("1m30s", 90.0),
        ("1.5h", 5400.0),
        ("300ms", 0.3),
        (".5s", 0.5),
        ("2us", 2e-6),
        ("2µs", 2e-6),
        ("7ns", 7e-9),
        ("0", 0.0),
        (" 10s ", 10.0),
        ("24h", LONGEST),
    ],
)
def test_a_go_duration_gives_its_seconds(text, seconds):
    """Every unit, and several in one text."""
    assert maybe_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text", ["", "5", "5 s", "s", "-5s", "+5s", "5d", "1m 30s", "25h", "٣s", "1e3s"]
)
def test_what_is_no_duration_gives_none(text):
    """Signs, bare numbers, unknown units, spaces, and more than a day."""
    assert maybe_duration(text) is None


@given(st.text())
def test_any_text_gives_seconds_within_a_day_or_none(text):
    """Nothing is raised, and nothing lies outside the range."""
    seconds = maybe_duration(text)
    assert seconds is None or 0 <= seconds <= LONGEST


@given(st.integers(0, 23), st.integers(0, 59), st.integers(0, 59))
def test_hours_minutes_and_seconds_add_up(hours, minutes, seconds):
    """The parts of a duration are summed."""
    assert maybe_duration(f"{hours}h{minutes}m{seconds}s") == hours * 3600 + minutes * 60 + seconds
