"""What the supervisor holds for all its processes, from the first fork to the last exit.

The reserved addresses, listening sockets of every slot, the load table, the pipe that tells children of our
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
from supervisor.reserve import Reservation, reserve
from supervisor.runtime import sweep, take_runtime
from supervisor.seats import Seats
from supervisor.sip_ports import KeptPort, SipDoors

PATIENCE_SECONDS = 3.0
"""The switchboard of a daemon that was killed ends a second after it."""


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """The holdings as descriptor numbers, for the next program image."""

    host: str
    port: int
    reservation: int
    doors: dict[str, int]
    sip: dict[str, KeptPort] = {}
    """A former version had one UDP port, under another name, which is not taken over."""
    seats: int
    trunk_counts: int = -1
    """-1 when a former version had none."""
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
    sip: SipDoors
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

    def open_doors(self, slot: int) -> tuple[int, dict[str, int]]:
        """The slot's listening sockets: of HTTP, and of SIP by name; OSError when they cannot be had."""
        return self.doors.open(slot), self.sip.open(slot)

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
        return Kept(
            host=self.reservation.host,
            port=self.reservation.port,
            reservation=self.reservation.socket.fileno(),
            doors={str(slot): fd for slot, fd in self.doors.descriptors().items()},
            sip=self.sip.save(),
            seats=self.seats.descriptor,
            trunk_counts=self.seats.counts_descriptor,
            alive=self.children.alive,
            ready={str(fd): pid for fd, pid in self.children.ready.items()},
            metrics=-1 if self.metrics is None else self.metrics.fileno(),
            runtime=str(self.runtime),
            lock=self.lock,
        )

    def close(self) -> None:
        """Give everything back."""
        self.children.close()
        self.doors.close_all()
        self.sip.close()
        self.reservation.close()
        self.seats.close()
        if self.metrics is not None:
            self.metrics.close()
        with contextlib.suppress(OSError):  # somebody removed it
            sweep(self.runtime)
        os.close(self.lock)

    def _all_doors(self) -> list[Doors]:
        return [self.doors, *self.sip.groups()]


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
    with contextlib.ExitStack() as undo:
        reservation = reserve(options.server.host, options.server.port)
        undo.callback(reservation.close)
        sip = SipDoors.take(options.sip)
        undo.callback(sip.close)
        metrics = None
        if options.metrics.enabled:
            metrics = hold(options.metrics.host, options.metrics.port)
            undo.callback(metrics.close)
        runtime = runtime_directories(options.control.directory, reservation.port)[0]
        lock = take_runtime(runtime)
        undo.pop_all()
    sweep(runtime)
    return Holdings(
        reservation=reservation,
        doors=Doors(reservation.host, reservation.port, socket.SOCK_STREAM),
        sip=sip,
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
    return Holdings(
        reservation=Reservation(kept.host, kept.port, socket.socket(fileno=kept.reservation)),
        doors=doors,
        sip=SipDoors.restore(options.sip, kept.sip),
        seats=Seats(options.workers.most, kept.seats, kept.trunk_counts),
        children=Children(kept.alive, {int(fd): pid for fd, pid in kept.ready.items()}),
        metrics=None if kept.metrics < 0 else socket.socket(fileno=kept.metrics),
        runtime=Path(kept.runtime),
        lock=kept.lock,
    )


def _descriptors(kept: Kept) -> list[int]:
    all_ = [kept.reservation, *kept.doors.values(), kept.seats, kept.trunk_counts]
    all_ += [fd for port in kept.sip.values() for fd in port.descriptors()]
    all_ += [*kept.alive, *map(int, kept.ready), kept.metrics, kept.lock]
    return [fd for fd in all_ if fd >= 0]
