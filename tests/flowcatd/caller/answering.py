"""An agent with a telephone: the other side of a call over SIP, with real sockets on 127.0.0.1.

It is made of the user agent and the RTP wire that the daemon has, and answers as `Habits` say. It says
tones for lines, waits for 200 ms of silence after the caller's voice, and hangs up after its last line.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from flowcatd.audio.level import rms
from flowcatd.caller.sip_line import Ports, open_ports
from flowcatd.caller.sip_phone import LoopClock
from flowcatd.media import frame_bytes
from flowcatd.rtp.digits import Digit
from flowcatd.rtp.stream import Stream
from flowcatd.sip.agent import UserAgent
from flowcatd.sip.agent_event import (
    CallEnded,
    CallNumber,
    Cause,
    Connected,
    Here,
    Invited,
    Media,
    Mint,
    Pressed,
    ReferProgress,
)
from flowcatd.sip.dialog import nearest
from flowcatd.sip.digest import Gate, Judgement, Terms
from flowcatd.sip.event import Hop
from flowcatd.sip.framing import Stream as Framing
from flowcatd.sip.framing import Whole
from flowcatd.sip.message import Request, Response, build_response
from flowcatd.sip.offer import Negotiation
from flowcatd.sip.session import CODECS, Capabilities, Codec, Local, Secrecy, Session
from flowcatd.sip.trouble import SipError
from flowcatd.sip.uri import Uri, parse_uri
from flowcatd.transports.pacer import Pacer
from flowcatd.transports.rtp_plan import Codecs, Manners
from flowcatd.transports.rtp_wire import RtpWire
from tests.flowcatd.caller.played import tone

SILENT_FRAMES = 10
LOUD = 500


@dataclass(frozen=True, slots=True)
class Habits:
    """How it takes calls."""

    lines: tuple[str, ...] = ("hello", "goodbye")
    line_ms: int = 100
    ends: bool = True
    """Whether it hangs up after its last line."""
    cause: Cause | None = None
    """What it says then."""
    refuses: int = 0
    """The status of every answer, 0 to take the call."""
    fields: tuple[tuple[str, str], ...] = ()
    rings: bool = False
    """It rings, and nobody ever takes the call."""
    is_deaf: bool = False
    """It reads nothing at all."""
    password: str = ""
    """Of the user `alice`; empty asks for none."""
    codecs: tuple[Codec, ...] = tuple(CODECS.values())
    has_events: bool = True
    """It understands RFC 4733."""
    transfers: bool = False
    """It hands the call over once it is up."""


class Answering:
    """One agent, for one call at a time."""

    def __init__(self, habits: Habits) -> None:
        self.habits = habits
        self.port = 0
        self.methods: list[str] = []
        """Of every request that came, also again."""
        self.transports: set[str] = set()
        self.keys = ""
        self.keys_by_info = ""
        self.sessions: list[Session] = []
        self.ends: list[CallEnded] = []
        self.referrals: list[int] = []
        self.frames = 0
        """20 ms of the caller's, heard or not."""
        self.loud_frames = 0
        self.up = asyncio.Event()
        self.over = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._udp: asyncio.DatagramTransport | None = None
        self._streams: dict[int, asyncio.Transport] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._ports: Ports | None = None
        self._rtp: Stream | None = None
        self.wire: RtpWire | None = None
        self._codecs = Codecs()
        self._call = CallNumber(0)
        self._rate_hz = 8000
        self._lines = list(habits.lines)
        self._queue = b""
        self._voice = False
        self._silent = 0
        gate = Gate(Terms("test"), b"k" * 32, lambda: b"12345678", {"alice": habits.password}.get)

        def admit(request: Request, _hop: Hop, now: float) -> Response | None:
            verdict = gate.judge(request, now)
            if verdict.judgement is Judgement.PASSED:
                return None
            answer = build_response(request, 401, tag="t")
            gate.challenge(answer, now)
            return answer

        mint = Mint(lambda: secrets.token_hex(8), self._here, lambda: 0.5, nearest)
        self.agent = UserAgent(mint, admit=admit if habits.password else None)

    def address(self, *, transport: str = "udp", user: str = "anyone") -> str:
        """Where it is called."""
        return f"sip:{user}@127.0.0.1:{self.port};transport={transport}"

    def _here(self, hop: Hop) -> Here:
        parameters = {} if hop.transport == "UDP" else {"transport": "tcp"}
        contact = Uri("sip", "127.0.0.1", "agent", self.port, parameters=parameters)
        return Here("127.0.0.1", self.port, contact)

    # --- sockets

    async def open(self) -> list[asyncio.AbstractServer]:
        """Both transports on one port."""
        for _ in range(20):
            server = await self._loop.create_server(lambda: _Tcp(self), "127.0.0.1", 0)
            self.port = server.sockets[0].getsockname()[1]
            try:
                self._udp, _ = await self._loop.create_datagram_endpoint(
                    lambda: _Udp(self), local_addr=("127.0.0.1", self.port)
                )
            except OSError:
                server.close()
                continue
            return [server]
        raise AssertionError("no port is free for both transports")

    def close(self) -> None:
        """Let go of everything."""
        self._hush()
        if self._timer is not None:
            self._timer.cancel()
        assert self._udp is not None
        self._udp.close()
        for stream in self._streams.values():
            stream.abort()

    def joined(self, transport: asyncio.Transport) -> int:
        """A caller over TCP; its number."""
        self._streams[len(self._streams) + 1] = transport
        return len(self._streams)

    def drop(self) -> None:
        """Cut every TCP connection off."""
        for stream in self._streams.values():
            stream.abort()

    def receive(self, data: bytes, hop: Hop) -> None:
        """A message."""
        if self.habits.is_deaf:
            return
        word = data.split(b" ", 1)[0].decode()
        if word != "SIP/2.0":
            self.methods.append(word)
        self.transports.add(hop.transport)
        self.agent.receive(data, hop, time.monotonic())
        self.settle()

    def settle(self) -> None:
        """What is to be done and sent."""
        while events := self.agent.events():
            for event in events:
                self._obey(event)
        for sent in self.agent.outgoing():
            if sent.hop.connection:
                self._streams[sent.hop.connection].write(sent.data)
            else:
                assert self._udp is not None
                self._udp.sendto(sent.data, (sent.hop.host, sent.hop.port))
        if self._timer is not None:
            self._timer.cancel()
        due = self.agent.wake_at()
        if due is not None:
            self._timer = self._loop.call_later(max(0.0, due - time.monotonic()), self._ring)

    def _ring(self) -> None:
        self.agent.wake(time.monotonic())
        self.settle()

    # --- the call

    def _obey(self, event: object) -> None:
        now = time.monotonic()
        match event:
            case Invited():
                self._invited(event, now)
            case Media():
                self._agreed(event.session, now)
            case Connected():
                self.up.set()
                self._say()
                if self.habits.transfers:
                    self.agent.refer(self._call, parse_uri("sip:else@127.0.0.1"), now)
            case Pressed():
                self.keys_by_info += event.digit.key
                self._say()
            case ReferProgress():
                self.referrals.append(event.status)
            case CallEnded():
                self._hush()
                self.ends.append(event)
                self.over.set()

    def _invited(self, event: Invited, now: float) -> None:
        habits = self.habits
        if habits.refuses:
            self.agent.reject(event.call, habits.refuses, now, habits.fields)
            return
        self._call = event.call
        self.agent.ring(event.call, now)
        if habits.rings:
            return
        self._ports = open_ports("127.0.0.1")
        local = Local("127.0.0.1", self._ports.port)
        capabilities = Capabilities(codecs=habits.codecs, secrecy=Secrecy.OFF)
        kind = Negotiation if habits.has_events else _Plain
        negotiation = kind(capabilities, local, "1", secrets.token_bytes)
        try:
            self.agent.answer(event.call, negotiation, now)
        except SipError as error:
            self._ports.close()
            self.agent.reject(event.call, error.status, now)

    def _agreed(self, session: Session, now: float) -> None:
        self.sessions.append(session)
        plan = self._codecs.plan(session, Manners())
        self._rate_hz = plan.codecs[0].rate_hz
        if self._rtp is None:
            self._rtp = Stream(plan, secrets.randbits)
        else:
            self._rtp.signal(plan)
        direction = session.direction
        self._rtp.direct(now, sending=direction.sends, receiving=direction.receives)
        if self.wire is None:
            assert self._ports is not None
            self.wire = RtpWire(self._ports, self._rtp, Pacer(LoopClock(self._loop)), self)

    def _hush(self) -> None:
        if self.wire is not None and not self.wire.closed:
            self.wire.close()
            assert self._ports is not None
            self._ports.close()

    # --- the sound (rtp_wire.CallSide)

    def hear(self, pcm: bytes) -> None:
        """The caller's voice, and the end of it."""
        self.frames += 1
        if rms(pcm) > LOUD:
            self.loud_frames += 1
            self._voice, self._silent = True, 0
        elif self._voice:
            self._silent += 1
            if self._silent == SILENT_FRAMES:
                self._voice = False
                self._say()

    def speak(self) -> bytes:
        """A tone while a line lasts."""
        size = frame_bytes(self._rate_hz)
        pcm, self._queue = self._queue[:size], self._queue[size:]
        if pcm and not self._queue and not self._lines and self.habits.ends:
            self._loop.call_soon(self.hang_up)
        return pcm.ljust(size, b"\0")

    def told(self, event: object) -> None:
        """A key is answered like a turn."""
        if isinstance(event, Digit):
            self.keys += event.key
            self._say()

    def broken(self, error: Exception) -> None:
        """A tick failed: the test fails by it."""
        raise error

    def _say(self) -> None:
        if self._lines:
            self._lines.pop(0)
            self._queue += tone(self.habits.line_ms, hz=300, rate_hz=self._rate_hz)

    def hang_up(self) -> None:
        """Leave."""
        self.agent.hang_up(self._call, time.monotonic(), self.habits.cause)
        self.settle()


class _Plain(Negotiation):
    """Descriptions of somebody who has never heard of telephone events."""

    def receive_offer(self, body: bytes | str) -> str:
        """The offer as such a one reads it."""
        text = body if isinstance(body, str) else body.decode()
        lines = [line for line in text.split("\r\n") if "telephone-event" not in line]
        kept = [line for line in lines if not line.startswith("a=fmtp:101 ")]
        return super().receive_offer("\r\n".join(kept).replace(" 101", "", 1))


class _Udp(asyncio.DatagramProtocol):
    def __init__(self, owner: Answering) -> None:
        self._owner = owner

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        """A message."""
        self._owner.receive(data, Hop("UDP", *addr))


class _Tcp(asyncio.Protocol):
    def __init__(self, owner: Answering) -> None:
        self._owner = owner
        self._framing = Framing(opened=False)

    def connection_made(self, transport: asyncio.Transport) -> None:
        """A caller."""
        host, port = transport.get_extra_info("peername")[:2]
        self._hop = Hop("TCP", host, port, self._owner.joined(transport))

    def data_received(self, data: bytes) -> None:
        """A message, perhaps."""
        self._framing.receive_bytes(data, 0.0)
        for event in self._framing.events():
            if isinstance(event, Whole):
                self._owner.receive(event.data, self._hop)


@asynccontextmanager
async def answering(habits: Habits | None = None) -> AsyncIterator[Answering]:
    """One that can be called."""
    it = Answering(habits or Habits())
    servers = await it.open()
    try:
        yield it
    finally:
        for server in servers:
            server.close()
        it.close()
