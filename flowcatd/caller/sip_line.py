"""The caller's sockets: one for SIP, over UDP or TCP, and a pair for RTP.

    open_line ─► Line: send, close; bytes of whole messages and the line's failure go to its `Ears`
    open_ports ─► Ports: two bound UDP sockets, an even port and the next (RFC 3550 §11)

Nobody listens for calls here, so any port will do. A UDP socket that is not connected hears of ICMP only
when it asks to (IP_RECVERR, ip(7); IPV6_RECVERR, ipv6(7)): then a port where nobody listens is told at
once instead of after half a minute. On TCP, messages are cut out by `sip.framing` (RFC 3261 §18.3).
"""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass
from typing import Any, Final, Protocol, cast

from flowcatd.caller.sip_address import SipAddress
from flowcatd.errors import LinkRefused
from flowcatd.sip.event import Hop
from flowcatd.sip.framing import Stream, Whole
from flowcatd.sip.trouble import SipError

CONNECT_SECONDS: Final = 5.0
PAIRS_TRIED: Final = 32
"""Ports drawn before giving up on two that are neighbours."""
_IP_RECVERR: Final = 11
_IPV6_RECVERR: Final = 25
"""linux/in.h, linux/in6.h; Python names them from 3.14 on."""


class Ears(Protocol):
    """Who is told what comes."""

    def receive(self, data: bytes, hop: Hop) -> None:
        """One SIP message, or what was sent for one."""

    def failed(self) -> None:
        """Nothing can be sent any more."""


class Line(Protocol):
    """A way to send SIP messages to one place."""

    hop: Hop
    """Where they go."""
    local: tuple[str, int]
    """Where answers come to, as others see it."""

    def send(self, data: bytes, hop: Hop) -> None:
        """Now or not at all."""

    def close(self) -> None:
        """Let go of the socket; idempotent."""


async def open_line(address: SipAddress, ears: Ears) -> Line:
    """A line to this address; LinkRefused says why there is none."""
    kind = socket.SOCK_STREAM if address.transport == "TCP" else socket.SOCK_DGRAM
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            found = await loop.getaddrinfo(address.host, address.port, type=kind)
            family, _, _, _, place = found[0]
            host, port = str(place[0]), int(place[1])
            if kind == socket.SOCK_STREAM:
                hop = Hop("TCP", host, port, 1)
                made = await loop.create_connection(lambda: _Tcp(hop, ears), host, port)
                return made[1]
            wire = _udp_towards(family, host, port)
            return (
                await loop.create_datagram_endpoint(
                    lambda: _Udp(Hop("UDP", host, port), ears), sock=wire
                )
            )[1]
    except socket.gaierror as error:
        raise LinkRefused(f"there is no host {address.host}: {error.strerror}") from error
    except (OSError, TimeoutError) as error:
        raise LinkRefused(
            f"nobody answers at {address.shown}: is the daemon running, and does it listen there "
            "(sip.port)? `make run`"
        ) from error


def _udp_towards(family: int, host: str, port: int) -> socket.socket:
    """A socket on the address that packets to this place leave from."""
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect((host, port))
        here = probe.getsockname()[0]
    wire = socket.socket(family, socket.SOCK_DGRAM)
    try:
        wire.setblocking(False)
        wire.bind((here, 0))
        if family == socket.AF_INET6:
            wire.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVERR, 1)
        else:
            wire.setsockopt(socket.IPPROTO_IP, _IP_RECVERR, 1)
    except BaseException:
        wire.close()
        raise
    return wire


class _Udp(asyncio.DatagramProtocol):
    """SIP over UDP."""

    def __init__(self, hop: Hop, ears: Ears) -> None:
        self.hop = hop
        self.local = ("", 0)
        self._ears = ears
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is there."""
        self._transport = cast("asyncio.DatagramTransport", transport)
        self.local = _name_of(transport)

    def datagram_received(self, data: bytes, addr: tuple[str | Any, int]) -> None:
        """A message."""
        self._ears.receive(data, Hop("UDP", str(addr[0]), addr[1]))

    def error_received(self, exc: Exception) -> None:  # noqa: ARG002 it is what was sent before that failed
        """What was sent found nobody."""
        self._ears.failed()

    def send(self, data: bytes, hop: Hop) -> None:
        """One datagram."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.sendto(data, (hop.host, hop.port))

    def close(self) -> None:
        """Let go."""
        if self._transport is not None:
            self._transport.close()


class _Tcp(asyncio.Protocol):
    """SIP over one TCP connection that we opened; everything goes through it."""

    def __init__(self, hop: Hop, ears: Ears) -> None:
        self.hop = hop
        self.local = ("", 0)
        self._ears = ears
        self._stream = Stream(opened=True)
        self._transport: asyncio.Transport | None = None
        self._closed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is up."""
        self._transport = cast("asyncio.Transport", transport)
        self.local = _name_of(transport)

    def data_received(self, data: bytes) -> None:
        """Bytes, of none, one or many messages."""
        try:
            self._stream.receive_bytes(data, 0.0)
        except SipError:
            self.close()
            self._ears.failed()
        for event in self._stream.events():
            if isinstance(event, Whole):
                self._ears.receive(event.data, self.hop)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 there is one way to be lost
        """The other side has gone, unless it was us."""
        if not self._closed:
            self._closed = True
            self._ears.failed()

    def send(self, data: bytes, hop: Hop) -> None:  # noqa: ARG002 there is one connection
        """A few hundred bytes at a time, to somebody who is about to answer: they are never many."""
        if self._transport is not None and not self._closed:
            self._transport.write(data)

    def close(self) -> None:
        """Let go."""
        self._closed = True
        if self._transport is not None:
            self._transport.close()


def _name_of(transport: asyncio.BaseTransport) -> tuple[str, int]:
    host, port = transport.get_extra_info("sockname")[:2]
    return str(host), int(port)


# --- RTP -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ports:
    """Two bound sockets that do not block."""

    rtp: socket.socket
    rtcp: socket.socket

    @property
    def port(self) -> int:
        """RTP's; RTCP's is the next."""
        return int(self.rtp.getsockname()[1])

    def close(self) -> None:
        """Give both back."""
        self.rtp.close()
        self.rtcp.close()


def open_ports(host: str) -> Ports:
    """A pair on this address; LinkRefused when there is none to be had."""
    for _ in range(PAIRS_TRIED):
        rtp = _bound(host, 0)
        port = rtp.getsockname()[1]
        if port % 2 == 0:
            try:
                return Ports(rtp, _bound(host, port + 1))
            except OSError:
                pass  # somebody else's: draw again
        rtp.close()
    raise LinkRefused("no two neighbouring ports are free for the call's sound")


def _bound(host: str, port: int) -> socket.socket:
    wire = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
    try:
        wire.setblocking(False)
        wire.bind((host, port))
    except BaseException:
        wire.close()
        raise
    return wire
