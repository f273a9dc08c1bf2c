"""What is turned away before any work, and what may not be dialled.

`FloodGate` is asked about every datagram and connection with nothing but its source address. It keeps a
token bucket per source (per /64 in IPv6: an attacker has that many addresses) and one for all strangers
together. A source of a trunk has a bucket of its own in a table that strangers never enter, so a flood,
spoofed or not, takes nothing from a carrier; the table of strangers is bounded and forgets the one that
was quiet longest, which by then is full again.

`is_scanner` looks at the raw bytes for the names that attack tools give themselves; what matches gets no
answer at all, as an answer is what the tool looks for. A stranger who did so is not listened to for a
while; a trunk's address never is put on that list, or a spoofed datagram would cut off a carrier.

`Quota` holds a trunk's calls to its number and pace, `vet_number` a dialled number to what the operator
allowed: E.164 only, an allowed beginning, none that is denied, and none of the ranges that toll fraud
lives on unless it is allowed by name.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from typing import Final

from flowcatd.errors import LocalError
from flowcatd.sip.route import Refused, to_e164
from flowcatd.sip.trunk import Inbound, Outbound

# --- floods ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class GateTerms:
    """How much is listened to; rates are messages per second."""

    stranger_rate: float = 10.0
    """One source that no trunk has: a softphone that registers and calls."""
    stranger_burst: float = 30.0
    strangers_rate: float = 500.0
    """All of those together."""
    trunk_rate: float = 3000.0
    """One source of a trunk: 60 calls a second have some 400 messages a second."""
    sources_max: int = 10_000
    """Sources remembered, of each sort; about 200 bytes each."""
    scanner_seconds: float = 3600.0
    """How long a scanner is not listened to."""


class Bucket:
    """Tokens that come back at a rate, up to a burst."""

    __slots__ = ("at", "tokens")

    def __init__(self, tokens: float, now: float) -> None:
        self.tokens = tokens
        self.at = now

    def take(self, rate: float, burst: float, now: float) -> bool:
        """Takes one; false when there is none. A clock that stands still or steps back adds none."""
        self.tokens = min(burst, self.tokens + rate * max(0.0, now - self.at))
        self.at = max(self.at, now)
        if self.tokens < 1.0:
            return False
        self.tokens -= 1.0
        return True

    def give_back(self) -> None:
        """The one that was taken was not used."""
        self.tokens += 1.0


class FloodGate:
    """Asked first, about everything that arrives; `is_known` says whether a source is a trunk's."""

    def __init__(self, is_known: Callable[[str], bool], terms: GateTerms | None = None) -> None:
        self.terms = terms or GateTerms()
        self.turned_away = 0
        """Messages that found no token, or came from a scanner."""
        self._is_known = is_known
        self._trunks: OrderedDict[str, Bucket] = OrderedDict()
        self._strangers: OrderedDict[str, Bucket] = OrderedDict()
        self._scanners: OrderedDict[str, float] = OrderedDict()
        self._crowd = Bucket(self.terms.strangers_rate, 0.0)

    def __len__(self) -> int:
        """Sources that are remembered."""
        return len(self._trunks) + len(self._strangers) + len(self._scanners)

    def admit(self, source: str, now: float) -> bool:
        """Whether to read a message from this address; false is to forget it without an answer."""
        terms = self.terms
        if self._is_known(source):
            rate = terms.trunk_rate
            let_in = self._bucket(self._trunks, source, rate, now).take(rate, rate, now)
        else:
            let_in = self._admit_stranger(place_of(source), now)
        self.turned_away += not let_in
        return let_in

    def note_scanner(self, source: str, now: float) -> None:
        """A message from this address was a scanner's."""
        if self._is_known(source):
            return
        place = place_of(source)
        self._scanners[place] = now + self.terms.scanner_seconds
        self._scanners.move_to_end(place)
        if len(self._scanners) > self.terms.sources_max:
            self._scanners.popitem(last=False)

    def _admit_stranger(self, place: str, now: float) -> bool:
        terms = self.terms
        until = self._scanners.get(place)
        if until is not None:
            if now < until:
                return False
            del self._scanners[place]
        rate, crowd = terms.strangers_rate, self._crowd
        # A source over its own limit takes nothing from the crowd's; a new one is only remembered
        # when the crowd has room, so the table grows no faster than that.
        mine = self._strangers.get(place)
        if mine is None and not crowd.take(rate, rate, now):
            return False
        bucket = self._bucket(self._strangers, place, terms.stranger_burst, now)
        if not bucket.take(terms.stranger_rate, terms.stranger_burst, now):
            return False
        if mine is None or crowd.take(rate, rate, now):
            return True
        bucket.give_back()
        return False

    def _bucket(
        self, table: OrderedDict[str, Bucket], place: str, burst: float, now: float
    ) -> Bucket:
        bucket = table.get(place)
        if bucket is None:
            bucket = table[place] = Bucket(burst, now)
        else:
            table.move_to_end(place)
        self._age(table, now)
        return bucket

    def _age(self, table: OrderedDict[str, Bucket], now: float) -> None:
        """Forgets two at most that are full again, and whatever is over the limit."""
        quiet = now - self.terms.stranger_burst / self.terms.stranger_rate
        for _ in range(2):
            place, bucket = next(iter(table.items()))
            if bucket.at > quiet and len(table) <= self.terms.sources_max:
                return
            del table[place]
            if not table:
                return


def place_of(source: str) -> str:
    """What a source is counted as: an IPv4 address itself, an IPv6 one its /64."""
    try:
        address = ip_address(source.partition("%")[0])
    except ValueError:
        raise LocalError("a source that is no address") from None
    if not isinstance(address, IPv6Address):
        return source
    mapped = address.ipv4_mapped
    return str(mapped) if mapped else f"{int(address) >> 64:x}/64"


# --- scanners -------------------------------------------------------------------------------------

SCANNERS: Final = (
    *("friendly-scanner", "friendly-request", "sipvicious", "sundayddr", "sipcli", "sip-scan"),
    *("sipscan", "iwar", "siparmyknife", "sivus", "smap", "sippts", "pplsip", "svmap", "svwar"),
    *("svcrack", "vaxsipuseragent", "vaxipuseragent"),
)
"""Names in User-Agent that operators drop, from their published rules. sipsak, SIPp and sipexer are
left out, because operators use them to watch their own systems; so are names of real telephones that
tools borrow."""

_HEAD_BYTES = 4096
_LINE = re.compile(rb"\n(?:user-agent|server)[ \t]*:([^\r\n]*)|\n(?:from|f|to|t)[ \t]*:([^\r\n]*)")
_NAME = re.compile(b"|".join(re.escape(name.encode()) for name in SCANNERS))
# SIPVicious names itself in From; nmap's probe calls sip:nm from sip:nm@nm.
_ADDRESS = re.compile(rb'"sipvicious"|<sip:nm2?@nm2?>')


def is_scanner(data: bytes) -> bool:
    """Whether a message, not parsed yet, says that an attack tool sent it."""
    head = data[:_HEAD_BYTES].partition(b"\r\n\r\n")[0].lower()
    for agent, address in _LINE.findall(head):
        if (agent and _NAME.search(agent)) or (address and _ADDRESS.search(address)):
            return True
    return False


# --- how many calls -------------------------------------------------------------------------------


class Quota:
    """The calls of one trunk in one direction: how many at once, how many a second."""

    def __init__(self, most: int, per_second: float) -> None:
        """`most` live calls in all workers; the pace is this worker's."""
        self.most = most
        self.per_second = per_second
        self.live = 0
        self._bucket: Bucket | None = None

    def take(self, now: float, elsewhere: int = 0) -> Refused | None:
        """Counts a call in, or says why not (503 with Retry-After is the answer).

        `elsewhere` is what the other workers have live over the trunk. A call that was refused for
        its number has cost no token of the pace.
        """
        if self.live + elsewhere >= self.most:
            return Refused(503, "the trunk has its most calls")
        burst = max(1.0, self.per_second)
        if self._bucket is None:
            self._bucket = Bucket(burst, now)
        if not self._bucket.take(self.per_second, burst, now):
            return Refused(503, "the trunk has its most calls a second")
        self.live += 1
        return None

    def give_back(self) -> None:
        """A call that was counted in is over; once for each."""
        if self.live < 1:
            raise LocalError("a call that was not counted in is given back")
        self.live -= 1

    def change(self, most: int, per_second: float) -> None:
        """New limits, after a reload; live calls stay."""
        self.most = most
        self.per_second = per_second


UNLIMITED: Final = 1 << 30


def limits_of(section: Inbound | Outbound) -> tuple[int, float]:
    """What a Quota for this direction of a trunk is made with, or changed to.

    0 calls are unlimited inbound, where the workers' places are the limit, and none outbound.
    """
    unlimited = isinstance(section, Inbound) and not section.most_calls
    return UNLIMITED if unlimited else section.most_calls, section.calls_per_second


# --- what may be dialled --------------------------------------------------------------------------

RISKY: Final = (
    # Satellites, networks of no country, international premium (ITU-T E.164.1 and its lists).
    *("+870", "+878", "+881", "+882", "+883", "+888", "+979"),
    # Premium and revenue-share ranges inside countries.
    *("+1900", "+31900", "+31906", "+31909", "+3289", "+3290", "+3389", "+34803", "+34806"),
    *("+34807", "+35315", "+39144", "+39166", "+39178", "+39199", "+39892", "+39894", "+39895"),
    *("+39899", "+41900", "+41901", "+41906", "+43900", "+43901", "+43930", "+43931", "+43939"),
    *("+4470", "+4487", "+449", "+46900", "+46939", "+46944", "+4870", "+49137", "+49900"),
    *("+6119", "+351760", "+351761"),
    # Countries that share +1: dialled like a neighbour, paid like an island.
    *("+1242", "+1246", "+1264", "+1268", "+1284", "+1345", "+1441", "+1473", "+1649", "+1658"),
    *("+1664", "+1721", "+1758", "+1767", "+1784", "+1809", "+1829", "+1849", "+1868", "+1869"),
    "+1876",
)
"""Beginnings that toll fraud is known for. A carrier knows more of them: `denied` takes its list."""


@dataclass(frozen=True, slots=True)
class Dialled:
    """A number that may be called."""

    number: str
    """E.164, for records."""
    user: str
    """What stands in the Request-URI: the trunk's way of writing it."""


def vet_number(text: str, outbound: Outbound) -> Dialled | Refused:
    """The number to dial, or why not: 403, or 484 for what is no number.

    The operator's `denied` wins over everything. One of `RISKY` is only dialled when an allowed
    prefix is at least as long as the entry, which nobody writes by accident.
    """
    if not outbound.enabled:
        return Refused(403, "the trunk places no calls")
    number = to_e164(text, outbound.country) if len(text) <= 64 else None
    if number is None:
        return Refused(484, "no international number")
    if _longest(number, outbound.denied):
        return Refused(403, "the number is denied")
    allowed = _longest(number, outbound.prefixes)
    if not allowed:
        return Refused(403, "no allowed prefix")
    if outbound.deny_risky and _longest(number, RISKY) > allowed:
        return Refused(403, "the number is in a risky range")
    return Dialled(number, _dial(number, outbound))


def _longest(number: str, prefixes: tuple[str, ...]) -> int:
    """The length of the longest of the prefixes that a number begins with; 0 for none."""
    return max((len(each) for each in prefixes if number.startswith(each)), default=0)


def _dial(number: str, outbound: Outbound) -> str:
    matching = [prefix for prefix in outbound.dial if number.startswith(prefix)]
    if not matching:
        return number
    prefix = max(matching, key=len)
    return outbound.dial[prefix] + number[len(prefix) :]
