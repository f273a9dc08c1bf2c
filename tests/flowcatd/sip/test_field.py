"""What carriers and telephones do in the field that has cost others a fault in production."""

from __future__ import annotations

import pytest

from flowcatd.sip.agent_event import CallEnded, Media, Terms
from flowcatd.sip.body import Digit
from flowcatd.sip.digest import Answerer, Secret
from flowcatd.sip.message import Request
from flowcatd.sip.uri import parse_uri
from tests.flowcatd.sip.pair import World
from tests.flowcatd.sip.test_agent import STRANGER, ask, words
from tests.flowcatd.sip.test_invite import PEER, Peer, late, within

SDP = "Content-Type: application/sdp"
OFFER = """v=0
o=- 1 1 IN IP4 10.0.0.5
s=-
{session}t=0 0
m=audio {port} RTP/AVP {codecs}
{media}a=rtpmap:0 PCMU/8000/1
a=rtpmap:8 PCMA/8000/1
a=rtpmap:101 telephone-event/8000/1
a=X-nat:0
a=sendrecv
"""


def offer(session: str = "", media: str = "", port: int = 4000, codecs: str = "0 8 101") -> str:
    """A description as such telephones write it."""
    return OFFER.format(session=session, media=media, port=port, codecs=codecs)


def called(body: str) -> World:
    """Bob, up in a call of a stranger's that offered this."""
    world = World()
    ask(world, words("INVITE", SDP, body=body.replace("\n", "\r\n")).replace("\r", ""))
    return world


@pytest.mark.parametrize(
    ("session", "media"),
    [
        ("", "c=IN IP4 10.0.0.5\n"),
        ("c=IN IP4 10.0.0.5\n", ""),
        ("c=IN IP4 203.0.113.1\n", "c=IN IP4 10.0.0.5\n"),
    ],
)
def test_an_address_may_stand_at_the_media_alone_and_be_private(session, media):
    """The call is answered; where media really come from is the source lock's to learn."""
    world = called(offer(session, media))
    assert [each.status for each in world.third[STRANGER.host]] == [180, 200]
    assert world.bob.session.rtp == ("10.0.0.5", 4000)


def test_a_channel_count_that_is_written_out_and_foreign_attributes_do_no_harm():
    """`PCMU/8000/1` is PCMU, keys are agreed, and nothing of theirs comes back in the answer."""
    world = called(offer("c=IN IP4 10.0.0.5\n"))
    answer = world.third[STRANGER.host][-1].body.decode()
    assert world.bob.session.codec.format.name == "PCMU"
    assert world.bob.session.events is not None
    assert "X-nat" not in answer


def test_an_answer_names_only_what_it_has_agreed_to():
    """No rtpmap of a codec that stands in no m= line is left over."""
    answer = called(offer("c=IN IP4 10.0.0.5\n", codecs="8 101")).third[STRANGER.host][-1]
    lines = answer.body.decode().splitlines()
    (kinds,) = [line.split()[3:] for line in lines if line.startswith("m=audio")]
    mapped = [line.split(":")[1].split()[0] for line in lines if line.startswith("a=rtpmap:")]
    assert set(mapped) <= set(kinds)
    assert len(mapped) == len(set(mapped))


def test_a_re_invite_that_moves_the_port_redirects_the_media():
    """The codec stays, also where the new offer names another one first."""
    world = World()
    a, b = world.up()
    mine = world.alice.agent.negotiation(a)
    before = world.bob.session
    text = mine.refresh().replace(f"m=audio {mine.local.port}", "m=audio 40404")
    first, *rest = [line for line in text.splitlines() if line.startswith("m=audio")]
    assert not rest
    numbers = first.split()[3:]
    turned = first.replace(" ".join(numbers), " ".join([numbers[1], numbers[0], *numbers[2:]]))
    answer = within(world, "INVITE", "application/sdp", text.replace(first, turned).encode())
    assert answer.status == 200
    assert world.bob.session.rtp == (before.rtp[0], 40404)
    assert world.bob.session.codec == before.codec
    assert world.bob.last(Media).call == b


def test_a_bye_between_our_offer_in_the_200_and_its_ack_ends_the_call():
    """Without an answer ever having come: 200 to the BYE, no ACK is waited for, nothing is repeated."""
    world = World()
    answer = late(world)[-1]
    text = words("BYE", to_tag=answer.to.tag).replace("198.51.100.9", "203.0.113.9")
    asked = answer.call_id, answer.from_.tag
    text = text.replace("stranger", asked[0]).replace("tag=x", f"tag={asked[1]}")
    world.bob.agent.receive(
        text.replace("CSeq: 7", "CSeq: 8").replace("\n", "\r\n").encode(), PEER, 0.1
    )
    world.flush()
    world.run()
    assert world.bob.last(CallEnded).by_peer
    sent = [each for each in world.third[PEER.host] if each.cseq.method == "INVITE"]
    assert [each.status for each in sent] == [180, 200]
    assert len(world.bob.agent) == 0


def test_a_retry_keeps_the_names_of_the_call_and_a_new_call_has_new_ones():
    """Same Call-ID and From tag after a challenge, other branch, next CSeq; none of them twice."""
    peer = Peer(answerer=Answerer(Secret("alice", "secret"), lambda: "c0ffee"))
    peer.says(407, ("Proxy-Authenticate", 'Digest realm="r", nonce="n", qop="auth"'))
    first, second = peer.heard("INVITE")
    assert (first.call_id, first.from_.tag) == (second.call_id, second.from_.tag)
    assert (second.cseq.number, first.top.branch == second.top.branch) == (2, False)
    peer.alice.call("sip:peer@203.0.113.9", hops=(PEER,))
    other = peer.heard("INVITE")[-1]
    assert other.call_id != first.call_id
    assert other.from_.tag != first.from_.tag
    assert peer.alice.all(CallEnded) == []


@pytest.mark.parametrize("who", ["alice", "bob"])
def test_the_numbers_of_requests_rise_by_one_whatever_they_are(who):
    """Refresh, hold, digit, REFER, BYE, from either end (§12.2.1.1: contiguous)."""
    world = World(terms=Terms(session_seconds=90))
    world.up()
    side = world.alice if who == "alice" else world.bob
    number = side.calls[-1]
    for held in (True, False):
        side.do("hold", number, held=held)
        world.run(50.0)
        side.agent.send_digit(number, Digit("1", 100), world.now)
        world.flush()
        side.do("refer", number, parse_uri("sip:c@192.0.2.3"))
        world.run(50.0)
    side.do("hang_up", number)
    world.run(40.0)
    asked = [each for each in side.sent if isinstance(each, Request)]
    counted = [each.cseq.number for each in asked if each.method != "ACK"]
    assert counted == list(range(counted[0], counted[0] + len(counted)))
    assert {"INVITE", "INFO", "REFER", "BYE"} <= {each.method for each in asked}
    assert all(b"\r\nContent-Length: " in bytes(each) for each in asked)


def test_one_bad_message_takes_nothing_but_itself():
    """Whatever a description or a header of one call holds, the others go on."""
    world = World()
    _, b = world.up()
    for spoilt in (
        words("INVITE", SDP, body="v=0\nm=audio"),
        words("INVITE", "Session-Expires: soon", branch="2"),
        words("INVITE", "Replaces: ;;", branch="3"),
        words("INVITE", "Record-Route: <", branch="4"),
        words("INVITE", "Expires: -1", branch="5"),
    ):
        ask(world, spoilt)
    statuses = {each.status for each in world.third[STRANGER.host]}
    assert statuses <= {100, 180, 400, 482}
    world.bob.do("hold", b)
    world.run(1.0)
    assert world.alice.session.held_by_them
