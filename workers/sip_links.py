"""A worker's SIP connections as one bounded table, whatever they run over: TCP, TLS or WebSocket.

Whoever connects costs a descriptor and some memory, so there are limits: of all (CONNECTIONS), of one
source (PER_SOURCE; in IPv6 a /64, of which anybody has one), and of time. Who has said nothing for
SILENT_SECONDS is dropped, and so is who leaves a message unfinished for UNFINISHED_SECONDS, or is not
heard for IDLE_SECONDS, keep-alives included. When the table is full, the one that has waited longest
without a word makes room, since it is the least likely to be a call; for a trunk's source, who is not
bound by any limit but that of all, also the stranger that was quiet longest.

A connection's number is `seat << 32 | n`, n from 1 and never used again by this process. Seats are:
so who looks for a connection gives its whole hop, and gets nothing when that is another one's.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from flowcatd.sip.event import Hop
from flowcatd.sip.guard import place_of
from flowcatd.sip.trouble import SipError


@dataclass(frozen=True, slots=True)
class LinkTerms:
    """How many connections there may be, and for how long; seconds."""

    connections: int = 2000
    """Of those that others opened; one may cost 200 KiB when it is slow to read."""
    per_source: int = 64
    silent_seconds: float = 10.0
    """From the connection to its first whole message."""
    unfinished_seconds: float = 30.0
    idle_seconds: float = 3600.0
    ping_seconds: tuple[float, float] = (95.0, 120.0)
    """Between keep-alives on connections of ours (RFC 5626 §4.4.1)."""
    pong_seconds: float = 10.0
    sweep_seconds: float = 1.0
    write_bytes: int = 128 * 1024
    """What may wait to be read by the other side."""
    opened: int = 512
    """Connections of ours."""
    open_seconds: float = 10.0
    queue: int = 64
    """Messages that wait for one connection to be made."""


class Link(ABC):
    """One connection; made by who accepts or opens it, then added to `Links`."""

    def __init__(self, hop: Hop, now: float, *, opened: bool, known: bool) -> None:
        """`hop` is the peer's, with the connection's number; `known` when it is a trunk's."""
        self.hop = hop
        self.opened = opened
        self.known = known
        self.since = self.heard_at = now
        self.has_spoken = False
        """Whether a whole message came."""
        self.is_used = False
        """Whether anybody may have something under way on it: else nobody is told of its end."""
        self.seats: set[int] = set()
        """Fellows who may; as many as there are seats."""
        self.unfinished_since: float | None = None

    @abstractmethod
    def write(self, data: bytes) -> bool:
        """Send one message without waiting; false when that is not possible (any more)."""

    @abstractmethod
    def drop(self) -> None:
        """End it at once, and tell `LinkOwner.parted`, soon."""

    @abstractmethod
    def close(self) -> None:
        """End it when what was written is on its way."""

    def check(self, now: float) -> None:  # noqa: B027 most kinds have nothing to look after
        """Every sweep_seconds: what is due on this kind of connection."""


class LinkOwner(ABC):
    """Whoever gets what connections bring."""

    @abstractmethod
    def arrived(self, data: bytes, link: Link) -> None:
        """A whole message."""

    @abstractmethod
    def broken(self, rest: bytes, error: SipError, link: Link) -> None:
        """Nothing can be understood on this connection any more, beginning with `rest`."""

    @abstractmethod
    def parted(self, link: Link) -> None:
        """It is over; told once."""

    @abstractmethod
    def welcomes(self, host: str) -> bool:
        """Whether to listen to this address at all: a connection costs more than a message."""


COUNTED: Final = ("refused", "evicted", "silent", "unfinished", "idle", "slow", "shake_failed")


class Links:
    """All of them."""

    def __init__(
        self, seat: int, terms: LinkTerms, is_known: Callable[[str], bool], owner: LinkOwner
    ) -> None:
        """`is_known` says whether an address is a trunk's."""
        self.terms = terms
        self.owner = owner
        self.counts = dict.fromkeys(COUNTED, 0)
        self._is_known = is_known
        self._next = seat << 32
        self._all: dict[int, Link] = {}
        self._mute: OrderedDict[int, Link] = OrderedDict()
        """Accepted ones that are no trunk's and have said nothing, oldest first."""
        self._strangers: OrderedDict[int, Link] = OrderedDict()
        """Accepted ones that are no trunk's and have spoken, quiet longest first."""
        self._sources: dict[str, int] = {}
        self._accepted = 0

    def __len__(self) -> int:
        """How many there are."""
        return len(self._all)

    def __iter__(self) -> Iterator[Link]:
        """Each, at this moment."""
        return iter(list(self._all.values()))

    @property
    def accepted(self) -> int:
        """How many others opened."""
        return self._accepted

    def is_known(self, host: str) -> bool:
        """Whether this address is a trunk's."""
        return self._is_known(host)

    def number(self) -> int:
        """The next connection's."""
        self._next += 1
        return self._next

    def admit(self, host: str) -> bool:
        """Whether one more may come from this address; another may have to go for it."""
        known = self._is_known(host)
        is_too_many = not known and self._sources.get(place_of(host), 0) >= self.terms.per_source
        if is_too_many or not self.owner.welcomes(host) or not self._make_room(known=known):
            self.counts["refused"] += 1
            return False
        return True

    def add(self, link: Link) -> None:
        """It counts from now on, until `remove`."""
        number = link.hop.connection
        self._all[number] = link
        if not link.opened:
            self._accepted += 1
            place = place_of(link.hop.host)
            self._sources[place] = self._sources.get(place, 0) + 1
            if not link.known:
                self._mute[number] = link

    def remove(self, link: Link) -> None:
        """It is over; twice is as good as once."""
        number = link.hop.connection
        if self._all.pop(number, None) is None:
            return
        if not link.opened:
            self._accepted -= 1
            place = place_of(link.hop.host)
            left = self._sources[place] - 1
            if left:
                self._sources[place] = left
            else:
                del self._sources[place]
            self._mute.pop(number, None)
            self._strangers.pop(number, None)
        self.owner.parted(link)

    def spoke(self, link: Link) -> None:
        """A whole message came by it."""
        number = link.hop.connection
        if not link.has_spoken:
            link.has_spoken = True
            self._mute.pop(number, None)
            if not link.opened and not link.known and number in self._all:
                self._strangers[number] = link
        elif number in self._strangers:
            self._strangers.move_to_end(number)

    def find(self, hop: Hop) -> Link | None:
        """The connection that this hop names, and no other that has its number by accident."""
        link = self._all.get(hop.connection)
        return link if link is not None and link.hop == hop else None

    def sweep(self, now: float) -> None:
        """Drop whose time is up."""
        terms = self.terms
        for link in list(self._all.values()):
            if not link.opened and not link.has_spoken:
                self._drop_after(link, "silent", now - link.since, terms.silent_seconds)
            since = link.unfinished_since
            if since is not None:
                self._drop_after(link, "unfinished", now - since, terms.unfinished_seconds)
            self._drop_after(link, "idle", now - link.heard_at, terms.idle_seconds)
            link.check(now)

    def _drop_after(self, link: Link, why: str, waited: float, most: float) -> None:
        if waited > most and link.hop.connection in self._all:
            self.counts[why] += 1
            link.drop()

    def _make_room(self, *, known: bool) -> bool:
        if self._accepted < self.terms.connections:
            return True
        for waiting in (self._mute, self._strangers) if known else (self._mute,):
            if waiting:
                _, link = waiting.popitem(last=False)
                self.counts["evicted"] += 1
                link.drop()
                self.remove(link)
                return True
        return False
