"""RTP ports: the range is shared by all workers, each slot has its own part of it.

Media comes in pairs, an even port for RTP and the next for RTCP (RFC 3550 §11). The n-th pair of the
range belongs to slot n modulo `most`, the largest number of workers there may ever be; so a slot's
ports do not depend on how many workers there are, and a call keeps them through any resize. Two
processes may sit in one slot, one of which only finishes its calls: what it holds is found out by
binding, and skipped. Ports are taken in turn, so that one is not used again at once, when packets of
its last call may still be on their way. A call that is taken up after its worker died gets the very
ports it had (`take_again`).
"""

from __future__ import annotations

import errno
import socket
from typing import Final, NamedTuple

from flowcatd.errors import CapacityError, LocalError

EXPEDITED: Final = 46
"""EF, the DSCP of telephony's media (RFC 4594 §4.1)."""


class PortShare:
    """The even ports that are one slot's own: `ports`, in ascending order."""

    def __init__(self, low: int, high: int, most: int, slot: int) -> None:
        """`low` and `high` are the range's ends, both included; LocalError for a slot beyond `most`."""
        if not 0 <= slot < most:
            raise LocalError(f"slot {slot} has no share of the ports: there are {most}")
        first = low + low % 2
        self.ports = range(first + 2 * slot, high, 2 * most)


class PortPair(NamedTuple):
    """Two bound sockets that do not block."""

    rtp: socket.socket
    rtcp: socket.socket
    port: int
    """RTP's; RTCP's is the next."""


class Ports:
    """One worker's share, and which of it is in use."""

    def __init__(
        self, share: PortShare, host: str, retry_after: int, dscp: int = EXPEDITED
    ) -> None:
        """`host` is the address to bind; `retry_after` what a refused caller is told, in seconds.

        `dscp` marks what we send (RFC 2474).
        """
        self._ports = share.ports
        self._family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._host = host
        self._retry_after = retry_after
        self._dscp = dscp
        self._next = 0
        self._taken: set[int] = set()

    def __len__(self) -> int:
        """How many pairs are taken."""
        return len(self._taken)

    def take(self) -> PortPair:
        """The next free pair; CapacityError when there is none. It is closed by `give_back`."""
        for offset in range(len(self._ports)):
            at = (self._next + offset) % len(self._ports)
            port = self._ports[at]
            if port in self._taken:
                continue
            pair = self._bind(port)
            if pair is not None:
                self._next = at + 1
                self._taken.add(port)
                return pair
        raise CapacityError("no media port is free", self._retry_after)

    def take_again(self, port: int) -> PortPair:
        """The pair of a call that had it before; CapacityError when somebody else has it now."""
        is_port = 0 < port < 65_535 and port not in self._taken
        pair = self._bind(port) if is_port else None
        if pair is None:
            raise CapacityError(f"media port {port} is not free", self._retry_after)
        self._taken.add(port)
        return pair

    def give_back(self, pair: PortPair) -> None:
        """Close the pair; twice is as good as once."""
        pair.rtp.close()
        pair.rtcp.close()
        self._taken.discard(pair.port)

    def _bind(self, port: int) -> PortPair | None:
        """The pair, or None when somebody else has one of the two."""
        sockets: list[socket.socket] = []
        try:
            for number in (port, port + 1):
                wire = socket.socket(self._family, socket.SOCK_DGRAM)
                sockets.append(wire)
                wire.setblocking(False)
                self._mark(wire)
                wire.bind((self._host, number))
        except OSError as error:
            for wire in sockets:
                wire.close()
            if error.errno not in _TAKEN:
                # No descriptors, or no such address: the other ports would fail the same way.
                what = error.strerror or "refused"
                raise CapacityError(
                    f"no media port can be had: {what}", self._retry_after
                ) from error
            return None
        return PortPair(sockets[0], sockets[1], port)

    def _mark(self, wire: socket.socket) -> None:
        """The upper six bits of the octet are the DSCP (RFC 2474 §3)."""
        if self._family == socket.AF_INET6:
            wire.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            wire.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, self._dscp << 2)
        else:
            wire.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, self._dscp << 2)


_TAKEN: Final = {errno.EADDRINUSE, errno.EACCES}


def ephemeral_overlap(low: int, high: int, local_ports: str) -> str:
    """A sentence when the range meets the kernel's own, or an empty string.

    `local_ports` is the text of /proc/sys/net/ipv4/ip_local_port_range: two numbers. Ports in both
    may be taken by any connection that goes out, at any moment.
    """
    words = local_ports.split()
    if len(words) != 2 or not all(word.isdecimal() for word in words):
        return ""
    first, last = (int(word) for word in words)
    if high < first or last < low:
        return ""
    return (
        f"ports {max(low, first)}-{min(high, last)} are also the kernel's for outgoing connections "
        f"(net.ipv4.ip_local_port_range is {first}-{last}): calls may find them taken"
    )
