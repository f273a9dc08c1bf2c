"""Asking the DNS where SIP servers are: the shell around `sip/resolve.py`, over dnspython.

`find` lets `locate` walk as far as it is known, asks all that it lacks at once, and lets it walk on.
A question has QUESTION_SECONDS, of which a nameserver gets TRY_SECONDS at a time; a walk has ALL_SECONDS.
Who asks what somebody is asking already waits for the same answer. Answers lie in one `Cache` per
worker; a resolver that fails is remembered for a while, and what was known before serves on (RFC 8767).

  a name in /etc/hosts   has those addresses and no other records: NAPTR and SRV are not asked for
  localhost              is this machine, and never asked for (RFC 6761 §6.3)
  a name without a dot   is also looked for in the search list of resolv.conf (A and AAAA only)

Everything is done on the loop, with a fresh port for every question (RFC 5452 §9.2); an answer with
another id, question or sender is passed over, and one that was cut is asked for again over TCP.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from ipaddress import IPv6Address, ip_address
from math import inf
from pathlib import Path
from random import SystemRandom
from typing import Any, Final

import dns.asyncresolver
import dns.exception
import dns.nameserver
import dns.rdatatype
import dns.resolver
from dns.rdtypes.IN.NAPTR import NAPTR
from dns.rdtypes.IN.SRV import SRV

from flowcatd.errors import LinkRefused, LinkTimeout
from flowcatd.links.dns_socket import Backend
from flowcatd.log import get_logger
from flowcatd.sip.resolve import (
    NEGATIVE_SECONDS,
    RECORDS_MAX,
    Abilities,
    Cache,
    Naptr,
    Plan,
    Question,
    Record,
    Shunned,
    Srv,
    Target,
    locate,
)
from flowcatd.sip.trouble import SipError
from flowcatd.sip.uri import Uri

log = get_logger()

QUESTION_SECONDS: Final = 3.0
TRY_SECONDS: Final = 1.0
"""Three tries per question: a lost datagram, or two dead nameservers, cost no answer."""
ALL_SECONDS: Final = 8.0
"""Whoever waits for a call to be placed waits no longer."""
ROUNDS_MAX: Final = 8
"""NAPTR, four further NAPTR, SRV, addresses: and one more."""
ASKING_MAX: Final = 1000
"""Questions that are under way or wait for a socket."""
AT_ONCE: Final = 32
"""Sockets."""
ANSWERS_MAX: Final = 8000
"""A thousand trunks, of which each has NAPTR, three SRV and two addresses; 300 bytes each."""
FILES_SECONDS: Final = 30.0
"""How old what we know of /etc/hosts and resolv.conf may be."""
FILE_BYTES: Final = 262_144
"""Of /etc/hosts: reading more would hold up the loop (block lists have megabytes)."""

_LOCAL: Final = ("127.0.0.1", "::1")


@dataclass(frozen=True, slots=True)
class Sources:
    """Who knows the answers."""

    nameservers: tuple[tuple[str, int], ...] = ()
    """Address and port of each; empty are those of resolv.conf."""
    resolv_conf: Path = Path("/etc/resolv.conf")
    hosts: Path = Path("/etc/hosts")


@dataclass(frozen=True, slots=True)
class Patience:
    """How long is waited, in seconds."""

    question: float = QUESTION_SECONDS
    one_try: float = TRY_SECONDS
    whole: float = ALL_SECONDS


@dataclass(frozen=True, slots=True)
class Found:
    """Where requests go, and how long that holds."""

    targets: tuple[Target, ...]
    until: float
    """When the first answer among those that led there runs out; infinite when none was needed."""


@dataclass(slots=True)
class _Walk:
    """What one walk has seen: no answer runs out under it."""

    known: Callable[[Question], tuple[Record, ...] | None]
    seen: dict[Question, tuple[Record, ...]] = field(default_factory=dict)

    def __call__(self, question: Question) -> tuple[Record, ...] | None:
        found = self.seen.get(question)
        if found is None:
            found = self.known(question)
            if found is not None:
                self.seen[question] = found
        return found


class Resolver:
    """One worker's; made on the loop that uses it.

    `find`, `look`: ask. `known`: does not. `shun`, `praise`: say what became of a target. What goes wrong
    is a SipError when the URI cannot be sent to, and a LinkError when it leads nowhere.
    """

    def __init__(
        self,
        able: Abilities | None = None,
        *,
        sources: Sources | None = None,
        patience: Patience | None = None,
        clock: Callable[[], float] = time.monotonic,
        random: Callable[[], float] | None = None,
    ) -> None:
        """`able` is what can be sent by, `random` gives numbers from 0 up to 1."""
        self._able = able or Abilities()
        self._patience = patience or Patience()
        self._clock = clock
        self._random = random or SystemRandom().random
        self._cache = Cache(ANSWERS_MAX)
        self._shunned = Shunned()
        self._files = _Files(sources or Sources(), self._patience)
        self._asking: dict[Question, asyncio.Task[None]] = {}
        self._sockets = asyncio.Semaphore(AT_ONCE)
        self._backend: Any = Backend()
        self.counts = dict.fromkeys(("asked", "answered", "failed"), 0)
        """Questions to the DNS."""

    async def find(self, uri: Uri) -> tuple[Target, ...]:
        """Every target, in the order in which to try; what failed lately comes last."""
        return (await self.look(uri)).targets

    async def look(self, uri: Uri) -> Found:
        """As `find`, and how long that holds."""
        try:
            async with asyncio.timeout(self._patience.whole):
                return await self._walk(uri)
        except TimeoutError:
            targets = self.known(uri)
        if targets:
            return Found(targets, self._clock() + NEGATIVE_SECONDS)
        raise LinkTimeout("the DNS did not answer in time")

    def known(self, uri: Uri) -> tuple[Target, ...]:
        """What can be said without asking, be it out of date; nothing when that does not suffice."""
        now = self._clock()
        plan = locate(uri, partial(self._recall, now), self._able, self._random)
        return self._shunned.order(plan.targets, now)

    def shun(self, target: Target, retry_after: float | None = None) -> None:
        """It did not answer, or said 503, with that Retry-After: it is tried last for a while."""
        self._shunned.fail(target, self._clock(), retry_after)

    def praise(self, target: Target) -> None:
        """It answered."""
        self._shunned.succeed(target)

    async def close(self) -> None:
        """Ask nothing more; those who wait hear that it leads nowhere."""
        tasks = list(self._asking.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # --- walking

    async def _walk(self, uri: Uri) -> Found:
        walk = _Walk(lambda question: self._find(self._clock(), question))
        for _ in range(ROUNDS_MAX):
            plan = locate(uri, walk, self._able, self._random)
            if not plan.questions:
                return self._found(plan, walk.seen)
            await self._ask_all(plan.questions)
        raise LinkRefused("the name leads from one to the next without end")

    def _found(self, plan: Plan, seen: Iterable[Question]) -> Found:
        now = self._clock()
        if plan.targets:
            until = min(map(self._until, seen), default=inf)
            return Found(self._shunned.order(plan.targets, now), until)
        if plan.status:
            raise SipError(plan.problem, plan.status)
        if any(self._cache.is_doubtful(question, now) for question in seen):
            raise LinkTimeout("the DNS does not answer")
        raise LinkRefused(plan.problem)

    def _find(self, now: float, question: Question) -> tuple[Record, ...] | None:
        found = self._files.find(question, now)
        return self._cache.find(question, now) if found is None else found

    def _recall(self, now: float, question: Question) -> tuple[Record, ...] | None:
        found = self._files.find(question, now)
        return self._cache.recall(question, now) if found is None else found

    def _until(self, question: Question) -> float:
        now = self._clock()
        if self._files.find(question, now) is not None:
            return now + FILES_SECONDS
        return self._cache.until(question)

    # --- asking

    async def _ask_all(self, questions: Iterable[Question]) -> None:
        tasks = [self._begin(question) for question in questions]
        # Not gather: others wait for the same answers when we give up.
        await asyncio.wait(tasks)

    def _begin(self, question: Question) -> asyncio.Task[None]:
        task = self._asking.get(question)
        if task is None:
            if len(self._asking) >= ASKING_MAX:
                raise LinkRefused("too many questions to the DNS at once")
            task = asyncio.get_running_loop().create_task(self._ask(question), name="dns.question")
            self._asking[question] = task
            task.add_done_callback(partial(self._asked, question))
        return task

    async def _ask(self, question: Question) -> None:
        async with self._sockets:
            self.counts["asked"] += 1
            resolver = self._files.resolver(self._clock())
            is_plain = question.kind in {"A", "AAAA"} and "." not in question.name
            async with asyncio.timeout(self._patience.question):
                try:
                    answer = await resolver.resolve(
                        question.name if is_plain else f"{question.name}.",
                        question.kind,
                        search=is_plain,
                        raise_on_no_answer=False,
                        backend=self._backend,
                    )
                except _NAMELESS:
                    records, ttl = [], NEGATIVE_SECONDS
                else:
                    records = list(_read(answer))
                    ttl = float(answer.chaining_result.minimum_ttl)
        self.counts["answered"] += 1
        self._cache.put(question, records, ttl, self._clock())

    def _asked(self, question: Question, task: asyncio.Task[None]) -> None:
        """Whatever it raised is a failure of the DNS, and ends here."""
        self._asking.pop(question, None)
        error = None if task.cancelled() else task.exception()
        if error is None and not task.cancelled():
            return
        self.counts["failed"] += 1
        self._cache.put_failure(question, self._clock())
        if error is not None and not isinstance(error, _USUAL):
            log.warning("dns.failed", kind=question.kind, error=type(error).__name__)


_NAMELESS: Final = (
    dns.resolver.NXDOMAIN,
    dns.resolver.NoAnswer,
    # A name that is none does not exist: labels of 64 characters, two dots.
    dns.exception.SyntaxError,
    dns.name.NameTooLong,
)
_USUAL: Final = (dns.exception.DNSException, OSError, EOFError)
"""Silence, refusal, SERVFAIL, garbage over TCP; TimeoutError is an OSError."""


def _read(answer: dns.resolver.Answer) -> Iterable[Record]:
    """The records that SIP has a use for, as values."""
    for data in list(answer.rrset or ())[:RECORDS_MAX]:
        if isinstance(data, NAPTR):
            if not data.regexp:
                flags, service = _text(data.flags), _text(data.service)
                name = data.replacement.to_text(omit_final_dot=True)
                yield Naptr(data.order, data.preference, flags, service, name)
        elif isinstance(data, SRV):
            yield Srv(data.priority, data.weight, data.port, data.target.to_text())
        elif data.rdtype in {dns.rdatatype.A, dns.rdatatype.AAAA}:
            yield str(data)


def _text(data: bytes) -> str:
    return data.decode("latin-1")


# --- the machine's own files ----------------------------------------------------------------------


class _Files:
    """What /etc/hosts and resolv.conf say, looked at again every FILES_SECONDS."""

    def __init__(self, sources: Sources, patience: Patience) -> None:
        self._sources = sources
        self._patience = patience
        self._looked_at = -inf
        self._marks: tuple[object, object] = (None, None)
        self._hosts: Mapping[str, tuple[str, ...]] = {}
        self._resolver: dns.asyncresolver.Resolver | None = None

    def find(self, question: Question, now: float) -> tuple[Record, ...] | None:
        """The records of a name that is ours to know, or None for any other."""
        self._look(now)
        labels = question.name.split(".")
        while labels and labels[0].startswith("_"):
            del labels[0]
        name = ".".join(labels)
        addresses = self._hosts.get(name)
        if addresses is None and name and labels[-1] == "localhost":
            addresses = self._hosts.get("localhost", _LOCAL)
        if addresses is None:
            return None
        return tuple(each for each in addresses if question.kind == _kind(each))

    def resolver(self, now: float) -> dns.asyncresolver.Resolver:
        """Who is asked, as resolv.conf has it."""
        self._look(now)
        if self._resolver is None:
            self._resolver = self._configure()
        return self._resolver

    def _look(self, now: float) -> None:
        if now - self._looked_at < FILES_SECONDS:
            return
        self._looked_at = now
        marks = (_mark(self._sources.hosts), _mark(self._sources.resolv_conf))
        if marks[0] != self._marks[0]:
            self._hosts = _read_hosts(self._sources.hosts)
        if marks[1] != self._marks[1]:
            self._resolver = None
        self._marks = marks

    def _configure(self) -> dns.asyncresolver.Resolver:
        resolver = dns.asyncresolver.Resolver(configure=False)
        given = self._sources.nameservers
        if given:
            resolver.nameservers = [dns.nameserver.Do53Nameserver(*each) for each in given]
        else:
            try:
                resolver.read_resolv_conf(str(self._sources.resolv_conf))
            except (dns.exception.DNSException, OSError, ValueError) as error:
                log.warning("dns.unconfigured", error=type(error).__name__)
                resolver.nameservers = ["127.0.0.1"]  # as resolv.conf(5) has it
        resolver.timeout = self._patience.one_try
        resolver.lifetime = self._patience.question
        return resolver


def _mark(path: Path) -> object:
    """What differs when a file has changed."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _read_hosts(path: Path) -> Mapping[str, tuple[str, ...]]:
    """Names to addresses (hosts(5))."""
    try:
        with path.open("rb") as file:
            lines = file.read(FILE_BYTES).decode("latin-1").splitlines()
    except OSError:
        return {}
    found: dict[str, dict[str, None]] = {}
    for line in lines:
        address, *names = line.partition("#")[0].split() or [""]
        if _kind(address):
            for name in names:
                found.setdefault(name.rstrip(".").lower(), {})[address] = None
    return {name: tuple(addresses) for name, addresses in found.items()}


def _kind(address: str) -> str:
    """Which record an address is; empty for what is none, and for one that needs a zone."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return ""
    if isinstance(parsed, IPv6Address):
        return "" if parsed.scope_id else "AAAA"
    return "A"
