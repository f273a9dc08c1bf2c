"""Scenario 10: many short calls leave nothing behind, in a real daemon with everything kept.

The small sister of `make soak`, with the same checks but for the slope of memory, which three hundred
calls cannot show.
"""

from __future__ import annotations

import pytest

from bench.fleet.soak import faults, soak

pytestmark = pytest.mark.scenario


def test_three_hundred_short_calls_leave_nothing_but_their_records() -> None:
    """No leftover, descriptor, task or journal stays; every call heard itself and has its record."""
    report = soak(300, kept=True, rest=1.0)
    assert faults(report) == []
    assert report.records == 300
    assert min(report.looks[-1].rss) > 0
