"""Whom a stream hears, in numbers."""

from __future__ import annotations

import pytest

from flowcatd.rtp.hearing import Hearing
from flowcatd.rtp.rtcp import Block


def met(ssrc: int = 7) -> Hearing:
    """One that hears its first source."""
    hearing = Hearing()
    assert hearing.meets(ssrc, 100)
    return hearing


def test_another_source_needs_two_packets_in_sequence() -> None:
    """And loses its sums to nobody."""
    hearing = met()
    for number in (100, 101, 103):
        hearing.receive(number)
    assert not hearing.meets(8, 0xFFFF)
    assert not hearing.meets(8, 5)
    assert not hearing.meets(9, 6)
    assert not hearing.meets(8, 0xFFFF)
    assert hearing.meets(8, 0)
    hearing.receive(0)
    assert (hearing.ssrc, hearing.sources) == (8, 2)
    assert (hearing.expected, hearing.received, hearing.lost) == (5, 4, 1)
    assert hearing.block(1, 2) == Block(8, 0, 0, 0, 0, 1, 2)


def test_a_restart_of_numbers_keeps_the_sums() -> None:
    """It is told, so that what was buffered can be dropped."""
    hearing = met()
    for number in (100, 102, 40_000, 40_001, 40_002):
        hearing.receive(number)
    assert hearing.restarted
    assert (hearing.expected, hearing.received, hearing.lost) == (3 + 2, 2 + 2, 1)


def test_jitter_is_a_sixteenth_of_each_change() -> None:
    """RFC 3550 A.8; a jump of a second is another timeline."""
    hearing = met()
    hearing.measure(1000.0, 0, 8000)
    hearing.measure(1160.0, 160, 8000)
    assert hearing.jitter == 0.0
    hearing.measure(1480.0, 320, 8000)
    assert hearing.jitter == pytest.approx(10.0)
    hearing.measure(90_000.0, 480, 8000)
    assert hearing.jitter == pytest.approx(10.0)
