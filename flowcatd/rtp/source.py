"""Whose packets are believed: symmetric RTP with a lock (RFC 4961, and what NATs make of it).

SDP says where the far end listens, which behind a NAT is not where its packets come from. So we send
to where they do come from, once that is settled. Believing the first packet would let anyone who
guesses the port take the call over; so a source is believed only when it sent CONSISTENT packets, one
sequence number after the other with one SSRC. The address that signalling named is believed at once.

Once locked, packets from elsewhere are foreign: counted, dropped. The lock moves when a candidate is
consistent and one of these holds:
* it carries on the locked SSRC and sequence numbers, and the locked address has been silent for
  REBIND: a NAT gave the far end another port;
* the locked address has been silent for ABANDONED: it is gone, whoever speaks now;
* signalling changed the media (re-INVITE, UPDATE, 183 then 200) since the lock: the old address may
  even still be sending.

RTCP comes from the same host, from whatever port, and goes to RTP's port plus one until it has
come, to the signalled port where SDP named one (RFC 3605), or to RTP's own with rtcp-mux (RFC 5761).
"""

from __future__ import annotations

from dataclasses import dataclass

from flowcatd.rtp.packet import Packet

Addr = tuple[str, int]
"""Host and port, as the socket gives them; the first two of IPv6's four."""

CONSISTENT = 3
"""Packets in sequence that make a source: 40 ms of a source that nobody announced are not heard."""
REBIND = 0.2
"""Seconds of silence after which the same stream may come from elsewhere: no jitter lasts longer."""
ABANDONED = 3.0
"""Seconds after which a locked address that says nothing is given up."""
MOST_CANDIDATES = 8
"""Addresses watched at a time; a flood from many pushes out the oldest."""
CONTINUES = 250
"""Sequence numbers that the same stream may have gone on by: 5 s at 20 ms."""


@dataclass(slots=True)
class _Candidate:
    ssrc: int
    sequence: int
    count: int


class Source:
    """Where one stream comes from, and so where ours goes to."""

    def __init__(
        self, signalled: Addr | None, *, rtcp: Addr | None = None, mux: bool = False
    ) -> None:
        """`signalled` is what SDP says, None while it has not spoken; `rtcp` its a=rtcp line."""
        self._signalled = signalled
        self._rtcp = rtcp
        self._mux = mux
        self._rtcp_seen: Addr | None = None
        self.locked: Addr | None = None
        """Who is believed."""
        self._ssrc = 0
        self._sequence = 0
        self._heard_at = 0.0
        self._open = True
        """Whether signalling changed since the lock."""
        self._candidates: dict[Addr, _Candidate] = {}
        self.foreign = 0
        """Packets that were not believed."""
        self.moves = 0
        """How often the lock went from one address to another."""

    def signal(
        self, signalled: Addr | None, rtcp: Addr | None = None, *, mux: bool = False
    ) -> None:
        """Signalling says (again) where the far end listens: the lock may move."""
        self._mux = mux
        if signalled != self._signalled:
            self._rtcp_seen = None
        self._signalled = signalled
        self._rtcp = rtcp
        self._open = True
        self._candidates.clear()

    def accept(self, packet: Packet, addr: Addr, now: float) -> bool:
        """Whether this packet is the far end's; it may move the lock."""
        if addr == self.locked:
            self._ssrc, self._sequence, self._heard_at = packet.ssrc, packet.sequence, now
            return True
        if self._is_settled(packet, addr, now):
            if self.locked is not None:
                self.moves += 1
                self._rtcp_seen = None
            self.locked = addr
            self._open = False
            self._candidates.clear()
            self._ssrc, self._sequence, self._heard_at = packet.ssrc, packet.sequence, now
            return True
        self.foreign += 1
        return False

    def accept_rtcp(self, addr: Addr) -> bool:
        """Whether RTCP from here is the far end's: the host is the one believed or signalled."""
        known = self.locked or self._signalled
        if known is None or (addr[0] != known[0] and addr != self._rtcp):
            self.foreign += 1
            return False
        if self.locked is not None and not self._mux:
            self._rtcp_seen = addr
        return True

    @property
    def destination(self) -> Addr | None:
        """Where our packets go; None before anybody was heard of."""
        if self._open and self._signalled is not None and self.locked is None:
            return self._signalled
        return self.locked or self._signalled

    @property
    def rtcp_destination(self) -> Addr | None:
        """Where our reports go."""
        to = self.destination
        if to is None or self._mux:
            return to
        if self._rtcp_seen is not None:
            return self._rtcp_seen
        if self._rtcp is not None and (self.locked is None or self.locked == self._signalled):
            return self._rtcp
        return to[0], to[1] + 1

    def restore(self, locked: Addr, ssrc: int, sequence: int, now: float) -> None:
        """Believe who was believed before this process took the call up."""
        self.locked, self._ssrc, self._sequence, self._heard_at = locked, ssrc, sequence, now
        self._open = False

    @property
    def heard(self) -> tuple[int, int]:
        """SSRC and sequence number of the last packet believed."""
        return self._ssrc, self._sequence

    def _is_settled(self, packet: Packet, addr: Addr, now: float) -> bool:
        if addr == self._signalled and self._open:
            return True
        count = self._count(packet, addr)
        if count < CONSISTENT:
            return False
        if self.locked is None or self._open:
            return True
        silent = now - self._heard_at
        on = (packet.sequence - self._sequence) & 0xFFFF
        continues = packet.ssrc == self._ssrc and 0 < on <= CONTINUES
        return silent >= ABANDONED or (continues and silent >= REBIND)

    def _count(self, packet: Packet, addr: Addr) -> int:
        """How many packets in sequence came from there, this one included."""
        known = self._candidates.get(addr)
        if known is None:
            if len(self._candidates) >= MOST_CANDIDATES:
                del self._candidates[next(iter(self._candidates))]
            self._candidates[addr] = _Candidate(packet.ssrc, packet.sequence, 1)
            return 1
        follows = packet.sequence == (known.sequence + 1) & 0xFFFF and packet.ssrc == known.ssrc
        known.count = min(known.count + 1, CONSISTENT) if follows else 1
        known.ssrc, known.sequence = packet.ssrc, packet.sequence
        return known.count
