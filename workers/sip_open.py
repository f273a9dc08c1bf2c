"""Connections to SIP peers that a worker opens itself: made when first needed, kept, used again.

RFC 3261 §18: what goes to an address over TCP or TLS goes over the connection that leads there. There
is one per transport, address and, over TLS, per name that its certificate must have (RFC 5923 §9.1).
While one is being made, messages for it wait: QUEUE of them, for OPEN_SECONDS, then whoever sent them
is told that there is no way. Nothing of ours is sent to a peer whose certificate is for somebody else.

A connection leaves from the address of our own port, where that is bound to one: the other side knows
us by it.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final

from flowcatd.log import get_logger
from flowcatd.sip.event import Hop
from workers.sip_links import Links
from workers.sip_stream import Answers, StreamLink, tune
from workers.sip_tls import Tls, is_for

log = get_logger()

TOLD_SECONDS: Final = 60.0
"""How often one peer that cannot be reached stands in the log."""
TOLD: Final = 256

Key = tuple[str, str, int, str]


@dataclass(slots=True)
class _Opening:
    """A connection that is being made."""

    link: StreamLink
    hop: Hop
    queue: list[bytes] = field(default_factory=list)


class Opener:
    """One worker's; `failed` is told of hops that nothing can be sent to, never from within `send`."""

    def __init__(
        self,
        links: Links,
        tls: Tls,
        source: Callable[[str], str],
        failed: Callable[[Hop], None],
    ) -> None:
        """`source` gives the address that connections to an address leave from; empty is any."""
        self._loop = asyncio.get_running_loop()
        self._links = links
        self._tls = tls
        self._source = source
        self._failed = failed
        self._open: dict[Key, StreamLink] = {}
        self._opening: dict[Key, _Opening] = {}
        self._answers: Answers = OrderedDict()
        self._told: OrderedDict[Key, float] = OrderedDict()
        self._closed = False

    def __len__(self) -> int:
        """Connections that are made, or being made."""
        return len(self._open) + len(self._opening)

    def send(self, data: bytes, hop: Hop) -> None:
        """Over the connection that leads there."""
        key = _key(hop)
        link = self._open.get(key)
        if link is not None and link.write(data):
            return
        opening = self._opening.get(key)
        if opening is None:
            opening = self._begin(key, hop)
        if opening is None or len(opening.queue) >= self._links.terms.queue:
            self._failed(hop)
        else:
            opening.queue.append(data)

    def parted(self, link: StreamLink) -> None:
        """This one is over."""
        for key in [key for key, each in self._open.items() if each is link]:
            del self._open[key]

    def close(self) -> None:
        """Open nothing more, and give up what is being made."""
        self._closed = True
        for opening in list(self._opening.values()):
            opening.link.drop()

    def _begin(self, key: Key, hop: Hop) -> _Opening | None:
        context = self._tls.client if hop.transport == "TLS" else None
        if context is not None:
            self._tls.trust()
        is_able = hop.transport == "TCP" or context is not None
        if self._closed or not is_able or len(self) >= self._links.terms.opened:
            return None
        links = self._links
        link = StreamLink(
            links,
            replace(hop, connection=links.number()),
            opened=True,
            known=True,
            vet=None if context is None else partial(self._is_theirs, hop),
        )
        link.answers = self._answers
        opening = self._opening[key] = _Opening(link, hop)
        link.making = task = self._loop.create_task(self._make(link, hop, context), name="sip.open")
        task.add_done_callback(partial(self._made, key))
        return opening

    async def _make(self, link: StreamLink, hop: Hop, context: ssl.SSLContext | None) -> None:
        async with asyncio.timeout(self._links.terms.open_seconds):
            wire = self._socket(hop.host)
            try:
                await self._loop.sock_connect(wire, (hop.host, hop.port))
                name = (hop.name or hop.host) if context is not None else None
                await self._loop.create_connection(
                    lambda: link, sock=wire, ssl=context, server_hostname=name
                )
            except BaseException:
                wire.close()
                raise

    def _socket(self, host: str) -> socket.socket:
        wire = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
        try:
            tune(wire)
            source = self._source(host)
            if source:
                wire.bind((source, 0))
        except BaseException:
            wire.close()
            raise
        return wire

    def _made(self, key: Key, task: asyncio.Task[None]) -> None:
        opening = self._opening.pop(key)
        link, hop = opening.link, opening.hop
        link.making = None
        error = None if task.cancelled() else task.exception()
        if task.cancelled() or error is not None or not link.is_up:
            self._give_up(key, hop, error)
            return
        self._open[key] = link
        self._links.add(link)
        for data in opening.queue:
            if not link.write(data):
                self._failed(hop)
                return

    def _give_up(self, key: Key, hop: Hop, error: BaseException | None) -> None:
        if self._closed:
            return
        self._failed(hop)
        now = self._loop.time()
        if now - self._told.get(key, -TOLD_SECONDS) < TOLD_SECONDS:
            return
        self._told[key] = now
        self._told.move_to_end(key)
        if len(self._told) > TOLD:
            self._told.popitem(last=False)
        if error is None or isinstance(error, OSError):
            why = _why(error)
            log.warning("peer.unreached", transport=hop.transport, host=hop.host, why=why)
        else:
            log.error("loop.raised", what="opening a SIP connection failed", exc_info=error)

    def _is_theirs(self, hop: Hop, transport: asyncio.BaseTransport) -> bool:
        certificate: dict[str, Any] = transport.get_extra_info("peercert") or {}
        return is_for(certificate, hop.name or hop.host, wildcards=self._tls.wildcards)


def _key(hop: Hop) -> Key:
    name = (hop.name or hop.host).lower() if hop.transport == "TLS" else ""
    return hop.transport, hop.host, hop.port, name


def _why(error: OSError | None) -> str:
    match error:
        case None:
            return "the connection was ended, or its certificate is for another name"
        case ssl.SSLCertVerificationError():
            return f"its certificate is not trusted: {error.verify_message}"
        case ssl.SSLError():
            return f"no TLS: {error.reason}"
        case TimeoutError():
            return "it does not answer in time"
        case _:
            return error.strerror or type(error).__name__
