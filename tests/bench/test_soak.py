"""The soak's judgement: each thing that may be left is seen."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench.fleet.sip_calls import fault, word_of
from bench.fleet.soak import SLOPE_KIB, Look, Report, faults, slope, soak, stamp

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
        replace(FINE, counted=1),
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


def test_a_stamped_frame_is_known_wherever_it_begins() -> None:
    """Another call's is another; made-up sound, silence and a splice are nobody's."""
    frame = stamp(77, 3)
    turned = frame[2:] + frame[:2]
    assert word_of(frame) == word_of(turned) != b""
    assert word_of(frame) != word_of(stamp(78, 3))
    assert word_of(b"\xff" * 160) == b""
    assert word_of(frame[:80] + turned[80:]) == b""


def test_a_call_by_sip_is_right_when_it_heard_itself_and_nobody_else() -> None:
    """Shifted by a splice is itself; silence, half of it, another call's frame or a bad end is a fault."""
    said = [stamp(5, frame) for frame in range(10)]
    shifted = b"\xff" * 37 + b"".join(said) + b"\xff" * 123
    heard = [shifted[at : at + 160] for at in range(0, len(shifted), 160)]
    assert fault(said, said, 200) == fault(said, heard, 200) == ""
    for wrong in ([b"\xff" * 160] * 10, said[:7], [*said, stamp(6, 0)], []):
        assert fault(said, wrong, 200)
    assert fault(said, said, 481)


@pytest.mark.scenario
def test_a_hundred_short_calls_over_sip_leave_nothing() -> None:
    """No port, descriptor, task, timer or place in a trunk's quota is kept; every call was right."""
    report = soak(100, kept=True, sip=True, rest=0.5)
    assert faults(report) == []
    assert report.records == 100
