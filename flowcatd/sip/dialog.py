"""One dialog (RFC 3261 §12): who the two ends are, in what order they speak, and by which way.

A dialog is made by a request or a response that has both tags, early or confirmed; several may come of
one INVITE that a proxy forked. It counts our requests and checks theirs (§12.2), keeps the route that
the first messages took (fixed from then on, while the target may move), and writes requests.

`snapshot` is all that another process needs to speak on in our name. What the dead process sent after
it is unknown, so the one who restores skips some numbers: gaps are allowed (§12.2.2), repetitions are
not. A request that the dead one had taken but not answered may come again, and is let in again.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from typing import Final, NamedTuple, Self

import msgspec

from flowcatd.sip.event import Hop
from flowcatd.sip.header import Address, Via, parse_address
from flowcatd.sip.matching import has_cookie
from flowcatd.sip.message import (
    DEFAULT_PORT,
    Message,
    Request,
    Response,
    build_request,
    of_json_text,
    to_json_text,
)
from flowcatd.sip.trouble import SipError
from flowcatd.sip.uri import Uri, parse_uri

ROUTES_MAX = 32
"""A message that passed so many proxies is going in circles."""
SKIPPED = 16
"""What a process may have sent between its last snapshot and its end."""
FIRST_CSEQ = 1

_SECURE: Final = frozenset({"TLS", "WSS"})
_PORTS: Final = {"TLS": 5061, "WS": 80, "WSS": 443}


class DialogKey(NamedTuple):
    """What identifies a dialog, seen from here (§12)."""

    call_id: str
    local_tag: str
    remote_tag: str


class DialogSnapshot(msgspec.Struct, frozen=True):
    """A dialog as text; it holds addresses: never log it."""

    call_id: str
    local: str
    remote: str
    routes: list[str]
    target: str
    contact: str
    local_cseq: int
    remote_cseq: int
    is_caller: bool
    transport: str
    host: str
    port: int


@dataclass(slots=True)
class Dialog:
    """One dialog."""

    call_id: str
    local: Address = field(repr=False)
    """With our tag."""
    remote: Address = field(repr=False)
    """With theirs."""
    routes: tuple[Address, ...] = field(repr=False)
    """The route set, the next hop first."""
    target: Uri = field(repr=False)
    """Theirs; a target refresh moves it."""
    contact: Uri
    """Ours."""
    hop: Hop
    """Where they were heard."""
    local_cseq: int
    remote_cseq: int
    """-1 before their first request."""
    is_caller: bool
    """Whether we made the call: who backs off longer, and who counts as the owner of the Call-ID."""
    is_confirmed: bool = False

    @classmethod
    def of_request(cls, request: Request, tag: str, contact: Uri, hop: Hop) -> Self:
        """The dialog that answering a request makes (§12.1.1); SipError 400 without one Contact.

        A peer of RFC 2543 need not have one (RFC 4475 §3.4.1): it is where its From says.
        """
        is_old = not has_cookie(request.top.branch) and "contact" not in request.fields
        return cls(
            request.call_id,
            request.to.with_tag(tag),
            request.from_,
            _routes(request),
            request.from_.uri if is_old and request.from_.uri.is_sip else _contact(request),
            contact,
            hop,
            FIRST_CSEQ - 1,
            request.cseq.number,
            is_caller=False,
        )

    @classmethod
    def of_response(cls, request: Request, response: Response, contact: Uri, hop: Hop) -> Self:
        """The dialog that a response to our request makes (§12.1.2)."""
        has_contact = bool(response.fields.get("contact"))
        if not has_contact and response.is_final:
            raise SipError("a 2xx without a Contact")
        return cls(
            response.call_id,
            request.from_,
            response.to,
            tuple(reversed(_routes(response))),
            _contact(response) if has_contact else request.uri,
            contact,
            hop,
            request.cseq.number,
            -1,
            is_caller=True,
        )

    @property
    def key(self) -> DialogKey:
        """Under which it is found."""
        return DialogKey(self.call_id, self.local.tag, self.remote.tag)

    @property
    def next_uri(self) -> Uri:
        """Where requests go first."""
        return self.routes[0].uri if self.routes else self.target

    def build(self, method: str, via: Via, *, cseq: int | None = None) -> Request:
        """A request within the dialog, with the next number, or, for an ACK, the INVITE's (§12.2.1.1)."""
        if cseq is None:
            self.local_cseq += 1
            cseq = self.local_cseq
        uri, routes = self.target, self.routes
        if routes and "lr" not in routes[0].uri.parameters:
            # A strict router of RFC 2543 wants to be the Request-URI, and the target last.
            uri, routes = routes[0].uri, (*routes[1:], Address(self.target))
        request = build_request(
            method,
            replace(uri, headers=()),
            via=via,
            from_=self.local,
            to=self.remote,
            call_id=self.call_id,
            cseq=cseq,
        )
        if routes:
            request.put("route", *routes)
        return request

    def take(self, request: Request, hop: Hop) -> None:
        """Notes a request of theirs; SipError 500 when it is out of order (§12.2.2)."""
        if request.cseq.number <= self.remote_cseq:
            raise SipError("a request out of order", 500)
        self.remote_cseq = request.cseq.number
        if hop.is_reliable:
            # They have another connection now. Over UDP the place stays: a source is easily forged.
            self.hop = hop

    def target_of(self, message: Message) -> Uri:
        """The target that a message refreshes to (§12.2.1.2, §12.2.2): its Contact, if there is one."""
        return _contact(message) if message.fields.get("contact") else self.target

    def snapshot(self) -> DialogSnapshot:
        """Everything that another process needs."""
        return DialogSnapshot(
            to_json_text(self.call_id),
            to_json_text(str(self.local)),
            to_json_text(str(self.remote)),
            [to_json_text(str(route)) for route in self.routes],
            to_json_text(str(self.target)),
            to_json_text(str(self.contact)),
            self.local_cseq,
            self.remote_cseq,
            self.is_caller,
            self.hop.transport,
            self.hop.host,
            self.hop.port,
        )

    @classmethod
    def restore(cls, snapshot: DialogSnapshot) -> Self:
        """The dialog where it was left, confirmed; its connection, if it had one, is gone."""
        return cls(
            of_json_text(snapshot.call_id),
            parse_address(of_json_text(snapshot.local)),
            parse_address(of_json_text(snapshot.remote)),
            tuple(parse_address(of_json_text(route)) for route in snapshot.routes),
            parse_uri(of_json_text(snapshot.target)),
            parse_uri(of_json_text(snapshot.contact)),
            Hop(snapshot.transport, snapshot.host, snapshot.port),
            snapshot.local_cseq + SKIPPED,
            snapshot.remote_cseq - 1,
            snapshot.is_caller,
            is_confirmed=True,
        )


def nearest(uri: Uri, known: Hop) -> Hop:
    """Where a URI is, without asking anybody: the rule for a shell that has no names to resolve.

    Over a connection it is the connection; of a name, the place last heard of. An address that cannot
    be reached from elsewhere (a telephone behind a NAT names itself so) is taken to be where it was
    heard, unless it was heard inside too.
    """
    if known.is_reliable:
        return known
    try:
        address = ip_address(uri.host.strip("[]"))
        heard = ip_address(known.host.strip("[]"))
    except ValueError:
        return known
    if address.is_private and not heard.is_private:
        return known
    if address.is_unspecified or address.is_multicast:
        return known
    transport = (uri.parameters.get("transport") or known.transport).upper()
    if transport != known.transport:
        return known
    return Hop(transport, str(address), uri.port or _PORTS.get(transport, DEFAULT_PORT))


def secured(contact: Uri, hop: Hop, uris: Iterable[Uri]) -> Uri:
    """Our Contact; a SIPS URI where one of these is, the first of the way (§8.1.1.8, §12.1.1).

    Over what is not secure there is none that would be true.
    """
    if hop.transport not in _SECURE or all(each.scheme != "sips" for each in uris):
        return contact
    # `tls` says no more than the scheme does (RFC 5630 §3.1.4), and RFC 7118 §5.2 knows `ws` alone.
    changed = {"tls": None, "wss": "ws"}
    transport = contact.parameters.get("transport") or ""
    parameters = {name: said for name, said in contact.parameters.items() if name != "transport"}
    if kept := changed.get(transport, transport):
        parameters["transport"] = kept
    return replace(contact, scheme="sips", parameters=parameters)


def secured_way(request: Request) -> list[Uri]:
    """What decides of the Contact in our answer: Request-URI, and the first Record-Route or Contact."""
    first = request.addresses("record-route")[:1] or request.addresses("contact")[:1]
    return [request.uri, *(each.uri for each in first)]


def _routes(message: Message) -> tuple[Address, ...]:
    routes = tuple(message.addresses("record-route"))
    if len(routes) > ROUTES_MAX:
        raise SipError("a route that is too long")
    return routes


def _contact(message: Message) -> Uri:
    contacts = message.addresses("contact")
    if len(contacts) != 1:
        raise SipError("a dialog takes exactly one Contact")
    uri = contacts[0].uri
    if not uri.is_sip:
        raise SipError("a Contact that is no SIP address")
    return uri
