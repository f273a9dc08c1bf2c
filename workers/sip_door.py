"""Whose a SIP message is, and the UDP sockets of the shared SIP port.

The kernel spreads UDP over the SO_REUSEPORT group by address pair, so a trunk's whole traffic comes
to one worker. Each message is routed by what stands in it: a stamp in a tag, branch or Contact's
user names the process that minted it; a request without one begins a call, whose owner is chosen by
its Call-ID. The choice is remembered for ROUTE_SECONDS, because a retransmission, or the CANCEL, of
a request that has not been answered yet must meet the same worker however the loads have moved
(RFC 3261 §9.1, §17.2.3). The owner answers from its own socket: the same port, so the peer sees one
address.

A stamp whose minter has just died, and whose slot nobody holds yet, is waited for (`is_awaited`): its
successor takes the calls up, and a 481 of ours would end them in the meantime.

`sip_wire.py` asks, passes on and sends; nothing here does.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import socket
from collections import OrderedDict
from collections.abc import Callable, Iterable
from enum import Enum, auto
from hashlib import blake2b

from workers.hand_over import Source
from workers.load import Load
from workers.sip_head import Head, call_key, stamped
from workers.steer import Stamp, choose, holder, read_stamp

READS = 32
"""Datagrams per turn of the loop, a turn that live calls wait for."""
LAST_READS = 4096
"""Datagrams read when the door closes: what a receive buffer of the usual size holds."""
DATAGRAM_BYTES = 65_535
ROUTE_SECONDS = 240.0
"""An INVITE may ring for three minutes before anybody answers it (RFC 3261 §16.6, timer C)."""
ROUTES = 16_384
"""Calls whose owner is remembered; the oldest are forgotten first."""
AWAIT_SECONDS = 5.0
"""How long a dead process's successor is waited for; the supervisor forks it within a second."""
AWAITED = 256
"""Dead processes that are remembered; the oldest are forgotten first."""
TRIES = 8
"""Owners that are tried for one message before whoever has it keeps it."""

OnDatagram = Callable[[bytes, Source], None]


class Routes:
    """Which seat a message goes to; `now` is monotonic seconds."""

    def __init__(
        self, loads: Iterable[Load], bound: float, await_seconds: float = AWAIT_SECONDS
    ) -> None:
        """`bound` is how many times the average a worker may carry."""
        self._await_seconds = await_seconds
        self._loads = loads
        self._bound = bound
        self._known: OrderedDict[bytes, tuple[int, float]] = OrderedDict()
        """Digest of a Call-ID to its owner, and when that is forgotten: oldest first."""
        self._awaited: OrderedDict[Stamp, float] = OrderedDict()
        """Minters whom nobody has followed, and since when that is known: oldest first."""

    def __len__(self) -> int:
        """How many calls are remembered."""
        return len(self._known)

    def seat(self, head: Head, now: float, passed: tuple[int, ...] = ()) -> int | None:
        """Where this message goes, past the seats in `passed`; None is nobody in particular."""
        for text in stamped(head):
            stamp = read_stamp(text)
            if stamp is not None:
                seat = holder(stamp, self._loads)
                return None if seat in passed else seat
        if head.status:
            return None
        self._forget(now)
        key = blake2b(head.call_id.encode("latin-1"), digest_size=16).digest()
        seat, _ = self._known.get(key, (None, 0.0))
        if seat is None or seat in passed:
            seat = choose(
                call_key(head.call_id), self._loads, bound=self._bound, now=now, passed=passed
            )
            if seat is not None:
                self._known.pop(key, None)
                self._known[key] = (seat, now + ROUTE_SECONDS)
        return seat

    def is_awaited(self, head: Head, now: float) -> bool:
        """Whether the holder of this message's stamp cannot be reached, and soon may be.

        Asked when it could not be given to anybody.
        """
        for text in stamped(head):
            stamp = read_stamp(text)
            if stamp is not None:
                since = self._awaited.setdefault(stamp, now)
                if len(self._awaited) > AWAITED:
                    self._awaited.popitem(last=False)
                if now - since > ROUTE_SECONDS:  # another time that it is away
                    since = self._awaited[stamp] = now
                return now - since <= self._await_seconds
        return False

    def _forget(self, now: float) -> None:
        while self._known:
            _, due = next(iter(self._known.values()))
            if due > now and len(self._known) < ROUTES:
                return
            self._known.popitem(last=False)


class Sent(Enum):
    """What became of a datagram."""

    GONE = auto()
    """On its way."""
    LOST = auto()
    """The kernel had no room for it: UDP may lose it, and SIP repeats it."""
    REFUSED = auto()
    """There is no way to that address."""


_CROWDED = frozenset({errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM, errno.EINTR, errno.ECONNREFUSED})
"""What passes by itself. ECONNREFUSED is about something sent before (udp(7))."""


class UdpSocket:
    """One socket of the shared port: read in turns of the loop, written without waiting."""

    def __init__(self, wire: socket.socket, on_datagram: OnDatagram) -> None:
        """Nothing is read before `start`."""
        self._loop = asyncio.get_running_loop()
        self._wire = wire
        self._on_datagram = on_datagram
        self._reading = False
        self.address: Source = wire.getsockname()
        """Where it is, or was."""
        wire.setblocking(False)

    def start(self) -> None:
        """Read from now on."""
        self._loop.add_reader(self._wire.fileno(), self._read)
        self._reading = True

    def stop(self) -> None:
        """Take what waits, then read nothing more; sending goes on.

        Copies of the socket in other processes go on reading.
        """
        if self._reading:
            self._take(LAST_READS)
            self._loop.remove_reader(self._wire.fileno())
            self._reading = False

    def close(self) -> None:
        """As stop; and nothing can be sent any more."""
        self.stop()
        self._wire.close()

    def put(self, data: bytes, target: Source) -> Sent:
        """Send, to an address in figures: a name would be looked up, and the worker wait for it."""
        try:
            self._wire.sendto(data, target)
        except OSError as error:
            return Sent.LOST if error.errno in _CROWDED else Sent.REFUSED
        except OverflowError:  # a port that is none
            return Sent.REFUSED
        return Sent.GONE

    def _read(self) -> None:
        self._take(READS)

    def _take(self, most: int) -> None:
        take, tell = self._wire.recvfrom, self._on_datagram
        for _ in range(most):
            try:
                data, source = take(DATAGRAM_BYTES)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                continue  # an ICMP error of something sent earlier (udp(7)); the next may be a call
            tell(data, source)


def is_one_host(host: str) -> bool:
    """Whether this is an address in figures, and one host's.

    A subnet's broadcast address is refused by the kernel, for want of SO_BROADCAST (socket(7)).
    """
    with contextlib.suppress(ValueError):
        address = ipaddress.ip_address(host.partition("%")[0])
        # What Python calls reserved in IPv6 holds ::1 and the NAT64 prefix; 240/4 is nobody's.
        is_nobodys = address.version == 4 and address.is_reserved
        return not (address.is_multicast or address.is_unspecified or is_nobodys)
    return False
