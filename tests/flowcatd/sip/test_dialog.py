"""Dialogs: route sets, targets, the order of requests, and handing one over."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcatd.sip.dialog import SKIPPED, Dialog, DialogSnapshot, nearest
from flowcatd.sip.event import Hop
from flowcatd.sip.header import Via
from flowcatd.sip.message import Request, build_response, parse_message
from flowcatd.sip.trouble import SipError
from flowcatd.sip.uri import Uri, parse_uri

HOP = Hop("UDP", "192.0.2.7", 5060)
OURS = parse_uri("sip:us@192.0.2.1:5060")
VIA = Via("UDP", "192.0.2.1", 5060, {"branch": "z9hG4bKx"})


def invite(*fields: str, contact: str = "<sip:them@192.0.2.7>", cseq: int = 5) -> Request:
    """An INVITE of theirs."""
    lines = [
        "INVITE sip:us@192.0.2.1 SIP/2.0",
        "Via: SIP/2.0/UDP 192.0.2.7;branch=z9hG4bK1",
        "From: Them <sip:them@example.net>;tag=theirs",
        "To: <sip:us@example.net>",
        "Call-ID: one",
        f"CSeq: {cseq} INVITE",
        *([f"Contact: {contact}"] if contact else []),
        *fields,
    ]
    message = parse_message(("\r\n".join(lines) + "\r\n\r\n").encode())
    assert isinstance(message, Request)
    return message


def called(*fields: str, **more: str) -> Dialog:
    """The callee's dialog."""
    return Dialog.of_request(invite(*fields, **more), "ours", OURS, HOP)


def calling(*fields: tuple[str, str], contact: str = "<sip:them@192.0.2.7>") -> Dialog:
    """The caller's dialog: the INVITE was ours, the answer theirs."""
    request = invite()
    response = build_response(request, 200, tag="answer")
    if contact:
        response.put("contact", contact)
    for name, value in fields:
        response.put(name, value)
    return Dialog.of_response(request, response, OURS, HOP)


def test_the_callee_takes_the_route_as_it_stands_and_the_caller_turns_it_round():
    """§12.1.1 and §12.1.2: the proxy next to us comes first."""
    routes = "<sip:near.example;lr>, <sip:far.example;lr>"
    assert [each.uri.host for each in called(f"Record-Route: {routes}").routes] == [
        "near.example",
        "far.example",
    ]
    assert calling(("record-route", routes)).next_uri.host == "far.example"


def test_several_record_routes_are_one_list():
    """Several lines and commas mean the same."""
    dialog = called("Record-Route: <sip:a;lr>", "Record-Route: <sip:b;lr>, <sip:c;lr>")
    request = dialog.build("BYE", VIA)
    assert [each.uri.host for each in request.addresses("route")] == ["a", "b", "c"]
    assert str(request.uri) == "sip:them@192.0.2.7"


def test_a_strict_router_becomes_the_request_uri():
    """§12.2.1.1: and the target goes to the end of the route."""
    request = called("Record-Route: <sip:strict.example>, <sip:b;lr>").build("BYE", VIA)
    assert str(request.uri) == "sip:strict.example"
    assert [each.uri.host for each in request.addresses("route")] == ["b", "192.0.2.7"]


def test_numbers_rise_and_an_ack_has_its_invites():
    """One more for each request, none for an ACK."""
    dialog = called()
    numbers = [dialog.build(method, VIA).cseq.number for method in ("INVITE", "INFO", "BYE")]
    assert numbers == [1, 2, 3]
    assert dialog.build("ACK", VIA, cseq=1).cseq.number == 1
    assert dialog.local_cseq == 3


def test_requests_out_of_order_are_refused():
    """§12.2.2: lower, or the same again, is 500; gaps are allowed."""
    dialog = called()
    dialog.take(invite(cseq=9), HOP)
    for number in (9, 5, 1):
        with pytest.raises(SipError) as refused:
            dialog.take(invite(cseq=number), HOP)
        assert refused.value.status == 500


def test_only_a_connection_moves_where_they_were_heard():
    """Over UDP a source is easily forged; a new TCP connection is theirs."""
    dialog = called()
    dialog.take(invite(cseq=6), Hop("UDP", "198.51.100.1", 1))
    assert dialog.hop == HOP
    moved = Hop("TCP", "192.0.2.7", 33_000, 4)
    dialog.take(invite(cseq=7), moved)
    assert dialog.hop == moved


@pytest.mark.parametrize("contact", ["", "<sip:a@b>, <sip:c@d>", "<tel:+15550100>"])
def test_a_dialog_takes_one_contact_that_can_be_called(contact):
    """Anything else is 400."""
    with pytest.raises(SipError):
        called(contact=contact)


def test_a_2xx_needs_a_contact():
    """Otherwise nobody knows where the ACK goes."""
    with pytest.raises(SipError):
        calling(contact="")


def test_a_target_moves_and_the_route_does_not():
    """§12.2: a re-INVITE changes the target only."""
    dialog = called("Record-Route: <sip:a;lr>")
    moved = invite("Record-Route: <sip:z;lr>", contact="<sip:new@192.0.2.8>")
    dialog.target = dialog.target_of(moved)
    request = dialog.build("INVITE", VIA)
    assert request.uri.host == "192.0.2.8"
    assert [each.uri.host for each in request.addresses("route")] == ["a"]


def test_a_route_has_a_limit():
    """A hundred proxies are a loop."""
    with pytest.raises(SipError):
        called("Record-Route: " + ", ".join("<sip:a;lr>" for _ in range(100)))


@given(
    st.integers(0, 2**30), st.lists(st.sampled_from(["<sip:a;lr>", "<sip:b:5070;lr>"]), max_size=5)
)
def test_a_dialog_survives_json(cseq, routes):
    """Same tags, same route; ours go on above what may have been sent, theirs may come again."""
    dialog = called(*(f"Record-Route: {each}" for each in routes), cseq=cseq)
    dialog.build("INFO", VIA)
    text = msgspec.json.encode(dialog.snapshot())
    again = Dialog.restore(msgspec.json.decode(text, type=DialogSnapshot))
    assert again.key == dialog.key
    assert again.build("BYE", VIA).cseq.number == dialog.local_cseq + SKIPPED + 1
    assert again.remote_cseq == dialog.remote_cseq - 1
    assert again.is_confirmed
    old, new = dialog.build("BYE", VIA), again.build("BYE", VIA)
    assert {**old.fields, "cseq": []} == {**new.fields, "cseq": []}


@pytest.mark.parametrize(
    ("uri", "known", "where"),
    [
        ("sip:a@192.0.2.9:5070", HOP, Hop("UDP", "192.0.2.9", 5070)),
        ("sip:a@192.0.2.9", HOP, Hop("UDP", "192.0.2.9", 5060)),
        ("sip:a@name.example", HOP, HOP),
        ("sip:a@0.0.0.0", HOP, HOP),
        ("sip:a@192.0.2.9;transport=tcp", HOP, HOP),
        ("sip:a@10.0.0.4", Hop("UDP", "8.8.8.8", 1), Hop("UDP", "8.8.8.8", 1)),
        ("sip:a@10.0.0.4", Hop("UDP", "10.0.0.1", 1), Hop("UDP", "10.0.0.4", 5060)),
        ("sip:a@8.8.8.8", Hop("TCP", "192.0.2.7", 1, 3), Hop("TCP", "192.0.2.7", 1, 3)),
        ("sip:a@[2001:db8::1]", Hop("UDP", "2001:db8::2", 9), Hop("UDP", "2001:db8::1", 5060)),
    ],
)
def test_the_nearest_place_is_found(uri: str, known: Hop, where: Hop):
    """Addresses as they stand; names, connections and what lies behind a NAT where they were heard."""
    found: Uri = parse_uri(uri)
    assert nearest(found, known) == where
