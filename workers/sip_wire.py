"""All SIP of one worker that goes over the network: UDP, TCP, TLS and WebSocket, both families.

    doors ─► screen ─► whose is it? ─┬─ ours ──────────► receive(bytes, hop)
    fellows ─────────── inward ──────┘  └─ another's ──► that fellow, with its hop
    send(bytes, hop) ─► UDP door │ connection of ours │ fellow's connection (outward) │ one to be made

Datagrams and messages of connections are routed alike, by `sip_door.Routes`; connections stay where they
are, messages travel. Nothing here understands SIP beyond `sip_head`, and nothing waits: what cannot be
sent is told by `failed`, in a later turn of the loop, once per hop and turn.

What cannot be read as far as routing needs is ours, because some of it deserves an answer (RFC 4475).
A request for a worker that has just died, or cannot take it now, is not answered by another: over UDP
it is dropped, since it comes again; from a connection it is kept and tried again (HELD, AGAIN_SECONDS).

A request of more than 1300 bytes goes over UDP all the same, which RFC 3261 §18.1.1 does not allow: its
Via says UDP, most trunks that are called over UDP do not listen on TCP, and fragments arrive on nearly
every path. `counts["large"]` says how many there were; a trunk with another transport has none.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from aiohttp import web

from flowcatd.sip.event import Hop
from flowcatd.sip.message import refuse
from flowcatd.sip.trouble import SipError
from workers.hand_over import Source
from workers.hand_over_message import VERSION, SipGone, SipMessage
from workers.sip_door import TRIES, Routes, Sent, UdpSocket
from workers.sip_head import parse_head
from workers.sip_here import Addresses, Called, family_of
from workers.sip_links import Link, LinkOwner, Links, LinkTerms
from workers.sip_open import Opener
from workers.sip_stream import StreamDoor, StreamLink
from workers.sip_tls import Tls
from workers.sip_web import serve_websocket

LARGE_BYTES: Final = 1300
HELD: Final = 256
"""Messages of connections that wait for their worker."""
AGAIN_SECONDS: Final = 0.25
FAILING: Final = 1024
"""Hops told of in one turn."""

TRANSPORTS: Final = ("UDP", "TCP", "TLS", "WS", "WSS")
_IN: Final = {each: f"{each.lower()}_in" for each in TRANSPORTS}
_OUT: Final = {each: f"{each.lower()}_out" for each in TRANSPORTS}
COUNTED: Final = (
    *(*_IN.values(), *_OUT.values()),
    *("given", "taken", "outward", "passed_on", "held"),
    *("screened", "garbage", "kept_alive", "lost", "large", "failed"),
)

Give = Callable[[int, SipMessage | SipGone], bool]


def _nobody(_host: str) -> bool:
    return False


@dataclass(frozen=True, slots=True)
class WirePlace:
    """Where a worker's SIP is, and who is asked."""

    seat: int
    doors: Mapping[str, int]
    """Descriptors, this worker's own: udp, tcp, tls, and udp6, tcp6, tls6."""
    routes: Routes
    give: Give
    """Give a message to the fellow in a seat; false when it cannot be reached (HandOver.give_sip)."""
    screen: Callable[[bytes, str, float], bool]
    """Whether to listen to a message from an address at all (Policy.screen)."""
    is_known: Callable[[str], bool] = _nobody
    """Whether an address is a trunk's, which the limits of strangers do not bind."""
    called: Called = field(default_factory=Called)
    tls: Tls = field(default_factory=Tls)
    terms: LinkTerms = field(default_factory=LinkTerms)


class SipWire(LinkOwner):
    """One worker's; made on the loop."""

    def __init__(
        self,
        place: WirePlace,
        receive: Callable[[bytes, Hop], None],
        failed: Callable[[Hop], None],
    ) -> None:
        """`receive` gets every message that is ours, `failed` every hop that can be sent to no more.

        Nothing is read or accepted before `start`.
        """
        self._loop = asyncio.get_running_loop()
        self._place = place
        self._receive = receive
        self._failed = failed
        self.counts = dict.fromkeys(COUNTED, 0)
        """Messages, by what became of them; of connections, see `links.counts`."""
        self.links = Links(place.seat, place.terms, place.is_known, self)
        self._addresses = Addresses(place.called)
        self._opener = Opener(self.links, place.tls, self._addresses.source, self._fail)
        self._udp: dict[int, UdpSocket] = {}
        self._doors: list[UdpSocket | StreamDoor] = []
        for name, descriptor in place.doors.items():
            self._open(name, socket.socket(fileno=descriptor))
        self.able = self._addresses.abilities(opens_tls=place.tls.client is not None)
        """What we can send by."""
        self._passed: tuple[int, ...] = ()
        self._failing: dict[Hop, None] = {}
        self._held = 0
        self._closed = False
        self._sweep_handle = self._loop.call_later(place.terms.sweep_seconds, self._sweep)

    # --- from outside

    def start(self) -> None:
        """Read and accept from now on."""
        for door in self._doors:
            door.start()

    def stop(self) -> None:
        """Take what waits at the UDP doors; then read and accept there nothing more.

        Connections go on, and so does sending.
        """
        for door in self._doors:
            door.stop()

    def leave(self) -> None:
        """As stop; and let go of the shared ports, which another daemon has or is about to take.

        What we still have to say, a BYE mostly, leaves from ports of our own; its answer finds them.
        Connections go on.
        """
        self.stop()
        for door in self._doors:
            door.close()
        self._doors.clear()
        for family, old in list(self._udp.items()):
            own = socket.socket(family, socket.SOCK_DGRAM)
            try:
                own.bind((old.address[0], 0))
            except OSError:
                own.close()
                del self._udp[family]
                continue
            self._open("udp", own)
            self._udp[family].start()

    def close(self) -> None:
        """As stop; and end every connection. Nothing can be sent any more, which fellows are told."""
        if self._closed:
            return
        self.stop()
        self._closed = True
        self._sweep_handle.cancel()
        self._opener.close()
        for link in self.links:
            self._tell_fellows(link)
            link.close()
        for door in self._doors:
            door.close()

    def send(self, data: bytes, hop: Hop) -> None:
        """Send a message; what cannot be sent is told by `failed`, soon."""
        if self._closed:
            return
        self.counts[_OUT[hop.transport]] += 1
        if hop.transport == "UDP":
            self._send_datagram(data, hop)
        elif hop.connection:
            self._send_on(data, hop)
        elif hop.transport in {"TCP", "TLS"} and self._addresses.reaches(hop.host):
            self._opener.send(data, hop)
        else:
            self._fail(hop)

    def pass_on(self, data: bytes, hop: Hop) -> bool:
        """Whether a fellow gets this request, for which there is no room here.

        Called from within `receive`, it also knows who had no room before.
        """
        head = parse_head(data)
        if head is None or head.status:
            return False
        passed = (*self._passed, self._place.seat)
        for _ in range(TRIES):
            seat = self._place.routes.seat(head, self._loop.time(), passed)
            if seat is None or seat in passed:
                return False
            if self._give(seat, data, hop, passed=passed):
                self.counts["passed_on"] += 1
                return True
            passed = (*passed, seat)
        return False

    def given(self, message: SipMessage | SipGone) -> None:
        """A fellow got this for us, wants it sent, or could not send ours."""
        if self._closed:
            return
        if isinstance(message, SipGone):
            self._fail(message.hop)
        elif message.outward:
            self._send_for(message)
        else:
            self.counts["taken"] += 1
            self._passed = message.passed
            try:
                self._receive(message.data, message.hop)
            finally:
                self._passed = ()

    def given_datagram(self, data: bytes, source: Source) -> None:
        """A fellow of an older version got this for us."""
        if not self._closed:
            self.counts["taken"] += 1
            self._receive(data, Hop("UDP", source[0], source[1]))

    async def websocket(self, request: web.Request) -> web.StreamResponse:
        """Serve SIP over WebSocket on this request's connection (RFC 7118), while it lasts."""
        if self._closed:
            raise web.HTTPServiceUnavailable(
                text="this worker ends\n", headers={"Retry-After": "1"}
            )
        return await serve_websocket(request, self.links)

    def here(self, hop: Hop) -> tuple[str, int]:
        """What Via and Contact call us towards this hop: host, with brackets for IPv6, and port."""
        return self._addresses.here(hop, self._loop.time())

    def keep(self, hop: Hop, seconds: float) -> None:
        """The other side of this connection of ours wants a sign of life so often, and gives one back."""
        link = self.links.find(hop)
        if isinstance(link, StreamLink):
            link.keep(seconds)

    # --- LinkOwner

    def arrived(self, data: bytes, link: Link) -> None:
        """A connection brought a message."""
        link.is_used = True
        self._arrived(data, link.hop)

    def broken(self, rest: bytes, error: SipError, link: Link) -> None:
        """A connection cannot be understood any more: say so, where that is possible."""
        self.counts["garbage"] += 1
        if not self._place.screen(rest, link.hop.host, self._loop.time()):
            self.counts["screened"] += 1
            return
        answer = refuse(rest, error)
        if answer is not None and link.write(answer):
            self.counts[_OUT[link.hop.transport]] += 1

    def welcomes(self, host: str) -> bool:
        """Somebody wants to connect: that counts as a message."""
        return self._place.screen(b"", host, self._loop.time())

    def parted(self, link: Link) -> None:
        """A connection is over: whoever may have something under way on it is told."""
        if link.opened and isinstance(link, StreamLink):
            self._opener.parted(link)
        if self._closed or not link.is_used:
            return
        hop = link.hop
        self._fail(hop)
        if link.opened:  # known by its address, too
            self._fail(Hop(hop.transport, hop.host, hop.port))
        self._tell_fellows(link)

    # --- in

    def _datagram(self, data: bytes, source: Source) -> None:
        # Telephones keep their NAT's binding open with line ends, zeros, or nothing at all.
        if len(data) <= 8 and not data.strip(b"\r\n\0 "):
            self.counts["kept_alive"] += 1
            return
        self._arrived(data, Hop("UDP", source[0], source[1]))

    def _arrived(self, data: bytes, hop: Hop) -> None:
        self.counts[_IN[hop.transport]] += 1
        if self._closed:
            return
        now = self._loop.time()
        if not hop.port or not self._place.screen(data, hop.host, now):
            self.counts["screened"] += 1
            return
        self._route(data, hop, now)

    def _route(self, data: bytes, hop: Hop, now: float) -> None:
        head = parse_head(data)
        if head is None:
            self.counts["garbage"] += 1
            if data.lstrip(b"\r\n")[:1] > b" ":  # STUN and the like are no SIP, however broken
                self._receive(data, hop)
            return
        routes, own = self._place.routes, self._place.seat
        passed: tuple[int, ...] = ()
        seat: int | None = None
        for _ in range(TRIES):
            seat = routes.seat(head, now, passed)
            if seat is None or seat == own:
                break
            if self._give(seat, data, hop):
                self.counts["given"] += 1
                return
            passed = (*passed, seat)
        if seat != own and routes.is_awaited(head, now):
            self._hold(data, hop)
        else:
            self._receive(data, hop)

    def _hold(self, data: bytes, hop: Hop) -> None:
        """Its worker may be there soon."""
        if hop.transport == "UDP" or self._held >= HELD:
            self.counts["lost"] += 1
            return
        self.counts["held"] += 1
        self._held += 1
        self._loop.call_later(AGAIN_SECONDS, self._again, data, hop)

    def _again(self, data: bytes, hop: Hop) -> None:
        self._held -= 1
        if not self._closed:
            self._route(data, hop, self._loop.time())

    def _give(
        self,
        seat: int,
        data: bytes,
        hop: Hop,
        *,
        outward: bool = False,
        passed: tuple[int, ...] = (),
    ) -> bool:
        message = SipMessage(
            VERSION,
            self._place.seat,
            hop.transport,  # type: ignore[arg-type]
            hop.host,
            hop.port,
            hop.connection,
            data,
            outward,
            passed,
        )
        is_given = self._place.give(seat, message)
        if is_given and hop.connection and not outward:
            link = self.links.find(hop)
            if link is not None:
                link.seats.add(seat)
        return is_given

    # --- out

    def _send_datagram(self, data: bytes, hop: Hop) -> None:
        family = family_of(hop.host)
        door = None if family is None else self._udp.get(family)
        if len(data) > LARGE_BYTES:
            self.counts["large"] += 1
        sent = Sent.REFUSED if door is None else door.put(data, (hop.host, hop.port))
        if sent is Sent.LOST:
            self.counts["lost"] += 1
        elif sent is Sent.REFUSED:
            self._fail(hop)

    def _send_on(self, data: bytes, hop: Hop) -> None:
        seat = hop.connection >> 32
        if seat == self._place.seat:
            link = self.links.find(hop)
            is_sent = link is not None and link.write(data)
        else:
            is_sent = self._give(seat, data, hop, outward=True)
        if not is_sent:
            self._fail(hop)

    def _send_for(self, message: SipMessage) -> None:
        """On a connection of ours, for a fellow."""
        link = self.links.find(message.hop)
        if link is not None and link.write(message.data):
            self.counts["outward"] += 1
            link.seats.add(message.seat)
        else:
            self._place.give(message.seat, self._gone(message.hop))

    def _tell_fellows(self, link: Link) -> None:
        for seat in link.seats:
            self._place.give(seat, self._gone(link.hop))

    def _gone(self, hop: Hop) -> SipGone:
        return SipGone(
            VERSION,
            self._place.seat,
            hop.transport,  # type: ignore[arg-type]
            hop.host,
            hop.port,
            hop.connection,
        )

    def _fail(self, hop: Hop) -> None:
        """Tell of it in the next turn, once."""
        if self._closed:
            return
        self.counts["failed"] += 1
        if not self._failing:
            self._loop.call_soon(self._tell_failed)
        if len(self._failing) < FAILING:
            self._failing[hop] = None

    def _tell_failed(self) -> None:
        failing, self._failing = self._failing, {}
        for hop in failing:
            if not self._closed:
                self._failed(hop)

    # --- doors

    def _open(self, name: str, wire: socket.socket) -> None:
        transport = name.rstrip("6").upper()
        if transport == "UDP":
            door = self._udp[wire.family] = UdpSocket(wire, self._datagram)
            self._doors.append(door)
        else:
            context = self._place.tls.server if transport == "TLS" else None
            if transport == "TLS" and context is None:
                wire.close()
                return
            self._doors.append(StreamDoor(wire, self.links, context))
        self._addresses.bind(transport, wire.family, wire.getsockname()[:2])

    def _sweep(self) -> None:
        self.links.sweep(self._loop.time())
        self._sweep_handle = self._loop.call_later(self._place.terms.sweep_seconds, self._sweep)
