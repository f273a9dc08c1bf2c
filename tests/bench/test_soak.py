"""The soak's judgement: each thing that may be left is seen."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench.fleet.soak import SLOPE_KIB, Look, Report, faults, slope

LOOKS = [Look(calls, [900], [9000], [30], 4, 0, 0) for calls in (0, 2000, 4000, 6000, 8000, 10_000)]
FINE = Report("kept", 1.0, 0, [0.0], LOOKS, 0, 0, 0, 10_000)


def test_nothing_left_is_no_fault() -> None:
    """A clean report is clean."""
    assert faults(FINE) == []


@pytest.mark.parametrize(
    "report",
    [
        replace(FINE, wrong=1),
        replace(FINE, leaked=1),
        replace(FINE, errors=1),
        replace(FINE, journals=1),
        replace(FINE, records=9999),
        replace(FINE, slopes=[SLOPE_KIB + 1]),
        replace(FINE, looks=[*LOOKS[:-1], replace(LOOKS[-1], descriptors=[31])]),
        replace(FINE, looks=[*LOOKS[:-1], replace(LOOKS[-1], tasks=5)]),
        replace(FINE, looks=[*LOOKS[:-1], replace(LOOKS[-1], wakes=1)]),
        replace(FINE, looks=[*LOOKS[:-1], replace(LOOKS[-1], leftovers=1)]),
    ],
)
def test_whatever_is_left_is_a_fault(report: Report) -> None:
    """One of each is enough."""
    assert len(faults(report)) == 1


def test_the_slope_is_that_of_the_second_half() -> None:
    """What the warm-up takes does not count; what grows afterwards does, per thousand calls."""
    looks = [replace(each, own=[10_000 + each.calls // 10]) for each in LOOKS]
    looks[0] = replace(looks[0], own=[0])
    assert slope(looks, 0) == 100.0
