"""A SIP telephone for scenarios: the pure rooms played from the other side, on real sockets.

One port for SIP over UDP and TCP, a pair for RTP per call, a pacer of its own. It says a tone that can be
told from others and keeps what it hears. It is a peer, not a mock: what it gets wrong, a telephone would
get wrong. What no telephone does (a wrong BYE, noise) is sent with `SipPhone.throw`.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, cast

import numpy as np

from flowcatd.errors import FlowcatdError
from flowcatd.rtp.stream import Stream, StreamEvent
from flowcatd.sip.agent import UserAgent
from flowcatd.sip.agent_event import (
    AgentEvent,
    CallEnded,
    CallNumber,
    CallTerms,
    Connected,
    Here,
    Invitation,
    Invited,
    Media,
    Mint,
    Pressed,
    ReferProgress,
    Referred,
    Terms,
)
from flowcatd.sip.body import Digit
from flowcatd.sip.digest import Answerer
from flowcatd.sip.event import Hop
from flowcatd.sip.framing import Stream as Framing
from flowcatd.sip.framing import Whole
from flowcatd.sip.header import parse_address
from flowcatd.sip.message import Request, Response
from flowcatd.sip.offer import Negotiation
from flowcatd.sip.session import PCMU as PCMU_CODEC
from flowcatd.sip.session import Capabilities, Local, Secrecy, Session
from flowcatd.sip.uri import Uri, parse_uri
from flowcatd.transports.pacer import Pacer
from flowcatd.transports.rtp_plan import Codecs, Manners
from flowcatd.transports.rtp_wire import RtpWire
from flowcatd.transports.secrecy import Secrecy as Guarding
from tests.scenarios.daemon import until
from workers.clock import WorkerClock
from workers.ports import PortPair


def bound(host: str = "127.0.0.1", port: int = 0) -> socket.socket:
    """A UDP socket on this port, or on a free one."""
    made = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
    made.setblocking(False)
    made.bind((host, port))
    return made


def tone(hz: float = 440.0, level: int = 8000) -> Callable[[int], bytes]:
    """A tone for ever, 20 ms at a time, at whatever rate is asked for."""
    at = 0.0

    def say(rate_hz: int) -> bytes:
        nonlocal at
        count = rate_hz // 50
        wave = level * np.sin(2 * np.pi * hz * (at + np.arange(count) / rate_hz))
        at += 0.02
        return bytes(wave.astype("<i2").tobytes())

    return say


@dataclass
class Talk:
    """One call of the phone."""

    number: CallNumber
    says: Callable[[int], bytes | None] = field(default_factory=tone)
    invited: Invited | None = None
    """How it came in; None for the phone's own."""
    events: list[AgentEvent] = field(default_factory=list)
    told: list[StreamEvent] = field(default_factory=list)
    heard: bytearray = field(default_factory=bytearray)
    heard_at: list[float] = field(default_factory=list)
    """When each 20 ms with sound came."""
    stream: Stream | None = None
    wire: RtpWire | None = None
    session: Session | None = None
    codecs: Codecs = field(default_factory=Codecs)
    guarding: Guarding = field(default_factory=Guarding)

    def has(self, kind: type) -> bool:
        """Whether such an event came."""
        return any(isinstance(each, kind) for each in self.events)

    def count(self, kind: type) -> int:
        """How many such events came."""
        return sum(isinstance(each, kind) for each in self.events)

    @property
    def ended(self) -> CallEnded | None:
        """How it ended."""
        return next((each for each in self.events if isinstance(each, CallEnded)), None)

    @property
    def digits(self) -> str:
        """The keys that the far end pressed by INFO."""
        return "".join(each.digit.key for each in self.events if isinstance(each, Pressed))

    @property
    def transfers(self) -> list[int]:
        """What was said of the transfers the phone asked for."""
        return [each.status for each in self.events if isinstance(each, ReferProgress)]

    @property
    def lost(self) -> int:
        """Packets of the far end that never came."""
        assert self.stream is not None
        return self.stream.figures().lost

    def worst_gap(self, since: float = 0.0) -> float:
        """The longest time between two 20 ms with sound, in seconds."""
        times = [each for each in self.heard_at if each >= since]
        return max((b - a for a, b in pairwise(times)), default=0.0)

    # --- RtpWire's CallSide

    def hear(self, pcm: bytes) -> None:
        """20 ms of the far end."""
        self.heard += pcm
        if np.abs(np.frombuffer(pcm, np.int16)).max() > 500:
            self.heard_at.append(time.monotonic())

    def speak(self) -> bytes | None:
        """20 ms for it."""
        assert self.stream is not None
        return self.says(self.stream.rates[1])

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


class _Pipe(asyncio.Protocol):
    """One TCP or TLS connection of the phone."""

    def __init__(self, phone: SipPhone, *, opened: bool) -> None:
        self._phone = phone
        self._framing = Framing(opened=opened)
        self._waiting: list[bytes] = []
        self.transport: asyncio.Transport | None = None
        self.hop: Hop | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is up: what waited goes."""
        self.transport = cast("asyncio.Transport", transport)
        host, port = transport.get_extra_info("peername")[:2]
        self.hop = Hop(self._phone.transport, host, port)
        self._phone.pipes[host, port] = self
        for data in self._waiting:
            self.transport.write(data)

    def data_received(self, data: bytes) -> None:
        """Bytes came."""
        self._framing.receive_bytes(data, time.monotonic())
        for event in self._framing.events():
            if isinstance(event, Whole) and self.hop is not None:
                self._phone.take(event.data, self.hop)
        for pong in self._framing.outgoing():
            self.write(pong)

    def connection_lost(self, _error: Exception | None) -> None:
        """It is over."""
        if self.hop is not None:
            self._phone.pipes.pop((self.hop.host, self.hop.port), None)

    def write(self, data: bytes) -> None:
        """Now, or when it is up."""
        if self.transport is None:
            self._waiting.append(data)
        else:
            self.transport.write(data)


PLAIN = Capabilities(codecs=(PCMU_CODEC,), secrecy=Secrecy.OFF)
"""µ-law and nothing else."""


@dataclass(frozen=True)
class Manner:
    """What kind of telephone it is."""

    host: str = "127.0.0.1"
    transport: str = "UDP"
    tls: ssl.SSLContext | None = None
    """What it believes, for TLS."""
    capabilities: Capabilities = PLAIN
    answerer: Answerer | None = None
    """What answers challenges."""
    admit: Callable[[Request, Hop, float], Response | None] | None = None
    """Challenges others."""


class SipPhone:
    """A telephone."""

    def __init__(self, manner: Manner | None = None) -> None:
        """`start` has to be called before anybody can call it over TCP."""
        loop = asyncio.get_running_loop()
        self.manner = manner or Manner()
        self.transport = self.manner.transport
        host = self.manner.host
        self.wire = bound(host)
        self.port = self.wire.getsockname()[1]
        self.talks: dict[CallNumber, Talk] = {}
        self.referred: list[Referred] = []
        self.pipes: dict[tuple[str, int], _Pipe] = {}
        self.answers = True
        """Whether it takes calls; else it rings."""
        self.status = 0
        """What it answers calls with instead, if not 0."""
        self.fields: tuple[tuple[str, str], ...] = ()
        """What goes with that."""
        self.sent: list[bytes] = []
        self.received: list[bytes] = []
        self._clock = WorkerClock(loop)
        self._pacer = Pacer(self._clock)
        self._sockets: list[socket.socket] = []
        self._tasks: list[asyncio.Task[Any]] = []
        self._servers: list[asyncio.Server] = []
        self._last: PortPair
        self._pairs: dict[CallNumber, PortPair] = {}
        contact = Uri("sip", host=host, user="phone", port=self.port)
        if self.transport != "UDP":
            contact = replace(contact, parameters={"transport": self.transport.lower()})
        here = Here(host, self.port, contact)
        self.agent = UserAgent(
            Mint(
                lambda: secrets.token_hex(8),
                lambda _hop: here,
                secrets.SystemRandom().random,
                lambda uri, hop: Hop(hop.transport, uri.host, uri.port or 5060),
            ),
            Terms(session_seconds=0),
            admit=self.manner.admit,
        )
        loop.add_reader(self.wire, self._read)
        self._wake: asyncio.TimerHandle | None = None

    # --- verbs

    async def call(
        self, uri: str, *, says: Callable[[int], bytes | None] | None = None, **fields: str
    ) -> Talk:
        """Call somebody, and wait until it is answered or over."""
        talk = self.dial(uri, says=says, **fields)
        await until(lambda: talk.has(Connected) or talk.ended is not None, "an answer")
        return talk

    def dial(
        self,
        uri: str,
        *,
        says: Callable[[int], bytes | None] | None = None,
        terms: CallTerms | None = None,
        **fields: str,
    ) -> Talk:
        """Call somebody."""
        target = parse_uri(uri)
        hop = Hop(self.transport, target.host, target.port or 5060)
        names = tuple((name.replace("_", "-"), value) for name, value in fields.items())
        caller = parse_address(f"<sip:phone@{self.manner.host}:{self.port}>")
        asked = Invitation(
            target, caller, (hop,), fields=names, answerer=self.manner.answerer, terms=terms
        )
        number = self.agent.originate(asked, self._negotiation(), time.monotonic())
        talk = self.talks[number] = Talk(number, says or tone())
        self._pairs[number] = self._last
        self.pump()
        return talk

    async def rung(self, nth: int = 0) -> Talk:
        """The nth call that somebody made to this phone, once it is there."""

        def calls() -> list[Talk]:
            return [each for each in self.talks.values() if each.invited is not None]

        await until(lambda: len(calls()) > nth, "a call to the phone")
        return calls()[nth]

    def answer(self, talk: Talk) -> None:
        """Take a call that rings."""
        self.agent.answer(talk.number, self._negotiation(), time.monotonic())
        self._pairs[talk.number] = self._last
        self.pump()

    def hang_up(self, talk: Talk) -> None:
        """End it."""
        self.agent.hang_up(talk.number, time.monotonic())
        self.pump()

    def hold(self, talk: Talk, *, held: bool = True) -> None:
        """Hold the far end, or take it back."""
        self.agent.hold(talk.number, time.monotonic(), held=held)
        self.pump()

    def refresh(self, talk: Talk) -> None:
        """A re-INVITE that changes nothing."""
        self.agent.re_offer(talk.number, time.monotonic())
        self.pump()

    def refer(self, talk: Talk, uri: str, replaces: Talk | None = None) -> None:
        """Transfer the far end, blind or to whom `replaces` talks."""
        other = None if replaces is None else replaces.number
        self.agent.refer(talk.number, parse_uri(uri), time.monotonic(), other)
        self.pump()

    def answer_refer(self, asked: Referred, *statuses: int) -> None:
        """Accept a transfer, and tell how it goes."""
        now = time.monotonic()
        self.agent.answer_refer(asked.call, asked.reference, 202, now)
        for status in statuses:
            self.agent.report_refer(asked.call, asked.reference, status, now)
        self.pump()

    def inform(self, talk: Talk, keys: str) -> None:
        """Press keys by INFO."""
        for key in keys:
            self.agent.send_digit(talk.number, Digit(key, 160), time.monotonic())
            self.pump()

    def throw(self, data: bytes, host: str, port: int) -> None:
        """Send these bytes from the phone's own SIP port, past its user agent."""
        self.wire.sendto(data, (host, port))

    async def start(self) -> None:
        """Be reachable over TCP as well."""
        if self.transport == "TCP":
            loop = asyncio.get_running_loop()
            server = await loop.create_server(
                lambda: _Pipe(self, opened=False), self.manner.host, self.port
            )
            self._servers.append(server)

    def close(self) -> None:
        """Leave without a word."""
        for talk in self.talks.values():
            if talk.wire is not None:
                talk.wire.close()
        loop = asyncio.get_running_loop()
        loop.remove_reader(self.wire)
        if self._wake is not None:
            self._wake.cancel()
        for task in self._tasks:
            task.cancel()
        for server in self._servers:
            server.close()
        for pipe in list(self.pipes.values()):
            if pipe.transport is not None:
                pipe.transport.abort()
        for each in (*self._sockets, self.wire):
            each.close()

    # --- behind

    def _negotiation(self) -> Negotiation:
        host = self.manner.host
        rtp, rtcp = bound(host), bound(host)
        self._sockets += [rtp, rtcp]
        port = rtp.getsockname()[1]
        self._last = PortPair(rtp, rtcp, port)
        local = Local(host, port, rtcp.getsockname()[1])
        return Negotiation(
            self.manner.capabilities, local, str(secrets.randbits(40)), secrets.token_bytes
        )

    def _read(self) -> None:
        while True:
            try:
                data, (host, port) = self.wire.recvfrom(65_535)
            except BlockingIOError:
                break
            self.take(data, Hop("UDP", host, port))

    def take(self, data: bytes, hop: Hop) -> None:
        """A message came."""
        self.received.append(data)
        self.agent.receive(data, hop, time.monotonic())
        self.pump()

    def _send(self, data: bytes, hop: Hop) -> None:
        self.sent.append(data)
        if hop.transport == "UDP":
            self.wire.sendto(data, (hop.host, hop.port))
            return
        pipe = self.pipes.get((hop.host, hop.port))
        if pipe is None:
            pipe = self.pipes[hop.host, hop.port] = _Pipe(self, opened=True)
            made = pipe
            loop = asyncio.get_running_loop()
            making = loop.create_connection(
                lambda: made,
                hop.host,
                hop.port,
                ssl=self.manner.tls if hop.transport == "TLS" else None,
            )
            self._tasks.append(loop.create_task(making))
        pipe.write(data)

    def pump(self) -> None:
        """Take what the user agent tells, send what it wants sent."""
        while True:
            events = self.agent.events()
            for event in events:
                self._take(event)
            sent = self.agent.outgoing()
            for each in sent:
                self._send(each.data, each.hop)
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
        self.pump()

    def _invited(self, event: Invited) -> None:
        now = time.monotonic()
        talk = self.talks[event.call] = Talk(event.call, tone(880.0), event)
        if self.status:
            self.agent.reject(event.call, self.status, now, self.fields)
        elif self.answers:
            self.agent.answer(event.call, self._negotiation(), now)
            self._pairs[talk.number] = self._last
        else:
            self.agent.ring(event.call, now)

    def _take(self, event: AgentEvent) -> None:
        if isinstance(event, Invited):
            self._invited(event)
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
        plan = talk.codecs.plan(session, Manners(cname=b"phone"))
        talk.guarding.agreed(session.secrecy, now)
        if talk.stream is None:
            talk.stream = Stream(plan, secrets.randbits, talk.guarding.guard)
        else:
            talk.stream.signal(plan)
            talk.stream.shield(talk.guarding.guard)
        talk.stream.direct(
            now, sending=session.direction.sends, receiving=session.direction.receives
        )
        if talk.wire is None:
            talk.wire = RtpWire(self._pairs[talk.number], talk.stream, self._pacer, _Side(talk))


@asynccontextmanager
async def sip_phone(manner: Manner | None = None) -> AsyncIterator[SipPhone]:
    """A telephone, put down however the test ends."""
    phone = SipPhone(manner)
    try:
        await phone.start()
        yield phone
    finally:
        phone.close()
