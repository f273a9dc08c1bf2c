"""What the supervisor holds for all its processes, from the first fork to the last exit.

The reserved address, a listening socket per slot, the load table, the pipe that tells children of our
death, the runtime directory with its lock, and the socket of /metrics. Taken at the start in an order
in which a failure leaves nothing behind, and handed on whole to a new program image by an upgrade:
exec keeps the process, its children and those descriptors that are marked to stay (`save`, `pass_on`,
`restore`).
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from dataclasses import dataclass
from pathlib import Path

import msgspec

from flowcatd.environment import runtime_directories
from flowcatd.errors import LinkRefused
from flowcatd.options import Options
from supervisor.doors import Doors, hold
from supervisor.process import Children, now
from supervisor.reserve import Reservation, probe_datagrams, reserve
from supervisor.runtime import sweep, take_runtime
from supervisor.seats import Seats

PATIENCE_SECONDS = 3.0
"""The switchboard of a daemon that was killed ends a second after it."""


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """The holdings as descriptor numbers, for the next program image."""

    host: str
    port: int
    reservation: int
    doors: dict[str, int]
    sip_doors: dict[str, int]
    seats: int
    alive: tuple[int, int]
    ready: dict[str, int]
    """Pipes of workers that do not serve yet, to their pids."""
    metrics: int
    """-1 for none."""
    runtime: str
    lock: int


@dataclass(slots=True)
class Holdings:
    """All of it."""

    reservation: Reservation
    doors: Doors
    sip_doors: Doors | None
    seats: Seats
    children: Children
    metrics: socket.socket | None
    runtime: Path
    lock: int

    @property
    def port(self) -> int:
        """The port of HTTP and WebSocket."""
        return self.reservation.port

    @property
    def metrics_address(self) -> str:
        """host:port of /metrics; empty when the daemon serves none."""
        if self.metrics is None:
            return ""
        host, port = self.metrics.getsockname()[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def open_doors(self, slot: int) -> tuple[int, int | None]:
        """The slot's listening sockets, of WebSocket and SIP; OSError when they cannot be had."""
        sip = None if self.sip_doors is None else self.sip_doors.open(slot)
        return self.doors.open(slot), sip

    def unlist(self, slot: int) -> None:
        """The kernel gives this slot no new connection."""
        for doors in self._all_doors():
            doors.unlist(slot)

    def close_doors(self, slot: int) -> None:
        """The slot's sockets are given up, unless it was opened again."""
        for doors in self._all_doors():
            doors.close(slot)

    def save(self) -> Kept:
        """Which descriptor is which."""
        sip = {} if self.sip_doors is None else self.sip_doors.descriptors()
        return Kept(
            host=self.reservation.host,
            port=self.reservation.port,
            reservation=self.reservation.socket.fileno(),
            doors={str(slot): fd for slot, fd in self.doors.descriptors().items()},
            sip_doors={str(slot): fd for slot, fd in sip.items()},
            seats=self.seats.descriptor,
            alive=self.children.alive,
            ready={str(fd): pid for fd, pid in self.children.ready.items()},
            metrics=-1 if self.metrics is None else self.metrics.fileno(),
            runtime=str(self.runtime),
            lock=self.lock,
        )

    def close(self) -> None:
        """Give everything back."""
        self.children.close()
        for doors in self._all_doors():
            doors.close_all()
        self.reservation.close()
        self.seats.close()
        if self.metrics is not None:
            self.metrics.close()
        with contextlib.suppress(OSError):  # somebody removed it
            sweep(self.runtime)
        os.close(self.lock)

    def _all_doors(self) -> list[Doors]:
        return [self.doors] if self.sip_doors is None else [self.doors, self.sip_doors]


class StillHeldError(LinkRefused):
    """Something that a daemon which was killed left behind has not let go; the next try may do."""


def take(options: Options) -> Holdings:
    """Take everything; raises LinkRefused with the reason and a way out.

    What a daemon that was killed leaves behind lets go of our ports within a moment.
    """
    deadline = now() + PATIENCE_SECONDS if _was_killed(options) else 0.0
    while True:
        try:
            return _take(options)
        except LinkRefused as error:
            if now() >= deadline:
                if deadline:
                    raise StillHeldError(str(error)) from error
                raise
        time.sleep(0.05)


def _was_killed(options: Options) -> bool:
    """Whether sockets lie where ours belong, and nobody holds the lock."""
    runtime = runtime_directories(options.control.directory, options.server.port)[0]
    try:
        left = any(entry.is_socket() for entry in runtime.iterdir())
        if left:
            os.close(take_runtime(runtime))
    except (OSError, LinkRefused):
        return False
    return left


def _take(options: Options) -> Holdings:
    reservation = reserve(options.server.host, options.server.port)
    metrics = None
    try:
        if options.sip.port:
            probe_datagrams(options.sip.host, options.sip.port)
        if options.metrics.enabled:
            metrics = hold(options.metrics.host, options.metrics.port)
        runtime = runtime_directories(options.control.directory, reservation.port)[0]
        lock = take_runtime(runtime)
    except BaseException:
        reservation.close()
        if metrics is not None:
            metrics.close()
        raise
    sweep(runtime)
    return Holdings(
        reservation=reservation,
        doors=Doors(reservation.host, reservation.port, socket.SOCK_STREAM),
        sip_doors=_sip_doors(options),
        seats=Seats(options.workers.most),
        children=Children(),
        metrics=metrics,
        runtime=runtime,
        lock=lock,
    )


def pass_on(kept: Kept, *, stay: bool) -> None:
    """Mark every descriptor to stay across exec, or to be closed by it."""
    for descriptor in _descriptors(kept):
        os.set_inheritable(descriptor, stay)


def restore(kept: Kept, options: Options) -> Holdings:
    """Take over what a former program image of this process held."""
    pass_on(kept, stay=False)
    doors = Doors(kept.host, kept.port, socket.SOCK_STREAM)
    doors.adopt({int(slot): fd for slot, fd in kept.doors.items()})
    sip_doors = _sip_doors(options)
    if sip_doors is not None:
        sip_doors.adopt({int(slot): fd for slot, fd in kept.sip_doors.items()})
    return Holdings(
        reservation=Reservation(kept.host, kept.port, socket.socket(fileno=kept.reservation)),
        doors=doors,
        sip_doors=sip_doors,
        seats=Seats(options.workers.most, kept.seats),
        children=Children(kept.alive, {int(fd): pid for fd, pid in kept.ready.items()}),
        metrics=None if kept.metrics < 0 else socket.socket(fileno=kept.metrics),
        runtime=Path(kept.runtime),
        lock=kept.lock,
    )


def _sip_doors(options: Options) -> Doors | None:
    sip = options.sip
    return Doors(sip.host, sip.port, socket.SOCK_DGRAM) if sip.port else None


def _descriptors(kept: Kept) -> list[int]:
    all_ = [kept.reservation, *kept.doors.values(), *kept.sip_doors.values(), kept.seats]
    all_ += [*kept.alive, *map(int, kept.ready), kept.metrics, kept.lock]
    return [fd for fd in all_ if fd >= 0]
