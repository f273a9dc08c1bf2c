"""The caller's socket and clock: connects as a carrier does, and drives a handset in real time.

One loop: send what is outgoing, wait for a message or for the next frame's time, feed the handset.
What to say and when to end is the handset's; this shell knows only how a connection fails.

RFC 6455; 1000 is a normal close.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import aiohttp

from flowcatd.caller.address import Address
from flowcatd.caller.facts import CallerEvent
from flowcatd.caller.handset import Handset
from flowcatd.carriers.message import MESSAGE_LIMIT
from flowcatd.errors import CarrierError, LinkRefused

CONNECT_SECONDS = 5.0
"""A daemon that is up answers a handshake at once."""
SEND_SECONDS = 5.0
"""How long the daemon may read nothing before the caller gives up on it."""
LEAVE_SECONDS = 2.0
"""What the daemon gets to close the socket once the caller has hung up."""
POLL_SECONDS = 0.001
"""aiohttp takes a timeout of 0 for none."""

_GONE = (
    aiohttp.WSMsgType.CLOSE,
    aiohttp.WSMsgType.CLOSING,
    aiohttp.WSMsgType.CLOSED,
    aiohttp.WSMsgType.ERROR,
)

_HINTS = {
    400: "the daemon does not understand the address's query",
    401: "the daemon wants its token: add ?token=… to the address",
    403: "the daemon wants its token: add ?token=… to the address",
    404: "there is no such carrier, agent or path",
    503: "the daemon has no room for one more call now",
}
"""What an HTTP answer instead of a WebSocket means to a caller."""


@asynccontextmanager
async def connected(address: Address) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    """An open media socket; LinkRefused says what to do when there is none to be had."""
    async with aiohttp.ClientSession() as session, await _connect(session, address) as socket:
        yield socket


async def _connect(
    session: aiohttp.ClientSession, address: Address
) -> aiohttp.ClientWebSocketResponse:
    timeout = aiohttp.ClientWSTimeout(ws_close=LEAVE_SECONDS)
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            return await session.ws_connect(
                address.url, max_msg_size=MESSAGE_LIMIT * 4, timeout=timeout
            )
    except aiohttp.WSServerHandshakeError as error:
        hint = _HINTS.get(error.status, "is this flowcatd?")
        raise LinkRefused(
            f"{address.shown} refused the call with HTTP {error.status}: {hint}"
        ) from error
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise LinkRefused(
            f"nobody answers at {address.shown}: is the daemon running? `make run`"
        ) from error


class Phone:
    """One call over one socket."""

    def __init__(
        self,
        address: Address,
        handset: Handset,
        *,
        seconds: float,
        tell: Callable[[CallerEvent], None],
    ) -> None:
        """`seconds` is the longest the call may take; `tell` gets each event of the handset."""
        self._address = address
        self._handset = handset
        self._seconds = seconds
        self._tell = tell
        self.interrupted = False

    def interrupt(self) -> None:
        """Hang up with the next frame: somebody pressed Ctrl-C."""
        self.interrupted = True
        self._handset.hang_up("interrupted")

    async def call(self) -> None:
        """Place the call and stay until it is over; LinkRefused when there is nobody to talk to."""
        async with connected(self._address) as socket:
            await self._talk(socket)
            await self._leave(socket)

    async def _talk(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        handset = self._handset
        began = time.monotonic()
        handset.start(began)
        while True:
            now = time.monotonic()
            handset.wake(now)
            if now - began > self._seconds:
                handset.hang_up(f"the call took longer than {self._seconds:g} s")
            await self._flush(socket)
            due = handset.wake_at()
            if due is None:
                return
            try:
                message = await socket.receive(timeout=max(POLL_SECONDS, due - time.monotonic()))
            except TimeoutError:
                continue
            self._take(message, socket)

    async def _leave(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        """After our stop message the daemon closes; its last words are still heard."""
        try:
            async with asyncio.timeout(LEAVE_SECONDS):
                while not socket.closed:
                    self._take(await socket.receive(), socket)
        except TimeoutError:
            pass
        self._report()

    def _take(self, message: aiohttp.WSMessage, socket: aiohttp.ClientWebSocketResponse) -> None:
        handset, now = self._handset, time.monotonic()
        try:
            if message.type is aiohttp.WSMsgType.TEXT:
                handset.receive_text(message.data, now)
            elif message.type is aiohttp.WSMsgType.BINARY:
                handset.receive_binary(message.data, now)
            elif message.type in _GONE:
                why = message.extra if isinstance(message.extra, str) else ""
                handset.receive_closed(socket.close_code, why, now)
        except CarrierError as error:
            handset.hang_up(f"the daemon sent what a carrier would refuse: {error.problem}")

    async def _flush(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._report()
        try:
            async with asyncio.timeout(SEND_SECONDS):
                for message in self._handset.outgoing():
                    if isinstance(message, str):
                        await socket.send_str(message)
                    else:
                        await socket.send_bytes(message)
        except TimeoutError:
            self._handset.hang_up(f"the daemon has read nothing for {SEND_SECONDS:g} s")
        except (aiohttp.ClientError, ConnectionError):
            pass  # closed from the other side: what is still to be read says why

    def _report(self) -> None:
        for event in self._handset.events():
            self._tell(event)
