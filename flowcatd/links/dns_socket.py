"""The sockets that dnspython asks over: its backend, made of plain sockets and the loop's readers.

dnspython's own backend opens a datagram endpoint and awaits it; a question whose time is up just then
leaves the endpoint behind, and uvloop waits for it for ever when the loop is closed. Here opening a
UDP socket awaits nothing and every wait takes its reader away again, so a question may be cancelled
anywhere. UDP sockets are connected: only the nameserver is heard, and one that is not there says so at
once (ECONNREFUSED, udp(7)).
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from typing import Any

import dns.exception


class Backend:
    """What `dns.asyncresolver.Resolver.resolve` takes as `backend`: the part of it that it uses."""

    def name(self) -> str:
        """The loop's kind, by which dnspython knows it."""
        return "asyncio"

    def datagram_connection_required(self) -> bool:
        """Yes: `make_socket` is told where to."""
        return True

    async def sleep(self, interval: float) -> None:
        """Between two rounds of the nameservers."""
        await asyncio.sleep(interval)

    async def make_socket(
        self,
        af: int,
        socktype: int,
        proto: int = 0,
        source: Any = None,
        destination: Any = None,
        timeout: float | None = None,  # noqa: ASYNC109 as above
        ssl_context: Any = None,
        server_hostname: Any = None,
    ) -> Any:
        """A connected socket."""
        assert source is None
        assert ssl_context is None
        assert server_hostname is None
        kind = _Datagrams if socktype == socket.SOCK_DGRAM else _Stream
        made = kind(socket.socket(af, socktype, proto))
        try:
            await made.connect(destination, timeout)
        except BaseException:
            await made.close()
            raise
        return made


class _Wire:
    """What both kinds do."""

    def __init__(self, wire: socket.socket) -> None:
        wire.setblocking(False)
        self.family = wire.family
        self.type = wire.type
        self._wire = wire

    async def connect(self, destination: Any, seconds: float | None) -> None:
        """To a numeric address; nothing is awaited for UDP."""
        try:
            self._wire.connect(destination)
        except BlockingIOError:
            await self._wait(seconds, is_write=True)
            error = self._wire.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if error:
                raise OSError(error, os.strerror(error)) from None

    async def close(self) -> None:
        """At once."""
        self._wire.close()

    async def __aenter__(self) -> Any:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def getpeername(self) -> Any:
        """The nameserver."""
        return self._wire.getpeername()

    async def getsockname(self) -> Any:
        """Our end."""
        return self._wire.getsockname()

    async def getpeercert(self, _seconds: float | None) -> Any:
        """There is none."""
        raise NotImplementedError

    async def _try(
        self, work: Callable[[], Any], seconds: float | None, *, is_write: bool = False
    ) -> Any:
        while True:
            try:
                return work()
            except (BlockingIOError, InterruptedError):
                await self._wait(seconds, is_write=is_write)

    async def _wait(self, seconds: float | None, *, is_write: bool) -> None:
        loop = asyncio.get_running_loop()
        ready = asyncio.Event()
        add, remove = loop.add_reader, loop.remove_reader
        if is_write:
            add, remove = loop.add_writer, loop.remove_writer
        add(self._wire.fileno(), ready.set)
        try:
            async with asyncio.timeout(seconds):
                await ready.wait()
        except TimeoutError:
            raise dns.exception.Timeout from None
        finally:
            remove(self._wire.fileno())


class _Datagrams(_Wire):
    """UDP."""

    async def sendto(self, what: bytes, _destination: Any, seconds: float | None) -> int:
        """One datagram to where it is connected to."""
        sent: int = await self._try(lambda: self._wire.send(what), seconds, is_write=True)
        return sent

    async def recvfrom(self, size: int, seconds: float | None) -> Any:
        """One datagram, and who sent it."""
        return await self._try(lambda: self._wire.recvfrom(size), seconds)


class _Stream(_Wire):
    """TCP."""

    async def sendall(self, what: bytes, seconds: float | None) -> None:
        """All of it."""
        while what:
            rest = what
            sent = await self._try(lambda: self._wire.send(rest), seconds, is_write=True)  # noqa: B023
            what = what[sent:]

    async def recv(self, size: int, seconds: float | None) -> bytes:
        """What there is; nothing at the end."""
        found: bytes = await self._try(lambda: self._wire.recv(size), seconds)
        return found
