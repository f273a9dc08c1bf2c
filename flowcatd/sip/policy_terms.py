"""The values of policy, and what one trunk's settings come to for one call.

`Terms` is what policy is made with, `Arrived` and `Dial` what it says of a call, `Live` what it must be
given to count with other workers. The functions read one trunk: no state, nobody else's trunk.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from flowcatd.sip.agent_event import CallTerms
from flowcatd.sip.digest import Answerer
from flowcatd.sip.guard import Dialled, GateTerms
from flowcatd.sip.header import Address
from flowcatd.sip.session import CODECS, SUITES, Capabilities, Secrecy
from flowcatd.sip.trunk import Trunk
from flowcatd.sip.uri import Uri


class Live(Protocol):
    """The calls of each trunk in all workers; `workers.trunk_counts.SeatCounts` is one."""

    def add(self, trunk: str, *, inbound: bool, change: int) -> int:
        """Changes this worker's number; the total of all workers after that."""

    def total(self, trunk: str, *, inbound: bool) -> int:
        """The calls of all workers."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What is the same for all trunks."""

    unknown_status: int = 403
    """What strangers get; `trouble.DROP` for nothing at all, as if nobody were there."""
    flood: GateTerms = field(default_factory=GateTerms)
    codecs: frozenset[str] = frozenset({"pcmu", "pcma"})
    """By the names of `session.CODECS`: those that are installed."""
    has_dtls: bool = False
    """Whether calls have a certificate (`session.Local.fingerprint`)."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Something about a trunk that keeps it from working in full; for a log, it holds no secret."""

    trunk: str
    key: str
    """The setting."""
    problem: str


@dataclass(frozen=True, slots=True)
class Arrived:
    """A call that is let in, and counted: `depart` when it is over."""

    trunk: Trunk
    agent: str
    """Empty is the default of [agents]."""
    called: str = field(repr=False)
    caller: str = field(repr=False)
    """A number or user; empty when it is withheld."""
    caller_name: str = field(repr=False)
    variables: Mapping[str, str] = field(repr=False)
    capabilities: Capabilities
    terms: CallTerms


@dataclass(frozen=True, slots=True)
class Dial:
    """A call that may be placed, and is counted: `depart` when it is over, or was never sent."""

    trunk: Trunk
    number: str = field(repr=False)
    """E.164, for records."""
    target: Uri = field(repr=False)
    """The Request-URI and To."""
    caller: str = field(repr=False)
    """The number or user that we show."""
    caller_address: Address = field(repr=False)
    """From, without a tag."""
    fields: tuple[tuple[str, str], ...] = field(repr=False)
    """Further fields of the INVITE."""
    next_hops: tuple[Uri, ...]
    """Where to send it, in order of preference."""
    routes: tuple[Address, ...]
    """None: the next hops are several, and a Route would name one of them (RFC 3261 §8.1.2 allows
    an outbound proxy to be known by configuration alone)."""
    answerer: Answerer | None
    capabilities: Capabilities
    terms: CallTerms


# --- one trunk ------------------------------------------------------------------------------------


def terms_of(trunk: Trunk) -> CallTerms:
    """The terms of every call over a trunk; a timer is asked for only where the trunk wants that."""
    session = trunk.session
    return CallTerms(
        session_seconds=session.seconds if session.timer == "ask" else 0,
        session_least=session.least_seconds,
        refresher=session.refresher,
        reliable=session.reliable,
        timer=session.timer,
    )


def secrecy_of(trunk: Trunk, *, has_dtls: bool) -> Secrecy:
    """What [media] srtp means: keys stand in a description only where TLS hides them, if we can help it."""
    if trunk.media.srtp == "off":
        return Secrecy.OFF
    if trunk.media.srtp == "optional":
        return Secrecy.ALLOWED
    return Secrecy.DTLS if has_dtls and not is_over_tls(trunk) else Secrecy.SDES


def is_over_tls(trunk: Trunk) -> bool:
    """Whether everything we send to a trunk's proxies is encrypted."""
    hops = trunk.next_hops
    secure = {"tls", "wss"}
    return bool(hops) and all(
        uri.scheme == "sips" or (uri.parameters.get("transport") or "").lower() in secure
        for uri in hops
    )


def capabilities_of(trunk: Trunk, terms: Terms) -> Capabilities:
    """What its calls may agree on: its codecs as far as they are installed, its secrecy."""
    names = (name for name in trunk.media.codecs if name in terms.codecs)
    return Capabilities(
        codecs=tuple(CODECS[name] for name in names),
        secrecy=secrecy_of(trunk, has_dtls=terms.has_dtls),
        suites=tuple(SUITES),
    )


def media_problems(trunk: Trunk, terms: Terms) -> Iterable[Problem]:
    """What keeps its calls from having media, or from having them in secret."""
    if not terms.codecs & set(trunk.media.codecs):
        yield Problem(trunk.name, "media.codecs", "none of them is installed: no call is possible")
    is_readable = bool(trunk.peer.proxies) and not (terms.has_dtls or is_over_tls(trunk))
    if trunk.media.srtp == "required" and is_readable:
        problem = "the keys can be read on the way: transport is not tls, and DTLS is not installed"
        yield Problem(trunk.name, "media.srtp", problem)


def target_of(trunk: Trunk, dialled: Dialled) -> Uri:
    """The number at the trunk's domain; without one, where the first proxy is."""
    if trunk.peer.domain or not trunk.peer.proxies:
        return Uri("sip", host=trunk.domain, user=dialled.user)
    hop = trunk.next_hops[0]
    return Uri("sip", host=hop.host, user=dialled.user, port=hop.port)
