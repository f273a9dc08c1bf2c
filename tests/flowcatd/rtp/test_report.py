"""When RTCP reports go out: RFC 3550 §6.2, §6.3."""

from __future__ import annotations

import itertools
import random

import pytest

from flowcatd.rtp.report import MIN_INTERVAL, Reporter, Sent, interval
from flowcatd.rtp.rtcp import Block, Description, Goodbye, Report, parse_rtcp

SENT = Sent(11, 160, 1, 160)


def reporter(seed: int = 1) -> Reporter:
    """One whose wall clock stands 1000 s ahead of the monotonic one."""
    return Reporter(b"leg", 1000.0, random.Random(seed).random)


def test_reports_go_out_every_five_seconds_on_the_average() -> None:
    """Randomised, never clumped, never much longer: an hour of virtual time."""
    leg = reporter()
    leg.begin(0.0)
    sent, now = [], 0.0
    while now < 3600.0:
        now = leg.wake_at()
        if leg.wake(now):
            sent.append(now)
    apart = [b - a for a, b in itertools.pairwise(sent)]
    assert min(apart) >= 0.5 * MIN_INTERVAL / 1.22
    assert max(apart) <= 3 * MIN_INTERVAL
    assert sum(apart) / len(apart) == pytest.approx(MIN_INTERVAL, rel=0.1)
    assert sent[0] <= 1.5 * MIN_INTERVAL


def test_nothing_is_due_before_media_flows() -> None:
    """Nor before its time; beginning twice changes nothing."""
    leg = reporter()
    assert (leg.wake_at(), leg.wake(99.0)) == (None, False)
    leg.begin(100.0)
    due = leg.wake_at()
    leg.begin(101.0)
    assert leg.wake_at() == due
    assert not leg.wake(100.0)


def test_many_members_share_the_bandwidth() -> None:
    """§6.3.1: few senders take a quarter of it between them, receivers the rest."""
    crowd = interval(1000, 10, 100.0, we_sent=False, first=False)
    few = interval(1000, 10, 100.0, we_sent=True, first=False)
    assert crowd == pytest.approx(990 * 100 / (500 * 0.75))
    assert few == pytest.approx(10 * 100 / (500 * 0.25))
    assert interval(2, 2, 100.0, we_sent=True, first=True) == MIN_INTERVAL / 2
    assert interval(1000, 900, 100.0, we_sent=True, first=False) == 1000 * 100 / 500


def test_who_sent_nothing_for_two_intervals_reports_as_a_receiver() -> None:
    """§6.4: a sender is who sent since the last report or the one before; the name is always there."""
    leg = reporter()
    block = Block(7, 0, 0, 1, 2, 3, 4)
    first, name = parse_rtcp(leg.make(SENT, block, 0.0))
    second, _ = parse_rtcp(leg.make(SENT, None, 5.0))
    third, _ = parse_rtcp(leg.make(SENT, None, 10.0))
    assert isinstance(first, Report)
    assert first.ntp == 2_208_989_800 << 32
    assert name == Description(11, b"leg")
    assert isinstance(second, Report)
    assert second.ntp is not None
    assert third == Report(11)


def test_the_round_trip_is_what_is_left_of_our_stamp() -> None:
    """§6.4.1: arrival less stamp less the far end's delay; foreign stamps and blocks count not."""
    leg = reporter()
    stamp = leg.ntp(10.0) >> 16 & 0xFFFFFFFF
    answer = Block(11, 25, 3, 9, 8, stamp, int(0.5 * 65536))
    leg.receive([Report(7, (answer,), 5 << 32, 1, 2, 3)], (11, 7), 60, 10.62)
    assert leg.round_trip == pytest.approx(0.12, abs=0.001)
    assert leg.remote == answer
    assert leg.last_report(7, 11.62) == (5 << 16, 65536)
    strange = Block(11, 0, 0, 9, 8, (stamp - (1 << 30)) & 0xFFFFFFFF, 0)
    leg.receive([Report(7, (strange, Block(99, 9, 9, 9, 9, 9, 9)))], (11, 7), 60, 11.0)
    assert leg.round_trip == pytest.approx(0.12, abs=0.001)
    assert leg.remote == strange


def test_before_the_far_end_reports_there_is_no_stamp() -> None:
    """Zeros, as §6.4.1 wants them."""
    assert reporter().last_report(7, 5.0) == (0, 0)


def test_the_stamp_of_one_source_is_not_told_of_another() -> None:
    """§6.4.1: LSR is the last sender report of the very source that the block is about."""
    leg = reporter()
    leg.receive([Report(7, (), 5 << 32, 1, 2, 3)], (11, 7), 60, 1.0)
    assert leg.last_report(8, 2.0) == (0, 0)
    assert leg.last_report(7, 2.0) == (5 << 16, 65536)


@pytest.mark.parametrize(
    ("heard", "gone", "left"), [(7, (7,), True), (8, (7,), False), (-1, (7,), True), (7, (), False)]
)
def test_a_goodbye_is_of_whom_we_hear(heard, gone, left) -> None:
    """§8.2: who changes its SSRC says goodbye to the old one and goes on."""
    assert reporter().receive([Goodbye(gone)], (11, heard), 60, 1.0) is left
