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


@dataclass(frozen=True, slots=True)
class Keys:
    """The settings to name when an address cannot be had."""

    host: str = "server.host"
    port: str = "server.port"
    may_be_none: bool = False
    """Whether port 0 means that nobody listens."""


HTTP = Keys()


@dataclass(frozen=True, slots=True)
class Reservation:
    """An address that is ours."""

    host: str
    port: int
    socket: socket.socket

    def close(self) -> None:
        """Give it back."""
        self.socket.close()


def reserve(host: str, port: int, keys: Keys = HTTP) -> Reservation:
    """Take the address; raises LinkRefused with the reason and a way out."""
    family = _family(host)
    try:
        found = socket.getaddrinfo(host, port, family, socket.SOCK_STREAM)
    except socket.gaierror as error:
        raise LinkRefused(f"{keys.host} '{host}' is not known: {error.strerror}") from error
    address = found[0][4]
    if port:
        _bind(address, keys, socket.SO_REUSEADDR).close()
    held = _bind(address, keys, socket.SO_REUSEPORT)
    return Reservation(host, held.getsockname()[1], held)


def probe_datagrams(host: str, port: int, keys: Keys) -> None:
    """Whether a UDP port is nobody's; raises LinkRefused with the reason and a way out.

    It cannot be reserved as a TCP port is: a bound UDP socket of the group gets datagrams.
    """
    try:
        found = socket.getaddrinfo(host, port, _family(host), socket.SOCK_DGRAM)
    except socket.gaierror as error:
        raise LinkRefused(f"{keys.host} '{host}' is not known: {error.strerror}") from error
    # SO_BROADCAST means nothing here: without an option of sharing the address must be free.
    _bind(found[0][4], keys, socket.SO_BROADCAST, socket.SOCK_DGRAM).close()


def _family(host: str) -> int:
    """A name means its IPv4 address, to us as to the workers; IPv6 is asked for by address."""
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _bind(
    address: tuple[Any, ...],
    keys: Keys,
    option: int,
    kind: socket.SocketKind = socket.SOCK_STREAM,
) -> socket.socket:
    family = _family(address[0])
    taken = socket.socket(family, kind)
    try:
        taken.setsockopt(socket.SOL_SOCKET, option, 1)
        if family == socket.AF_INET6:
            taken.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        taken.bind(address)
    except OSError as error:
        taken.close()
        host, port = address[:2]
        raise LinkRefused(f"{_spoken(host, port)} {_trouble(error, keys)}") from error
    return taken


def _trouble(error: OSError, keys: Keys) -> str:
    """What is in the way, and what to do about it."""
    none = f", or none with --set {keys.port}=0" if keys.may_be_none else ""
    return {
        errno.EADDRINUSE: "is taken by another program, perhaps another flowcatd; "
        f"choose another with --set {keys.port}=…{none}",
        errno.EADDRNOTAVAIL: "is no address of this machine; "
        f"choose another with --set {keys.host}=…",
        errno.EACCES: "needs more rights than this user has; choose a port from 1024 up",
    }.get(error.errno or 0, f"cannot be bound: {error.strerror}")


def _spoken(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
