"""Numbers that wrap, made to go on: RTP's 16-bit sequence numbers and 32-bit timestamps.

A sequence number is extended by the cycles it has gone through (RFC 3550 appendix A.1): up to
MAX_DROPOUT ahead is loss, up to MAX_MISORDER behind is reordering, and anything else is refused
until a second packet follows it, which means that the sender began anew. A.1's probation of a new
source is not here: `source` has it, by address. Loss is counted as in A.3, duplicates included, so
that reports say what RTCP wants them to say.
"""

from __future__ import annotations

MAX_DROPOUT = 3000
"""A gap this long is still the same run: a minute at 20 ms (RFC 3550 A.1)."""
MAX_MISORDER = 100
"""So far behind is late; further is a restart (RFC 3550 A.1)."""

_MODULUS = 1 << 16
_HALF32 = 1 << 31
_MASK32 = (1 << 32) - 1


def ahead32(a: int, b: int) -> int:
    """How far 32-bit `a` is ahead of `b`, going the shorter way round: -2^31 to 2^31 - 1."""
    return (a - b + _HALF32 & _MASK32) - _HALF32


def nearest32(reference: int, wire: int) -> int:
    """The number that ends in the 32 bits of `wire` and lies nearest to `reference`."""
    return reference + (wire - reference + _HALF32 & _MASK32) - _HALF32


class Sequence:
    """The sequence numbers of one source."""

    __slots__ = (
        "_bad",
        "_expected_before",
        "_first",
        "_received_before",
        "highest",
        "received",
        "restarts",
    )

    def __init__(self) -> None:
        self.restarts = 0
        """How often the sender began anew: what was kept of it is void."""
        self._first = -1
        self._bad = -1
        self._expected_before = self._received_before = 0
        self.highest = 0
        """The highest number so far, extended."""
        self.received = 0
        """How many packets came, duplicates included."""

    def receive(self, number: int) -> int | None:
        """The extended number, or None when it belongs to no run of packets yet.

        The caller compares `restarts` when the number is one it did not expect.
        """
        ahead = (number - self.highest) & 0xFFFF
        if ahead < MAX_DROPOUT:
            if self._first < 0:
                self._begin(number)
                ahead = 0
            self.highest += ahead
            self.received += 1
            return self.highest
        if self._first < 0:
            self._begin(number)
        elif ahead >= _MODULUS - MAX_MISORDER:
            self.received += 1
            return self.highest + ahead - _MODULUS
        elif number == self._bad:
            self.restarts += 1
            self._begin(number)
        else:
            self._bad = (number + 1) & 0xFFFF
            return None
        self.received += 1
        return self._first

    @property
    def expected(self) -> int:
        """How many packets were sent between the first and the highest, both included."""
        return self.highest - self._first + 1 if self._first >= 0 else 0

    @property
    def lost(self) -> int:
        """Expected and not come; negative when more came twice (RFC 3550 A.3)."""
        return self.expected - self.received

    def fraction_lost(self) -> int:
        """Lost since this was last asked, in 1/256 of what was expected (RFC 3550 A.3)."""
        expected = self.expected - self._expected_before
        received = self.received - self._received_before
        self._expected_before = self.expected
        self._received_before = self.received
        lost = expected - received
        return min(255, (lost << 8) // expected) if expected > 0 and lost > 0 else 0

    @property
    def reported(self) -> int:
        """The highest number as a report has it: 16 bits of cycles, 16 of number (RFC 3550 §6.4.1)."""
        return (self.highest - _MODULUS) & _MASK32

    def _begin(self, number: int) -> None:
        # One cycle up, so that what is reordered before the first packet has no negative number.
        self._first = number + _MODULUS
        self.highest = self._first
        self._bad = -1
        self.received = 0
        self._expected_before = 0
        self._received_before = 0
