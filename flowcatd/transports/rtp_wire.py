"""One call's RTP: the thin shell around a pair of UDP sockets and one `rtp.stream.Stream`.

In: datagrams are read as they come and go to the stream. At every tick of the pacer the call hears 20 ms
and is asked for 20; what that makes is sent to where the stream believes the far end is (RFC 4961), in
the same turn. Reports and deadlines of the stream are looked after by the tick too, so they cost no timer.

A socket is read in turns of BATCH datagrams, and no more than a share per tick: whoever floods a port
fills the kernel's buffer and then nothing, at two percent of a core for us. Nothing here waits: a
datagram that the kernel does not take is counted and gone. ICMP is not heard of, since Linux tells an
unconnected socket nothing without IP_RECVERR (udp(7)); the stream's watchdog notices the silence.

Reading by add_reader and recvfrom costs 3.9 µs a packet, uvloop's datagram transport 3.4; but that one
cannot be told to stop, and takes the descriptor from its owner (workers/ports.py), who closes it after
`close`.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from flowcatd.errors import FlowcatdError, LocalError
from flowcatd.rtp.packet import MAX_DATAGRAM
from flowcatd.rtp.source import Addr
from flowcatd.rtp.stream import Stream, StreamEvent
from flowcatd.transports.pacer import Pacer

BATCH: Final = 16
"""Datagrams read before others get their turn."""
MOST_PER_TICK: Final = 64
"""Datagrams read in 20 ms: 1.3 seconds of a stream that was held up somewhere."""
MOST_REPORTS_PER_TICK: Final = 8


class CallSide(Protocol):
    """The call, as its wire sees it. None of these may raise but our own errors, which end it."""

    def hear(self, pcm: bytes) -> None:
        """The next 20 ms of the far end, s16le at the codec's rate; every tick, whatever came."""

    def speak(self) -> bytes | None:
        """The next 20 ms for the far end, at the codec's rate; None for silence."""

    def told(self, event: StreamEvent) -> None:
        """A digit, a move, an end."""

    def broken(self, error: FlowcatdError) -> None:
        """A tick failed, and none will come any more: the call is to end."""


class Aside(Protocol):
    """What else is spoken on the RTP port: a DTLS handshake (`secrecy.py`)."""

    def receive(self, data: bytes, addr: Addr, now: float) -> bool:
        """Whether this datagram is none of RTP's, and was taken."""

    def tick(self, now: float) -> list[tuple[bytes, Addr | None]]:
        """20 ms passed: what to send, and where; None for where RTP goes."""


class Sockets(Protocol):
    """Two bound sockets that do not block; workers/ports.py has them."""

    @property
    def rtp(self) -> socket.socket:
        """The even port's."""

    @property
    def rtcp(self) -> socket.socket:
        """The next one's."""


@dataclass(slots=True)
class Counts:
    """What the sockets did besides their work."""

    unsent: int = 0
    """Datagrams that the kernel did not take, or that had no address to go to."""
    unread: int = 0
    """Errors of reading."""
    floods: int = 0
    """Ticks in which more came than is read."""


class RtpWire:
    """One stream on its two sockets, from construction to `close`."""

    def __init__(self, sockets: Sockets, stream: Stream, pacer: Pacer, call: CallSide) -> None:
        """On the running loop. `stream` was told its direction; it is ticked from now on."""
        self._stream = stream
        self._call = call
        self.counts = Counts()
        self._rtp = sockets.rtp
        self._rtcp = sockets.rtcp
        self._to: Addr | None = None
        self._reachable = False
        loop = asyncio.get_running_loop()
        self._ears = (
            _Ear(loop, self._rtp, stream.receive_datagram, self._heard, MOST_PER_TICK),
            _Ear(loop, self._rtcp, stream.receive_rtcp, self._heard, MOST_REPORTS_PER_TICK),
        )
        for ear in self._ears:
            ear.counts = self.counts
            ear.open()
        self._aside: Aside | None = None
        self._beat = pacer.add(self.tick)
        self.closed = False

    def share(self, aside: Aside | None) -> None:
        """From now on the RTP port is shared with somebody, or no longer."""
        self._aside = aside
        self._ears[0].receive = self._stream.receive_datagram if aside is None else self._receive

    @property
    def phase(self) -> float:
        """Where in the 20 ms this stream sends, in seconds."""
        return self._beat.phase

    def tick(self, now: float) -> None:
        """20 ms passed; the pacer calls it."""
        try:
            self._tick(now)
        except FlowcatdError as error:
            self._beat.cancel()
            self._call.broken(error)

    def close(self) -> None:
        """Say goodbye by RTCP and leave the sockets alone; idempotent. Their owner closes them."""
        if self.closed:
            return
        self.closed = True
        self._beat.cancel()
        for ear in self._ears:
            ear.close()
        with contextlib.suppress(LocalError):  # the stream may be what broke
            self._stream.say_goodbye(time.monotonic())
            self._report()

    def _tick(self, now: float) -> None:
        stream, call = self._stream, self._call
        for ear in self._ears:
            if ear.read:
                ear.next_tick()
        if self._aside is not None:
            for data, addr in self._aside.tick(now):
                self._put(self._rtp, data, addr or stream.destination)
        call.hear(stream.pull(now))
        if self.closed:
            return  # hearing that ended the call
        sent = stream.send(call.speak())
        if sent:
            to = stream.destination
            for data in sent:
                self._put(self._rtp, data, to)
        due = stream.wake_at()
        if due is not None and due <= now:
            stream.wake(now)
            self._report()
            self._heard()

    def _receive(self, data: bytes, addr: Addr, now: float) -> None:
        if self._aside is None or not self._aside.receive(data, addr, now):
            self._stream.receive_datagram(data, addr, now)

    def _heard(self) -> None:
        for event in self._stream.events():
            if not self.closed:
                self._call.told(event)

    def _report(self) -> None:
        to = self._stream.destination
        for report in self._stream.outgoing():
            # With rtcp-mux both go to one address, and leave from one port (RFC 5761 §5.1.1).
            wire = self._rtp if report.addr == to else self._rtcp
            if _is_numeric(wire.family, report.addr):
                self._send(wire, report.data, report.addr)
            else:
                self.counts.unsent += 1

    def _put(self, wire: socket.socket, data: bytes, to: Addr | None) -> None:
        if to is not self._to:
            self._to = to
            # A name here would be looked up by sendto, and stop the worker for as long.
            self._reachable = to is not None and _is_numeric(wire.family, to)
        if to is None or not self._reachable:
            self.counts.unsent += 1
            return
        self._send(wire, data, to)

    def _send(self, wire: socket.socket, data: bytes, to: Addr) -> None:
        try:
            wire.sendto(data, to)
        except (OSError, OverflowError):
            self.counts.unsent += 1  # full, unreachable, forbidden, or a port above 65535


class _Ear:
    """One socket being read, no more of it per tick than its share."""

    __slots__ = ("_heard", "_is_open", "_loop", "_most", "_wire", "counts", "read", "receive")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        wire: socket.socket,
        receive: Callable[[bytes, Addr, float], None],
        heard: Callable[[], None],
        most: int,
    ) -> None:
        """`heard` is called after each turn of reading."""
        self._loop, self._wire = loop, wire
        self.receive, self._heard = receive, heard
        self._most = most
        self._is_open = False
        self.read = 0
        """Datagrams since the last tick."""
        self.counts = Counts()

    def open(self) -> None:
        """Read from now on."""
        if not self._is_open:
            self._is_open = True
            self._loop.add_reader(self._wire, self._turn)

    def close(self) -> None:
        """Read no more."""
        if self._is_open:
            self._is_open = False
            self._loop.remove_reader(self._wire)

    def next_tick(self) -> None:
        """Another share."""
        full, self.read = self.read >= self._most, 0
        if full:
            self.open()

    def _turn(self) -> None:
        now = time.monotonic()
        take, receive = self._wire.recvfrom, self.receive
        try:
            for _ in range(min(BATCH, self._most - self.read)):
                data, addr = take(MAX_DATAGRAM + 1)
                self.read += 1
                receive(data, addr if len(addr) == 2 else addr[:2], now)
        except BlockingIOError:
            pass  # all is read
        except OSError:
            self.counts.unread += 1
        if self.read >= self._most and self._is_open:
            self.counts.floods += 1
            self.close()
        self._heard()


def _is_numeric(family: int, addr: Addr) -> bool:
    try:
        socket.inet_pton(family, addr[0])
    except OSError:
        return False
    return True
