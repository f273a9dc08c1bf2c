"""The listening sockets: one per worker slot, in one SO_REUSEPORT group per port, kept open by us.

The kernel spreads new connections over the group. Because the supervisor holds a copy of every
slot's socket, a connection that arrives while the slot's worker is being replaced waits in the
socket's queue for the next one; closing a listening socket would reset it (tcp(7)). When a slot is
given up its socket is first *unlisted*: a classic BPF program, which the kernel asks for each new
connection, leaves it out (SO_ATTACH_REUSEPORT_CBPF, socket(7)). Its worker takes what still waits,
and only then it is closed.

The program's answer is an index into the group. The kernel appends a socket when it begins to
listen and moves the last one into the place of one that is closed (net/core/sock_reuseport.c);
`_order` follows that. UDP sockets join when they are bound, under the same rules. Without a program,
which is the case whenever all are listed, the kernel takes a hash of the addresses.
"""

from __future__ import annotations

import contextlib
import ctypes
import socket
import struct
from collections.abc import Sequence

from flowcatd.errors import LinkRefused

BACKLOG = 4096
"""Connections the kernel may hold for us while a storm of calls arrives."""
RECEIVE_BYTES = 4 * 1024 * 1024
"""Asked for a slot's UDP socket: a storm of thousands of SIP requests may wait while a worker is late."""

# linux/socket numbers that the socket module does not name (asm-generic/socket.h).
_ATTACH_REUSEPORT_CBPF = 51
_DETACH_REUSEPORT_BPF = 68
# linux/filter.h: load the kernel's random number; modulo; jump if equal; return a constant.
_LOAD_ABSOLUTE, _MODULO, _JUMP_EQUAL, _RETURN = 0x20, 0x94, 0x15, 0x06
_RANDOM = 0xFFFFF000 + 56


class Doors:
    """The sockets of one port."""

    def __init__(
        self, host: str, port: int, kind: socket.SocketKind, traffic_class: int = 0
    ) -> None:
        """`kind` is SOCK_STREAM or SOCK_DGRAM; `port` has been reserved for us.

        `traffic_class` is the octet that marks what we send (RFC 2474).
        """
        self._address = (host, port)
        self._kind = kind
        self._class = traffic_class
        self._open: dict[int, socket.socket] = {}
        self._order: list[int] = []
        """Slots, in the order of the kernel's group."""
        self._listed: set[int] = set()

    def open(self, slot: int) -> int:
        """The slot's socket, made and listed if it was not; OSError when that fails."""
        if slot not in self._open:
            self._open[slot] = self._make()
            self._order.append(slot)
        self._listed.add(slot)
        self._steer()
        return self._open[slot].fileno()

    def unlist(self, slot: int) -> None:
        """From now on the kernel gives it nothing new; the last one stays listed."""
        if self._listed - {slot}:
            self._listed.discard(slot)
            self._steer()

    def close(self, slot: int) -> None:
        """Give it up, if it was unlisted and nobody opened it again."""
        if slot not in self._open or slot in self._listed:
            return
        self._open.pop(slot).close()
        at = self._order.index(slot)
        self._order[at] = self._order[-1]
        self._order.pop()
        self._steer()

    def close_all(self) -> None:
        """The port is given up altogether."""
        for each in self._open.values():
            each.close()
        self._open.clear()
        self._order.clear()
        self._listed.clear()

    def descriptors(self) -> dict[int, int]:
        """Slot to descriptor, in the group's order."""
        return {slot: self._open[slot].fileno() for slot in self._order}

    def adopt(self, descriptors: dict[int, int]) -> None:
        """Take over the sockets of a former program image, in the group's order."""
        for slot, descriptor in descriptors.items():
            self._open[slot] = socket.socket(fileno=descriptor)
            self._order.append(slot)
            self._listed.add(slot)
        self._steer()

    def _make(self) -> socket.socket:
        host, port = self._address
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        made = socket.socket(family, self._kind)
        try:
            # REUSEADDR for connections of a former run that linger in TIME_WAIT (socket(7)).
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if family == socket.AF_INET6:
                made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, self._class)
            else:
                made.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, self._class)
            if self._kind == socket.SOCK_DGRAM:
                # The kernel gives what net.core.rmem_max allows, and says nothing (socket(7)).
                made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
            made.bind((host, port))
            if self._kind == socket.SOCK_STREAM:
                made.listen(BACKLOG)
            made.setblocking(False)
        except OSError:
            made.close()
            raise
        return made

    def _steer(self) -> None:
        if not self._order:
            return
        anyone = self._open[self._order[0]]
        if self._listed.issuperset(self._order):
            with contextlib.suppress(OSError):  # there was no program
                anyone.setsockopt(socket.SOL_SOCKET, _DETACH_REUSEPORT_BPF, 0)
            return
        indices = [at for at, slot in enumerate(self._order) if slot in self._listed]
        program = _one_of(indices)
        held = ctypes.create_string_buffer(program)
        value = struct.pack("HL", len(program) // 8, ctypes.addressof(held))
        # Without it all is as before, and a connection may wait where nobody takes it.
        with contextlib.suppress(OSError):
            anyone.setsockopt(socket.SOL_SOCKET, _ATTACH_REUSEPORT_CBPF, value)


def hold(host: str, port: int) -> socket.socket:
    """A listening TCP socket of one process (for /metrics); raises LinkRefused."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    held = socket.socket(family, socket.SOCK_STREAM)
    try:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind((host, port))
        held.listen(64)
        held.setblocking(False)
    except OSError as error:
        held.close()
        raise LinkRefused(
            f"metrics.port: {host}:{port} cannot be bound: {error.strerror}; choose another with "
            "--set metrics.port=…, or --set metrics.enabled=false"
        ) from error
    return held


def _one_of(indices: Sequence[int]) -> bytes:
    """A classic BPF program that returns one of these at random (8 bytes per instruction)."""
    lines = [(_LOAD_ABSOLUTE, 0, 0, _RANDOM), (_MODULO, 0, 0, len(indices))]
    for remainder, index in enumerate(indices[:-1]):
        lines += [(_JUMP_EQUAL, 0, 1, remainder), (_RETURN, 0, 0, index)]
    lines.append((_RETURN, 0, 0, indices[-1]))
    return b"".join(struct.pack("HBBI", *line) for line in lines)
