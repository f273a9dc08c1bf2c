"""Silence on the wire, noticed."""

from __future__ import annotations

from flowcatd.rtp.watchdog import Patience, Watchdog


def dog() -> Watchdog:
    """Patient for 30 s at first, for 20 s after."""
    return Watchdog(Patience(30.0, 20.0))


def test_ringing_is_not_watched() -> None:
    """Until the answer nobody need send."""
    made = dog()
    assert (made.wake_at(), made.wake(1e6)) == (None, None)


def test_the_first_packet_has_its_own_patience() -> None:
    """From the answer on; early media counts for nothing then but for having come."""
    made = dog()
    made.watch(100.0, expected=True)
    assert made.wake_at() == 130.0
    made.heard_at = 129.0
    assert made.wake_at() == 149.0
    assert made.wake(130.0) is None
    assert made.wake(149.5) == 20.5


def test_it_is_told_once() -> None:
    """And again only after the next hold or answer."""
    made = dog()
    made.watch(0.0, expected=True)
    assert made.wake(30.0) == 30.0
    assert (made.wake(31.0), made.wake_at()) == (None, None)
    made.watch(40.0, expected=True)
    assert made.wake_at() == 70.0


def test_hold_suspends_it_and_its_end_begins_anew() -> None:
    """What was heard before the hold is no reason to be impatient after it."""
    made = dog()
    made.watch(0.0, expected=True)
    made.heard_at = 5.0
    made.watch(10.0, expected=False)
    assert (made.wake_at(), made.wake(1000.0)) == (None, None)
    made.watch(1000.0, expected=True)
    assert made.wake_at() == 1020.0
