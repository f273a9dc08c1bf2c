"""Who is calling and who answers: a request's trunk, its number's agent, and what we say we are.

A request belongs to the trunk of its source address (the narrowest network wins), or, where digest is
asked for, to the trunk of the user who proved a password. What From, a Contact or a body say decides
nothing: they are the caller's to choose (RFC 3261 §22, §26.1). `Directory.find_trunk` gives `Known`,
`Challenge` (let the realm's Gate ask, then come back with the user it let in) or `Refused`.

`find_agent` takes the called number through the trunk's routes: by `order`, then the more exact first
(number, longest prefix, pattern, any), then as written. A number is tried as it came and as E.164.

`present` is the other direction: From, P-Asserted-Identity (RFC 3325), Remote-Party-ID and Privacy
(RFC 3323) of a call of ours.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

from flowcatd.errors import LocalError
from flowcatd.sip.header import Address
from flowcatd.sip.message import Request
from flowcatd.sip.trouble import SipError
from flowcatd.sip.trunk import Inbound, Route, Trunk
from flowcatd.sip.uri import Uri

LEARNED_MAX = 64
"""Addresses that one trunk's names may resolve to; a carrier with more gives networks."""
FOUND_MAX = 4096
"""Sources whose trunks are remembered; a flood of others costs a search each."""
CALLED_CHARACTERS = 128
VALUE_CHARACTERS = 256
"""Of a header taken as a variable; it may end in a prompt."""

ANONYMOUS: Final = Uri("sip", host="anonymous.invalid", user="anonymous")
"""RFC 3323 §4.1."""

_SEPARATORS = re.compile(r"[\s\-.()]")
_DIGITS = re.compile(r"[0-9]+")
_CONTROLS = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
_NATIONAL_DIGITS = 10
"""Of a number of the North American plan, which has no trunk prefix 0."""

# --- whose request it is --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Known:
    """The request is this trunk's."""

    trunk: Trunk


@dataclass(frozen=True, slots=True)
class Challenge:
    """Whose it is depends on the user: have the Gate of `realm` judge it, and ask again with the user."""

    realm: str
    users: frozenset[str]
    """Who may answer, from that source."""


@dataclass(frozen=True, slots=True)
class Refused:
    """Nobody's, or nobody's to answer: the SIP answer (DROP for none) and the reason, for logs."""

    status: int
    reason: str


class Directory:
    """Which trunk is where; made anew by every reload.

    `unknown_status` answers those who are nobody: 403, or DROP to look like an empty address.
    """

    def __init__(self, trunks: Mapping[str, Trunk], unknown_status: int = 403) -> None:
        self._trunks = trunks
        self._unknown = unknown_status
        self._networks = _by_width(trunks.values())
        self._anywhere = [each for each in trunks.values() if _is_anywhere(each.inbound)]
        self._learned: dict[str, frozenset[str]] = {}
        self._at: dict[str, list[Trunk]] = {}
        self._found: dict[str, list[Trunk]] = {}

    def learn(self, name: str, addresses: Iterable[str]) -> None:
        """The names of a trunk with `peer_is_source` resolve to these now; replaces what was known."""
        trunk = self._trunks.get(name)
        if trunk is None or not trunk.inbound.peer_is_source:
            return
        known = frozenset(str(_address(each)) for each in addresses)
        self._learned[name] = frozenset(sorted(known)[:LEARNED_MAX])
        self._at = {}
        self._found.clear()
        for each, found in self._learned.items():
            for address in found:
                self._at.setdefault(address, []).append(self._trunks[each])

    def is_known(self, source: str) -> bool:
        """Whether an address is one of a trunk's, whoever uses it; for the flood gate."""
        return bool(self._candidates(source))

    def find_trunk(self, source: str, user: str | None = None) -> Known | Challenge | Refused:
        """Whose a request from `source` is; `user` is whom the Gate has let in, or None.

        `source` is an address without brackets or zone.
        """
        candidates = self._candidates(source) or self._anywhere
        if not candidates:
            return Refused(self._unknown, "no trunk has this source")
        asking = [each for each in candidates if each.inbound.digest]
        if len(asking) < len(candidates):
            open_ = [each for each in candidates if not each.inbound.digest]
            if len(open_) == 1:
                return Known(open_[0])
            # Two trunks whose names resolve to the same address: the configuration could not know.
            return Refused(403, "several trunks have this source")
        if user is None:
            return Challenge(
                asking[0].inbound.realm, frozenset(each.inbound.user for each in asking)
            )
        mine = [each for each in asking if each.inbound.user == user]
        return Known(mine[0]) if mine else Refused(403, "the user may not call from this source")

    def password_user(self, realm: str, user: str) -> Trunk | None:
        """The trunk whose password a Gate checks a user against, or None for nobody."""
        found = (
            each
            for each in self._trunks.values()
            if each.inbound.digest and (each.inbound.realm, each.inbound.user) == (realm, user)
        )
        return next(found, None)

    def _candidates(self, source: str) -> list[Trunk]:
        # Asked for every message: a thousand networks are not gone through each time.
        found = self._found.get(source)
        if found is None:
            if len(self._found) >= FOUND_MAX:
                self._found.clear()
            found = self._found[source] = self._search(source)
        return found

    def _search(self, source: str) -> list[Trunk]:
        address = _address(source)
        if (learned := self._at.get(str(address))) is not None:
            return learned
        number = int(address)
        for version, shift, networks in self._networks:
            if version == address.version and (found := networks.get(number >> shift)):
                return found
        return []


def _is_anywhere(inbound: Inbound) -> bool:
    return inbound.digest and not inbound.sources and not inbound.peer_is_source


def _by_width(trunks: Iterable[Trunk]) -> list[tuple[int, int, dict[int, list[Trunk]]]]:
    """Per IP version and width, the narrowest first: how far to shift, and network bits to trunks."""
    tables: dict[tuple[int, int], dict[int, list[Trunk]]] = {}
    for trunk in trunks:
        for network in dict.fromkeys(trunk.networks):
            shift = network.max_prefixlen - network.prefixlen
            table = tables.setdefault((network.version, shift), {})
            table.setdefault(int(network.network_address) >> shift, []).append(trunk)
    return [(version, shift, table) for (version, shift), table in sorted(tables.items())]


def _address(text: str) -> IPv4Address | IPv6Address:
    """An address; an IPv4 one that came over an IPv6 socket is itself."""
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        raise LocalError("a source that is no address") from None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


# --- who answers ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Arrival:
    """An inbound call as far as policy goes: who answers, and what the agent is told."""

    trunk: Trunk
    agent: str
    """Empty is the default of [agents]."""
    called: str
    caller: str
    """A number or user, or empty when it is withheld or none was given."""
    caller_name: str = ""
    variables: Mapping[str, str] = field(default_factory=dict)
    route: Route | None = None


def find_agent(trunk: Trunk, request: Request) -> Arrival | Refused:
    """Who answers this INVITE over a trunk; 404 when no route takes the number (RFC 3261 §21.4.5)."""
    called = find_called(trunk.inbound, request)
    if len(called) > CALLED_CHARACTERS:
        return Refused(484, "the called number is too long")
    number = to_e164(called, trunk.outbound.country)
    route = choose_route(trunk, called, number)
    if route is None:
        return Refused(404, "no route takes the called number")
    caller, name = find_caller(trunk, request)
    taken = {
        variable: _clean(value)
        for header, variable in trunk.inbound.variables.items()
        if (value := request.first(header.lower())) is not None
    }
    # What the operator wrote stands above what the other side said.
    variables = {**taken, **route.variables}
    return Arrival(trunk, route.agent, number or called, caller, name, variables, route)


def choose_route(trunk: Trunk, called: str, number: str | None = None) -> Route | None:
    """The first route that takes a number, as it came or as E.164; None when there is none."""
    texts = (called,) if number is None or number == called else (called, number)
    ranked = sorted(trunk.routes, key=_rank)
    return next((route for route in ranked if any(_takes(route, text) for text in texts)), None)


def _rank(route: Route) -> tuple[int, int, int]:
    kind = 0 if route.number else 1 if route.prefix else 2 if route.pattern else 3
    return route.order, kind, -len(route.prefix)


def _takes(route: Route, text: str) -> bool:
    if route.number:
        return text == route.number
    if route.prefix:
        return text.startswith(route.prefix)
    return not route.pattern or re.fullmatch(route.pattern, text) is not None


def find_called(inbound: Inbound, request: Request) -> str:
    """The called number or user, where this trunk has it; the Request-URI where that is missing."""
    uri: Uri | None = None
    if inbound.called == "to":
        uri = request.to.uri
    elif inbound.called == "p-called-party-id":
        uri = _first_uri(request, inbound.called)
    if uri is None or not _number_of(uri):
        uri = request.uri
    # Unescaped it may hold anything, line ends included; it goes into records and prompts.
    return _CONTROLS.sub(" ", _number_of(uri))


def find_caller(trunk: Trunk, request: Request) -> tuple[str, str]:
    """The caller's number and name, for the agent and the record; never who the trunk is.

    Empty where the caller withholds it (RFC 3323): a network's assertion is not shown either then.
    """
    inbound = trunk.inbound
    privacy = {word.strip().lower() for word in (request.first("privacy") or "").split(";")}
    if privacy & {"id", "user", "header"}:
        return "", ""
    source = request.from_
    if inbound.caller != "from":
        source = _first_address(request, inbound.caller) or source
    if source.uri.host.lower() == ANONYMOUS.host or source.uri.user.lower() == "anonymous":
        return "", ""
    text = _clean(_number_of(source.uri))
    return to_e164(text, trunk.outbound.country) or text, _clean(source.name)


def to_e164(text: str, country: str) -> str | None:
    """The international form of a number, or None when it has none that we can know (ITU-T E.164).

    `+…` and `00…` are international; `0…` is national where the country is known, and so are ten
    digits in country 1. Other digits are not guessed at: they may be an extension.
    """
    digits = _SEPARATORS.sub("", text)
    if digits.startswith("+"):
        rest = digits[1:]
    elif digits.startswith("00"):
        rest = digits[2:]
    elif not country:
        return None
    elif country == "1" and len(digits) == _NATIONAL_DIGITS:
        rest = country + digits
    elif country == "1" and len(digits) == _NATIONAL_DIGITS + 1 and digits[0] == "1":
        rest = digits
    elif digits.startswith("0"):
        rest = country + digits[1:]
    else:
        return None
    fits = 7 <= len(rest) <= 15 and rest.isascii() and _DIGITS.fullmatch(rest) and rest[0] != "0"
    return f"+{rest}" if fits else None


def _number_of(uri: Uri) -> str:
    """The user part without its parameters (RFC 3261 §19.1.6, RFC 4694)."""
    if uri.scheme == "tel":
        context = uri.parameters.get("phone-context") or ""
        user = uri.user
        # RFC 3966 §5.1.5: a local number's context may be the beginning that makes it global.
        return context + user if context.startswith("+") and not user.startswith("+") else user
    return uri.user.partition(";")[0]


def _first_address(request: Request, name: str) -> Address | None:
    """The first address of a field that is only wanted: one that is malformed counts as missing."""
    try:
        found = request.addresses(name)
    except SipError:
        return None
    return found[0] if found else None


def _first_uri(request: Request, name: str) -> Uri | None:
    found = _first_address(request, name)
    return found.uri if found else None


def _clean(text: str) -> str:
    return _CONTROLS.sub(" ", text)[:VALUE_CHARACTERS]


# --- who we say we are ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Presented:
    """The caller's side of a call of ours."""

    from_: Address
    """Without a tag."""
    fields: Mapping[str, str]
    """Header to value, to `put` into the INVITE."""


def present(trunk: Trunk, caller_id: str = "") -> Presented | Refused:
    """How a call of ours introduces itself; `caller_id` must be one of the trunk's, or empty.

    Another one is refused with 403: a caller id that is free to choose is how calls are spoofed.
    """
    identity = trunk.identity
    if caller_id and caller_id not in {identity.caller_id, *identity.caller_ids}:
        return Refused(403, "the caller id is not one of the trunk's")
    number = caller_id or identity.caller_id
    account = trunk.account.user or number
    scheme = "sip"
    shown = Uri(scheme, host=trunk.domain, user=number or account)
    from_ = Address(
        Uri(scheme, host=trunk.domain, user=account) if identity.from_user == "account" else shown,
        "" if identity.private else identity.caller_name,
    )
    asserted = Address(shown, identity.caller_name)
    fields: dict[str, str] = {}
    if identity.asserted == "p-asserted-identity":
        fields["P-Asserted-Identity"] = str(asserted)
    elif identity.asserted == "remote-party-id":
        privacy = "full" if identity.private else "off"
        fields["Remote-Party-ID"] = f"{asserted};party=calling;screen=yes;privacy={privacy}"
    if identity.private:
        fields["Privacy"] = "id"
        if identity.from_user != "account":
            from_ = Address(ANONYMOUS, "Anonymous")
    return Presented(from_, fields)
