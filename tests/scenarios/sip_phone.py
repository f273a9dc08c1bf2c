"""A SIP telephone for scenarios: the pure rooms played from the other side, on real sockets.

One UDP socket for SIP, a pair for RTP, a pacer of its own. It says a tone that can be told from others and
keeps what it hears. It is a peer, not a mock: what it gets wrong, a telephone would get wrong.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from flowcatd.errors import FlowcatdError
from flowcatd.rtp.codec import PCMU
from flowcatd.rtp.stream import Plan, Stream, StreamEvent
from flowcatd.sip.agent import UserAgent
from flowcatd.sip.agent_event import (
    AgentEvent,
    CallEnded,
    CallNumber,
    Connected,
    Here,
    Invitation,
    Invited,
    Media,
    Mint,
    Referred,
)
from flowcatd.sip.digest import Answerer
from flowcatd.sip.event import Hop
from flowcatd.sip.header import parse_address
from flowcatd.sip.offer import Negotiation
from flowcatd.sip.session import PCMU as PCMU_CODEC
from flowcatd.sip.session import Capabilities, Local, Secrecy, Session
from flowcatd.sip.uri import Uri, parse_uri
from flowcatd.transports.pacer import Pacer
from flowcatd.transports.rtp_wire import RtpWire
from tests.scenarios.daemon import until
from workers.clock import WorkerClock
from workers.ports import PortPair


def bound(host: str = "127.0.0.1") -> socket.socket:
    """A UDP socket on a free port."""
    made = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
    made.setblocking(False)
    made.bind((host, 0))
    return made


@dataclass
class Talk:
    """One call of the phone."""

    number: CallNumber
    events: list[AgentEvent] = field(default_factory=list)
    told: list[StreamEvent] = field(default_factory=list)
    heard: bytearray = field(default_factory=bytearray)
    heard_at: list[float] = field(default_factory=list)
    """When each 20 ms with sound came."""
    stream: Stream | None = None
    wire: RtpWire | None = None
    session: Session | None = None
    says: Callable[[], bytes | None] = lambda: None

    def has(self, kind: type) -> bool:
        """Whether such an event came."""
        return any(isinstance(each, kind) for each in self.events)

    @property
    def ended(self) -> CallEnded | None:
        """How it ended."""
        return next((each for each in self.events if isinstance(each, CallEnded)), None)

    # --- RtpWire's CallSide

    def hear(self, pcm: bytes) -> None:
        """20 ms of the far end."""
        self.heard += pcm
        if np.abs(np.frombuffer(pcm, np.int16)).max() > 500:
            self.heard_at.append(time.monotonic())

    def speak(self) -> bytes | None:
        """20 ms for it."""
        return self.says()

    def told_(self, event: StreamEvent) -> None:
        """A digit, a move, an end."""
        self.told.append(event)

    def broken(self, error: FlowcatdError) -> None:
        """The wire broke: the test is to know."""
        raise error


class _Side:
    """What RtpWire calls: `told` is a list of the talk's."""

    def __init__(self, talk: Talk) -> None:
        self.hear, self.speak, self.broken = talk.hear, talk.speak, talk.broken
        self.told = talk.told_


def tone(hz: float = 440.0, level: int = 8000) -> Callable[[], bytes]:
    """A tone for ever, 20 ms at a time."""
    at = 0

    def say() -> bytes:
        nonlocal at
        wave = level * np.sin(2 * np.pi * hz * (at + np.arange(160)) / 8000)
        at += 160
        return bytes(wave.astype("<i2").tobytes())

    return say


class SipPhone:
    """A telephone at 127.0.0.1."""

    def __init__(self, answerer: Answerer | None = None) -> None:
        loop = asyncio.get_running_loop()
        self.wire = bound()
        self.port = self.wire.getsockname()[1]
        self.talks: dict[CallNumber, Talk] = {}
        self.referred: list[Referred] = []
        self.answers = True
        self.sent: list[bytes] = []
        self.received: list[bytes] = []
        self._answerer = answerer
        self._clock = WorkerClock(loop)
        self._pacer = Pacer(self._clock)
        self._sockets: list[socket.socket] = []
        self._last: PortPair
        self._pairs: dict[CallNumber, PortPair] = {}
        here = Here(
            "127.0.0.1", self.port, Uri("sip", host="127.0.0.1", user="phone", port=self.port)
        )
        self.agent = UserAgent(
            Mint(
                lambda: secrets.token_hex(8),
                lambda _hop: here,
                secrets.SystemRandom().random,
                lambda uri, hop: Hop("UDP", uri.host, uri.port or 5060),
            )
        )
        loop.add_reader(self.wire, self._read)
        self._wake: asyncio.TimerHandle | None = None

    # --- verbs

    async def call(
        self, uri: str, *, says: Callable[[], bytes | None] | None = None, **fields: str
    ) -> Talk:
        """Call somebody, and wait until it is answered or over."""
        target = parse_uri(uri)
        hop = Hop("UDP", target.host, target.port or 5060)
        names = tuple((name.replace("_", "-"), value) for name, value in fields.items())
        caller = parse_address(f"<sip:phone@127.0.0.1:{self.port}>")
        number = self.agent.originate(
            Invitation(target, caller, (hop,), fields=names, answerer=self._answerer),
            self._negotiation(),
            time.monotonic(),
        )
        talk = self.talks[number] = Talk(number, says=says or tone())
        self._pairs[number] = self._last
        self._pump()
        await until(lambda: talk.has(Connected) or talk.ended is not None, "an answer")
        return talk

    def hang_up(self, talk: Talk) -> None:
        """End it."""
        self.agent.hang_up(talk.number, time.monotonic())
        self._pump()

    def hold(self, talk: Talk, *, held: bool = True) -> None:
        """Hold the far end, or take it back."""
        self.agent.hold(talk.number, time.monotonic(), held=held)
        self._pump()

    def refer(self, talk: Talk, uri: str) -> None:
        """Transfer the far end."""
        self.agent.refer(talk.number, parse_uri(uri), time.monotonic())
        self._pump()

    def close(self) -> None:
        """Hang up on everybody and let go."""
        for talk in self.talks.values():
            if talk.wire is not None:
                talk.wire.close()
        loop = asyncio.get_running_loop()
        loop.remove_reader(self.wire)
        if self._wake is not None:
            self._wake.cancel()
        for each in (*self._sockets, self.wire):
            each.close()

    # --- behind

    def _negotiation(self) -> Negotiation:
        rtp, rtcp = bound(), bound()
        self._sockets += [rtp, rtcp]
        port = rtp.getsockname()[1]
        self._last = PortPair(rtp, rtcp, port)
        capabilities = Capabilities(codecs=(PCMU_CODEC,), secrecy=Secrecy.OFF)
        local = Local("127.0.0.1", port, rtcp.getsockname()[1])
        return Negotiation(capabilities, local, str(secrets.randbits(40)), secrets.token_bytes)

    def _read(self) -> None:
        while True:
            try:
                data, (host, port) = self.wire.recvfrom(65_535)
            except BlockingIOError:
                break
            self.received.append(data)
            self.agent.receive(data, Hop("UDP", host, port), time.monotonic())
            self._pump()

    def _pump(self) -> None:
        while True:
            events = self.agent.events()
            for event in events:
                self._take(event)
            sent = self.agent.outgoing()
            for each in sent:
                self.sent.append(each.data)
                self.wire.sendto(each.data, (each.hop.host, each.hop.port))
            if not events and not sent:
                break
        if self._wake is not None:
            self._wake.cancel()
            self._wake = None
        due = self.agent.wake_at()
        if due is not None:
            delay = max(0.0, due - time.monotonic())
            self._wake = asyncio.get_running_loop().call_later(delay, self._woken)

    def _woken(self) -> None:
        self._wake = None
        self.agent.wake(time.monotonic())
        self._pump()

    def _take(self, event: AgentEvent) -> None:
        if isinstance(event, Invited):
            talk = self.talks[event.call] = Talk(event.call, says=tone(880.0))
            if not self.answers:
                self.agent.ring(event.call, time.monotonic())
                return
            self.agent.answer(event.call, self._negotiation(), time.monotonic())
            self._pairs[event.call] = self._last
            return
        talk = self.talks[event.call]
        talk.events.append(event)
        match event:
            case Media(_, session, False):
                self._media(talk, session)
            case Referred():
                self.referred.append(event)
            case CallEnded() if talk.wire is not None:
                talk.wire.close()

    def _media(self, talk: Talk, session: Session) -> None:
        now = time.monotonic()
        talk.session = session
        events = session.events
        plan = Plan(
            codecs=(PCMU,),
            far=session.rtp,
            far_rtcp=session.rtcp,
            digits_type=events.receive_payloads[0] if events else None,
            cname=b"phone",
        )
        if talk.stream is None:
            talk.stream = Stream(plan, secrets.randbits)
            talk.stream.direct(
                now, sending=session.direction.sends, receiving=session.direction.receives
            )
            talk.wire = RtpWire(self._pairs[talk.number], talk.stream, self._pacer, _Side(talk))
        else:
            talk.stream.signal(plan)
            talk.stream.direct(
                now, sending=session.direction.sends, receiving=session.direction.receives
            )


@asynccontextmanager
async def sip_phone(**settings: Any) -> AsyncIterator[SipPhone]:
    """A telephone, put down however the test ends."""
    phone = SipPhone(**settings)
    try:
        yield phone
    finally:
        phone.close()
