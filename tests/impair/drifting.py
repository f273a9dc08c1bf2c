"""Telephones whose clocks run off, each of whose calls goes through a bad network of its own.

The telephone is tests/scenarios/sip_phone.py with a pacer whose 20 ms are not quite 20 ms: its crystal. When
packets come in is still told by this machine's clock, as with a telephone whose sound card has a
crystal of its own. The network is tests/interop/relay.py, one per call, both ways; the descriptions are
changed on the way, as a border controller does it, so that neither side knows of it. RTP and RTCP pass the
network (they share a port), SIP does not.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from flowcatd.rtp.digits import Digit
from flowcatd.sip.offer import Negotiation
from flowcatd.sip.session import Local, Session
from flowcatd.transports.pacer import Beat, Pacer, Tick
from flowcatd.wake import Wake
from tests.impair.chirps import Ear, said
from tests.interop.relay import Relay
from tests.scenarios.sip_phone import SipPhone, Talk
from workers.clock import WorkerClock


class DriftingClock:
    """Another clock, from its beginning on, `ppm` millionths too fast."""

    def __init__(self, clock: WorkerClock, ppm: float) -> None:
        self._clock = clock
        self._origin = clock.now()
        self._pace = 1 + ppm / 1e6

    def now(self) -> float:
        """Seconds by this clock."""
        return self._origin + (self._clock.now() - self._origin) * self._pace

    def wake(self, due: float, callback: Callable[[], None]) -> Wake:
        """Call back when this clock says `due`."""
        return self._clock.wake(self._origin + (due - self._origin) / self._pace, callback)


class _Crystal(Pacer):
    """A pacer whose ticks are told the time of day by another clock than its own."""

    def add(self, tick: Tick) -> Beat:
        """As Pacer.add."""
        return super().add(lambda _now: tick(time.monotonic()))


@dataclass
class Line:
    """One call: its network, what it said and what it heard."""

    network: Relay
    ppm: float
    ear: Ear
    talk: Talk | None = None
    frames: int = 0
    pressed: str = ""
    worst_delay_ms: float = 0.0
    """Of the telephone's own jitter buffer."""
    worst_far_delay_ms: float = 0.0
    """Of the daemon's."""
    looks: int = 0
    """How often the daemon told of it."""
    call_id: str = ""

    def says(self, _rate_hz: int) -> bytes:
        """The next 20 ms; what was heard in this tick is already in `talk.heard`."""
        assert self.talk is not None
        heard = bytes(self.talk.heard)
        self.talk.heard.clear()
        self.talk.heard_at.clear()
        self.ear.hear(heard)
        self.frames += 1
        return said(self.frames - 1)

    def press(self, key: str) -> None:
        """Press a key by telephone-event."""
        assert self.talk is not None
        assert self.talk.stream is not None
        self.pressed += key
        self.talk.stream.press(key)

    def look(self) -> None:
        """Note how far the telephone's own buffer lies behind."""
        if self.talk is not None and self.talk.stream is not None:
            delay = self.talk.stream.figures().delay_ms
            self.worst_delay_ms = max(self.worst_delay_ms, delay)

    @property
    def heard_keys(self) -> str:
        """The keys that the daemon pressed."""
        assert self.talk is not None
        return "".join(each.key for each in self.talk.told if isinstance(each, Digit))


class DriftingPhone(SipPhone):
    """A telephone with several lines; `lay` a line, then call."""

    def __init__(self, ppm: float) -> None:
        super().__init__()
        self.ppm = ppm
        self._pacer = _Crystal(DriftingClock(self._clock, ppm))
        self._laid: Relay | None = None
        self._networks: dict[int, Relay] = {}

    def place(self, uri: str, network: Relay) -> Line:
        """Call through this network; `line.talk` tells what becomes of it."""
        line = Line(network, self.ppm, Ear())
        self._laid = network
        talk = self.dial(uri, says=line.says)
        line.talk = talk
        line.call_id = self.agent.call_id(talk.number)
        self._networks[talk.number] = network
        return line

    def _negotiation(self) -> Negotiation:
        made = super()._negotiation()
        assert self._laid is not None
        made.local = Local(self.manner.host, self._laid.far_port)
        return made

    def _media(self, talk: Talk, session: Session) -> None:
        network = self._networks[talk.number]
        assert session.rtp is not None
        assert session.has_rtcp_mux, "reports would not pass the network"
        network.aim(session.rtp)
        near = ("127.0.0.1", network.port)
        super()._media(talk, replace(session, rtp=near, rtcp=near))
