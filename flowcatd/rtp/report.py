"""When to report and what: the RTCP half of one stream pair (RFC 3550 §6.2, §6.3, §6.4, A.7).

Reports go out at a randomised interval whose mean is at least MIN_INTERVAL, half of it for the first;
with two members it is the bandwidth share that never matters. When the time comes the interval is drawn
again, and if that lies later the report waits (§6.3.6); the interval is divided by e - 3/2 because of
that (§6.3.1). A BYE goes at once: two members are no crowd (§6.3.7 allows it below fifty).

NTP times are told by a monotonic clock and the offset to the wall's given at construction: what counts
is their difference. Round trip: arrival of a report, less our stamp in it, less how long the far
end kept it (§6.4.1).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from flowcatd.rtp.rtcp import (
    Block,
    Description,
    Goodbye,
    Report,
    RtcpPacket,
    build_rtcp,
)

MIN_INTERVAL = 5.0
"""Seconds (RFC 3550 §6.2)."""
SENDER_SHARE = 0.25
BANDWIDTH = 0.05 * 80_000 / 8
"""Bytes per second: five percent of G.711 with its headers (§6.2)."""
COMPENSATION = 2.718281828459045 - 1.5
MOST_ROUND_TRIP = 10.0
"""Seconds; a longer one is a stamp that was not ours."""

_NTP_EPOCH = 2_208_988_800
"""Seconds from 1900 to 1970."""


def interval(
    members: int, senders: int, average_size: float, *, we_sent: bool, first: bool
) -> float:
    """Seconds between reports before they are randomised (RFC 3550 §6.3.1)."""
    bandwidth, counted = BANDWIDTH, members
    if 0 < senders <= members * SENDER_SHARE:
        share = SENDER_SHARE if we_sent else 1.0 - SENDER_SHARE
        bandwidth *= share
        counted = senders if we_sent else members - senders
    least = MIN_INTERVAL / 2 if first else MIN_INTERVAL
    return max(least, counted * average_size / bandwidth)


@dataclass(frozen=True, slots=True)
class Sent:
    """What we sent so far, for a sender report."""

    ssrc: int
    timestamp: int
    """The RTP timestamp that belongs to this moment."""
    packets: int
    octets: int


class Reporter:
    """What we tell of what we hear, and what the far end tells of us."""

    def __init__(self, cname: bytes, wall_offset: float, chance: Callable[[], float]) -> None:
        """`wall_offset` is Unix time less monotonic time; `chance` gives 0.0 up to 1.0."""
        self._cname = cname[:255]
        self._offset = wall_offset
        self._chance = chance
        self._due: float | None = None
        self._before = 0.0
        self._first = True
        self._average = 100.0
        self._packets_before = 0
        self._sent_last = False
        self._is_sender = False
        self.has_reported = False
        """Whether the far end may know of us by a report."""
        self._their_ssrc = -1
        self._their_stamp = 0
        self._their_stamp_at = 0.0
        self.round_trip: float | None = None
        """Seconds there and back, as last measured."""
        self.remote: Block | None = None
        """What the far end last said of our stream."""

    def begin(self, now: float) -> None:
        """Media flows: the first report is due soon."""
        if self._due is None:
            self._before = now
            self._due = now + self._draw()

    def wake_at(self) -> float | None:
        """When a report may be due."""
        return self._due

    def wake(self, now: float) -> bool:
        """Whether a report is to be made now: drawn again, as §6.3.6 wants it."""
        if self._due is None or now < self._due:
            return False
        again = self._before + self._draw()
        if again > now:
            self._due = again
            return False
        self._before = now
        self._first = False
        self._due = now + self._draw()
        return True

    def make(self, sent: Sent, block: Block | None, now: float, *, bye: bool = False) -> bytes:
        """The compound to send: a report, our name, and the end if it is one."""
        blocks = () if block is None else (block,)
        # §6.4: a sender is who sent since the last report or the one before it.
        was, self._sent_last = self._sent_last, sent.packets != self._packets_before
        self._packets_before = sent.packets
        self._is_sender = was or self._sent_last
        self.has_reported = True
        if self._is_sender:
            ntp = self.ntp(now)
            report = Report(sent.ssrc, blocks, ntp, sent.timestamp, sent.packets, sent.octets)
        else:
            report = Report(sent.ssrc, blocks)
        packets: list[RtcpPacket] = [report, Description(sent.ssrc, self._cname)]
        if bye:
            packets.append(Goodbye((sent.ssrc,)))
        data = build_rtcp(packets)
        self._weigh(len(data))
        return data

    def receive(
        self, packets: list[RtcpPacket], ssrcs: tuple[int, int], size: int, now: float
    ) -> bool:
        """Take in what came in one datagram; true when the far end says goodbye.

        `ssrcs` are ours and that of whom we hear, -1 for nobody yet. A goodbye for another one is no
        end: so says who goes on under another number (RFC 3550 §8.2).
        """
        ours, theirs = ssrcs
        self._weigh(size)
        left = False
        for packet in packets:
            match packet:
                case Report():
                    if packet.ntp is not None:
                        self._their_ssrc = packet.ssrc
                        self._their_stamp = packet.ntp >> 16 & 0xFFFFFFFF
                        self._their_stamp_at = now
                    for block in packet.blocks:
                        if block.ssrc == ours:
                            self._learn(block, now)
                case Goodbye(gone):
                    left = left or theirs < 0 or theirs in gone
                case _:
                    pass
        return left

    def last_report(self, ssrc: int, now: float) -> tuple[int, int]:
        """The stamp of a source's last sender report and how long ago it came, for a block about it.

        Zeros where it sent none (§6.4.1).
        """
        if not self._their_stamp or ssrc != self._their_ssrc:
            return 0, 0
        return self._their_stamp, min(0xFFFFFFFF, int((now - self._their_stamp_at) * 65536))

    def ntp(self, now: float) -> int:
        """64 bits of NTP time."""
        return int((now + self._offset + _NTP_EPOCH) * (1 << 32)) & (1 << 64) - 1

    def _learn(self, block: Block, now: float) -> None:
        self.remote = block
        if block.last_report:
            ticks = ((self.ntp(now) >> 16) - block.last_report - block.delay) & 0xFFFFFFFF
            if ticks < MOST_ROUND_TRIP * 65536:
                self.round_trip = ticks / 65536

    def _draw(self) -> float:
        mean = interval(
            2,
            1 + self._is_sender,
            self._average,
            we_sent=self._is_sender,
            first=self._first,
        )
        return mean * (0.5 + self._chance()) / COMPENSATION

    def _weigh(self, size: int) -> None:
        """RFC 3550 §6.3.3: a sixteenth of the news; 28 octets are UDP's and IP's."""
        self._average += (size + 28 - self._average) / 16
