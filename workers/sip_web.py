"""SIP over WebSocket (RFC 7118): browsers and their like, on the worker's HTTP port.

One message of the WebSocket is one SIP message, in text or binary; ours are text where they are UTF-8,
since browsers' libraries read nothing else. Who does not ask for the subprotocol `sip` is not let in
(§4.1). The peer's Via and Contact name no host that exists, so everything goes by the connection.
aiohttp sends WebSocket pings; the line ends of RFC 5626 are answered too (§6).

aiohttp's sending waits, ours never does: messages queue up to a limit of bytes, and one task per
connection sends them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from http import HTTPStatus
from typing import Final

from aiohttp import WSCloseCode, WSMsgType, web

from flowcatd.sip.event import Hop
from flowcatd.sip.framing import PING, PONG, unwrap_websocket
from flowcatd.sip.message import MESSAGE_BYTES
from flowcatd.sip.trouble import SipError
from workers.sip_links import Link, Links

SUBPROTOCOL: Final = "sip"
READS: Final = 16
"""Messages handed on per connection and turn of the loop."""
HEARTBEAT_SECONDS: Final = 30.0
CLOSE_SECONDS: Final = 1.0
"""What the other side gets to answer our close."""


class WebLink(Link):
    """One WebSocket."""

    def __init__(
        self, links: Links, hop: Hop, socket: web.WebSocketResponse, transport: asyncio.Transport
    ) -> None:
        """`transport` is what the WebSocket runs over."""
        self._loop = asyncio.get_running_loop()
        super().__init__(hop, self._loop.time(), opened=False, known=links.is_known(hop.host))
        self._links = links
        self._socket = socket
        self._queue: deque[bytes] = deque()
        self._queued = 0
        self._more = asyncio.Event()
        self._over = False
        self._transport = transport

    def write(self, data: bytes) -> bool:
        """Send one message; false when nothing can be sent (any more)."""
        if self._over:
            return False
        if self._queued + len(data) > self._links.terms.write_bytes:
            self._links.counts["slow"] += 1
            self.drop()
            return False
        self.is_used = True
        self._put(data)
        return True

    def drop(self) -> None:
        """End it at once."""
        self._over = True
        self._transport.abort()

    def close(self) -> None:
        """End it when what was written is on its way."""
        self._over = True
        self._more.set()

    async def serve(self) -> None:
        """Until either side ends it."""
        sending = self._loop.create_task(self._send(), name="sip.web")
        try:
            number = 0
            async for message in self._socket:
                number += 1
                if not number % READS:
                    await asyncio.sleep(0)  # what is in the buffer comes without a turn of the loop
                if message.type not in (WSMsgType.TEXT, WSMsgType.BINARY) or self._over:
                    break
                if not self._take(message.data):
                    await self._socket.close(code=WSCloseCode.MESSAGE_TOO_BIG)
                    break
        finally:
            self._over = True
            sending.cancel()

    def _take(self, data: bytes | str) -> bool:
        self.heard_at = self._loop.time()
        try:
            whole = unwrap_websocket(data)
        except SipError:
            return False
        if whole is not None:
            self._links.spoke(self)
            self._links.owner.arrived(whole, self)
        elif data in (PING, PING.decode()) and not self._queue:
            self._put(PONG)
        return True

    def _put(self, data: bytes) -> None:
        self._queue.append(data)
        self._queued += len(data)
        self._more.set()

    async def _send(self) -> None:
        try:
            while True:
                while self._queue:
                    data = self._queue.popleft()
                    await self._socket.send_frame(data, _kind(data))
                    self._queued -= len(data)
                if self._over:
                    await self._socket.close()
                    return
                self._more.clear()
                await self._more.wait()
        except (ConnectionError, RuntimeError):  # it went away, or is being closed
            self._over = True


async def serve_websocket(request: web.Request, links: Links) -> web.StreamResponse:
    """Serve SIP on this request's connection, for as long as it is there."""
    refusal = _refusal(request)
    if refusal is not None:
        return refusal
    transport = request.transport
    peer = None if transport is None else transport.get_extra_info("peername")
    if transport is None or peer is None:
        return web.Response()  # it is gone
    host, port = peer[:2]
    if not links.admit(host):
        raise web.HTTPServiceUnavailable(
            text="too many connections\n", headers={"Retry-After": "5"}
        )
    socket = web.WebSocketResponse(
        protocols=(SUBPROTOCOL,),
        heartbeat=HEARTBEAT_SECONDS,
        timeout=CLOSE_SECONDS,
        compress=False,
        max_msg_size=MESSAGE_BYTES,
    )
    hop = Hop("WSS" if request.secure else "WS", host, port, links.number())
    link = WebLink(links, hop, socket, transport)
    links.add(link)
    try:
        await socket.prepare(request)
        await link.serve()
    finally:
        links.remove(link)
    return socket


def _refusal(request: web.Request) -> web.Response | None:
    """The answer to who wants no WebSocket, or not SIP's."""
    if "websocket" not in request.headers.get("Upgrade", "").lower():
        headers = {"Upgrade": "websocket", "Connection": "Upgrade"}
        return web.Response(status=HTTPStatus.UPGRADE_REQUIRED, headers=headers)
    offered = ",".join(request.headers.getall("Sec-WebSocket-Protocol", ()))
    if SUBPROTOCOL not in [each.strip() for each in offered.split(",")]:
        return web.Response(status=HTTPStatus.BAD_REQUEST, text="the subprotocol sip is wanted\n")
    return None


def _kind(data: bytes) -> WSMsgType:
    try:
        data.decode()
    except UnicodeDecodeError:
        return WSMsgType.BINARY
    return WSMsgType.TEXT
