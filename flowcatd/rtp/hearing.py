"""Whom a stream hears, in numbers: the SSRC, its sequence, its loss and its jitter, for reports.

One source is heard at a time. Another is believed with the second of two packets in sequence, the very
first at once (RFC 3550 A.1's probation, as far as a telephone can wait). Loss and receipts are summed
over all sources of the call; what a report block says is of the present one alone (§6.4.1). Jitter is
A.8's: a sixteenth of each change in transit time, in ticks.
"""

from __future__ import annotations

from flowcatd.rtp.rtcp import Block
from flowcatd.rtp.sequence import Sequence


class Hearing:
    """The numbers of whom we hear: SSRC, sequence, loss over all its SSRCs, interarrival jitter."""

    __slots__ = (
        "_expected",
        "_lost",
        "_next",
        "_received",
        "_sequence",
        "_told",
        "_transit",
        "jitter",
        "restarted",
        "sources",
        "ssrc",
    )

    def __init__(self) -> None:
        self.ssrc = -1
        self.sources = 0
        self.restarted = False
        """The sender began its sequence numbers anew."""
        self.jitter = 0.0
        """In ticks (RFC 3550 A.8)."""
        self._sequence = Sequence()
        self._transit: float | None = None
        self._next = (-1, -1)
        """SSRC and sequence number with which another source would be believed."""
        self._expected = self._received = self._lost = self._told = 0

    def meets(self, ssrc: int, sequence: int) -> bool:
        """Whether to believe a new SSRC: the first at once, another with its second packet."""
        if self.ssrc >= 0 and self._next != (ssrc, sequence):
            self._next = (ssrc, (sequence + 1) & 0xFFFF)
            return False
        self.begin_anew()
        self.ssrc = ssrc
        self.sources += 1
        return True

    def begin_anew(self) -> None:
        """Keep the sums; the next packet is a first one."""
        self._close()
        self._sequence = Sequence()
        self._transit = None
        self._next = (-1, -1)

    def receive(self, number: int) -> int | None:
        """The extended sequence number; None when it is not of this run."""
        sequence = self._sequence
        restarts = sequence.restarts
        expected, received = sequence.expected, sequence.received
        extended = sequence.receive(number)
        if sequence.restarts != restarts:
            self._expected += expected
            self._received += received
            self._lost += expected - received
            self._transit = None
            self.restarted = True
        return extended

    def measure(self, arrival: float, timestamp: int, clock_hz: int) -> None:
        """One packet's part in the interarrival jitter; a jump of a second is no jitter."""
        transit = arrival - timestamp
        before, self._transit = self._transit, transit
        if before is not None:
            apart = abs(transit - before)
            if apart < clock_hz:
                self.jitter += (apart - self.jitter) / 16

    @property
    def has_news(self) -> bool:
        """Whether anything came since the last block: else there is none (RFC 3550 §6.4)."""
        return self.ssrc >= 0 and self.received != self._told

    def block(self, last_report: int, delay: int) -> Block:
        """What we report of it."""
        self._told = self.received
        sequence = self._sequence
        lost = max(-0x800000, min(0x7FFFFF, sequence.lost))
        fraction, highest = sequence.fraction_lost(), sequence.reported
        return Block(self.ssrc, fraction, lost, highest, int(self.jitter), last_report, delay)

    @property
    def expected(self) -> int:
        """Over all sources."""
        return self._expected + self._sequence.expected

    @property
    def received(self) -> int:
        """Over all sources, duplicates included."""
        return self._received + self._sequence.received

    @property
    def lost(self) -> int:
        """Over all sources; duplicates make it less."""
        return self._lost + self._sequence.lost

    def _close(self) -> None:
        sequence = self._sequence
        self._expected += sequence.expected
        self._received += sequence.received
        self._lost += sequence.lost
