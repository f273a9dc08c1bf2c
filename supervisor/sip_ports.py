"""The SIP ports: which there are, taken for us, and a socket of each for every worker slot.

    udp  tcp  tls      sip.host    sip.port (UDP and TCP), sip.tls_port
    udp6 tcp6 tls6     sip.host6   the same

Each is one SO_REUSEPORT group (`doors.py`). TCP ports are reserved as the HTTP port is (`reserve.py`);
a UDP port is only looked at before the first worker has it, because a bound socket of the group gets
datagrams. What is held is handed on whole to the next program image, which opens no port of its own: an
upgrade that would need another one is refused before the exec (`lacking`).
"""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final, Self

import msgspec

from flowcatd.options import Sip
from supervisor.doors import Doors
from supervisor.reserve import Keys, Reservation, probe_datagrams, reserve

SIGNALLING: Final = 40 << 2
"""CS5, the class of telephony's signalling (RFC 4594), in the upper six bits of the octet."""


class KeptPort(msgspec.Struct, frozen=True, kw_only=True):
    """One port as descriptor numbers."""

    reservation: int
    """-1 for a UDP port, which has none."""
    doors: dict[str, int]
    """Slot to socket, in the group's order."""

    def descriptors(self) -> list[int]:
        """All of them."""
        return [fd for fd in (self.reservation, *self.doors.values()) if fd >= 0]


@dataclass(frozen=True, slots=True)
class SipPort:
    """A port that the settings ask for."""

    name: str
    host: str
    port: int
    kind: socket.SocketKind
    keys: Keys

    def doors(self) -> Doors:
        """Its group, empty."""
        return Doors(self.host, self.port, self.kind, SIGNALLING)


def sip_ports(sip: Sip) -> Iterator[SipPort]:
    """The ports that are asked for."""
    for suffix, host in (("", sip.host), ("6", sip.host6)):
        for name, kind, key in (
            ("udp", socket.SOCK_DGRAM, "port"),
            ("tcp", socket.SOCK_STREAM, "port"),
            ("tls", socket.SOCK_STREAM, "tls_port"),
        ):
            port = getattr(sip, key)
            if host and port:
                keys = Keys(f"sip.host{suffix}", f"sip.{key}", may_be_none=True)
                yield SipPort(name + suffix, host, port, kind, keys)


def lacking(sip: Sip, kept: Mapping[str, KeptPort]) -> list[str]:
    """The settings whose ports a former program image does not hand on."""
    missing = [port.keys.port for port in sip_ports(sip) if port.name not in kept]
    return list(dict.fromkeys(missing))


class SipDoors:
    """All of them."""

    def __init__(self, doors: Mapping[str, Doors], reservations: Mapping[str, Reservation]) -> None:
        """Made by `take` or `restore`."""
        self._doors = doors
        self._reservations = reservations

    @classmethod
    def take(cls, sip: Sip) -> Self:
        """Take every port that is asked for, or none; raises LinkRefused with a way out."""
        reservations: dict[str, Reservation] = {}
        ports = list(sip_ports(sip))
        with ExitStack() as undo:
            for port in ports:
                if port.kind == socket.SOCK_DGRAM:
                    probe_datagrams(port.host, port.port, port.keys)
                    continue
                taken = reserve(port.host, port.port, port.keys)
                undo.callback(taken.close)
                reservations[port.name] = taken
            undo.pop_all()
        return cls({port.name: port.doors() for port in ports}, reservations)

    @classmethod
    def restore(cls, sip: Sip, kept: Mapping[str, KeptPort]) -> Self:
        """Take over what a former program image held."""
        doors: dict[str, Doors] = {}
        reservations: dict[str, Reservation] = {}
        for port in sip_ports(sip):
            if (left := kept.get(port.name)) is None:
                continue
            doors[port.name] = port.doors()
            doors[port.name].adopt({int(slot): fd for slot, fd in left.doors.items()})
            if left.reservation >= 0:
                held = socket.socket(fileno=left.reservation)
                reservations[port.name] = Reservation(port.host, port.port, held)
        return cls(doors, reservations)

    def save(self) -> dict[str, KeptPort]:
        """Which descriptor is which."""
        return {
            name: KeptPort(
                reservation=self._reservations[name].socket.fileno()
                if name in self._reservations
                else -1,
                doors={str(slot): fd for slot, fd in doors.descriptors().items()},
            )
            for name, doors in self._doors.items()
        }

    def open(self, slot: int) -> dict[str, int]:
        """The slot's sockets by name; OSError when they cannot be had."""
        return {name: doors.open(slot) for name, doors in self._doors.items()}

    def groups(self) -> list[Doors]:
        """Every port's sockets."""
        return list(self._doors.values())

    def close(self) -> None:
        """Give all ports back."""
        for doors in self._doors.values():
            doors.close_all()
        for reservation in self._reservations.values():
            reservation.close()
