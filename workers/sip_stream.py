"""SIP over TCP and TLS: accepting connections, and messages on them (RFC 3261 §18, RFC 5626 §3.5.1).

A connection is an asyncio protocol around `sip/framing.Stream`. It hands on READS messages per turn of
the loop, a turn that live calls wait for; until the rest is handed on, nothing more is read, so a flood
waits in the kernel and, through TCP, at its sender. Writing never waits: what the other side does not
read is kept up to a limit, beyond which the connection is over. A peer that has vanished is noticed by
the kernel (TCP_USER_TIMEOUT, RFC 5482) when something was sent to it.

On connections of ours we send a ping every 95 to 120 s. RFC 5626 §4.4.1 lets who speaks it drop a
connection without a pong; whether the other side does was agreed nowhere, and a carrier that does not
would lose its calls every two minutes. So silence is judged only of an address that has answered a
ping before, on this connection or an earlier one; of others TCP is the judge.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections import OrderedDict, deque
from collections.abc import Callable
from functools import partial
from random import uniform
from typing import Final, cast

from flowcatd.log import get_logger
from flowcatd.sip.event import Hop
from flowcatd.sip.framing import PING, Alive, Stream, Whole
from flowcatd.sip.trouble import SipError
from workers.sip_links import Link, Links
from workers.sip_tls import SHAKE_SECONDS

log = get_logger()

READS: Final = 16
"""Messages handed on per connection and turn of the loop."""
PIECE_BYTES: Final = 64 * 1024
"""What framing.Stream is fed at once."""
ACCEPTS: Final = 32
"""Connections taken per turn of the loop."""
PAUSE_SECONDS: Final = 0.5
"""How long accepting rests when there are no descriptors."""
UNACKED_MS: Final = 30_000
"""After this long without any sign that what was sent has arrived, the kernel gives a connection up."""
PONGERS: Final = 1024
"""Addresses that are remembered for having answered a ping; the oldest are forgotten first."""

Answers = OrderedDict[tuple[str, str, int], None]
"""Who answers pings: transport, host, port."""


class StreamLink(Link, asyncio.Protocol):
    """One connection."""

    def __init__(
        self, links: Links, hop: Hop, *, opened: bool, known: bool, vet: Vet | None = None
    ) -> None:
        """`vet` is asked when the connection is made; who does not pass hears nothing of us."""
        self._loop = asyncio.get_running_loop()
        super().__init__(hop, self._loop.time(), opened=opened, known=known)
        self._links = links
        self._stream = Stream(opened=opened)
        self._vet = vet
        self._transport: asyncio.Transport | None = None
        self.making: asyncio.Task[None] | None = None
        """Whoever is at the handshake."""
        self._waiting: deque[bytes] = deque()
        self._error: SipError | None = None
        self._paused = False
        self.answers: Answers = OrderedDict()
        """Who answers pings; one for all connections of ours."""
        self._ping_seconds = links.terms.ping_seconds
        self._ping_at = self.since + uniform(*self._ping_seconds)  # noqa: S311 no secret
        self._pong_due: float | None = None

    # --- Link

    def write(self, data: bytes) -> bool:
        """Send one message; false when nothing can be sent (any more)."""
        self.is_used |= (is_sent := self._put(data))
        return is_sent

    def drop(self) -> None:
        """End it at once."""
        if self._transport is not None:
            self._transport.abort()
        elif self.making is not None:
            self.making.cancel()

    def close(self) -> None:
        """End it when what was written is on its way."""
        if self._transport is not None:
            self._transport.close()
        elif self.making is not None:
            self.making.cancel()

    def check(self, now: float) -> None:
        """Send a ping in time, and look whether the last one was answered."""
        if not self.opened or self._transport is None:
            return
        if self._pong_due is not None:
            if now >= self._pong_due:
                self._pong_due = None
                if self._peer in self.answers:
                    self._links.counts["idle"] += 1
                    self.drop()
        elif now >= self._ping_at:
            self._ping_at = now + uniform(*self._ping_seconds)  # noqa: S311 no secret
            self._pong_due = now + self._links.terms.pong_seconds
            self._transport.write(PING)

    def keep(self, seconds: float) -> None:
        """A ping at least so often from now on, as the other side asked (RFC 5626 §4.4, Flow-Timer).

        It answers them, then: a missing pong is a lost connection.
        """
        self._remember()
        wanted = 0.8 * seconds, float(seconds)
        if wanted != self._ping_seconds:
            self._ping_seconds = wanted
            self._ping_at = min(self._ping_at, self._loop.time() + uniform(*wanted))  # noqa: S311 no secret

    # --- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection, and its handshake, is done."""
        self._transport = cast("asyncio.Transport", transport)
        if self._vet is not None and not self._vet(transport):
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """Bytes arrived."""
        now = self._loop.time()
        self.heard_at = now
        before = len(self._waiting)
        try:
            for at in range(0, len(data), PIECE_BYTES):
                self._stream.receive_bytes(data[at : at + PIECE_BYTES], now)
                self._collect()
        except SipError as error:
            self._collect()
            self._error = error
        if len(self._waiting) > before:
            self.unfinished_since = None
        elif self.unfinished_since is None and data.strip(b"\r\n"):
            self.unfinished_since = now
        if not self._paused:
            self._hand_on()

    def connection_lost(self, _error: Exception | None) -> None:
        """It is over; what had come before is still handed on."""
        self._transport = None
        self._links.remove(self)

    @property
    def is_up(self) -> bool:
        """Whether anything can be sent."""
        return self._transport is not None and not self._transport.is_closing()

    # --- inside

    @property
    def _peer(self) -> tuple[str, str, int]:
        return self.hop.transport, self.hop.host, self.hop.port

    def _put(self, data: bytes) -> bool:
        transport = self._transport
        if transport is None or transport.is_closing():
            return False
        if transport.get_write_buffer_size() + len(data) > self._links.terms.write_bytes:
            self._links.counts["slow"] += 1
            self.drop()
            return False
        transport.write(data)
        return True

    def _collect(self) -> None:
        for event in self._stream.events():
            if isinstance(event, Whole):
                self._waiting.append(event.data)
            elif event is Alive.PONG:
                self._note_pong()
        pongs = self._stream.outgoing()
        if pongs:
            self._put(b"".join(pongs))

    def _note_pong(self) -> None:
        if self._pong_due is None:
            return  # nobody asked
        self._pong_due = None
        self._remember()

    def _remember(self) -> None:
        """The other side answers pings."""
        self.answers[self._peer] = None
        self.answers.move_to_end(self._peer)
        if len(self.answers) > PONGERS:
            self.answers.popitem(last=False)

    def _hand_on(self) -> None:
        """A turn's worth of what has come; the rest in the next."""
        owner, waiting = self._links.owner, self._waiting
        for _ in range(READS):
            if not waiting:
                break
            self._links.spoke(self)
            owner.arrived(waiting.popleft(), self)
        if waiting:
            self._pause()
            self._loop.call_soon(self._hand_on)
            return
        self._resume()
        if self._error is not None:
            error, self._error = self._error, None
            owner.broken(self._stream.rest, error, self)
            self.close()

    def _pause(self) -> None:
        if not self._paused:
            self._paused = True
            if self._transport is not None and not self._transport.is_closing():
                self._transport.pause_reading()

    def _resume(self) -> None:
        if self._paused:
            self._paused = False
            if self._transport is not None and not self._transport.is_closing():
                self._transport.resume_reading()


Vet = Callable[[asyncio.BaseTransport], bool]


class StreamDoor:
    """One listening socket of the shared port; the worker's own copy."""

    def __init__(
        self, listener: socket.socket, links: Links, context: ssl.SSLContext | None
    ) -> None:
        """With a `context` it is TLS's. Nothing is accepted before `start`."""
        self._loop = asyncio.get_running_loop()
        self._listener = listener
        self._links = links
        self._context = context
        self._transport = "TCP" if context is None else "TLS"
        self._accepting = False
        self._pause: asyncio.TimerHandle | None = None
        self.address: tuple[str, int] = listener.getsockname()[:2]
        """Where it is, or was."""
        listener.setblocking(False)

    def start(self) -> None:
        """Accept from now on."""
        if self._listener.fileno() >= 0:
            self._pause = None
            self._accepting = True
            self._loop.add_reader(self._listener.fileno(), self._accept)

    def stop(self) -> None:
        """Accept nothing more; whoever has the other copies does."""
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
        if self._accepting:
            self._accepting = False
            self._loop.remove_reader(self._listener.fileno())

    def close(self) -> None:
        """As stop; and let go of the port."""
        self.stop()
        self._listener.close()

    def _accept(self) -> None:
        for _ in range(ACCEPTS):
            try:
                connection, address = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError:
                log.warning("door.choked", transport=self._transport)
                self.stop()
                self._pause = self._loop.call_later(PAUSE_SECONDS, self.start)
                return
            self._take(connection, address[0], address[1])

    def _take(self, connection: socket.socket, host: str, port: int) -> None:
        links = self._links
        if not links.admit(host):
            connection.close()
            return
        tune(connection)
        hop = Hop(self._transport, host, port, links.number())
        link = StreamLink(links, hop, opened=False, known=links.is_known(host))
        links.add(link)
        making = self._make(link, connection)
        link.making = task = self._loop.create_task(making, name="sip.accept")
        task.add_done_callback(partial(self._made, link, connection))

    async def _make(self, link: StreamLink, connection: socket.socket) -> None:
        shake = SHAKE_SECONDS if self._context is not None else None
        await self._loop.connect_accepted_socket(
            lambda: link, connection, ssl=self._context, ssl_handshake_timeout=shake
        )

    def _made(self, link: StreamLink, connection: socket.socket, task: asyncio.Task[None]) -> None:
        link.making = None
        # It may have gone away meanwhile, or its handshake was none; anything else is a fault of ours.
        error = None if task.cancelled() else task.exception()
        if error is None and not task.cancelled():
            return
        if error is not None and not isinstance(error, OSError):
            log.error("loop.raised", what="accepting a SIP connection failed", exc_info=error)
        self._links.counts["shake_failed"] += 1
        connection.close()
        self._links.remove(link)


def tune(connection: socket.socket) -> None:
    """Messages go at once (TCP_NODELAY), and a peer that has vanished is noticed."""
    connection.setblocking(False)
    with contextlib.suppress(OSError):  # it may be over already
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNACKED_MS)
