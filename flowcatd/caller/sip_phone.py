"""The caller's telephone for SIP: sockets, the clock and the sound around a handset.

Whatever happens (a message, a timer, 20 ms) is given to the handset, and then `_settle` carries out what
it wants: send messages, open or change the media, press keys, tell what there is to tell, be woken. What
to say, when to give up and what an answer means is the handset's; this shell knows only sockets.

The sound is what the daemon itself uses: an RTP stream on two ports, paced every 20 ms.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from flowcatd.caller.facts import CallerEvent
from flowcatd.caller.person import Person
from flowcatd.caller.sip_address import SipAddress
from flowcatd.caller.sip_handset import Manner, SipHandset
from flowcatd.caller.sip_line import Line, Ports, open_line, open_ports
from flowcatd.errors import FlowcatdError, LinkRefused
from flowcatd.rtp.stream import Inactive, Stream, StreamEvent
from flowcatd.sip.agent import UserAgent
from flowcatd.sip.agent_event import Here, Invitation, Mint, Terms
from flowcatd.sip.dialog import nearest
from flowcatd.sip.digest import Answerer, Secret
from flowcatd.sip.event import Hop
from flowcatd.sip.header import Address
from flowcatd.sip.offer import Negotiation
from flowcatd.sip.session import Capabilities, Local, Secrecy, Session
from flowcatd.sip.uri import Uri
from flowcatd.sip_figures import MediaFigures
from flowcatd.transports.pacer import Pacer
from flowcatd.transports.rtp_plan import Codecs, Manners
from flowcatd.transports.rtp_wire import RtpWire

USER: Final = "caller"
"""Who calls, where no user is given: a name, not a number."""
TERMS: Final = Terms(product="flowcatd-call", session_seconds=0, calls=4)


@dataclass(frozen=True, slots=True)
class LoopClock:
    """The running loop's timers, as the pacer wants them."""

    loop: asyncio.AbstractEventLoop

    def now(self) -> float:
        """Monotonic seconds."""
        return time.monotonic()

    def wake(self, due: float, callback: Callable[[], None]) -> asyncio.TimerHandle:
        """Call back at `due`."""
        return self.loop.call_later(max(0.0, due - time.monotonic()), callback)


class SipPhone:
    """One call over SIP."""

    def __init__(
        self,
        address: SipAddress,
        person: Person,
        manner: Manner,
        *,
        tell: Callable[[CallerEvent], None],
        secret: Secret | None = None,
    ) -> None:
        """`tell` gets each event of the call; `secret` answers a digest challenge."""
        self._address = address
        self._person = person
        self._manner = manner
        self._tell = tell
        self._secret = secret
        self._handset: SipHandset | None = None
        self._line: Line | None = None
        self._ports: Ports | None = None
        self._stream: Stream | None = None
        self._wire: RtpWire | None = None
        self._codecs = Codecs()
        self._timer: asyncio.TimerHandle | None = None
        self._over = asyncio.Event()
        self._error: FlowcatdError | None = None
        self._settling = False
        self.interrupted = False
        self.figures: MediaFigures | None = None
        """What became of the sound, after a call that had some."""

    def interrupt(self) -> None:
        """Hang up: somebody pressed Ctrl-C."""
        self.interrupted = True
        if self._handset is not None:
            self._handset.hang_up("interrupted", time.monotonic())
            self._settle()

    async def call(self) -> None:
        """Place the call and stay until it is over; LinkRefused when there is nobody to talk to."""
        async with contextlib.AsyncExitStack() as ending:
            line = self._line = await open_line(self._address, self)
            ending.callback(line.close)
            if self.interrupted:  # while the line was being opened
                self._person.hang_up("interrupted")
                return
            ports = self._ports = open_ports(line.local[0])
            ending.callback(ports.close)
            ending.callback(self._hush)
            self._handset = self._pick_up(line)
            self._handset.start(self._negotiation(line, ports), time.monotonic())
            self._settle()
            await self._over.wait()
        if self._error is not None:
            raise self._error
        if self._handset.refusal:
            raise LinkRefused(self._handset.refusal)

    # --- what it is made of -----------------------------------------------------------------------

    def _pick_up(self, line: Line) -> SipHandset:
        here = _here(line, self._secret.user if self._secret is not None else USER)
        mint = Mint(_token, lambda _: here, secrets.SystemRandom().random, nearest)
        answerer = None if self._secret is None else Answerer(self._secret, _token)
        invitation = Invitation(
            self._address.target,
            Address(Uri("sip", here.host, here.contact.user)),
            (line.hop,),
            answerer=answerer,
        )
        return SipHandset(UserAgent(mint, TERMS), self._person, invitation, self._manner)

    def _negotiation(self, line: Line, ports: Ports) -> Negotiation:
        capabilities = Capabilities(codecs=self._address.codecs, secrecy=Secrecy.OFF)
        local = Local(line.local[0], ports.port)
        return Negotiation(capabilities, local, str(secrets.randbits(53)), secrets.token_bytes)

    # --- the line (sip_line.Ears) -----------------------------------------------------------------

    def receive(self, data: bytes, hop: Hop) -> None:
        """A SIP message."""
        if self._handset is not None:
            self._handset.receive(data, hop, time.monotonic())
            self._settle()

    def failed(self) -> None:
        """Nothing can be sent any more."""
        if self._handset is not None and self._line is not None:
            self._handset.receive_failure(self._line.hop, time.monotonic())
            self._settle()

    # --- the sound (rtp_wire.CallSide) ------------------------------------------------------------

    def hear(self, pcm: bytes) -> None:
        """The next 20 ms of the agent."""
        if self._handset is not None:
            self._handset.hear(pcm)

    def speak(self) -> bytes | None:
        """The next 20 ms for the agent."""
        handset = self._handset
        if handset is None:
            return None
        pcm = handset.speak(time.monotonic())
        # The wire is in the middle of its tick: what closes it, or wants to send, comes right after.
        asyncio.get_running_loop().call_soon(self._settle)
        return pcm

    def told(self, event: StreamEvent) -> None:
        """The stream noticed something; keys of the agent's are for nobody."""
        if isinstance(event, Inactive) and self._handset is not None:
            self._handset.receive_silence(event.seconds, time.monotonic())
            asyncio.get_running_loop().call_soon(self._settle)

    def broken(self, error: FlowcatdError) -> None:
        """No tick will come any more."""
        self._fail(error)

    # --- what the handset wants -------------------------------------------------------------------

    def _settle(self) -> None:
        """Carry out everything that is wanted; then be woken in time."""
        if self._settling or self._over.is_set():
            return
        self._settling = True
        try:
            self._carry_out()
        except FlowcatdError as error:
            self._fail(error)
        finally:
            self._settling = False

    def _carry_out(self) -> None:
        handset, line = self._handset, self._line
        assert handset is not None
        assert line is not None
        for session in handset.sessions():
            self._agree(session)
        for key in handset.pressed():
            if self._stream is not None:
                self._stream.press(key)
        for sent in handset.outgoing():
            line.send(sent.data, sent.hop)
        for event in self._person.events():
            self._tell(event)
        if handset.has_ended:
            self._hush()
        self._arm(handset)

    def _arm(self, handset: SipHandset) -> None:
        if self._timer is not None:
            self._timer.cancel()
        now = time.monotonic()
        due = handset.wake_at()
        if due is None or handset.is_over(now):
            self._over.set()
            return
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(max(0.0, due - now), self._ring)

    def _ring(self) -> None:
        if self._handset is not None and not self._over.is_set():
            self._handset.wake(time.monotonic())
            self._settle()

    def _agree(self, session: Session) -> None:
        """Begin the sound, or go on with it otherwise."""
        now = time.monotonic()
        manners = Manners(wall_offset=time.time() - now, cname=secrets.token_hex(8).encode())
        plan = self._codecs.plan(session, manners)
        direction = session.direction
        if self._stream is None:
            self._stream = Stream(plan, secrets.randbits)
        else:
            self._stream.signal(plan)
        self._stream.direct(now, sending=direction.sends, receiving=direction.receives)
        if self._wire is None and self._ports is not None:
            clock = LoopClock(asyncio.get_running_loop())
            self._wire = RtpWire(self._ports, self._stream, Pacer(clock), self)

    def _hush(self) -> None:
        """No more sound; what became of it is known from now on."""
        if self._wire is not None and not self._wire.closed and self._stream is not None:
            self._wire.close()
            self.figures = self._stream.figures()

    def _fail(self, error: FlowcatdError) -> None:
        self._error = error
        self._over.set()


def _token() -> str:
    return secrets.token_hex(10)


def _here(line: Line, user: str) -> Here:
    host, port = line.local
    written = f"[{host}]" if ":" in host else host
    parameters = {"transport": "tcp"} if line.hop.transport == "TCP" else {}
    return Here(written, port, Uri("sip", written, user, port, parameters=parameters))
