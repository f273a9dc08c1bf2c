"""Between workers: an accepted connection goes to the fellow who owns its call, or a message does.

Each worker listens on a Unix socket of its seat (SOCK_SEQPACKET: messages stay whole and in order,
and an end is noticed). Connections to fellows are made when first needed and kept. A connection's
descriptor travels beside its message (SCM_RIGHTS, unix(7)); one hop per call, none per frame.

A connection is served exactly once, whoever dies or hangs meanwhile:

    giver   keeps its copy until the taker's Ack; then closes it
    taker   sends its Ack first, and serves only if that could be sent

When a taker is too late, the giver first shuts its side for reading, after which no Ack can be sent
any more (the kernel refuses it with EPIPE, under the same lock that shuts), then reads what Acks
there are; what has none was not taken and is routed again, past that seat. SIP messages are given
without an Ack: whoever sent one repeats it, or gives up in time. They go both ways: inward to the
owner of the call, outward to the fellow who has the connection it came by.

A later request on a connection that is kept alive has been read by then: its head travels in the
message (`Arrival`), and the taker reads it before what is in the socket.

Whoever connects must be a process of our own user (SO_PEERCRED). A kind or version of message that
is not known costs nothing but itself, since during an upgrade older and newer workers live side by
side; garbage costs the fellow that sent it its connection, and nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import Final

import msgspec

from flowcatd.log import get_logger
from workers.hand_over_message import (
    HEAD_MAX,
    VERSION,
    Ack,
    Connection,
    Datagram,
    SipGone,
    SipMessage,
    decode_ack,
    decode_given,
    encode,
    is_of_another_version,
)
from workers.plan import hand_over_path

log = get_logger()

ACK_SECONDS = 1.0
"""What a taker gets; its caller hears nothing meanwhile."""
OUTSTANDING = 128
"""Connections one fellow may owe an Ack for; what a socket's buffer holds is about twice as much."""
PAUSE_SECONDS = 0.5
"""How long accepting rests when there are no descriptors; a listener stays readable meanwhile."""
READS = 64
"""Messages read per fellow and turn of the loop."""
FELLOWS = 1024
"""Connections of fellows: as many as there are seats; more are not of this daemon."""
MESSAGE_BYTES = 70_000
"""The longest message: SIP_BYTES and an envelope."""
HEAD_BYTES: Final = HEAD_MAX
"""The longest request head that travels with its connection."""

Source = tuple[str, int] | tuple[str, int, int, int]
"""A datagram's source as recvfrom gives it: IPv4, or IPv6 with flow and scope."""


class Arrival(socket.socket):
    """A connection of which something was read already: whoever serves it reads `head` first."""

    head: bytes = b""


def head_of(connection: socket.socket) -> bytes:
    """What was read of this connection and not answered; mostly nothing."""
    return connection.head if isinstance(connection, Arrival) else b""


_UCRED: Final = struct.Struct("3i")
OnConnection = Callable[[socket.socket, tuple[int, ...]], None]
OnDatagram = Callable[[bytes, Source], None]
OnSip = Callable[[SipMessage | SipGone], None]


def _ignore(_message: SipMessage | SipGone) -> None:
    """Whoever has no SIP."""


@dataclass(frozen=True, slots=True)
class Receivers:
    """What becomes of what arrives."""

    taken: OnConnection
    """A fellow gave us this connection."""
    returned: OnConnection
    """A connection that we gave was not taken; `passed` names that seat too."""
    datagram: OnDatagram
    """A fellow of an older version got this datagram for us."""
    sip: OnSip = _ignore
    """A fellow got this message for us, wants it sent, or could not send ours."""


@dataclass(frozen=True, slots=True)
class _Owed:
    connection: socket.socket
    passed: tuple[int, ...]
    due: float


class _Came(Enum):
    """What reading once gave."""

    ONE = auto()
    NOTHING = auto()
    END = auto()


class HandOver:
    """One worker's socket for fellows, and its connections to them."""

    def __init__(self, runtime: Path, seat: int, receivers: Receivers) -> None:
        """Listens from now on; a file of the same name, left by a dead process, is replaced."""
        self._loop = asyncio.get_running_loop()
        self._runtime = runtime
        self._receivers = receivers
        self._path = hand_over_path(runtime, seat)
        self._fellows: dict[int, _Fellow] = {}
        self._givers: set[socket.socket] = set()
        self.given = self.taken = self.failed = 0
        """Connections that went, came, and came back."""
        self.unknown = 0
        """Messages of kinds or versions that we do not know."""
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.setblocking(False)
        self._path.unlink(missing_ok=True)
        self._listener.bind(str(self._path))
        self._path.chmod(0o600)
        self._inode = self._path.stat().st_ino
        self._listener.listen(128)
        self._pause: asyncio.TimerHandle | None = None
        self._listen()

    def __len__(self) -> int:
        """Connections given that nobody has acknowledged."""
        return sum(len(fellow.owed) for fellow in self._fellows.values())

    def give(self, seat: int, connection: socket.socket, passed: tuple[int, ...]) -> None:
        """Give the connection to the process in that seat, or return it past that seat, soon."""
        fellow = self._fellow(seat)
        if fellow is None or not fellow.give(connection, passed):
            self._return(seat, connection, passed)

    def give_sip(self, seat: int, message: SipMessage | SipGone) -> bool:
        """Whether it is on its way; false means that this seat cannot be reached now."""
        fellow = self._fellow(seat)
        return fellow is not None and fellow.send(encode(message))

    def close(self) -> None:
        """Take and give nothing more; what no one acknowledged is returned."""
        if self._listener.fileno() < 0:
            return
        self._loop.remove_reader(self._listener.fileno())
        if self._pause is not None:
            self._pause.cancel()
        self._listener.close()
        with contextlib.suppress(FileNotFoundError):
            if self._path.stat().st_ino == self._inode:
                self._path.unlink()
        for giver in list(self._givers):
            self._drop_giver(giver)
        for fellow in list(self._fellows.values()):
            fellow.part()

    # --- giving -----------------------------------------------------------------------------------

    def _fellow(self, seat: int) -> _Fellow | None:
        fellow = self._fellows.get(seat)
        if fellow is None and self._listener.fileno() >= 0:
            wire = _connect(hand_over_path(self._runtime, seat))
            if wire is None:
                return None
            fellow = self._fellows[seat] = _Fellow(seat, wire, self)
        return fellow

    def parted(self, fellow: _Fellow, owed: list[_Owed]) -> None:
        """For a fellow: it is gone, or too late; these it did not take."""
        self._fellows.pop(fellow.seat, None)
        for given in owed:
            self._return(fellow.seat, given.connection, given.passed)

    def acknowledged(self) -> None:
        """For a fellow: one more is taken."""
        self.given += 1

    def _return(self, seat: int, connection: socket.socket, passed: tuple[int, ...]) -> None:
        # Not at once: whoever gives must not find its own call answered before it returns.
        self.failed += 1
        self._loop.call_soon(self._receivers.returned, connection, (*passed, seat))

    # --- taking -----------------------------------------------------------------------------------

    def _listen(self) -> None:
        self._loop.add_reader(self._listener.fileno(), self._accept)

    def _accept(self) -> None:
        for _ in range(READS):
            try:
                giver, _ = self._listener.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError:  # no descriptors: givers that wait too long route elsewhere
                self._loop.remove_reader(self._listener.fileno())
                self._pause = self._loop.call_later(PAUSE_SECONDS, self._listen)
                return
            giver.setblocking(False)
            if len(self._givers) >= FELLOWS or not _is_ours(giver):
                log.warning("fellow.refused", fellows=len(self._givers))
                giver.close()
                continue
            self._givers.add(giver)
            self._loop.add_reader(giver.fileno(), self._read, giver)

    def _read(self, giver: socket.socket) -> None:
        for _ in range(READS):
            try:
                data, descriptors, flags, _ = socket.recv_fds(giver, MESSAGE_BYTES, 4)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                data, descriptors, flags = b"", [], 0
            # Sockets at once, so that whatever happens from here on, nothing leaks.
            came = [_adopt(descriptor) for descriptor in descriptors]
            if not data:
                self._drop_giver(giver)  # the ordinary end of a fellow
            elif flags & (socket.MSG_CTRUNC | socket.MSG_TRUNC):
                self._lose(giver, "a message or its descriptor did not fit")
            else:
                self._understand(giver, data, came)
            for each in came:
                if each is not None:
                    each.close()
            if giver not in self._givers:
                return

    def _understand(
        self, giver: socket.socket, data: bytes, came: list[socket.socket | None]
    ) -> None:
        """Do what the message says; a connection that is served is taken off `came`."""
        try:
            message = decode_given(data)
        except msgspec.DecodeError:
            if is_of_another_version(data):
                self.unknown += 1
            else:
                self._lose(giver, "a message was not understood")
            return
        match message, came:
            case Connection(), [socket.socket() as connection]:
                if self._acknowledge(giver, message):
                    came.clear()
                    self._receivers.taken(_with_head(connection, message.head), message.passed)
            case Datagram(), [] if _is_source(message.source):
                self._receivers.datagram(message.data, message.source)  # type: ignore[arg-type]
            case ((SipMessage() | SipGone()), []) if _is_source((message.host, message.port)):
                self._receivers.sip(message)
            case _:
                self._lose(giver, "a message was not understood")

    def _acknowledge(self, giver: socket.socket, message: Connection) -> bool:
        """Whether the giver knows that the connection is ours now."""
        try:
            giver.send(encode(Ack(VERSION, message.number)))
        except OSError:  # the giver has routed it elsewhere, or is gone, or does not read
            self._drop_giver(giver)
            return False
        self.taken += 1
        return True

    def _lose(self, giver: socket.socket, why: str) -> None:
        log.warning("fellow.lost", why=why)
        self._drop_giver(giver)

    def _drop_giver(self, giver: socket.socket) -> None:
        self._givers.discard(giver)
        self._loop.remove_reader(giver.fileno())
        giver.close()


class _Fellow:
    """The connection to one fellow, and what it has not acknowledged."""

    def __init__(self, seat: int, wire: socket.socket, owner: HandOver) -> None:
        self.seat = seat
        self.owed: dict[int, _Owed] = {}
        """By number, oldest first."""
        self._wire = wire
        self._owner = owner
        self._number = 0
        self._loop = asyncio.get_running_loop()
        self._deadline: asyncio.TimerHandle | None = None
        self._loop.add_reader(wire.fileno(), self._read)

    def give(self, connection: socket.socket, passed: tuple[int, ...]) -> bool:
        """Whether it is on its way."""
        if len(self.owed) >= OUTSTANDING:
            return False
        number = self._number
        message = encode(Connection(VERSION, number, passed, head_of(connection)))
        try:
            socket.send_fds(self._wire, [message], [connection.fileno()])
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            self.part()
            return False
        self._number += 1
        self.owed[number] = _Owed(connection, passed, self._loop.time() + ACK_SECONDS)
        if self._deadline is None:
            self._deadline = self._loop.call_later(ACK_SECONDS, self._check)
        return True

    def send(self, message: bytes) -> bool:
        """Whether it is on its way; nobody waits for what became of it."""
        try:
            self._wire.send(message)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            self.part()
            return False
        return True

    def part(self) -> None:
        """Let no more Acks come, read those that did, and hand the rest back."""
        if self._wire.fileno() < 0:
            return
        self._loop.remove_reader(self._wire.fileno())
        with contextlib.suppress(OSError):
            self._wire.shutdown(socket.SHUT_RD)
        while self._read_one() is _Came.ONE:
            pass
        self._wire.close()
        if self._deadline is not None:
            self._deadline.cancel()
        owed, self.owed = list(self.owed.values()), {}
        self._owner.parted(self, owed)

    def _read(self) -> None:
        for _ in range(READS):
            came = self._read_one()
            if came is _Came.NOTHING:
                return
            if came is _Came.END:
                self.part()
                return

    def _read_one(self) -> _Came:
        try:
            data = self._wire.recv(MESSAGE_BYTES)
        except (BlockingIOError, InterruptedError):
            return _Came.NOTHING
        except OSError:
            return _Came.END
        if not data:
            return _Came.END
        try:
            ack = decode_ack(data)
        except msgspec.DecodeError:
            log.warning("fellow.lost", seat=self.seat, why="an answer was not understood")
            return _Came.END
        given = self.owed.pop(ack.number, None)
        if given is not None:
            given.connection.close()
            self._owner.acknowledged()
        return _Came.ONE

    def _check(self) -> None:
        """One timer for all: is the oldest overdue?"""
        self._deadline = None
        self._read()  # a loop that stood still rings the timer before it reads
        due = next((given.due for given in self.owed.values()), None)
        if due is None:
            return
        if due <= self._loop.time():
            log.warning("fellow.lost", seat=self.seat, why="it takes nothing in time")
            self.part()
        else:
            self._deadline = self._loop.call_at(due, self._check)


def _connect(path: Path) -> socket.socket | None:
    """A connection to the fellow who listens there, or None; on a Unix socket that is known at once."""
    wire = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        wire.setblocking(False)
        wire.connect(str(path))
        if _is_ours(wire):
            return wire
        log.warning("fellow.refused", path=path.name)
    except OSError:  # nobody there, or its queue is full
        pass
    wire.close()
    return None


def _is_ours(wire: socket.socket) -> bool:
    """Whether the process at the other end is of our user (struct ucred: pid, uid, gid)."""
    try:
        credentials = wire.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    except OSError:
        return False
    return int(_UCRED.unpack(credentials)[1]) == os.geteuid()


def _adopt(descriptor: int) -> socket.socket | None:
    """The socket that this descriptor is; anything else is closed."""
    try:
        connection = socket.socket(fileno=descriptor)
    except OSError:
        os.close(descriptor)
        return None
    connection.setblocking(False)
    return connection


def _with_head(connection: socket.socket, head: bytes) -> socket.socket:
    if not head:
        return connection
    arrival = Arrival(fileno=connection.detach())
    arrival.setblocking(False)
    arrival.head = head
    return arrival


def _is_source(source: tuple[str | int, ...]) -> bool:
    """Whether an answer can be sent there: an address in figures, so that nothing is looked up."""
    match source:
        case (str(host), int(port), *rest):
            pass
        case _:
            return False
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.inet_pton(family, host.partition("%")[0])
    except (OSError, ValueError):
        return False
    scopes = len(rest) in (0, 2) and all(isinstance(each, int) and each >= 0 for each in rest)
    return scopes and 0 < port < 65_536
