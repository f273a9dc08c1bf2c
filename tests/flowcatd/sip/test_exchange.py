"""Less common exchanges of a call: offers in odd places, refusals that teach, several bodies, limits."""

from __future__ import annotations

import pytest

from flowcatd.sip.agent_event import CallEnded, ChangeRefused, Connected, Terms
from flowcatd.sip.body import sdp_of
from flowcatd.sip.event import Hop
from flowcatd.sip.ladder import FIRST_MAX, LAST_MAX, Ladder
from flowcatd.sip.message import Response, parse_message
from flowcatd.sip.offer import Negotiation
from flowcatd.sip.session import Capabilities, Local
from flowcatd.sip.trouble import SipError
from tests.flowcatd.sip.pair import World
from tests.flowcatd.sip.test_invite import LATE, PEER, Peer, is_, late, within


def prack(world: World, ring: Response, body: str) -> None:
    """The PRACK of a reliable answer, with a description."""
    text = LATE.format(f"RAck: {ring.first('rseq')} 7 INVITE\nContent-Type: application/sdp\n")
    text = text.replace("INVITE sip", "PRACK sip").replace("CSeq: 7 INVITE", "CSeq: 8 PRACK")
    text = text.replace("bKlate", "bKprack").replace("To: <sip:bob@192.0.2.2>", f"To: {ring.to}")
    text = text.replace("Content-Length: 0", f"Content-Length: {len(body)}").replace("\n", "\r\n")
    world.bob.agent.receive((text + body).encode(), PEER, world.now)
    world.flush()


def test_a_late_offer_may_be_made_in_a_183_and_answered_in_the_prack():
    """RFC 3262 §5: the 200 is then without a description, and its ACK, too."""
    world = World()
    world.bob.answers = False
    late(world, "Supported: 100rel\n")
    b, ours = world.bob.calls[0], world.bob.negotiation()
    world.bob.agent.ring(b, world.now, 183, ours)
    world.flush()
    ring = world.third[PEER.host][-1]
    theirs = Negotiation(Capabilities(), Local("203.0.113.9", 4000), "9", bytes)
    prack(world, ring, theirs.receive_offer(ring.body))
    assert world.third[PEER.host][-1].status == 200
    world.bob.do("answer", b, ours)
    answer = world.third[PEER.host][-1]
    assert (answer.status, answer.body) == (200, b"")
    assert world.bob.session.rtp == ("203.0.113.9", 4000)


def test_a_peer_that_forgot_update_is_refreshed_by_invite():
    """405 to an UPDATE teaches us."""
    peer = Peer(Terms(session_seconds=120))
    expires = ("Session-Expires", "120;refresher=uac")
    peer.says(200, expires, ("Allow", "INVITE, UPDATE"), body=peer.described())
    peer.world.run(60.1)
    peer.says(405, to=peer.heard("UPDATE")[0])
    assert len(peer.heard("INVITE")) == 2
    peer.says(200, expires, body=peer.described())
    assert peer.alice.all(CallEnded) == peer.alice.all(ChangeRefused) == []


def test_a_change_learns_a_longer_interval():
    """422 to a re-INVITE: it comes again with their Min-SE."""
    peer = Peer(Terms(session_seconds=100))
    peer.says(200, body=peer.described())
    peer.alice.do("hold", peer.call)
    peer.says(422, ("Min-SE", 700))
    again = peer.heard("INVITE")[-1]
    assert (again.first("min-se"), again.valued("session-expires").value) == ("700", "700")
    peer.says(200, body=peer.described())
    assert peer.alice.session.held_by_us


def test_a_change_without_an_answer_changes_nothing():
    """A 200 to our offer that has none is acknowledged and told."""
    peer = Peer()
    peer.says(200, body=peer.described())
    peer.alice.do("hold", peer.call)
    peer.says(200)
    assert len(peer.heard("ACK")) == 2
    assert peer.alice.last(ChangeRefused).status == 488
    assert not peer.alice.session.held_by_us


def test_a_lost_ack_of_a_change_is_sent_again():
    """Their 2xx comes again, and so does our ACK."""
    world = World()
    a, _ = world.up()
    world.drops = is_("alice", "ACK")
    world.alice.do("hold", a)
    world.run(2.0)
    world.drops = lambda _side, _message: False
    world.run(40.0)
    assert world.alice.words().count("ACK") > 2
    assert world.ends() == []
    assert world.bob.session.held_by_them


def test_a_re_invite_without_an_offer_gets_one():
    """§14.2: and until its answer comes in the ACK, every other one gets 491."""
    world = World()
    world.up()
    answer = within(world, "INVITE", "", b"")
    assert answer.status == 200
    assert answer.body
    assert within(world, "INVITE", "", b"").status == 491


@pytest.mark.parametrize(("early", "status"), [(";early-only", 486), ("", 200)])
def test_a_call_that_is_up_is_replaced_unless_only_an_early_one_may_be(early, status):
    """RFC 3891 §3."""
    world = World()
    world.up()
    dialog = world.bob.agent._desk.calls[world.bob.calls[0]].dialog
    tags = f"to-tag={dialog.local.tag};from-tag={dialog.remote.tag}"
    answers = late(world, f"Replaces: {dialog.call_id};{tags}{early}\n")
    assert [each.status for each in answers if isinstance(each, Response)][-1] == status
    assert bool(world.bob.all(CallEnded)) == (status == 200)


MULTIPART = (
    b"--b\r\nContent-Type: application/isup\r\n\r\n\x01\x02\r\n"
    b"--b\r\nContent-Type: application/sdp\r\n\r\nv=0\r\n--b--\r\n"
)


def test_a_description_among_other_parts_is_found():
    """SIP-I carriers put ISUP beside it; a body without a boundary is 400."""
    message = parse_message(LATE.format("").replace("\n", "\r\n").encode())
    message.put_body(MULTIPART, "multipart/mixed;boundary=b")
    assert sdp_of(message) == b"v=0\r\n"
    message.put_body(MULTIPART, "multipart/mixed")
    with pytest.raises(SipError):
        sdp_of(message)


def test_a_ladder_has_a_limit():
    """The first steps and the last stay; how many went is counted."""
    ladder = Ladder()
    message = parse_message(LATE.format("").replace("\n", "\r\n").encode())
    for number in range(500):
        ladder.note(message, float(number), is_ours=False)
    assert len(ladder) == FIRST_MAX + LAST_MAX
    assert ladder.dropped == 500 - FIRST_MAX - LAST_MAX
    steps = [each.now for each in ladder]
    assert (steps[0], steps[-1]) == (0.0, 499.0)


def test_a_closed_connection_ends_what_was_under_way():
    """`receive_failure`: a BYE that cannot be sent is as good as answered."""
    world = World()
    a, _ = world.up()
    world.loss = 1.0
    world.alice.do("hang_up", a)
    world.alice.agent.receive_failure(Hop("UDP", "192.0.2.2", 5060), world.now)
    world.flush()
    assert len(world.alice.agent) == 0


def test_a_call_over_a_connection_needs_no_repetition():
    """TCP: nothing is sent twice but a 2xx that waits for its ACK."""
    world = World()
    for side in (world.alice, world.bob):
        side.hop = Hop("TCP", side.hop.host, 5060, 1)
    a, _ = world.up()
    world.alice.do("hang_up", a)
    world.run()
    assert world.alice.words() == ["INVITE", "ACK", "BYE"]
    assert world.bob.all(Connected)
