"""The timers of SIP transactions as one value (RFC 3261 Table 4, RFC 6026 §8.4).

Three numbers give all of them. A test shrinks or stretches the value it passes; nothing here is
global. Seconds throughout.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Timers:
    """T1, T2, T4, and what the table derives from them."""

    t1: float = 0.5
    """The round trip that is expected."""
    t2: float = 4.0
    """The longest pause between retransmissions."""
    t4: float = 5.0
    """How long a message may stay in the network."""
    trying: float = 0.2
    """An INVITE that is not answered by then gets a 100 (§17.2.1)."""
    ringing: float = 190.0
    """Timer C: an INVITE without a further provisional answer for that long is cancelled. More than
    three minutes, and the peer repeats its answer every minute (§13.3.1.1)."""

    @property
    def timeout(self) -> float:
        """64*T1: Timers B, D, F, H, J, L and M, and how long after a CANCEL an answer is awaited."""
        return 64 * self.t1

    @property
    def late(self) -> float:
        """What Timer E takes to come to T2: a request other than INVITE gets its 100 then (RFC 4320 §4.1)."""
        pause, past = self.t1, 0.0
        while pause < self.t2:
            past, pause = past + pause, 2 * pause
        return past

    def next_pause(self, pause: float) -> float:
        """The pause after this one, of Timers E and G: twice as long, T2 at most."""
        return min(2 * pause, self.t2)
