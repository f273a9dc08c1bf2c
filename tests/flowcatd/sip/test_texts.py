"""Sentences of the RFCs that the user agent once did not obey, found by reading them beside the code.

Each test is named for what is obeyed now, its docstring for where that stands; each failed before, but
for what guards it from the other side. Rules that were right from the start are in `test_rules.py`.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from flowcatd.errors import LocalError
from flowcatd.sip.agent_event import (
    CallEnded,
    CallTerms,
    ChangeRefused,
    Here,
    Invited,
    Referred,
    Terms,
)
from flowcatd.sip.dialog import nearest
from flowcatd.sip.event import Asked, Hop, Limits
from flowcatd.sip.header import Address
from flowcatd.sip.message import Request, Response, build_response, parse_message
from flowcatd.sip.offer import Negotiation
from flowcatd.sip.session import Capabilities, Local
from flowcatd.sip.timers import Timers
from flowcatd.sip.transaction import Transactions
from flowcatd.sip.uri import parse_uri
from tests.flowcatd.sip.pair import World
from tests.flowcatd.sip.test_agent import ask, words
from tests.flowcatd.sip.test_invite import LATE, PEER, Peer, late
from tests.flowcatd.sip.torture import request

SDP = "Content-Type: application/sdp"
OFFER = Peer().heard("INVITE")[-1].body.decode()
NEW = Hop("TCP", PEER.host, 5060, 2)
TCP = Hop("TCP", "192.0.2.1", 40_000, 7)


def up(*fields: tuple[str, object], terms: Terms | None = None, **more: object) -> Peer:
    """A call of alice's that a peer has answered."""
    peer = Peer(terms, **more)
    peer.says(200, *fields, body=peer.described())
    return peer


def asks(
    peer: Peer, method: str, *fields: tuple[str, object], body: str = "", contact: str = ""
) -> Response | None:
    """A request of the peer's within the call; alice's last answer."""
    dialog = peer.alice.agent._desk.calls[peer.call].dialog
    cseq = dialog.remote_cseq + 1 if dialog.remote_cseq > 0 else 50
    asked = request(
        method,
        f"Contact: {contact or '<sip:peer@203.0.113.9>'}",
        via=f"SIP/2.0/UDP 203.0.113.9;branch=z9hG4bK{method}{cseq}",
        from_=str(dialog.remote),
        to=str(dialog.local),
        call_id=dialog.call_id,
        cseq=f"{cseq} {method}",
    )
    for name, value in fields:
        asked.put(name, value)
    if body:
        asked.put_body(body.encode(), "application/sdp")
    peer.alice.agent.receive(bytes(asked), PEER, peer.world.now)
    peer.world.flush()
    answers = [each for each in peer.world.third[PEER.host] if isinstance(each, Response)]
    return answers[-1] if answers else None


def offer_of(port: int) -> str:
    """The peer's own offer."""
    return Negotiation(Capabilities(), Local("203.0.113.9", port), "77", bytes).offer()


# --- RFC 3261 §8, §12: requests outside of calls and within --------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        words("SUBSCRIBE", "Event: presence"),
        words("OPTIONS", "Require: nothing-we-have"),
        words("INVITE", "Content-Type: text/html", body="x"),
        words("BYE", to_tag="somebody"),
        words("FROBNICATE"),
    ],
)
def test_strangers_are_told_nothing_but_that_they_are(text):
    """§22, §26.3.2.4: who asks is judged before what is asked, and before whom we talk to is said."""
    world = World(admit=lambda asked, _, __: build_response(asked, 403, tag="t"))
    assert [each.status for each in ask(world, text)] == [403]


@pytest.mark.parametrize("method", ["INVITE", "UPDATE"])
def test_a_refused_change_changes_nothing_at_all(method):
    """§12.2.2: neither media nor target move when what else is wrong is its Contact."""
    peer = up()
    before = peer.alice.session
    two = "<sip:x@203.0.113.7>, <sip:y@203.0.113.8>"
    assert asks(peer, method, body=offer_of(40_000), contact=two).status == 400
    assert peer.alice.session == before
    assert peer.alice.agent.negotiation(peer.call).session == before
    assert peer.alice.agent._desk.calls[peer.call].dialog.target.host == "203.0.113.9"


def test_an_offer_that_was_refused_to_be_made_does_not_stay_open():
    """§12.2.2: a re-INVITE without an offer and with a bad Contact; the next change is taken."""
    peer = up()
    assert asks(peer, "INVITE", contact="<sip:x@a>, <sip:y@b>").status == 400
    assert asks(peer, "INVITE", body=offer_of(40_000)).status == 200
    assert peer.alice.session.rtp[1] == 40_000


@pytest.mark.parametrize("method", ["INVITE", "UPDATE"])
def test_a_change_that_could_not_be_sent_does_not_end_the_call(method):
    """§8.1.3.1: as if by a 503, which RFC 5057 §5.1 has end nothing but the request."""
    has_update = ("Allow", "UPDATE" if method == "UPDATE" else "BYE")
    peer = up(has_update, ("Session-Expires", "600;refresher=uac"))
    if method == "UPDATE":
        peer.world.run(300.2)
    else:
        peer.alice.do("hold", peer.call)
    assert len(peer.heard(method)) == (1 if method == "UPDATE" else 2)
    peer.alice.do("receive_failure", PEER)
    assert peer.alice.all(CallEnded) == []
    refused = [each.status for each in peer.alice.all(ChangeRefused)]
    assert refused == ([] if method == "UPDATE" else [503])


def test_what_a_lost_connection_took_along_goes_by_a_new_one():
    """§18.1.1: a BYE is sent again where there is another way, so that nobody talks to himself."""
    peer = up(hops=(Hop("TCP", PEER.host, 5060, 1),))
    desk = peer.alice.agent._desk
    old = desk.calls[peer.call].dialog.hop
    gone: list[Hop] = []
    desk.mint = replace(desk.mint, locate=lambda uri, hop: NEW if gone else nearest(uri, hop))
    peer.alice.do("hang_up", peer.call)
    gone.append(old)
    peer.alice.do("receive_failure", old)
    first, second = peer.heard("BYE")
    assert second.cseq.number == first.cseq.number + 1
    assert second.top.branch != first.top.branch
    peer.says(200, to=second, hop=NEW)
    assert len(peer.alice.agent) == 0


def test_a_call_that_could_not_be_sent_says_so():
    """§8.1.3.1: 503 and not 408: nobody was asked."""
    peer = Peer()
    peer.alice.do("receive_failure", PEER)
    ended = peer.alice.last(CallEnded)
    assert (ended.status, ended.by_peer, ended.problem) == (503, False, "it could not be sent")


def test_a_bye_answers_what_still_waits():
    """§15.1.2: a REFER that nobody has decided is 487."""
    peer = up()
    peer.alice.hears = peer.alice.told.append
    asks(peer, "REFER", ("refer-to", "<sip:carol@192.0.2.3>"))
    assert peer.alice.all(Referred)
    asks(peer, "BYE")
    answers = [
        (each.cseq.method, each.status)
        for each in peer.world.third[PEER.host]
        if isinstance(each, Response)
    ]
    assert answers[-2:] == [("BYE", 200), ("REFER", 487)]


def test_a_secure_call_is_answered_with_a_secure_contact():
    """§12.1.1: SIPS where the Request-URI is, or the first Record-Route; without transport=tls."""
    tls = Hop("TLS", "198.51.100.9", 5061, 3)
    for asked, way, said in [
        ("sips:bob@192.0.2.2", "", "sips"),
        ("sip:bob@192.0.2.2", "Record-Route: <sips:p.example;lr>", "sips"),
        ("sip:bob@192.0.2.2", "Record-Route: <sip:p.example;lr>", "sip"),
    ]:
        world = World()
        here = Here("192.0.2.2", 5061, parse_uri("sip:b@192.0.2.2:5061;transport=tls"))
        desk = world.bob.agent._desk
        desk.mint = replace(desk.mint, here=lambda _, here=here: here)
        text = words("INVITE", SDP, *([way] if way else []), body=OFFER)
        ask(world, text.replace("sip:bob@192.0.2.2 SIP", f"{asked} SIP"), tls)
        answer = world.third[tls.host][-1]
        (contact,) = answer.addresses("contact")
        assert answer.status == 200
        assert contact.uri.scheme == said
        assert ("transport" in contact.uri.parameters) is (said == "sip")


@pytest.mark.parametrize("route", ["", "sips:p.example;lr"])
def test_a_secure_call_of_ours_has_a_secure_contact(route):
    """§8.1.1.8: SIPS where the Request-URI is, or the top Route."""
    more = {"routes": (Address(parse_uri(route)),)} if route else {}
    world = World()
    target = "sip:x@203.0.113.9" if route else "sips:x@203.0.113.9"
    world.alice.call(target, hops=(Hop("TLS", PEER.host, 5061),), **more)
    invite = world.third[PEER.host][-1]
    assert [each.uri.scheme for each in invite.addresses("contact")] == ["sips"]


# --- RFC 3261 §18.2.2: answers whose connection is gone ------------------------------------------


def asked_over(hop: Hop, method: str, via: str) -> tuple[Transactions, Asked]:
    """A layer with one request."""
    layer = Transactions()
    layer.receive(request(method, via=via), hop, 0.0)
    (asked,) = layer.events()
    return layer, asked


@pytest.mark.parametrize(
    ("via", "port"), [("SIP/2.0/TCP a.example:5070", 5070), ("SIP/2.0/TCP a.example", 5060)]
)
def test_an_answer_whose_connection_is_gone_goes_by_a_new_one(via, port):
    """§18.2.2: to the address it came from and the port of the sent-by."""
    layer, asked = asked_over(TCP, "INVITE", f"{via};branch=z9hG4bKq")
    layer.receive_failure(TCP, 0.1)
    layer.respond(asked.id, build_response(asked.request, 486, tag="b"), 0.2)
    there = Hop("TCP", TCP.host, port)
    assert [each.hop for each in layer.outgoing()] == [there]
    # That one fails, too: the layer goes on waiting for an ACK, and is not sent round in circles.
    layer.receive_failure(there, 0.3)
    assert layer.outgoing() == []


def test_a_failure_that_may_have_got_lost_with_its_connection_is_repeated():
    """§18.2.2: over TCP nothing else would repeat it."""
    layer, asked = asked_over(TCP, "INVITE", "SIP/2.0/TCP a.example;branch=z9hG4bKq")
    layer.respond(asked.id, build_response(asked.request, 486, tag="b"), 0.0)
    (sent,) = layer.outgoing()
    layer.receive_failure(TCP, 0.1)
    (again,) = layer.outgoing()
    assert (again.data, again.hop.connection) == (sent.data, 0)


def test_a_lost_connection_is_looked_up_and_nothing_stays_behind():
    """Whoever is found by hop is forgotten with the last transaction there."""
    layer = Transactions(limits=Limits(transactions=50))
    for number in range(100):
        hop = Hop("TCP", "192.0.2.1", 40_000 + number % 7, 1 + number % 7)
        via = f"SIP/2.0/TCP 192.0.2.1;branch=z9hG4bK{number}"
        layer.receive(request("OPTIONS", via=via, cseq=f"{number} OPTIONS"), hop, 0.0)
        for event in layer.events():
            if isinstance(event, Asked) and number % 3:
                layer.respond(event.id, build_response(event.request, 200, tag="b"), 0.0)
    assert sum(map(len, layer._at.values())) == len(layer)
    layer.receive_failure(Hop("TCP", "192.0.2.1", 40_001, 2), 0.1)
    assert sum(map(len, layer._at.values())) == len(layer)
    while (due := layer.wake_at()) is not None:
        layer.wake(due)
        layer.outgoing()
        layer.events()
    assert (len(layer), layer._at) == (0, {})


def test_a_call_is_known_by_its_call_id_as_long_as_it_lasts():
    """The index is that of the calls, also where both ends are here."""
    world = World()
    a, _ = world.up()
    invite = next(each for each in world.alice.sent if isinstance(each, Request))
    assert world.bob.agent.knows(invite)
    world.alice.do("hang_up", a)
    world.run()
    assert not world.bob.agent.knows(invite)
    assert not world.bob.agent._desk.call_ids
    assert not world.alice.agent._desk.call_ids


# --- RFC 4320 -------------------------------------------------------------------------------------


@pytest.mark.parametrize("hop", [Hop("UDP", "192.0.2.1", 5066), TCP])
def test_who_waits_for_anything_but_an_invite_is_told_so_once_it_repeats_slowly(hop):
    """§4.1: a 100 when Timer E has come to T2, 3.5 s, and not before."""
    layer, asked = asked_over(hop, "REFER", "SIP/2.0/UDP 192.0.2.1:5066;branch=z9hG4bKq")
    layer.wake(3.49)
    assert layer.outgoing() == []
    layer.wake(3.51)
    assert [parse_message(each.data).status for each in layer.outgoing()] == [100]
    assert layer.respond(asked.id, build_response(asked.request, 202, tag="b"), 4.0)


@pytest.mark.parametrize(("t1", "late"), [(0.5, 3.5), (1.0, 3.0), (4.0, 0.0)])
def test_when_a_request_is_late_follows_from_t1(t1, late):
    """§4.1, with the pauses of Timer E: T1, 2*T1 … until the next would be T2."""
    assert Timers(t1=t1).late == late


# --- RFC 3262, RFC 6141: re-INVITE ----------------------------------------------------------------


def changing() -> tuple[Peer, Request]:
    """A call in which alice has just offered to hold; her re-INVITE."""
    peer = up(call_terms=CallTerms())
    peer.alice.do("hold", peer.call)
    return peer, peer.heard("INVITE")[-1]


def reliably(peer: Peer, status: int, rseq: int, to: Request, body: str = "") -> None:
    """A reliable provisional answer."""
    peer.says(status, ("Require", "100rel"), ("RSeq", rseq), to=to, body=body)


def test_a_reliable_answer_to_a_change_is_acknowledged_and_may_settle_it():
    """RFC 3262 §4, RFC 6141 §3.3: each once and in order; the 200 then says no more."""
    peer, invite = changing()
    answer = peer.described(30_002)
    reliably(peer, 183, 9, invite, answer)
    reliably(peer, 183, 9, invite, answer)
    reliably(peer, 180, 11, invite)
    reliably(peer, 180, 10, invite)
    assert [each.first("rack") for each in peer.heard("PRACK")] == ["9 2 INVITE", "10 2 INVITE"]
    assert peer.alice.session.held_by_us
    assert peer.alice.session.rtp[1] == 30_002
    peer.says(200, to=invite)
    assert peer.alice.all(ChangeRefused) == []
    assert peer.alice.agent.negotiation(peer.call).session.rtp[1] == 30_002


def test_a_change_that_is_refused_after_all_takes_everything_back():
    """RFC 6141 §3.4: what a reliable 183 had settled never was."""
    peer, invite = changing()
    before = peer.alice.session
    reliably(peer, 183, 9, invite, peer.described(30_002))
    peer.says(488, to=invite)
    assert peer.alice.session == before
    assert peer.alice.agent.negotiation(peer.call).session == before
    assert [each.status for each in peer.alice.all(ChangeRefused)] == [488]


@pytest.mark.parametrize("fields", [(("RSeq", "x"),), (("RSeq", "3"), ("Content-Type", "a"))])
def test_a_provisional_answer_to_a_change_that_cannot_be_read_is_passed_over(fields):
    """What it says badly the final one says well."""
    peer, invite = changing()
    peer.says(183, ("Require", "100rel"), *fields, to=invite)
    peer.says(183, to=invite, body=peer.described())
    peer.says(200, to=invite, body=peer.described(30_004))
    assert peer.alice.session.rtp[1] == 30_004


def test_a_first_reliable_answer_makes_the_offer_that_the_call_did_not_bring():
    """RFC 3262 §5: ringing without one is our own mistake, and nothing is sent."""
    world = World()
    world.bob.answers = False
    late(world, "Require: 100rel\n")
    call = world.bob.last(Invited).call
    with pytest.raises(LocalError):
        world.bob.agent.ring(call, world.now)
    world.bob.do("ring", call, negotiation=world.bob.negotiation())
    assert world.third[PEER.host][-1].body


# --- RFC 3311 -------------------------------------------------------------------------------------


def test_an_update_that_crosses_our_offer_in_a_183_is_put_off():
    """§5.2: the offer that is open is ours, so it is 491 and not 500."""
    world = World()
    world.bob.answers = False
    late(world, "Supported: 100rel\n")
    world.bob.do(
        "ring", world.bob.last(Invited).call, status=183, negotiation=world.bob.negotiation()
    )
    rung = world.third[PEER.host][-1]
    assert rung.body
    update = parse_message(late_text("UPDATE", rung.to.tag))
    update.put_body(OFFER.encode(), "application/sdp")
    world.bob.agent.receive(bytes(update), PEER, world.now)
    world.flush()
    assert world.third[PEER.host][-1].status == 491


def late_text(method: str, tag: str) -> bytes:
    """A request in the call that `late` began."""
    text = LATE.format("").replace("INVITE", method).replace("bKlate", f"bK{method}")
    text = text.replace("CSeq: 7 ", "CSeq: 8 ")
    return (
        text.replace("To: <sip:bob@192.0.2.2>", f"To: <sip:bob@192.0.2.2>;tag={tag}")
        .replace("\n", "\r\n")
        .encode()
    )


# --- RFC 4028 -------------------------------------------------------------------------------------


def test_every_request_says_that_we_can_do_session_timers():
    """§7.1: Supported with `timer` in each but ACK."""
    peer = up(("Allow", "UPDATE"))
    peer.alice.do("refer", peer.call, parse_uri("sip:carol@192.0.2.3"))
    peer.alice.do("hang_up", peer.call)
    for method in ("INVITE", "REFER", "BYE"):
        assert "timer" in peer.heard(method)[-1].words("supported")
    assert "supported" not in peer.heard("ACK")[-1].fields


# --- RFC 3515, RFC 4488, RFC 6665 -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "goes_on"), [(481, False), (405, False), (489, False), (500, True), (403, True)]
)
def test_answers_to_a_report_that_end_the_reports(status, goes_on):
    """RFC 6665 §4.2.2: some statuses say that nobody wants them, a 500 says nothing of the kind."""
    peer = up()
    asks(peer, "REFER", ("refer-to", "<sip:carol@192.0.2.3>"))
    reference = peer.alice.last(Referred).reference
    peer.says(status, to=peer.heard("NOTIFY")[-1])
    peer.alice.do("report_refer", peer.call, reference, 180)
    assert len(peer.heard("NOTIFY")) == (2 if goes_on else 1)


def test_who_wants_no_reports_may_say_so_with_parameters():
    """RFC 4488 §4: Refer-Sub is a word with parameters."""
    peer = up()
    answer = asks(
        peer,
        "REFER",
        ("refer-to", "<sip:carol@192.0.2.3>"),
        ("refer-sub", "false;because=i-say-so"),
    )
    assert (answer.status, answer.first("refer-sub")) == (202, "false")
    assert peer.heard("NOTIFY") == []


# --- RFC 3891 -------------------------------------------------------------------------------------


def test_a_replaces_beside_a_join_is_a_contradiction():
    """§3: 400, and nothing ends."""
    world = World()
    world.up()
    dialog = world.bob.agent._desk.calls[world.bob.calls[0]].dialog
    named = f"{dialog.call_id};to-tag={dialog.local.tag};from-tag={dialog.remote.tag}"
    answers = ask(world, words("INVITE", SDP, f"Replaces: {named}", f"Join: {named}", body=OFFER))
    assert [each.status for each in answers] == [400]
    assert world.bob.all(CallEnded) == []
