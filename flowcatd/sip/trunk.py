"""A trunk as data: one carrier or telephone system that calls us, is called by us, or both.

One file of `conf/trunks.d` is one trunk; its sections are the values below, same order, same names
(`conf/trunks.d/carrier.toml` is the manual, `trunk_file.py` the reader). What a setting may hold stands
beside it as data: `Between`, `OneOf`, or a `Fits` with the rule as a function.

`join_trunks` makes the set that a worker lives by and refuses what would leave open who is calling;
`compare_trunks` says what a reload adds, changes and removes, section by section, so that a new route
does not cost a registration, and no trunk is touched for another's sake.

Nothing here knows where a file is, what a password is (only its reference), or who is calling now.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Annotated, Final

from flowcatd.errors import ConfigError
from flowcatd.options import Between, OneOf, Secret
from flowcatd.sip.header import is_token
from flowcatd.sip.trouble import SipError
from flowcatd.sip.uri import Uri, parse_uri

TRUNKS_MAX = 1000
"""Of one daemon: every one that registers costs a timer and a request every few minutes."""

Network = IPv4Network | IPv6Network

# --- what a text may be ---------------------------------------------------------------------------

_NAME = re.compile(r"[a-z][a-z0-9._-]{0,63}")
_PREFIX = re.compile(r"\+[0-9]{0,15}")
_NUMBER = re.compile(r"\+[1-9][0-9]{6,14}")
_COUNTRY = re.compile(r"[1-9][0-9]{0,2}")
_DIALLED = re.compile(r"[0-9+*#]{0,24}")
_CALLED = re.compile(r"[^\s\"<>@;:]{1,128}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_HOST = re.compile(r"[A-Za-z0-9_.:\[\]-]{1,255}")
_PLAIN = re.compile(r"[^\x00-\x1f\x7f\"\\]{0,128}")
_SECRET_FIELDS = frozenset({"authorization", "proxy-authorization", "www-authenticate"})


@dataclass(frozen=True, slots=True)
class Fits:
    """A rule for a text, or for every text of a list: the problem, or an empty string."""

    check: Callable[[str], str]

    def refusal(self, value: object) -> str:
        """What is allowed, or an empty string when `value` is."""
        texts = value if isinstance(value, tuple) else (value,)
        return next((said for text in texts if (said := self.check(str(text)))), "")


@dataclass(frozen=True, slots=True)
class Pairs:
    """A rule for every name and one for every value of a table."""

    name: Callable[[str], str]
    value: Callable[[str], str]

    def refusal(self, value: object) -> str:
        """What is allowed, or an empty string when `value` is."""
        pairs = value.items() if isinstance(value, Mapping) else ()
        return next((said for k, v in pairs if (said := self.name(k) or self.value(v))), "")


def _like(pattern: re.Pattern[str], problem: str) -> Callable[[str], str]:
    return lambda text: "" if not text or pattern.fullmatch(text) else problem


def _is_uri(text: str) -> str:
    try:
        uri = parse_uri(text)
    except SipError as error:
        return f"must be a SIP URI such as sip:sip.example.net:5060 ({error.problem})"
    return "" if uri.is_sip else "must begin with sip: or sips:"


def _is_network(text: str) -> str:
    try:
        ip_network(text)
    except ValueError:
        return "must be addresses or networks such as 192.0.2.7 or 2001:db8::/32, without host bits"
    return ""


def _is_taken_header(text: str) -> str:
    if not is_token(text):
        return "must name SIP headers"
    return "may not take credentials" if text.lower() in _SECRET_FIELDS else ""


_is_plain = _like(_PLAIN, "may hold no quotes, backslashes or line ends, and 128 characters")
_is_agent = _like(_NAME, "an agent is small letters, digits, . _ -")
_is_variable = _like(_VARIABLE, "a variable is letters, digits and _")
_is_prefix = _like(_PREFIX, "must be + and digits: the beginning of an international number")
_is_number = _like(_NUMBER, "must be an international number: + and 7 to 15 digits")


def _is_name(text: str) -> str:
    return "" if _NAME.fullmatch(text) else "is needed: small letters, digits, . _ -"


def _is_codec(text: str) -> str:
    return OneOf(CODECS).refusal(text)


def _is_uri_or_empty(text: str) -> str:
    return _is_uri(text) if text else ""


CODECS: Final = ("opus", "g722", "pcmu", "pcma")
TRANSPORTS: Final = ("auto", "udp", "tcp", "tls", "ws", "wss")

# Names, not expressions: a type's text is evaluated where no rule of this file would be found.
TrunkName = Annotated[str, Fits(_is_name)]
Uris = Annotated[tuple[str, ...], Fits(_is_uri)]
Prefixes = Annotated[tuple[str, ...], Fits(_is_prefix)]
Plain = Annotated[str, Fits(_is_plain)]
Agent = Annotated[str, Fits(_is_agent)]
Calls = Annotated[int, Between(0, 1_000_000)]
Rate = Annotated[float, Between(0.01, 10_000)]

NO_SECRET: Final = Secret()

# --- the sections ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Peer:
    """[trunk]: which trunk this is, and where the other side is."""

    name: TrunkName = ""
    """What commands, records and metrics call it; unique."""
    enabled: bool = True
    """Whether it is there at all."""
    proxies: Uris = ()
    """Where our requests go, in order of preference; empty takes calls only."""
    transport: Annotated[str, OneOf(TRANSPORTS)] = "auto"
    """How; `auto` is as the URI and DNS say (RFC 3263)."""
    domain: Annotated[str, Fits(_like(_HOST, "must be a host name"))] = ""
    """The host of From and To; empty is the first proxy's."""
    options_seconds: Annotated[float, Between(0, 3600)] = 0.0
    """Between two OPTIONS that ask whether it lives; 0 asks nothing."""


@dataclass(frozen=True, slots=True)
class Account:
    """[account]: who we are to the other side."""

    user: Plain = ""
    """The user of our address there."""
    auth_user: Plain = ""
    """The user of digest credentials; empty is `user`."""
    password: Secret = NO_SECRET
    """The password, by reference."""


@dataclass(frozen=True, slots=True)
class Register:
    """[register]: whether we say where we are (RFC 3261 §10)."""

    enabled: bool = False
    registrar: Annotated[str, Fits(_is_uri_or_empty)] = ""
    """Where to; empty is the first proxy's host."""
    seconds: Annotated[int, Between(30, 86_400)] = 3600
    """The lifetime that is asked for; the registrar decides."""
    outbound: bool = False
    """Whether calls are to come over the connection we registered on (RFC 5626)."""


@dataclass(frozen=True, slots=True)
class Inbound:
    """[inbound]: who may call us over it."""

    sources: Annotated[tuple[str, ...], Fits(_is_network)] = ()
    """Addresses and networks that are this trunk."""
    peer_is_source: bool = False
    """Whether the addresses of proxies and registrar are, too."""
    digest: bool = False
    """Whether a caller must know a password as well; alone, it lets in from anywhere."""
    user: Plain = ""
    """The user who must."""
    password: Secret = NO_SECRET
    realm: Annotated[str, Fits(_like(_PLAIN, "may hold no quotes or line ends"))] = "flowcatd"
    most_calls: Calls = 0
    """Live inbound calls; 0 is as many as the workers have."""
    calls_per_second: Rate = 20.0
    called: Annotated[str, OneOf(("request-uri", "to", "p-called-party-id"))] = "request-uri"
    """Where the called number stands."""
    caller: Annotated[str, OneOf(("from", "p-asserted-identity", "remote-party-id"))] = "from"
    """Where the caller's number stands; From where that is missing."""
    variables: Annotated[Mapping[str, str], Pairs(_is_taken_header, _is_variable)] = field(
        default_factory=dict
    )
    """Header to the agent variable that its value becomes."""


@dataclass(frozen=True, slots=True)
class Media:
    """[media]: what is offered and taken."""

    codecs: Annotated[tuple[str, ...], Fits(_is_codec)] = (*("pcmu", "pcma"),)
    """In order of preference."""
    srtp: Annotated[str, OneOf(("off", "optional", "required"))] = "off"


@dataclass(frozen=True, slots=True)
class Session:
    """[session]: how long a call is believed in, and how it rings."""

    timer: Annotated[str, OneOf(("off", "accept", "ask"))] = "accept"
    """RFC 4028: never, when the other side wants it, or in all our calls."""
    seconds: Annotated[int, Between(90, 86_400)] = 1800
    """Session-Expires of our calls."""
    least_seconds: Annotated[int, Between(90, 86_400)] = 90
    """Min-SE: less than that is answered 422."""
    refresher: Annotated[str, OneOf(("auto", "us", "them"))] = "auto"
    reliable: Annotated[str, OneOf(("off", "supported", "required"))] = "supported"
    """100rel (RFC 3262)."""


@dataclass(frozen=True, slots=True)
class Identity:
    """[identity]: who we say is calling."""

    caller_id: Annotated[str, Fits(_is_number)] = ""
    """The number of our calls."""
    caller_ids: Annotated[tuple[str, ...], Fits(_is_number)] = ()
    """Further numbers that a call may ask for."""
    caller_name: Plain = ""
    from_user: Annotated[str, OneOf(("caller", "account"))] = "caller"
    """What stands in From: the caller id, or the account as some carriers want it."""
    asserted: Annotated[str, OneOf(("none", "p-asserted-identity", "remote-party-id"))] = "none"
    """Where the caller id stands besides (RFC 3325)."""
    private: bool = False
    """Whether the called is not to be told the number (RFC 3323, RFC 3325)."""


@dataclass(frozen=True, slots=True)
class Outbound:
    """[outbound]: whom we may call over it, and how often."""

    enabled: bool = False
    prefixes: Prefixes = ()
    """Beginnings of the numbers that may be called; none is nobody, "+" everybody."""
    denied: Prefixes = ()
    """Beginnings that may not, whatever stands in `prefixes`."""
    deny_risky: bool = True
    """Whether well-known costly ranges need a prefix of their own."""
    country: Annotated[str, Fits(_like(_COUNTRY, "must be a country code, as 49"))] = ""
    """The country of numbers without one; empty refuses those."""
    dial: Annotated[
        Mapping[str, str],
        Pairs(_is_prefix, _like(_DIALLED, "must be digits, +, * or #")),
    ] = field(default_factory=dict)
    """Beginning of a number to what is dialled in its place; the longest wins."""
    most_calls: Calls = 10
    """Live outbound calls; 0 is none."""
    calls_per_second: Rate = 1.0


@dataclass(frozen=True, slots=True)
class Route:
    """[[route]]: which agent answers a called number; without a number, prefix or pattern, any."""

    number: Annotated[str, Fits(_like(_CALLED, "must be a number or a user name"))] = ""
    prefix: Annotated[str, Fits(_like(_CALLED, "must be the beginning of a number"))] = ""
    pattern: str = ""
    """A small regular expression over the whole number."""
    order: Annotated[int, Between(-1000, 1000)] = 0
    """Lower ones are looked at first."""
    agent: Agent = ""
    """Who answers; empty is the default of [agents]."""
    variables: Annotated[Mapping[str, str], Pairs(_is_variable, _is_plain)] = field(
        default_factory=dict
    )


@dataclass(frozen=True, slots=True)
class Trunk:
    """One trunk."""

    peer: Peer = field(default_factory=Peer)
    account: Account = field(default_factory=Account)
    register: Register = field(default_factory=Register)
    inbound: Inbound = field(default_factory=Inbound)
    media: Media = field(default_factory=Media)
    session: Session = field(default_factory=Session)
    identity: Identity = field(default_factory=Identity)
    outbound: Outbound = field(default_factory=Outbound)
    routes: tuple[Route, ...] = ()

    @property
    def name(self) -> str:
        """What it is called."""
        return self.peer.name

    @property
    def domain(self) -> str:
        """The host of our addresses there: as set, or the first proxy's, or the registrar's.

        Empty for a trunk without a peer.
        """
        named = self.peer.proxies[0] if self.peer.proxies else self.register.registrar
        if self.peer.domain or not named:
            return self.peer.domain
        return parse_uri(named).host

    @property
    def registrar(self) -> Uri:
        """The Request-URI of REGISTER (§10.2: the domain, without a user)."""
        if self.register.registrar or self.peer.domain or not self.peer.proxies:
            return parse_uri(self.register.registrar or f"sip:{self.domain}")
        return replace(self.next_hops[0], user="", password=None)

    @property
    def next_hops(self) -> tuple[Uri, ...]:
        """The proxies, with the trunk's transport where they name none."""
        found = []
        for text in self.peer.proxies:
            uri = parse_uri(text)
            if self.peer.transport != "auto" and "transport" not in uri.parameters:
                uri = uri.with_parameters(transport=self.peer.transport)
            found.append(uri)
        return tuple(found)

    @property
    def networks(self) -> tuple[Network, ...]:
        """The sources as networks."""
        return tuple(ip_network(source) for source in self.inbound.sources)

    @property
    def takes_calls(self) -> bool:
        """Whether anybody can call over it."""
        inbound = self.inbound
        return bool(inbound.sources) or inbound.peer_is_source or inbound.digest


# --- sets of trunks -------------------------------------------------------------------------------


def join_trunks(files: Iterable[tuple[str, Trunk]]) -> Mapping[str, Trunk]:
    """The enabled trunks by name, in order of the files; ConfigError where two are hard to tell apart.

    `files` are pairs of a file's name, for errors, and its trunk. The same network twice, or the same
    user of the same realm, would leave to chance who is calling.
    """
    trunks: dict[str, Trunk] = {}
    seen: dict[object, str] = {}
    for where, trunk in files:
        if trunk.name in trunks:
            raise ConfigError(where, f"'{trunk.name}' stands in two files", key="trunk.name")
        if len(trunks) >= TRUNKS_MAX:
            raise ConfigError(where, f"is one trunk more than {TRUNKS_MAX}")
        if not trunk.peer.enabled:
            continue
        for key, mark in _marks(trunk):
            if mark in seen:
                raise ConfigError(where, f"is the same as of trunk '{seen[mark]}'", key=key)
            seen[mark] = trunk.name
        trunks[trunk.name] = trunk
    _check_realms(trunks.values())
    return trunks


def _marks(trunk: Trunk) -> Iterable[tuple[str, object]]:
    """What no second trunk may have: the key to name, and the thing itself."""
    inbound = trunk.inbound
    if inbound.digest:
        yield "inbound.user", (inbound.realm, inbound.user)
    else:
        for network in dict.fromkeys(trunk.networks):
            yield "inbound.sources", network


def _check_realms(trunks: Iterable[Trunk]) -> None:
    """A stranger is challenged once, so all trunks that he may be have one realm; so has a network."""
    realms: dict[object, str] = {}
    for trunk in trunks:
        if not trunk.inbound.digest:
            continue
        # A trunk with `peer_is_source` has its addresses from DNS: known later, and then its own.
        open_to_all = not trunk.inbound.sources and not trunk.inbound.peer_is_source
        for place in trunk.networks or ((None,) if open_to_all else ()):
            if realms.setdefault(place, trunk.inbound.realm) != trunk.inbound.realm:
                raise ConfigError(
                    trunk.name, "differs from a trunk with the same sources", key="inbound.realm"
                )


@dataclass(frozen=True, slots=True)
class Difference:
    """What turns one set of trunks into another; what is not named stays untouched."""

    added: tuple[Trunk, ...] = ()
    removed: tuple[Trunk, ...] = ()
    changed: tuple[tuple[Trunk, frozenset[str]], ...] = ()
    """The new trunk, and the sections (fields of Trunk) that differ."""

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed)


REREGISTER: Final = frozenset({"peer", "account", "register"})
"""A change in one of these ends a registration and begins another; any other leaves it alone."""


def compare_trunks(old: Mapping[str, Trunk], new: Mapping[str, Trunk]) -> Difference:
    """What a reload has to do."""
    both = [name for name in new if name in old and new[name] != old[name]]
    return Difference(
        added=tuple(new[name] for name in new if name not in old),
        removed=tuple(old[name] for name in old if name not in new),
        changed=tuple((new[name], _differing(old[name], new[name])) for name in both),
    )


def _differing(old: Trunk, new: Trunk) -> frozenset[str]:
    names = (section.name for section in fields(Trunk))
    return frozenset(name for name in names if getattr(old, name) != getattr(new, name))
