"""Workers' SIP wires in one loop, each with ports of its own and a real line to its fellows."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import shutil
import socket
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Self

from flowcatd.sip.event import Hop
from tests.workers.on_loop import on_worker_loop, until
from tests.workers.test_sip_door import loads_of
from workers.hand_over import HandOver, Receivers
from workers.load import LoadTable
from workers.sip_door import AWAIT_SECONDS, Routes
from workers.sip_here import Called
from workers.sip_links import LinkTerms
from workers.sip_tls import Tls
from workers.sip_wire import SipWire, WirePlace
from workers.steer import mint_stamp

REQUEST = (
    "{method} sip:{user}@127.0.0.1 SIP/2.0\r\n"
    "Via: SIP/2.0/TCP 127.0.0.1:5070;branch=z9hG4bK{branch};rport\r\n"
    "From: <sip:a@127.0.0.1>;tag=f\r\nTo: <sip:b@127.0.0.1>{to}\r\n"
    "Call-ID: {call}\r\nCSeq: 1 {method}\r\nMax-Forwards: 70\r\n"
    "Content-Length: {length}\r\n\r\n{body}"
)


def request(method="BYE", *, to="", call="c1", user="b", branch="x", body="") -> bytes:
    """One request; `to` is the tag that says whose it is."""
    tag = f";tag={to}" if to else ""
    return REQUEST.format(
        method=method, to=tag, call=call, user=user, branch=branch, body=body, length=len(body)
    ).encode()


class Wire:
    """One worker's, and what came of it."""

    def __init__(
        self,
        runtime: Path,
        seat: int,
        loads: LoadTable,
        *,
        tls: Tls | None = None,
        terms: LinkTerms | None = None,
        known: tuple[str, ...] = (),
        called: Called | None = None,
        await_seconds: float = AWAIT_SECONDS,
    ) -> None:
        self.got: list[tuple[bytes, Hop]] = []
        self.failed: list[Hop] = []
        self.deaf: set[str] = set()
        """Addresses that are not listened to."""
        self.answer: bytes | None = None
        """Sent back for every message."""
        self.on_got: Callable[[bytes, Hop], None] = lambda _data, _hop: None
        self.seat = seat
        self.stamp = mint_stamp(loads.read(seat))
        self.ports: dict[str, int] = {}
        self.fellows = HandOver(
            runtime,
            seat,
            Receivers(
                lambda sock, _passed: sock.close(),
                lambda sock, _passed: sock.close(),
                lambda data, source: self.wire.given_datagram(data, source),  # noqa: PLW0108
                lambda message: self.wire.given(message),  # noqa: PLW0108 the wire comes later
            ),
        )
        self.wire = SipWire(
            WirePlace(
                seat=seat,
                doors={name: self._door(name) for name in ("udp", "tcp", "tls", "udp6", "tcp6")},
                routes=Routes(loads, 100.0, await_seconds),
                give=self.fellows.give_sip,
                screen=lambda _data, host, _now: host not in self.deaf,
                is_known=lambda host: host in known,
                tls=tls or Tls(),
                terms=terms or LinkTerms(sweep_seconds=0.01),
                called=called or Called(),
            ),
            self._receive,
            self.failed.append,
        )
        self.wire.start()

    def _door(self, name: str) -> int:
        family = socket.AF_INET6 if name.endswith("6") else socket.AF_INET
        kind = socket.SOCK_DGRAM if name.startswith("udp") else socket.SOCK_STREAM
        door = socket.socket(family, kind)
        door.bind(("::1" if family == socket.AF_INET6 else "127.0.0.1", 0))
        self.ports[name] = door.getsockname()[1]
        if kind == socket.SOCK_STREAM:
            door.listen(1024)
        return door.detach()

    def _receive(self, data: bytes, hop: Hop) -> None:
        self.got.append((data, hop))
        self.on_got(data, hop)
        if self.answer is not None:
            self.wire.send(self.answer, hop)

    def close(self) -> None:
        """It goes, and its fellows notice."""
        self.wire.close()
        self.wire.close()
        self.fellows.close()


class Fleet:
    """Some of them, seat n in slot n."""

    def __init__(self, runtime: Path) -> None:
        self.runtime = runtime
        self.loads = loads_of(3)
        for seat in range(3):
            self.loads.row(seat).ticked(asyncio.get_running_loop().time(), 0.0)
        self.wires: list[Wire] = []

    def wire(self, **fields) -> Wire:
        """The next seat's."""
        self.wires.append(Wire(self.runtime, len(self.wires), self.loads, **fields))
        return self.wires[-1]


def with_fleet(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """The test with a fleet, on the loop of workers; other parameters are fixtures."""
    names = list(inspect.signature(test).parameters)[1:]

    async def run(**fixtures: object) -> None:
        runtime = Path(tempfile.mkdtemp(prefix="fc-", dir="/tmp"))
        fleet = Fleet(runtime)
        try:
            await test(fleet, **fixtures)
        finally:
            for wire in fleet.wires:
                wire.close()
            await asyncio.sleep(0.01)  # connections end in the loop
            shutil.rmtree(runtime)

    functools.update_wrapper(run, test)
    del run.__wrapped__
    parameters = [inspect.Parameter(each, inspect.Parameter.KEYWORD_ONLY) for each in names]
    run.__signature__ = inspect.Signature(parameters)
    return on_worker_loop(run)


class Caller:
    """A plain connection to a wire's port; `read` waits."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.socket.setblocking(False)
        self.heard = b""
        self.is_over = False

    @classmethod
    def to(cls, port: int, host: str = "127.0.0.1") -> Caller:
        """Connected."""
        return cls(socket.create_connection((host, port), 5))

    def send(self, data: bytes) -> None:
        """As much as fits; a test sends little."""
        self.socket.send(data)

    def look(self) -> bytes:
        """What has come by now."""
        with contextlib.suppress(BlockingIOError):
            while True:
                try:
                    data = self.socket.recv(65_536)
                except ConnectionResetError:
                    data = b""
                if not data:
                    self.is_over = True
                    break
                self.heard += data
        return self.heard

    async def hears(self, what: bytes, within: float = 5.0) -> None:
        """Wait for these bytes."""
        await until(lambda: what in self.look(), within)

    async def ends(self, within: float = 5.0) -> None:
        """Wait until the other side has closed."""
        await until(lambda: self.look() is not None and self.is_over, within)

    def close(self) -> None:
        """Go."""
        self.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()
