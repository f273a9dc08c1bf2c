"""The rarer turns of a call: no room, badly written answers, wishes out of season."""

from __future__ import annotations

import pytest

from flowcatd.errors import CapacityError, LocalError
from flowcatd.sip.agent import UserAgent
from flowcatd.sip.agent_event import (
    CallEnded,
    CallTerms,
    ChangeRefused,
    Connected,
    Invited,
    Redirected,
    Referred,
    Terms,
)
from flowcatd.sip.body import Digit, sdp_of
from flowcatd.sip.digest import Answerer, Secret
from flowcatd.sip.event import Limits
from flowcatd.sip.header import parse_address
from flowcatd.sip.incoming import PROMISES_MAX
from flowcatd.sip.message import parse_message
from flowcatd.sip.outgoing import STRAYS_MAX
from flowcatd.sip.trouble import SipError
from flowcatd.sip.uri import parse_uri
from tests.flowcatd.sip.pair import World
from tests.flowcatd.sip.test_agent import STRANGER, ask, words
from tests.flowcatd.sip.test_exchange import prack
from tests.flowcatd.sip.test_invite import PEER, SECOND, Peer, acknowledge, late, offered, within

SDP = "Content-Type: application/sdp"
OFFER = Peer().heard("INVITE")[-1].body.decode()
EXPIRES = ("Session-Expires", "600;refresher=uac")


def ringing(*fields: str) -> tuple[World, int]:
    """A stranger's call that waits for bob; its number."""
    world = World()
    world.bob.answers = False
    ask(world, words("INVITE", SDP, *fields, body=OFFER))
    return world, world.bob.last(Invited).call


# --- calls of ours


def test_a_call_without_an_address_is_our_own_mistake():
    """To begin with, and after a redirection."""
    with pytest.raises(LocalError):
        Peer(hops=())
    peer = Peer()
    with pytest.raises(LocalError):
        peer.alice.agent.follow(peer.call, parse_uri("sip:x@b.example"), (SECOND,), 0.0)
    peer.says(302, ("Contact", "<sip:x@b.example>"))
    with pytest.raises(LocalError):
        peer.alice.agent.follow(peer.call, parse_uri("sip:x@b.example"), (), 0.0)


def test_an_outbound_proxy_is_a_route():
    """It stands in the first INVITE, before any Record-Route."""
    proxy = parse_address("<sip:proxy.example;lr>")
    assert Peer(routes=(proxy,)).heard("INVITE")[-1].first("route") == str(proxy)


def test_a_call_is_hung_up_while_a_redirection_waits():
    """There is nothing to cancel: it ends at once."""
    peer = Peer()
    peer.says(302, ("Contact", "<sip:x@b.example>"))
    assert peer.alice.all(Redirected)
    peer.alice.do("hang_up", peer.call)
    assert peer.alice.last(CallEnded).status == 487
    assert peer.heard("CANCEL") == []


@pytest.mark.parametrize(
    ("status", "fields"),
    [
        (302, [("Contact", "<")]),
        (422, [("Min-SE", "soon")]),
        (401, [("WWW-Authenticate", 'Digest realm="')]),
        (407, []),
    ],
)
def test_an_answer_that_wants_more_and_says_it_badly_is_the_last(status, fields):
    """The call ends with its status; nothing is tried blindly."""
    peer = Peer(answerer=Answerer(Secret("alice", "secret"), lambda: "c"))
    peer.says(status, *fields)
    assert peer.alice.last(CallEnded).status == status
    assert len(peer.heard("INVITE")) == 1


def test_a_ringing_answer_with_an_unreadable_contact_is_passed_over():
    """The 200 counts."""
    peer = Peer()
    peer.says(180, ("Contact", "<"))
    peer.says(200, body=peer.described())
    assert peer.alice.all(Connected)


def test_a_timer_that_cannot_be_read_is_none():
    """The call is up without one."""
    peer = Peer()
    peer.says(200, ("Session-Expires", "soon"), body=peer.described())
    assert peer.alice.all(Connected)
    peer.world.run(4000.0)
    assert not peer.alice.all(CallEnded)


def test_so_many_forks_that_answer_too_are_dismissed():
    """The ones beyond the limit are left to their own time-outs."""
    peer = Peer()
    peer.says(200, body=peer.described())
    for number in range(STRAYS_MAX + 3):
        peer.says(200, tag=f"fork{number}", body=peer.described())
    assert len(peer.heard("BYE")) == STRAYS_MAX


def test_without_room_for_a_transaction_a_request_fails_as_if_nobody_answered():
    """A new call raises nothing, a hold is refused, and a BYE ends the call all the same."""
    world = World()
    world.alice.agent = UserAgent(world.alice.mint, Terms(), limits=Limits(transactions=1))
    world.up()
    number = world.alice.calls[-1]
    world.alice.agent._desk.transactions._limits = Limits(transactions=0)
    world.alice.do("hang_up", number)
    world.run(1.0)
    assert len(world.alice.agent) == 0
    world.alice.call()
    world.run(1.0)
    assert world.alice.all(CallEnded)[-1].status == 408


# --- calls that come in


def test_reliable_answers_that_nobody_acknowledges_are_bounded():
    """A user who rings on and on is told."""
    world, call = ringing("Require: 100rel")
    for _ in range(PROMISES_MAX):
        world.bob.do("ring", call)
    with pytest.raises(LocalError):
        world.bob.do("ring", call)
    world.bob.answers = True
    _, b = world.up()
    with pytest.raises(LocalError):
        world.bob.agent.ring(b, world.now)


def test_reliable_answers_wait_for_each_other():
    """RFC 3262 §3: the second goes out when the first was acknowledged."""
    world = World()
    world.bob.answers = False
    late(world, "Require: 100rel\n", offered())
    number = world.bob.calls[0]
    world.bob.do("ring", number)
    world.bob.do("ring", number, status=182)
    rings = [each.status for each in world.third[PEER.host]]
    assert rings == [180]
    prack(world, world.third[PEER.host][-1], "")
    assert [each.status for each in world.third[PEER.host]][-2:] == [200, 182]


def test_an_offer_in_a_prack_is_answered_in_its_200():
    """RFC 3262 §5; one that is none is refused, and the reliable answer stays unacknowledged."""
    world, call = ringing("Supported: 100rel")
    world.bob.agent.ring(call, world.now, 183, world.bob.negotiation())
    world.flush()
    ring = world.third[STRANGER.host][-1]

    def say(body: str, number: int) -> int:
        text = words(
            "PRACK", SDP, f"RAck: {ring.first('rseq')} 7 INVITE", to_tag=ring.to.tag, body=body
        )
        ask(world, text.replace("CSeq: 7 ", f"CSeq: {number} ").replace("bK1", f"bK{number}"))
        return world.third[STRANGER.host][-1]

    assert say("v=1", 8).status == 400
    answer = say(OFFER.replace(" 10000 ", " 20000 "), 9)
    assert (answer.status, bool(answer.body)) == (200, True)
    assert world.bob.session.rtp[1] == 20_000


def test_an_offer_of_ours_that_a_prack_leaves_unanswered_is_the_end():
    """RFC 3262 §5: 488, when the user wants to answer."""
    world = World()
    world.bob.answers = False
    late(world, "Supported: 100rel\n")
    number, ours = world.bob.calls[0], world.bob.negotiation()
    world.bob.agent.ring(number, world.now, 183, ours)
    world.flush()
    prack(world, world.third[PEER.host][-1], "")
    world.bob.do("answer", number, ours)
    assert world.bob.last(CallEnded).problem == "no answer in the PRACK"


def test_an_unusable_answer_in_an_ack_ends_the_call():
    """BYE, with the reason in our words."""
    world = World()
    acknowledge(world, late(world)[-1], "v=1")
    assert world.bob.last(CallEnded).status == 488


def test_a_call_is_answered_once():
    """Twice is the user's mistake, and changes nothing."""
    world = World()
    _, b = world.up()
    with pytest.raises(LocalError):
        world.bob.agent.answer(b, world.bob.negotiation(), world.now, CallTerms())
    with pytest.raises(LocalError):
        world.bob.agent.reject(b, 486, world.now)
    assert world.ends() == []


def test_a_call_that_ended_cannot_be_replaced():
    """RFC 3891 §3: 603 while it is being hung up."""
    world = World()
    _, b = world.up()
    dialog = world.bob.agent._desk.calls[b].dialog
    world.loss = 1.0
    world.bob.do("hang_up", b)
    world.loss = 0.0
    tags = f"to-tag={dialog.local.tag};from-tag={dialog.remote.tag}"
    assert late(world, f"Replaces: {dialog.call_id};{tags}\n")[-1].status == 603


@pytest.mark.parametrize("reason", ["Q.850", "Q.850;cause=many", "Q.850;cause=", '"'])
def test_a_reason_that_is_none_is_none(reason):
    """The BYE counts all the same."""
    world = World()
    world.up()
    call = world.alice.agent._desk.calls[world.alice.calls[0]]
    request, _ = world.alice.agent._desk.compose(call, call.dialog, "BYE")
    request.put("reason", reason)
    world.bob.agent.receive(bytes(request), world.alice.hop, world.now)
    world.flush()
    assert world.bob.last(CallEnded).cause is None


# --- during a call


def test_an_info_out_of_season_is_our_own_mistake():
    """No call that is up, or no such type."""
    world = World()
    _, b = world.up()
    with pytest.raises(LocalError):
        world.bob.agent.send_digit(b, Digit("1", 100), world.now, "text/plain")
    with pytest.raises(LocalError):
        world.bob.agent.hold(99, world.now)


def test_new_addresses_of_ours_are_offered():
    """`re_offer`: another port, the same session."""
    world = World()
    a, _ = world.up()
    mine = world.alice.agent.negotiation(a)
    mine.local = type(mine.local)(mine.local.host, 30_000)
    world.alice.do("re_offer", a)
    world.run(1.0)
    assert world.bob.session.rtp[1] == 30_000


def test_a_refresh_waits_for_a_change_that_is_under_way():
    """Two INVITEs of one side never overlap (§14.1)."""
    peer = Peer(Terms(session_seconds=600))
    peer.says(200, EXPIRES, body=peer.described())
    peer.world.run(299.0)
    peer.alice.do("hold", peer.call)
    peer.says(100, tag="", to=peer.heard("INVITE")[-1])
    peer.world.run(3.0)
    assert peer.heard("INVITE")[-1].cseq.number == 2
    peer.says(488, to=peer.heard("INVITE")[-1])
    peer.world.run(5.0)
    assert peer.alice.all(ChangeRefused)
    assert peer.heard("INVITE")[-1].cseq.number == 3


@pytest.mark.parametrize(
    ("status", "fields", "body"),
    [(200, [("Session-Expires", "x")], "v=1"), (422, [("Min-SE", "x")], "")],
)
def test_a_change_answered_with_rubbish_is_refused(status, fields, body):
    """What was agreed holds on."""
    peer = Peer()
    peer.says(200, EXPIRES, body=peer.described())
    before = peer.alice.session
    peer.alice.do("hold", peer.call)
    peer.says(status, *fields, body=body, to=peer.heard("INVITE")[-1])
    assert peer.alice.all(ChangeRefused)
    assert peer.alice.session == before


def test_what_comes_while_we_hang_up_is_refused():
    """UPDATE, re-INVITE and REFER find no call any more."""
    world = World()
    _, b = world.up()
    world.drops = lambda side, message: side is world.bob and message.cseq.method == "BYE"
    world.bob.do("hang_up", b)
    for method in ("UPDATE", "INVITE"):
        assert within(world, method, "", b"").status == 481
    call = world.alice.agent._desk.calls[world.alice.calls[0]]
    request, _ = world.alice.agent._desk.compose(call, call.dialog, "REFER")
    request.put("refer-to", "<sip:c@192.0.2.3>")
    world.bob.agent.receive(bytes(request), world.alice.hop, world.now)
    world.flush()
    assert world.bob.sent[-1].status == 481
    assert not world.bob.all(Referred)


def test_a_notify_of_another_package_is_refused():
    """489 (RFC 6665 §4.1.3), and nothing is told."""
    world = World()
    world.up()
    call = world.alice.agent._desk.calls[world.alice.calls[0]]
    request, _ = world.alice.agent._desk.compose(call, call.dialog, "NOTIFY")
    request.put("event", "presence")
    world.bob.agent.receive(bytes(request), world.alice.hop, world.now)
    world.flush()
    assert world.bob.sent[-1].status == 489


def test_transfers_out_of_season_are_our_own_mistake():
    """An attended one needs two calls that are up; an answer needs a question."""
    world = World()
    a, b = world.up()
    world.bob.answers = False
    world.alice.call()
    with pytest.raises(LocalError):
        world.alice.agent.refer(a, parse_uri("sip:c@d"), world.now, world.alice.calls[-1])
    with pytest.raises(LocalError):
        world.bob.agent.answer_refer(b, 7, 202, world.now)


def test_what_is_asked_of_a_call_by_number():
    """Its Call-ID, whether it is there, and whether an INVITE is its."""
    world = World()
    _, b = world.up()
    invite = world.alice.sent[0]
    agent = world.bob.agent
    assert (agent.has(b), agent.has(99)) == (True, False)
    assert agent.call_id(b) == invite.call_id
    stranger = parse_message(words("INVITE").replace("\n", "\r\n").encode())
    assert (agent.knows(invite), agent.knows(stranger)) == (True, False)


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("multipart/mixed;boundary=b", b"--b\r\n\r\nwords\r\n--b--\r\n"),
        ("multipart/mixed;boundary=b", b"--b\r\nContent-Type: text/plain\r\n\r\nwords\r\n"),
        ("multipart/mixed;boundary=b", b""),
        (
            "multipart/mixed;boundary=b",
            b"--b\r\nContent-Type: multipart/mixed;boundary=c\r\n\r\n--c--\r\n--b--\r\n",
        ),
    ],
)
def test_parts_without_a_description_are_none(kind, body):
    """No end, no type, nothing at all: the call goes on as one without an offer."""
    message = parse_message(words("INVITE").replace("\n", "\r\n").encode())
    message.put_body(body, kind)
    assert sdp_of(message) is None


def test_a_part_of_a_broken_type_is_a_bad_request():
    """400, as a broken type of the whole would be."""
    message = parse_message(words("INVITE").replace("\n", "\r\n").encode())
    message.put_body(b"--b\r\nContent-Type: /\r\n\r\nx\r\n--b--", "multipart/mixed;boundary=b")
    with pytest.raises(SipError):
        sdp_of(message)


def test_there_is_no_room_for_a_call_of_ours_beyond_the_limit():
    """CapacityError with the time to come again."""
    world = World(terms=Terms(calls=0))
    with pytest.raises(CapacityError):
        world.alice.call()
