"""Where a SIP URI leads: DNS answers in, the next questions or an ordered list of targets out.

RFC 3263 §4.1 and §4.2 with RFC 7984 (both address families), RFC 3958 (the flags of NAPTR), RFC 2782
(the order of SRV) and RFC 7118 (WebSocket). `locate` is a function: it walks from the URI as far as the
answers that are known lead. What it lacks are `questions`, to be asked at once and put into the `Cache`;
then it is called again. So there is no state between a question and its answer, and answers may come in
any order, late or never.

  numeric host                       no question; UDP, or TLS for sips, unless the URI says otherwise
  host and port                      A and AAAA; the transport as above
  host and transport                 SRV of that transport, or else A and AAAA with its default port
  host alone                         NAPTR, or else SRV of each transport we have, or else A and AAAA

`Shunned` remembers for a while which targets failed (§4.3): they go to the end of the list, never out
of it. A resolver that fails is not a name that does not exist: answers that have run out serve on.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv6Address, ip_address
from itertools import groupby
from math import inf
from typing import Final

from flowcatd.sip.trouble import SipError
from flowcatd.sip.uri import Uri

DEFAULT_PORT: Final[Mapping[str, int]] = {
    "UDP": 5060,
    "TCP": 5060,
    "TLS": 5061,
    "WS": 80,
    "WSS": 443,
}
SECURE: Final = frozenset({"TLS", "WSS"})

_SRV_NAME: Final = {"UDP": "_sip._udp", "TCP": "_sip._tcp", "TLS": "_sips._tcp"}
_SERVICE: Final = {
    "sip+d2u": "UDP",
    "sip+d2t": "TCP",
    "sips+d2t": "TLS",
    "sip+d2w": "WS",
    "sips+d2w": "WSS",
}
_RAISED: Final = {"UDP": "", "TCP": "TLS", "TLS": "TLS", "WS": "WSS", "WSS": "WSS"}
"""What a transport parameter means in a sips URI (RFC 3261 §26.2.2); UDP is nothing there."""

RECORDS_MAX = 32
"""Records of one answer that are looked at."""
TARGETS_MAX = 64
HOPS_MAX = 4
"""NAPTR records that lead to further NAPTR records (RFC 3958 §2.2.4 leaves the limit to us)."""
TTL_MAX = 3600.0
"""An hour: carriers move, and a cached mistake must end."""
TTL_MIN = 5.0
"""Some zones say 0; one question per call would be a question per INVITE."""
NEGATIVE_SECONDS = 30.0
"""How long a name is taken not to exist, or a resolver to be dead."""
STALE_SECONDS = 86_400.0
"""How long answers that ran out serve while the resolver fails (RFC 8767 §5)."""

# --- values ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Naptr:
    """A NAPTR record (RFC 3403); those with a regular expression are not SIP's and not made."""

    order: int
    preference: int
    flags: str
    service: str
    replacement: str


@dataclass(frozen=True, slots=True)
class Srv:
    """An SRV record."""

    priority: int
    weight: int
    port: int
    target: str


Record = Naptr | Srv | str
"""An address record is the address as text."""


@dataclass(frozen=True, slots=True)
class Question:
    """What to ask the DNS."""

    kind: str
    """NAPTR, SRV, A or AAAA."""
    name: str
    """In lower case, without the last dot."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where to send."""

    transport: str
    """UDP, TCP, TLS, WS or WSS."""
    host: str
    """An address, without brackets."""
    port: int
    name: str
    """What a certificate must be for: the URI's own host (RFC 3263 §4.1, RFC 5922 §7.1)."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What `locate` found: questions to ask first, or targets in order, or why there are none."""

    targets: tuple[Target, ...] = ()
    questions: tuple[Question, ...] = ()
    problem: str = ""
    status: int = 0
    """The answer to a request for such a URI, when it is the URI that is wrong."""


@dataclass(frozen=True, slots=True)
class Abilities:
    """What we can send by."""

    transports: tuple[str, ...] = ("UDP", "TCP", "TLS")
    """In order of preference, where the other side leaves it open."""
    families: tuple[str, ...] = ("AAAA", "A")
    """Address records asked for; the first come first (RFC 6724 prefers IPv6)."""


# --- locating -------------------------------------------------------------------------------------


class _Lacking(Exception):  # noqa: N818 it ends a walk, it is no error
    """Questions without which the walk does not go on."""

    def __init__(self, questions: Iterable[Question]) -> None:
        super().__init__()
        self.questions = tuple(questions)


Known = Callable[[Question], "tuple[Record, ...] | None"]
"""The records that answer a question, none for a name without any, None while it is not known."""


def locate(uri: Uri, known: Known, able: Abilities, random: Callable[[], float]) -> Plan:
    """Where requests for a URI go; `random` gives numbers from 0 up to 1.

    A transport parameter, a port and `maddr` in the URI are obeyed; a URI that cannot be sent to is a
    Plan with a problem, as is a name that leads nowhere.
    """
    try:
        targets = _Walk(uri, known, able, random).targets()
    except _Lacking as lacking:
        return Plan(questions=lacking.questions)
    except SipError as error:
        return Plan(problem=error.problem, status=error.status)
    distinct = tuple(dict.fromkeys(targets))[:TARGETS_MAX]
    return Plan(distinct, problem="" if distinct else "the name leads nowhere")


@dataclass(slots=True)
class _Walk:
    """One call of `locate`."""

    uri: Uri
    known: Known
    able: Abilities
    random: Callable[[], float]
    name: str = field(init=False)
    closed: bool = False
    """Whether an SRV record says that there is no such service: address records are no way round it."""

    def __post_init__(self) -> None:
        if not self.uri.is_sip:
            raise SipError("no SIP URI", 416)
        host = self.uri.parameters.get("maddr") or self.uri.host
        self.name = host.strip("[]").rstrip(".").lower()
        if not self.name:
            raise SipError("a URI without a host")

    def targets(self) -> list[Target]:
        """Every target, in order."""
        wanted = self._transport()
        if _is_address(self.name) or self.uri.port is not None:
            transport = wanted or self._default()
            return self._at(transport, self.name, self.uri.port or DEFAULT_PORT[transport])
        if wanted:
            return self._by_srv(wanted) or self._plainly(wanted)
        by_naptr = self._by_naptr(self.name)
        if by_naptr is not None:
            return by_naptr
        return next(iter(self._by_srv_of_each()), None) or self._plainly(self._default())

    def _transport(self) -> str:
        """The transport that the URI names, or an empty string."""
        text = self.uri.parameters.get("transport")
        if text is None:
            return ""
        named = text.upper()
        if named not in DEFAULT_PORT:
            raise SipError("a transport that is not known")
        if self.uri.scheme == "sips":
            named = _RAISED[named]
            if not named:
                raise SipError("a sips URI over UDP")
        return self._able(named)

    def _default(self) -> str:
        """UDP, or TLS for sips (§4.1); the first that fits where we have not that."""
        usable = [each for each in self.able.transports if self._is_safe_enough(each)]
        usual = "TLS" if self.uri.scheme == "sips" else "UDP"
        if not usable:
            raise SipError(f"no {usual} here")
        return usual if usual in usable else usable[0]

    def _is_safe_enough(self, transport: str) -> bool:
        return self.uri.scheme != "sips" or transport in SECURE

    def _able(self, transport: str) -> str:
        if transport not in self.able.transports:
            raise SipError(f"no {transport} here")
        return transport

    def _by_naptr(self, name: str, hops: int = HOPS_MAX) -> list[Target] | None:
        """What NAPTR records lead to; None when there are none for us, so that SRV is tried."""
        records = [each for each in self._ask("NAPTR", name) if isinstance(each, Naptr)]
        records.sort(key=lambda each: (each.order, each.preference))
        found: list[Target] = []
        matching = [each for each in records if self._service(each)]
        for record in matching:
            transport = self._service(record)
            flag, next_ = record.flags.lower(), _folded(record.replacement)
            if flag == "s":
                found += self._from_srv(transport, next_)
            elif flag == "a":
                found += self._at(transport, next_, DEFAULT_PORT[transport])
            elif not flag and hops > 0:
                found += self._by_naptr(next_, hops - 1) or []
        return found if matching else None

    def _service(self, record: Naptr) -> str:
        """The transport of a record that we can use, or an empty string."""
        transport = _SERVICE.get(record.service.lower(), "")
        usable = transport in self.able.transports and self._is_safe_enough(transport)
        return transport if usable else ""

    def _by_srv_of_each(self) -> Iterable[list[Target]]:
        """§4.1: without NAPTR, the SRV records of each transport we have; the first that has any."""
        usable = [
            each
            for each in self.able.transports
            if each in _SRV_NAME and self._is_safe_enough(each)
        ]
        # All at once: three questions after another would be three round trips.
        self._need(Question("SRV", f"{_SRV_NAME[each]}.{self.name}") for each in usable)
        return filter(None, map(self._by_srv, usable))

    def _by_srv(self, transport: str) -> list[Target]:
        service = _SRV_NAME.get(transport)
        return self._from_srv(transport, f"{service}.{self.name}") if service else []

    def _from_srv(self, transport: str, name: str) -> list[Target]:
        records = [each for each in self._ask("SRV", name) if isinstance(each, Srv)]
        if len(records) == 1 and records[0].target in {".", ""}:
            self.closed = True  # RFC 2782: Target
            return []
        ordered = order_srv(records, self.random)
        self._need(
            Question(family, _folded(each.target))
            for each in ordered
            for family in self.able.families
            if not _is_address(_folded(each.target))
        )
        return [
            target
            for each in ordered
            for target in self._at(transport, _folded(each.target), each.port)
        ]

    def _plainly(self, transport: str) -> list[Target]:
        if self.closed:
            raise SipError("the service is decidedly not available", 503)
        return self._at(transport, self.name, DEFAULT_PORT[transport])

    def _at(self, transport: str, host: str, port: int) -> list[Target]:
        """The targets at every address of a host."""
        name = self.uri.host.strip("[]").rstrip(".").lower()
        if not 0 < port < 65_536:
            return []
        if _is_address(host):
            return [Target(transport, host, port, name)]
        self._need(Question(family, host) for family in self.able.families)
        addresses = [
            each
            for family in self.able.families
            for each in self._ask(family, host)
            if isinstance(each, str) and _is_address(each)
        ]
        return [Target(transport, each, port, name) for each in addresses]

    def _ask(self, kind: str, name: str) -> tuple[Record, ...]:
        self._need([Question(kind, name)])
        return (self.known(Question(kind, name)) or ())[:RECORDS_MAX]

    def _need(self, questions: Iterable[Question]) -> None:
        lacking = [each for each in dict.fromkeys(questions) if self.known(each) is None]
        if lacking:
            raise _Lacking(lacking)


def order_srv(records: Iterable[Srv], random: Callable[[], float]) -> list[Srv]:
    """The order in which to try (RFC 2782): by priority, and by chance according to weight.

    The RFC's whole-number draw gives the first of two equal records two thirds; drawing from a
    continuous range gives each its share. A weight of 0 keeps the very small chance it is to have.
    """
    ordered: list[Srv] = []
    by_priority = sorted(records, key=lambda each: each.priority)
    for _, group in groupby(by_priority, key=lambda each: each.priority):
        waiting = list(group)
        while waiting:
            ordered.append(waiting.pop(_draw(waiting, random)))
    return ordered


_NO_WEIGHT = 0.01


def _draw(waiting: list[Srv], random: Callable[[], float]) -> int:
    left = random() * sum(each.weight or _NO_WEIGHT for each in waiting)
    for index, each in enumerate(waiting[:-1]):
        left -= each.weight or _NO_WEIGHT
        if left < 0:
            return index
    return len(waiting) - 1


def _folded(name: str) -> str:
    return name.rstrip(".").lower()


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


# --- answers --------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Entry:
    records: tuple[Record, ...]
    until: float
    """When to ask again."""
    valid_until: float
    """When the DNS said that they end; while the resolver fails, they serve beyond it."""


class Cache:
    """DNS answers while they last; bounded, the least used goes first."""

    def __init__(self, limit: int = 2000) -> None:
        self._limit = limit
        self._entries: OrderedDict[Question, _Entry] = OrderedDict()

    def __len__(self) -> int:
        """Answers that are kept."""
        return len(self._entries)

    def find(self, question: Question, now: float) -> tuple[Record, ...] | None:
        """The records, none for a name that has none, or None when it has to be asked."""
        entry = self._entries.get(question)
        if entry is None or entry.until <= now:
            return None
        self._entries.move_to_end(question)
        return entry.records

    def recall(self, question: Question, now: float) -> tuple[Record, ...] | None:
        """As `find`, but answers that have run out serve as well, as long as that is sensible."""
        entry = self._entries.get(question)
        if entry is None or (entry.until <= now and now - entry.valid_until > STALE_SECONDS):
            return None
        return entry.records

    def until(self, question: Question) -> float:
        """When it has to be asked again; minus infinity for what was never asked."""
        entry = self._entries.get(question)
        return -inf if entry is None else entry.until

    def is_doubtful(self, question: Question, now: float) -> bool:
        """Whether the resolver failed at it, so that no records, or these, may be wrong."""
        entry = self._entries.get(question)
        return entry is not None and entry.valid_until <= now

    def put(self, question: Question, records: Iterable[Record], ttl: float, now: float) -> None:
        """An answer, with its time to live in seconds; no records is that there are none."""
        kept = tuple(records)[:RECORDS_MAX]
        seconds = min(max(ttl, TTL_MIN), TTL_MAX if kept else NEGATIVE_SECONDS)
        self._keep(question, _Entry(kept, now + seconds, now + seconds))

    def put_failure(self, question: Question, now: float) -> None:
        """The resolver gave no answer; what was known serves on, as long as that is sensible."""
        entry = self._entries.get(question)
        if entry is None or now - entry.valid_until > STALE_SECONDS:
            entry = _Entry((), now, now)
        again = max(entry.until, now + NEGATIVE_SECONDS)
        self._keep(question, _Entry(entry.records, again, entry.valid_until))

    def _keep(self, question: Question, entry: _Entry) -> None:
        self._entries[question] = entry
        self._entries.move_to_end(question)
        while len(self._entries) > self._limit:
            self._entries.popitem(last=False)


# --- failures -------------------------------------------------------------------------------------

FAILED_SECONDS = 60.0
"""How long a target that failed is tried last; a transaction's timeout is 32 s (RFC 3263 §4.3)."""
FAILED_MAX_SECONDS = 3600.0
"""Of a Retry-After."""


def is_failure_of_target(status: int | None) -> bool:
    """Whether the next target is to be tried after this answer (RFC 3263 §4.3); None is no answer.

    503 is the target's; every other answer, 408 from afar included, is the service's own.
    """
    return status is None or status == 503


class Shunned:
    """Targets that failed, for a while; bounded."""

    def __init__(self, limit: int = 1000) -> None:
        self._limit = limit
        self._until: OrderedDict[tuple[str, str, int], float] = OrderedDict()

    def __len__(self) -> int:
        """Targets that are remembered."""
        return len(self._until)

    def fail(self, target: Target, now: float, retry_after: float | None = None) -> None:
        """A target did not answer, or said 503, with that Retry-After."""
        wanted = FAILED_SECONDS if retry_after is None else retry_after
        key = _key(target)
        self._until[key] = now + min(max(wanted, 1.0), FAILED_MAX_SECONDS)
        self._until.move_to_end(key)
        if len(self._until) > self._limit:
            self._until.popitem(last=False)

    def succeed(self, target: Target) -> None:
        """A target answered."""
        self._until.pop(_key(target), None)

    def is_shunned(self, target: Target, now: float) -> bool:
        """Whether it failed lately."""
        return self._until.get(_key(target), now) > now

    def order(self, targets: Iterable[Target], now: float) -> tuple[Target, ...]:
        """The same targets, those that failed lately last, the first of them to be back first."""
        return tuple(
            sorted(targets, key=lambda each: max(self._until.get(_key(each), now) - now, 0.0))
        )


def _key(target: Target) -> tuple[str, str, int]:
    return target.transport, target.host, target.port


def is_ipv6(host: str) -> bool:
    """Whether a target's host needs brackets in a URI or Via."""
    try:
        return isinstance(ip_address(host), IPv6Address)
    except ValueError:
        return False
