"""The listening address, taken before there is a worker: taken by nobody else, and kept for ours.

Workers share one port by SO_REUSEPORT, which also lets a second flowcatd of the same user join
silently and steal half of the calls. So the address is first bound *without* it: that fails when any
program listens there. Then it is bound with it, without listening (so the kernel gives this socket
no connection), and held as long as the supervisor lives: while every worker is being replaced, the
port stays ours. Port 0 becomes the free port that the kernel chose.

socket(7): two sockets may share an address when both set SO_REUSEPORT and belong to one user, or
when both set SO_REUSEADDR and neither listens. The probe sets SO_REUSEADDR, because connections of
a former run that linger in TIME_WAIT are nobody; the reservation does not, so that another
flowcatd's reservation makes the probe fail even before its workers listen.
"""

from __future__ import annotations

import errno
import socket
from dataclasses import dataclass
from typing import Any

from flowcatd.errors import LinkRefused

_TROUBLES = {
    errno.EADDRINUSE: "is taken by another program, perhaps another flowcatd; "
    "choose another with --set server.port=…",
    errno.EADDRNOTAVAIL: "is no address of this machine; choose another with --set server.host=…",
    errno.EACCES: "needs more rights than this user has; choose a port from 1024 up",
}


@dataclass(frozen=True, slots=True)
class Reservation:
    """An address that is ours."""

    host: str
    port: int
    socket: socket.socket

    def close(self) -> None:
        """Give it back."""
        self.socket.close()


def reserve(host: str, port: int) -> Reservation:
    """Take the address; raises LinkRefused with the reason and a way out."""
    try:
        # A name means its IPv4 address, to us as to the workers; IPv6 is asked for by address.
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        found = socket.getaddrinfo(host, port, family, socket.SOCK_STREAM)
    except socket.gaierror as error:
        raise LinkRefused(f"server.host '{host}' is not known: {error.strerror}") from error
    address = found[0][4]
    if port:
        _bind(family, address, socket.SO_REUSEADDR).close()
    held = _bind(family, address, socket.SO_REUSEPORT)
    return Reservation(host, held.getsockname()[1], held)


def probe_datagrams(host: str, port: int) -> None:
    """Whether a UDP port is nobody's; raises LinkRefused with the reason and a way out.

    It cannot be reserved as a TCP port is: a bound UDP socket of the group gets datagrams.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # SO_BROADCAST means nothing here: without an option of sharing the address must be free.
    _bind(family, (host, port), socket.SO_BROADCAST, socket.SOCK_DGRAM).close()


def _bind(
    family: int,
    address: tuple[Any, ...],
    option: int,
    kind: socket.SocketKind = socket.SOCK_STREAM,
) -> socket.socket:
    taken = socket.socket(family, kind)
    try:
        taken.setsockopt(socket.SOL_SOCKET, option, 1)
        if family == socket.AF_INET6:
            taken.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        taken.bind(address)
    except OSError as error:
        taken.close()
        host, port = address[:2]
        trouble = _TROUBLES.get(error.errno or 0, f"cannot be bound: {error.strerror}")
        raise LinkRefused(f"{_spoken(host, port)} {trouble}") from error
    return taken


def _spoken(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
