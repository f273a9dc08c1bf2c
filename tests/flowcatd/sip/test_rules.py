"""Rules of the RFCs one by one, each named by its paragraph: what a careless user agent gets wrong."""

from __future__ import annotations

from functools import partial

import pytest

from flowcatd.sip.agent_event import (
    CallEnded,
    Cause,
    ChangeRefused,
    Connected,
    Invited,
    Redirected,
    ReferProgress,
    Referred,
    Terms,
)
from flowcatd.sip.body import sdp_of
from flowcatd.sip.event import Asked, Hop, Limits
from flowcatd.sip.message import Request, Response, build_response, parse_message
from flowcatd.sip.transaction import Transactions
from flowcatd.sip.uri import parse_uri
from tests.flowcatd.sip.pair import World
from tests.flowcatd.sip.test_agent import STRANGER, ask, words
from tests.flowcatd.sip.test_invite import SECOND, Peer, late, within
from tests.flowcatd.sip.torture import Case, cases, request

UDP = Hop("UDP", "192.0.2.1", 5066)
SDP = "Content-Type: application/sdp"
OFFER = Peer().heard("INVITE")[-1].body.decode()


def replies(world: World) -> list[Response]:
    """What bob answered to the stranger."""
    return [each for each in world.third.get(STRANGER.host, []) if isinstance(each, Response)]


# --- RFC 4475 and RFC 5118, seen from outside -----------------------------------------------------


def outcome(case: Case) -> str:
    """What a user agent does with a message of the corpus: a status, invited, or nothing."""
    world = World()
    world.bob.answers = False
    world.bob.agent.receive(case.data, STRANGER, 0.0)
    sent = [parse_status(each.data) for each in world.bob.agent.outgoing()]
    told = [each for each in world.bob.agent.events() if isinstance(each, Invited)]
    return "invited" if told else (sent[-1] if sent else "nothing")


def parse_status(data: bytes) -> str:
    """The status of an answer, however odd the request that it copies."""
    return data.split(b" ", 2)[1].decode()


@pytest.mark.parametrize("case", cases(), ids=lambda each: each.name)
def test_the_user_agent_does_with_every_torture_message_what_its_rfc_says(case: Case):
    """Beside each message stands what goes over the wire for it, and why that is what the RFC says."""
    assert outcome(case) == case.wire


def test_every_status_of_a_verdict_goes_over_the_wire():
    """What is wrong in its form is told so, unless it is refused for more, or there is nobody to tell."""
    told = {each.name for each in cases() if each.verdict.isdigit() and each.wire != each.verdict}
    assert told == {"regbadct", "test"}


# --- RFC 3261 -------------------------------------------------------------------------------------


def test_an_invitation_expires_when_the_caller_says():
    """§13.3.1: 487 after the seconds of its Expires, not a second earlier."""
    world = World()
    world.bob.answers = False
    ask(world, words("INVITE", "Expires: 20", SDP, body=OFFER))
    world.run(19.0)
    assert [each.status for each in replies(world)] == [100]
    world.run(1.5)
    assert replies(world)[-1].status == 487
    assert world.bob.last(CallEnded).problem == "the invitation expired"


def test_who_rings_for_long_says_so_every_minute():
    """§13.3.1.1: or a proxy cancels after three."""
    world = World()
    world.bob.answers = False
    ask(world, words("INVITE", SDP, body=OFFER))
    world.bob.do("ring", world.bob.last(Invited).call)
    world.run(150.0)
    assert [each.status for each in replies(world)] == [180, 180, 180]


def test_a_redirection_to_where_we_have_been_is_not_followed():
    """§8.1.3.4: circles end with the redirection's own status."""
    peer = Peer(Terms(redirects=5))
    peer.says(302, ("Contact", "<sip:two@b.example>, <sip:peer@203.0.113.9>"))
    (there,) = peer.alice.last(Redirected).contacts
    assert there.user == "two"
    peer.alice.do("follow", peer.call, there, (SECOND,))
    peer.says(302, ("Contact", "<sip:peer@203.0.113.9>, <sip:two@b.example>"), hop=SECOND)
    assert len(peer.alice.all(Redirected)) == 1
    assert peer.alice.last(CallEnded).status == 302


def test_a_redirection_goes_on_with_the_same_call():
    """§8.1.3.4: To, From with its tag and Call-ID as they were, CSeq higher, another branch."""
    peer = Peer()
    first = peer.heard("INVITE")[-1]
    peer.says(301, ("Contact", "<sip:two@b.example?Subject=x>"))
    peer.alice.do("follow", peer.call, peer.alice.last(Redirected).contacts[0], (SECOND,))
    second = peer.heard("INVITE", SECOND)[-1]
    assert (str(second.from_), str(second.to), second.call_id) == (
        str(first.from_),
        str(first.to),
        first.call_id,
    )
    assert (second.cseq.number, str(second.uri)) == (2, "sip:two@b.example")
    assert second.top.branch != first.top.branch
    assert second.first("subject") is None


def test_a_caller_of_rfc_2543_is_reached_where_its_from_says():
    """RFC 4475 §3.4.1: no Contact, no tag, no branch; it is answered, and hung up, all the same."""
    world = World()
    text = words("INVITE", SDP, body=OFFER).replace(";branch=z9hG4bK1", "").replace(";tag=x", "")
    ask(world, text.replace("Contact: <sip:x@198.51.100.9>\n", ""))
    answer = replies(world)[-1]
    assert answer.status == 200
    ack = words("ACK", to_tag=answer.to.tag).replace(";branch=z9hG4bK1", "").replace(";tag=x", "")
    ask(world, ack)
    assert world.bob.all(Connected)
    world.bob.do("hang_up", world.bob.calls[-1])
    bye = world.third[STRANGER.host][-1]
    assert (bye.method, bye.uri.user, bye.to.tag) == ("BYE", "x", "")


@pytest.mark.parametrize("method", ["BYE", "INVITE", "UPDATE", "INFO", "REFER", "PRACK", "NOTIFY"])
@pytest.mark.parametrize("wrong", ["to", "from", "call_id"])
def test_a_request_with_one_wrong_name_of_a_dialog_changes_nothing(method, wrong):
    """§12.2.2: 481, and neither an event nor another message follows."""
    world = World()
    _, b = world.up()
    dialog = world.bob.agent._desk.calls[b].dialog
    named = {"to": dialog.local.tag, "from": dialog.remote.tag, "call_id": dialog.call_id}
    named[wrong] += "x"
    text = words(method, "RAck: 1 1 INVITE", "Event: refer", to_tag=named["to"])
    text = text.replace("tag=x", f"tag={named['from']}").replace("stranger", named["call_id"])
    world.bob.told.clear()
    before = len(world.bob.sent)
    assert [each.status for each in ask(world, text)] == [481]
    world.run(100.0)
    assert world.bob.told == []
    assert [each for each in world.bob.sent[before:] if isinstance(each, Request)] == []


def test_a_request_from_elsewhere_does_not_move_the_call():
    """A spoofed INFO with leaked tags is heard, but what we say goes where the dialog says (§12.2)."""
    world = World()
    _, b = world.up()
    dialog = world.bob.agent._desk.calls[b].dialog
    text = words("INFO", to_tag=dialog.local.tag).replace("stranger", dialog.call_id)
    ask(
        world, text.replace("tag=x", f"tag={dialog.remote.tag}").replace("Contact: ", "X-Contact: ")
    )
    world.bob.do("hang_up", b)
    world.run(2.0)
    assert [each.status for each in world.alice.all(CallEnded)] == [200]
    assert [each for each in world.third[STRANGER.host] if isinstance(each, Request)] == []


# --- RFC 3326 -------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_heard", [True, False])
def test_a_cancel_says_why(is_heard):
    """§2: also one that had to wait for the first provisional answer."""
    peer = Peer()
    why = Cause("SIP", 200, "Call completed elsewhere")
    if is_heard:
        peer.says(180)
    peer.alice.do("hang_up", peer.call, cause=why)
    if not is_heard:
        peer.says(100, tag="")
    (cancel,) = peer.heard("CANCEL")
    assert cancel.first("reason") == str(why)


# --- RFC 4028 -------------------------------------------------------------------------------------


def test_a_min_se_of_theirs_holds_for_our_refreshes():
    """§7.4: the largest that was heard in the dialog goes with each refresh."""
    world = World()
    ask(
        world,
        words(
            *("INVITE", SDP, "Supported: timer", "Min-SE: 300"),
            "Session-Expires: 600;refresher=uas",
            body=OFFER,
        ),
    )
    ask(world, words("ACK", to_tag=replies(world)[-1].to.tag, branch="2"))
    world.run(301.0)
    refresh = world.third[STRANGER.host][-1]
    assert refresh.valued("session-expires").value == "600"
    assert refresh.number("min-se") == 300


def test_a_refused_refresh_is_tried_again_until_the_session_ends():
    """§10: what holds meanwhile holds on; the BYE comes a third of the interval, 32 s at most, early."""
    peer = Peer(Terms(session_seconds=600))
    peer.says(
        200, ("Session-Expires", "600;refresher=uac"), ("Allow", "UPDATE"), body=peer.described()
    )
    peer.world.run(301.0)
    peer.says(503, to=peer.heard("UPDATE")[-1])
    answered = 1
    while not peer.alice.all(CallEnded):
        peer.world.run(1.0)
        for again in peer.heard("INVITE")[answered:]:
            peer.says(500, to=again)
            answered += 1
    assert 2 < len({each.cseq.number for each in peer.heard("INVITE")}) < 9
    assert peer.alice.all(ChangeRefused) == []
    ended = peer.alice.last(CallEnded)
    assert (ended.status, ended.problem) == (408, "the session was not refreshed")
    assert peer.world.now == pytest.approx(568.0, abs=2.0)


def test_a_refresh_that_works_the_second_time_keeps_the_call():
    """One refusal is no reason to hang up."""
    peer = Peer(Terms(session_seconds=600))
    peer.says(200, ("Session-Expires", "600;refresher=uac"), body=peer.described())
    peer.world.run(301.0)
    peer.says(503, to=peer.heard("INVITE")[-1])
    peer.world.run(140.0)
    again = peer.heard("INVITE")[-1]
    peer.says(200, ("Session-Expires", "600;refresher=uac"), to=again, body=peer.described())
    peer.world.run(290.0)
    assert not peer.alice.all(CallEnded)


# --- RFC 3311 -------------------------------------------------------------------------------------


def early_update(world: World, *fields: str, body: str = "") -> Response:
    """An UPDATE of the stranger's while bob rings."""
    tag = replies(world)[-1].to.tag
    kind = (SDP,) if body else ()
    text = words("UPDATE", *fields, *kind, to_tag=tag, branch="u", body=body)
    ask(world, text.replace("CSeq: 7", "CSeq: 8"))
    return replies(world)[-1]


def test_an_update_before_the_answer_that_offers_nothing_is_taken():
    """§5.2: there is no offer that it could cross."""
    world = World()
    world.bob.answers = False
    ask(world, words("INVITE", SDP, body=OFFER))
    world.bob.do("ring", world.bob.last(Invited).call)
    assert early_update(world).status == 200


def test_an_update_whose_offer_overtakes_our_answer_is_too_early():
    """§5.2: 500 with a Retry-After up to 10 s."""
    world = World()
    world.bob.answers = False
    ask(world, words("INVITE", SDP, body=OFFER))
    world.bob.do("ring", world.bob.last(Invited).call)
    answer = early_update(world, body=OFFER)
    assert answer.status == 500
    assert 0 <= answer.number("retry-after") <= 10


def test_an_update_that_crosses_our_offer_is_put_off():
    """§5.2: 491 while our own offer is open."""
    world = World()
    world.up()
    world.bob.agent.hold(world.bob.calls[0], world.now)
    offer = world.alice.agent.negotiation(world.alice.calls[0]).refresh()
    assert within(world, "UPDATE", "application/sdp", offer.encode()).status == 491


# --- RFC 3891 -------------------------------------------------------------------------------------


def test_a_replaces_is_one_and_in_an_invite():
    """§3, §4: two of them, or one in another method, are a bad request."""
    twice = "Replaces: a;to-tag=b;from-tag=c"
    assert ask(World(), words("INVITE", twice, twice))[-1].status == 400
    assert ask(World(), words("OPTIONS", twice))[-1].status == 400


@pytest.mark.parametrize("change", ["call_id", "to-tag", "from-tag", "swapped"])
def test_a_replaces_names_a_dialog_exactly(change):
    """§3: its to-tag is our local one; what matches nothing is 481, and nothing ends."""
    world = World()
    world.up()
    dialog = world.bob.agent._desk.calls[world.bob.calls[0]].dialog
    named = [dialog.call_id, dialog.local.tag, dialog.remote.tag]
    if change == "swapped":
        named[1:] = named[:0:-1]
    else:
        named[["call_id", "to-tag", "from-tag"].index(change)] += "x"
    answers = late(world, f"Replaces: {named[0]};to-tag={named[1]};from-tag={named[2]}\n")
    assert [each.status for each in answers] == [481]
    assert world.bob.all(CallEnded) == []


def test_a_call_that_rings_here_cannot_be_replaced_by_a_third():
    """§3: an early dialog that the other side began is 481."""
    world = World()
    world.bob.answers = False
    world.alice.call()
    world.run(1.0)
    world.bob.do("ring", world.bob.calls[0])
    dialog = world.bob.agent._desk.calls[world.bob.calls[0]].dialog
    tags = f"to-tag={dialog.local.tag};from-tag={dialog.remote.tag}"
    assert late(world, f"Replaces: {dialog.call_id};{tags}\n")[-1].status == 481


def test_a_call_of_ours_that_rings_is_replaced_and_cancelled():
    """§3: an early dialog that we began is taken over; the old INVITE gets a CANCEL."""
    peer = Peer()
    peer.says(180)
    world = peer.world
    (early,) = world.alice.agent._desk.calls[peer.call].asking.early.values()
    key = early.dialog.key
    tags = f"to-tag={key.local_tag};from-tag={key.remote_tag};early-only"
    text = words("INVITE", SDP, f"Replaces: {key.call_id};{tags}", body=OFFER)
    world.alice.agent.receive(text.replace("\n", "\r\n").encode(), STRANGER, world.now)
    world.flush()
    assert world.alice.last(Invited).replaces == peer.call
    assert len(peer.heard("CANCEL")) == 1


# --- RFC 3515, RFC 6665 ---------------------------------------------------------------------------


def referred() -> tuple[World, int]:
    """Alice has asked bob to call carol; both, and the number of the reference."""
    world = World()
    a, _ = world.up()
    world.alice.do("refer", a, parse_uri("sip:carol@192.0.2.3"))
    world.run(1.0)
    return world, world.bob.last(Referred).reference


def test_a_refer_to_two_places_is_refused():
    """RFC 3515 §2.4.2: exactly one Refer-To."""
    world = World()
    world.up()
    call = world.alice.agent._desk.calls[world.alice.calls[0]]
    asked, _ = world.alice.agent._desk.compose(call, call.dialog, "REFER")
    asked.put("refer-to", "<sip:a@192.0.2.3>", "<sip:b@192.0.2.3>")
    world.bob.agent.receive(bytes(asked), world.alice.hop, world.now)
    world.flush()
    assert world.bob.sent[-1].status == 400
    assert world.bob.all(Referred) == []


@pytest.mark.parametrize("body", [b"", b"SIP/2.0 100 Trying\r\n"])
def test_a_subscription_that_ends_without_a_result_is_a_failure(body):
    """RFC 6665 §4.2.2: nobody will say any more what became of it."""
    world, reference = referred()
    call = world.bob.agent._desk.calls[world.bob.calls[0]]
    told, _ = world.bob.agent._desk.compose(call, call.dialog, "NOTIFY")
    told.put("event", f"refer;id={reference}")
    told.put("subscription-state", "terminated;reason=giveup")
    if body:
        told.put_body(body, "message/sipfrag")
    world.alice.agent.receive(bytes(told), world.bob.hop, world.now)
    world.flush()
    assert world.alice.sent[-1].status == 200
    assert world.alice.last(ReferProgress).status == 408


def test_who_forgot_its_subscription_is_told_no_more():
    """RFC 6665 §4.2.2: 481 to a NOTIFY ends the reports; the call goes on."""
    world, reference = referred()
    world.alice.agent._desk.calls[world.alice.calls[0]].transfers.clear()
    report = partial(world.bob.do, "report_refer", world.bob.calls[0], reference)
    report(180)
    world.run(1.0)
    before = world.bob.words().count("NOTIFY")
    report(200)
    world.run(1.0)
    assert world.bob.words().count("NOTIFY") == before
    assert world.ends() == []


# --- RFC 5621 -------------------------------------------------------------------------------------

INNER = (
    b"--in\r\nContent-Type: text/plain\r\n\r\nContent-Type: application/sdp\r\n"
    b"--in\r\nContent-Type: application/sdp\r\nContent-Disposition: early-session\r\n\r\nv=9\r\n"
    b"--in\r\nContent-Type: Application/SDP;\r\n version=1\r\n\r\nv=0\r\ns=-\r\n--in--\r\n"
)
OUTER = (
    b"a preamble that mentions application/sdp\r\n"
    b"--out\r\nContent-Type: application/isup\r\n\r\n\x01\x02\r\n"
    b'--out\r\nContent-Type: multipart/alternative; boundary="in"\r\n\r\n' + INNER + b"--out--\r\n"
    b"--out\r\nContent-Type: application/sdp\r\n\r\nbehind the end\r\n"
)


def test_a_description_is_found_within_parts_of_parts():
    """§3.1: the one about the session, by its own fields, however deep; words elsewhere are no fields."""
    message = parse_message(words("INVITE").replace("\n", "\r\n").encode())
    message.put_body(OUTER, "multipart/mixed;boundary=out")
    assert sdp_of(message) == b"v=0\r\ns=-\r\n"
    message.put_body(
        OUTER.replace(b"Application/SDP", b"application/sdq"), "multipart/mixed;boundary=out"
    )
    assert sdp_of(message) is None


def test_a_call_with_a_description_among_parts_is_answered():
    """A carrier's SIP-I or PIDF-LO beside the offer takes nothing from it."""
    world = World()
    body = f"--b\nContent-Type: application/pidf+xml\n\n<x/>\n--b\n{SDP}\n\n{OFFER}\n--b--\n"
    body = body.replace("\r\n", "\n").replace("\n", "\r\n")
    head = words("INVITE", "Content-Type: multipart/mixed;boundary=b")
    head = head.replace("Content-Length: 0", f"Content-Length: {len(body)}").replace("\n", "\r\n")
    world.bob.agent.receive((head + body).encode(), STRANGER, world.now)
    world.flush()
    answer = replies(world)[-1]
    assert (answer.status, bool(answer.body)) == (200, True)
    assert world.bob.session.rtp is not None


# --- memory ---------------------------------------------------------------------------------------


def test_a_flood_of_long_messages_takes_no_more_than_its_bytes():
    """64 KB each: finished ones go first, then comes 503; all is given back in the end."""
    layer = Transactions(limits=Limits(kept_bytes=1 << 20))
    statuses = set()
    for number in range(200):
        via = f"SIP/2.0/UDP 192.0.2.1:5066;branch=z9hG4bKf{number}"
        long = request("INVITE", body=b"x" * 60_000, via=via, cseq=f"{number} INVITE")
        layer.receive(long, UDP, number / 1000)
        for event in layer.events():
            if isinstance(event, Asked) and number < 100:
                layer.respond(event.id, build_response(event.request, 486), number / 1000)
        statuses |= {parse_status(each.data) for each in layer.outgoing()}
        assert layer.kept_bytes <= 1 << 20
    assert statuses == {"486", "503"}
    while (due := layer.wake_at()) is not None:
        layer.wake(due)
        layer.events()
        layer.outgoing()
    assert layer.kept_bytes == sum(each.size for each in layer._all.values())


def test_an_ordinary_flood_meets_the_limit_of_number_first():
    """20,000 INVITEs of the usual size fit into the bytes."""
    limits = Limits()
    layer = Transactions(limits=limits)
    layer.receive(request("INVITE", body=OFFER.encode()), UDP, 0.0)
    assert layer.kept_bytes * limits.transactions < limits.kept_bytes
