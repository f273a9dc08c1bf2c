"""The life of a call, flow by flow: incoming, outgoing, changes, refreshes and ends, in virtual time."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from flowcatd.errors import LocalError
from flowcatd.sip.agent_event import (
    CallEnded,
    CallTerms,
    Cause,
    ChangeRefused,
    Connected,
    Invited,
    Media,
    Pressed,
    Progress,
    Redirected,
    Terms,
    Texted,
)
from flowcatd.sip.attribute import Direction
from flowcatd.sip.body import DTMF, Digit
from flowcatd.sip.digest import Answerer, Gate, Secret
from flowcatd.sip.digest import Terms as DigestTerms
from flowcatd.sip.event import Hop
from flowcatd.sip.invite import TABLE, State
from flowcatd.sip.message import Message, Request, Response, build_response
from flowcatd.sip.offer import Negotiation
from flowcatd.sip.session import Capabilities, Local
from flowcatd.sip.uri import parse_uri
from tests.flowcatd.sip.pair import Side, World

PEER = Hop("UDP", "203.0.113.9", 5060)
SECOND = Hop("UDP", "203.0.113.10", 5060)


def is_(side_name: str, word: str) -> Callable[[Side, Message], bool]:
    """What to drop: messages of one side, by method or status."""

    def matches(side: Side, message: Message) -> bool:
        mine = message.method if isinstance(message, Request) else str(message.status)
        return side.name == side_name and mine == word

    return matches


class Peer:
    """Somebody whom alice calls, who answers what a test tells him to."""

    def __init__(
        self, terms: Terms | None = None, call_terms: CallTerms | None = None, **more: object
    ) -> None:
        self.world = World(terms=terms)
        self.alice = self.world.alice
        more.setdefault("hops", (PEER,))
        more.setdefault("terms", call_terms)
        self.call = self.alice.call("sip:peer@203.0.113.9", **more)

    def heard(self, method: str, hop: Hop = PEER) -> list[Request]:
        """What arrived there."""
        found = self.world.third.get(hop.host, [])
        return [each for each in found if isinstance(each, Request) and each.method == method]

    def says(
        self,
        status: int,
        *fields: tuple[str, object],
        tag: str = "p",
        to: Request | None = None,
        body: str = "",
        hop: Hop = PEER,
    ) -> Response:
        """An answer to a request of hers, the last INVITE as a rule."""
        response = build_response(to or self.heard("INVITE", hop)[-1], status, tag=tag)
        response.put("contact", f"<sip:peer@{hop.host}>")
        for name, value in fields:
            response.put(name, value)
        if body:
            response.put_body(body.encode(), "application/sdp")
        self.alice.agent.receive(bytes(response), hop, self.world.now)
        self.world.flush()
        return response

    def described(self, port: int = 30_000) -> str:
        """An answer to her offer."""
        mine = Negotiation(Capabilities(), Local("203.0.113.9", port), "9", bytes)
        return mine.receive_offer(self.heard("INVITE")[-1].body)


def test_every_state_has_a_way_out():
    """No state but OVER is without a row, and every one is reached."""
    left = {state for state, _ in TABLE}
    reached = {state for state, _ in TABLE.values()} | {State.ASKED, State.CALLING}
    assert left == set(State) - {State.OVER}
    assert reached == set(State)


# --- incoming -------------------------------------------------------------------------------------


def test_a_call_rings_is_answered_and_hung_up():
    """180, 200, ACK, BYE, 200; both sides agree on the media."""
    world = World()
    a, _ = world.up()
    world.alice.do("hang_up", a, cause=Cause("Q.850", 16, "Normal call clearing"))
    world.run()
    assert world.bob.words() == ["180 INVITE", "200 INVITE", "200 BYE"]
    assert world.alice.words() == ["INVITE", "ACK", "BYE"]
    assert world.alice.session.codec == world.bob.session.codec
    assert world.ends() == [("alice", 200), ("bob", 200)]
    ended = world.bob.last(CallEnded)
    assert (ended.by_peer, ended.cause) == (True, Cause("Q.850", 16, "Normal call clearing"))


def test_a_call_may_be_rejected_with_fields():
    """The status and what it says reach the caller."""
    world = World()
    world.bob.answers = False
    world.alice.call()
    world.run(1.0)
    world.bob.agent.reject(world.bob.calls[0], 486, world.now, (("Retry-After", "9"),))
    world.flush()
    world.run()
    ended = world.alice.last(CallEnded)
    assert (ended.status, ended.by_peer, ended.retry_after) == (486, True, 9)


def test_a_call_that_nobody_takes_ends():
    """After the ringing time it is refused with 480."""
    world = World(terms=Terms(ring_seconds=20.0))
    world.bob.answers = False
    world.alice.call()
    world.run()
    assert world.ends() == [("alice", 480), ("bob", 480)]


def test_a_2xx_is_repeated_until_its_ack_and_then_hung_up():
    """Without any ACK the call ends by BYE after 64*T1 (§13.3.1.4)."""
    world = World()
    world.drops = is_("alice", "ACK")
    world.up()
    world.run(30.5)
    assert world.bob.all(CallEnded) == []
    assert world.bob.words().count("200 INVITE") > 8
    world.run()
    assert world.bob.last(CallEnded).problem == "no ACK"
    assert "BYE" in world.bob.words()
    assert ("alice", 200) in world.ends()


def test_a_lost_2xx_comes_again_and_is_acked_again():
    """One loss costs T1, not the call."""
    world = World()
    drops = [True]
    world.drops = lambda side, message: (
        is_("bob", "200")(side, message) and bool(drops) and drops.pop()
    )
    world.up()
    assert world.bob.all(Connected)
    assert world.now <= 1.0


def test_whoever_hangs_up_before_the_ack_waits_for_it():
    """A callee must not send BYE before its 2xx is acknowledged (§15)."""
    world = World()
    world.drops = is_("alice", "ACK")
    world.alice.call()
    world.run(0.1)
    world.bob.do("hang_up", world.bob.calls[0])
    assert "BYE" not in world.bob.words()
    world.drops = lambda _side, _message: False
    world.run()
    assert world.bob.words()[-1] == "BYE"
    assert sorted(world.ends()) == [("alice", 200), ("bob", 200)]


def test_a_cancel_while_it_rings_ends_the_call():
    """200 to the CANCEL, 487 to the INVITE."""
    world = World()
    world.bob.answers = False
    a = world.alice.call()
    world.run(0.1)
    world.bob.do("ring", world.bob.calls[0])
    world.run(0.1)
    world.alice.do("hang_up", a)
    world.run()
    assert world.ends() == [("alice", 487), ("bob", 487)]
    assert {"200 CANCEL", "487 INVITE"} <= set(world.bob.words())


def test_a_cancel_before_any_answer_waits_for_one():
    """§9.1: nothing is cancelled that nobody has been heard of."""
    world = World()
    world.bob.answers = False
    world.drops = is_("bob", "100")
    a = world.alice.call()
    world.alice.do("hang_up", a)
    world.run(0.15)
    assert "CANCEL" not in world.alice.words()
    world.drops = lambda _side, _message: False
    world.run()
    assert world.ends() == [("alice", 487), ("bob", 487)]


def test_a_cancel_that_crosses_the_answer_leads_to_a_bye():
    """The 2xx is acknowledged and hung up (§9.1); the CANCEL gets its 200 (§9.2)."""
    world = World()
    world.bob.answers = False
    world.delay = 0.0
    a = world.alice.call()
    world.run(0.1)
    world.bob.do("ring", world.bob.calls[0])
    world.run(0.1)
    # Both at the same moment: neither has heard the other.
    world.alice.agent.hang_up(a, world.now)
    world.bob.agent.answer(world.bob.calls[0], world.bob.negotiation(), world.now)
    world.flush()
    world.run()
    assert {"INVITE", "CANCEL", "ACK", "BYE"} == set(world.alice.words())
    assert world.ends() == [("alice", 487), ("bob", 200)]


def test_two_byes_that_cross_are_both_right():
    """Both get 200, both calls end once."""
    world = World()
    a, b = world.up()
    world.alice.agent.hang_up(a, world.now)
    world.bob.agent.hang_up(b, world.now)
    world.flush()
    world.run()
    assert sorted(world.ends()) == [("alice", 200), ("bob", 200)]
    assert len(world.alice.agent) == len(world.bob.agent) == 0


def test_a_bye_that_nobody_answers_ends_the_call_at_once_for_its_user():
    """The user is told when it is sent, and nothing stays after 64*T1."""
    world = World()
    a, _ = world.up()
    world.loss = 1.0
    world.alice.do("hang_up", a)
    assert world.alice.all(CallEnded)
    world.run(33.0)
    assert len(world.alice.agent) == 0


LATE = """INVITE sip:bob@192.0.2.2 SIP/2.0
Via: SIP/2.0/UDP 203.0.113.9;branch=z9hG4bKlate
From: <sip:x@203.0.113.9>;tag=x
To: <sip:bob@192.0.2.2>
Call-ID: late
CSeq: 7 INVITE
Contact: <sip:x@203.0.113.9>
{}Content-Length: 0

"""


def late(world: World, fields: str = "", body: str = "") -> list[Message]:
    """An INVITE reaches bob, without an offer unless it has a body; what he answers."""
    kind = f"Content-Type: application/sdp\nContent-Length: {len(body)}"
    text = LATE.format(fields).replace("Content-Length: 0", kind if body else "Content-Length: 0")
    text = text.replace("\n", "\r\n") + body
    world.bob.agent.receive(text.encode(), PEER, world.now)
    world.flush()
    return world.third.get(PEER.host, [])


def offered() -> str:
    """Somebody's offer."""
    return Negotiation(Capabilities(), Local("203.0.113.9", 30_000), "9", bytes).offer()


def acknowledge(world: World, answer: Response, body: str) -> None:
    """The ACK of a 200, with or without a description."""
    lines = LATE.format("").replace("INVITE", "ACK").replace("bKlate", "bKack")
    lines = lines.replace("To: <sip:bob@192.0.2.2>", f"To: {answer.to}").split("\nContent-Length")[
        0
    ]
    kind = "Content-Type: application/sdp\n" if body else ""
    text = f"{lines}\n{kind}Content-Length: {len(body)}\n\n".replace("\n", "\r\n") + body
    world.bob.agent.receive(text.encode(), PEER, world.now)
    world.flush()


def test_a_late_offer_is_made_in_the_200_and_answered_in_the_ack():
    """RFC 3261 §13.2.1: whoever is asked without an offer makes it."""
    world = World()
    answer = late(world)[-1]
    mine = Negotiation(Capabilities(), Local("203.0.113.9", 4000), "9", bytes)
    acknowledge(world, answer, mine.receive_offer(answer.body))
    assert world.bob.session.rtp == ("203.0.113.9", 4000)
    assert world.bob.all(Connected)


def test_a_late_offer_without_an_answer_ends_the_call():
    """An ACK without a description leaves nothing to talk over: BYE."""
    world = World()
    acknowledge(world, late(world)[-1], "")
    assert [each.method for each in world.third[PEER.host] if isinstance(each, Request)] == ["BYE"]
    assert world.bob.last(CallEnded).problem == "no answer in the ACK"


def test_who_requires_it_gets_every_ring_reliably():
    """RFC 3262: 180 with RSeq, repeated until a PRACK comes; none at all ends in 504."""
    world = World()
    world.bob.answers = False
    late(world, "Require: 100rel\n", offered())
    world.bob.do("ring", world.bob.calls[0])
    world.run()
    answers = [each for each in world.third[PEER.host] if each.status == 180]
    assert len(answers) > 5
    assert len({each.first("rseq") for each in answers}) == 1
    assert world.bob.last(CallEnded).status == 504


# --- early media, both ways -----------------------------------------------------------------------


@pytest.mark.parametrize("is_reliable", [True, False])
def test_early_media_comes_before_the_answer(is_reliable):
    """183 with a description, then 200; with 100rel a PRACK between them."""
    world = World(terms=Terms(is_reliable=is_reliable))
    world.bob.answers = False
    world.alice.call()
    world.run(0.1)
    b, ours = world.bob.calls[0], world.bob.negotiation()
    world.bob.agent.ring(b, world.now, 183, ours)
    world.flush()
    world.run(1.0)
    assert world.alice.last(Media).is_early
    assert ("PRACK" in world.alice.words()) is is_reliable
    world.bob.agent.answer(b, ours, world.now)
    world.flush()
    world.run(1.0)
    assert not world.alice.last(Media).is_early
    assert world.alice.all(Connected)
    assert world.bob.all(Connected)
    assert world.alice.session.rtp == ("192.0.2.2", ours.local.port)


def test_the_answer_waits_for_the_prack():
    """RFC 3262 §5: no 2xx while a description is under way in a 183."""
    world = World()
    world.bob.answers = False
    world.drops = is_("alice", "PRACK")
    world.alice.call()
    world.run(0.1)
    b, ours = world.bob.calls[0], world.bob.negotiation()
    world.bob.agent.ring(b, world.now, 183, ours)
    world.bob.agent.answer(b, ours, world.now)
    world.flush()
    world.run(1.0)
    assert "200 INVITE" not in world.bob.words()
    world.drops = lambda _side, _message: False
    world.run(5.0)
    assert world.bob.all(Connected)


def test_a_description_that_was_acknowledged_is_not_repeated():
    """A second 183 and the 200 are without it: it would be an offer."""
    world = World()
    world.bob.answers = False
    world.alice.call()
    world.run(0.1)
    b, ours = world.bob.calls[0], world.bob.negotiation()
    for _ in range(2):
        world.bob.agent.ring(b, world.now, 183, ours)
        world.flush()
        world.run(1.0)
    world.bob.agent.answer(b, ours, world.now)
    world.flush()
    world.run(1.0)
    answers = [each for each in world.bob.sent if each.cseq.method == "INVITE"]
    assert [bool(each.body) for each in answers if each.status in {183, 200}] == [
        True,
        False,
        False,
    ]
    assert world.bob.all(Connected)


def test_a_prack_after_the_answer_is_taken():
    """RFC 3262 §3: the 180 is repeated no more, its PRACK may still come."""
    world = World()
    world.bob.answers = False
    late(world, "Require: 100rel\n", offered())
    b = world.bob.calls[0]
    world.bob.do("ring", b)
    world.bob.do("answer", b, world.bob.negotiation())
    ring, answer = world.third[PEER.host]
    lines = LATE.format(f"RAck: {ring.first('rseq')} 7 INVITE\n").replace("INVITE sip", "PRACK sip")
    lines = lines.replace("CSeq: 7 INVITE", "CSeq: 8 PRACK").replace("bKlate", "bKprack")
    lines = lines.replace("To: <sip:bob@192.0.2.2>", f"To: {answer.to}")
    world.bob.agent.receive(lines.replace("\n", "\r\n").encode(), PEER, world.now)
    world.flush()
    assert world.third[PEER.host][-1].status == 200


def test_the_200_after_a_183_counts():
    """An unreliable 183's description is not the answer: the 200 may have another."""
    peer = Peer()
    peer.says(183, body=peer.described(4000))
    assert peer.alice.session.rtp == ("203.0.113.9", 4000)
    peer.says(200, body=peer.described(5000))
    assert peer.alice.session.rtp == ("203.0.113.9", 5000)
    assert peer.heard("ACK")


# --- outgoing -------------------------------------------------------------------------------------


def test_a_fork_that_answers_too_is_acked_and_hung_up():
    """The first 2xx is the call; each other one gets its own ACK and BYE, once."""
    peer = Peer()
    peer.says(180, tag="one")
    peer.says(180, tag="two")
    peer.says(200, tag="two", body=peer.described())
    peer.says(200, tag="one", body=peer.described())
    peer.says(200, tag="one", body=peer.described())
    assert [each.to.tag for each in peer.heard("ACK")] == ["two", "one", "one"]
    assert [each.to.tag for each in peer.heard("BYE")] == ["one"]
    assert len(peer.alice.all(Connected)) == 1


def test_each_fork_has_its_own_reliable_answer():
    """The description of the branch that answers holds, whichever came first."""
    peer = Peer()
    for tag, port in (("one", 4000), ("two", 5000)):
        peer.says(183, ("Require", "100rel"), ("RSeq", 1), tag=tag, body=peer.described(port))
    assert [each.to.tag for each in peer.heard("PRACK")] == ["one", "two"]
    assert [each.first("rack") for each in peer.heard("PRACK")] == ["1 1 INVITE"] * 2
    peer.says(200, tag="one")
    assert peer.alice.session.rtp == ("203.0.113.9", 4000)


def test_a_reliable_answer_is_acknowledged_once():
    """A repetition gets no second PRACK."""
    peer = Peer()
    for _ in range(3):
        peer.says(183, ("Require", "100rel"), ("RSeq", 7))
    assert len(peer.heard("PRACK")) == 1


def test_more_forks_than_the_limit_are_not_looked_at():
    """A storm of early dialogs costs no memory."""
    peer = Peer(Terms(forks=3))
    for number in range(50):
        peer.says(180, tag=f"fork{number}")
    assert len(peer.alice.agent._desk.found) == 3


def test_a_2xx_without_an_answer_is_acked_and_hung_up():
    """There is nothing to talk over."""
    peer = Peer()
    peer.says(200)
    assert len(peer.heard("ACK")) == len(peer.heard("BYE")) == 1
    assert peer.alice.last(CallEnded).status == 488


def test_a_2xx_without_a_contact_is_acked_and_hung_up():
    """Even a bad one stops being repeated."""
    peer = Peer()
    peer.says(200, ("Contact", "<tel:+1>"), body=peer.described())
    assert len(peer.heard("ACK")) == len(peer.heard("BYE")) == 1


@pytest.mark.parametrize("status", [401, 407])
def test_a_challenge_is_answered(status):
    """Same Call-ID and From tag, next CSeq; and the ACK has the credentials, too."""
    gate_terms = DigestTerms("r")
    gate = Gate(gate_terms, b"k" * 32, lambda: b"12345678", {"alice": "secret"}.get)
    answerer = Answerer(Secret("alice", "secret"), lambda: "c0ffee")
    peer = Peer(answerer=answerer)
    challenge = build_response(peer.heard("INVITE")[0], 401, tag="p")
    gate.challenge(challenge, 0.0)
    name = "www-authenticate" if status == 401 else "proxy-authenticate"
    peer.says(status, *[(name, value) for value in challenge.fields["www-authenticate"][:1]])
    first, second = peer.heard("INVITE")
    assert (first.call_id, first.from_.tag) == (second.call_id, second.from_.tag)
    assert (first.cseq.number, second.cseq.number) == (1, 2)
    answered = "authorization" if status == 401 else "proxy-authorization"
    assert second.first(answered)
    peer.says(200, body=peer.described())
    assert peer.heard("ACK")[-1].first(answered)
    assert peer.alice.all(Connected)


def test_a_wrong_password_is_not_tried_for_ever():
    """The second refusal with a fresh nonce ends the call."""
    peer = Peer(answerer=Answerer(Secret("alice", "wrong"), lambda: "c0ffee"))
    for nonce in ("a", "b", "c"):
        if not peer.alice.all(CallEnded):
            peer.says(401, ("WWW-Authenticate", f'Digest realm="r", nonce="{nonce}", qop="auth"'))
    assert peer.alice.last(CallEnded).status == 401
    assert len(peer.heard("INVITE")) == 2


def test_too_small_an_interval_is_made_longer():
    """422: the next INVITE has their Min-SE and at least that interval."""
    peer = Peer(Terms(session_seconds=100))
    peer.says(422, ("Min-SE", 600))
    again = peer.heard("INVITE")[-1]
    assert (again.valued("session-expires").value, again.first("min-se")) == ("600", "600")
    peer.says(422, ("Min-SE", 600))
    assert peer.alice.last(CallEnded).status == 422


def test_a_redirection_is_the_users_to_follow():
    """The best contact comes first; what it leads to is called with the same Call-ID, a few times."""
    peer = Peer(Terms(redirects=1))
    peer.says(302, ("Contact", "<sip:low@a.example>;q=0.1, <sip:high@b.example>;q=0.9"))
    told = peer.alice.last(Redirected)
    assert [uri.user for uri in told.contacts] == ["high", "low"]
    peer.alice.do("follow", peer.call, told.contacts[0], (SECOND,))
    moved = peer.heard("INVITE", SECOND)[0]
    assert (moved.uri.user, moved.cseq.number) == ("high", 2)
    peer.says(302, hop=SECOND)
    assert peer.alice.last(CallEnded).status == 302


def test_a_redirection_that_nobody_follows_ends():
    """The user has 64*T1."""
    peer = Peer()
    peer.says(302, ("contact", "<sip:else@203.0.113.10>"))
    peer.world.run()
    assert peer.alice.last(CallEnded).problem == "nobody followed"


def test_the_next_address_is_tried():
    """After 503, and after silence; the last one's answer is the call's."""
    peer = Peer(hops=(PEER, SECOND, PEER))
    peer.says(503, ("Retry-After", 30))
    assert len(peer.heard("INVITE", SECOND)) == 1
    peer.world.run(33.0)
    assert peer.heard("INVITE")[-1].cseq.number == 3
    peer.says(503, ("Retry-After", 30))
    ended = peer.alice.last(CallEnded)
    assert (ended.status, ended.retry_after) == (503, 30)


def test_a_cancelled_call_that_answers_is_hung_up():
    """A 2xx that arrives after our CANCEL: ACK, BYE."""
    peer = Peer()
    peer.says(180)
    peer.alice.do("hang_up", peer.call)
    assert peer.heard("CANCEL")
    peer.says(200, body=peer.described())
    assert len(peer.heard("ACK")) == len(peer.heard("BYE")) == 1
    assert peer.alice.all(Connected) == []


def test_a_late_fork_after_the_end_is_hung_up():
    """As long as 2xx may come, whoever answers is told that nobody is there."""
    peer = Peer()
    peer.says(200, tag="one", body=peer.described())
    peer.alice.do("hang_up", peer.call)
    peer.says(200, tag="one", to=peer.heard("BYE")[0])
    peer.says(200, tag="two", body=peer.described())
    assert [each.to.tag for each in peer.heard("BYE")] == ["one", "two"]


def test_the_route_of_the_answer_is_taken():
    """Record-Route of the 2xx, reversed, and the Contact as the target; the CSeq rises."""
    peer = Peer()
    routes = "<sip:203.0.113.9;lr>, <sip:203.0.113.10;lr>"
    peer.says(200, ("Record-Route", routes), body=peer.described())
    peer.alice.do("hang_up", peer.call)
    bye = peer.heard("BYE", SECOND)[0]
    assert [each.uri.host for each in bye.addresses("route")] == ["203.0.113.10", "203.0.113.9"]
    assert (bye.uri.user, bye.cseq.number) == ("peer", 2)


def test_progress_is_told():
    """Each provisional answer but 100."""
    peer = Peer()
    for status in (100, 180, 183):
        peer.says(status)
    assert [each.status for each in peer.alice.all(Progress)] == [180, 183]


# --- changes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("who", ["alice", "bob"])
def test_hold_and_resume(who):
    """Either side holds; the other hears it, and is taken back."""
    world = World()
    numbers = dict(zip(("alice", "bob"), world.up(), strict=True))
    side = getattr(world, who)
    side.do("hold", numbers[who])
    world.run(1.0)
    assert side.session.held_by_us
    assert world.other(side).session.held_by_them
    side.do("hold", numbers[who], held=False)
    world.run(1.0)
    assert world.other(side).session.direction is Direction.SENDRECV


def test_two_changes_that_cross_come_to_pass_both():
    """491 for both, then one after the other: the caller waits longer (§14.1)."""
    world = World()
    a, b = world.up()
    world.alice.agent.hold(a, world.now)
    world.bob.agent.hold(b, world.now)
    world.flush()
    world.run(10.0)
    assert "491 INVITE" in world.alice.words()
    assert "491 INVITE" in world.bob.words()
    assert world.alice.session.held_by_us
    assert world.alice.session.held_by_them
    assert world.alice.all(ChangeRefused) == []


def test_a_refused_change_leaves_everything_as_it_was():
    """488: the user is told, the call goes on."""
    peer = Peer()
    peer.says(200, body=peer.described())
    before = peer.alice.session
    peer.alice.do("hold", peer.call)
    peer.says(488)
    assert peer.alice.last(ChangeRefused).status == 488
    assert peer.alice.session == before
    assert len(peer.heard("ACK")) == 2


def test_a_change_that_is_always_put_off_is_given_up():
    """491 for ever is refused in the end."""
    peer = Peer(Terms(rounds=3, session_seconds=0))
    peer.says(200, body=peer.described())
    peer.alice.do("hold", peer.call)
    while not peer.alice.all(ChangeRefused):
        peer.says(491)
        peer.world.run(4.1)
    assert len({each.cseq.number for each in peer.heard("INVITE")}) == 5


def test_a_peer_that_lost_the_call_ends_it():
    """481 to a re-INVITE: BYE, and the user is told why."""
    peer = Peer()
    peer.says(200, body=peer.described())
    peer.alice.do("hold", peer.call)
    peer.says(481)
    assert peer.heard("BYE")
    assert peer.alice.last(CallEnded).problem == "the peer lost the call"


def test_a_change_is_wanted_only_once_it_can_be():
    """Before the answer there is nothing to change."""
    world = World()
    world.bob.answers = False
    a = world.alice.call()
    with pytest.raises(LocalError):
        world.alice.do("hold", a)


# --- session timers -------------------------------------------------------------------------------


@pytest.mark.parametrize("who", ["alice", "bob"])
def test_a_session_that_nobody_refreshes_ends(who):
    """A third of the interval, 32 s at most, before it runs out (RFC 4028 §10)."""
    world = World(terms=Terms(session_seconds=90))
    world.up()
    world.loss = 1.0
    world.run(200.0)
    ended = getattr(world, who).last(CallEnded)
    assert (ended.status, ended.by_peer) == (408, False)


def test_a_session_is_refreshed_for_hours():
    """At half the interval each, by UPDATE; the media do not change."""
    world = World(terms=Terms(session_seconds=1800))
    world.up()
    world.run(7000.0)
    assert world.ends() == []
    assert world.alice.words().count("UPDATE") == 7
    assert len(world.alice.all(Media)) == len(world.bob.all(Media)) == 1


def test_a_timer_that_the_callee_imposes_is_honoured():
    """We asked for none; they say we refresh, and a peer without UPDATE gets a re-INVITE word for word."""
    peer = Peer(Terms(session_seconds=0))
    expires = ("Session-Expires", "120;refresher=uac")
    peer.says(200, expires, ("Require", "timer"), body=peer.described())
    peer.world.run(61.0)
    first, refresh, *_ = peer.heard("INVITE")
    assert refresh.body == first.body
    assert refresh.valued("session-expires").parameters == {"refresher": "uac"}
    peer.says(200, expires, body=peer.described())
    assert len(peer.heard("ACK")) == 2


def test_whoever_cannot_refresh_is_refreshed():
    """Without `timer` in Supported we do it ourselves, as uas."""
    world = World(terms=Terms(session_seconds=600))
    answer = late(world)[-1]
    assert answer.valued("session-expires").parameters == {"refresher": "uas"}
    assert answer.first("require") is None


# --- during a call --------------------------------------------------------------------------------


@pytest.mark.parametrize("key", list("0123456789*#ABCD"))
def test_a_digit_goes_by_info(key):
    """Both forms are understood."""
    world = World()
    a, b = world.up()
    world.alice.agent.send_digit(a, Digit(key, 120), world.now)
    world.bob.agent.send_digit(b, Digit(key, 160), world.now, DTMF)
    world.flush()
    world.run(1.0)
    assert world.bob.last(Pressed).digit == Digit(key, 120)
    assert world.alice.last(Pressed).digit == Digit(key, 160)


def within(world: World, method: str, kind: str, body: bytes) -> Message:
    """A request of alice's that no verb of hers makes; bob's answer."""
    call = world.alice.agent._desk.calls[world.alice.calls[0]]
    request, _ = world.alice.agent._desk.compose(call, call.dialog, method)
    if kind:
        request.put_body(body, kind)
    world.bob.agent.receive(bytes(request), world.alice.hop, world.now)
    world.flush()
    return world.bob.sent[-1]


@pytest.mark.parametrize(
    ("method", "kind", "body", "status"),
    [
        ("OPTIONS", "", b"", 200),
        ("MESSAGE", "text/plain", b"hello", 200),
        ("INFO", "", b"", 200),
        ("INFO", "application/dtmf", b"17", 400),
        ("INFO", "text/plain", b"5", 415),
        ("PRACK", "", b"", 481),
        ("UPDATE", "application/sdp", b"v=1", 400),
        ("UPDATE", "", b"", 200),
        ("INVITE", "application/sdp", b"v=1", 400),
    ],
)
def test_other_requests_in_a_call_are_answered(method, kind, body, status):
    """And none of them ends it."""
    world = World()
    world.up()
    assert within(world, method, kind, body).status == status
    assert world.ends() == []
    assert len(world.bob.all(Texted)) == (method == "MESSAGE")


def test_an_update_changes_the_media():
    """RFC 3311: offer in the UPDATE, answer in its 200."""
    world = World()
    a, _ = world.up()
    mine = world.alice.agent.negotiation(a)
    mine.is_held = True
    answer = within(world, "UPDATE", "application/sdp", mine.offer().encode())
    mine.receive_answer(answer.body)
    assert world.bob.session.held_by_them


def test_a_second_invite_before_the_first_answer_is_too_early():
    """500 with a Retry-After (§14.2)."""
    world = World()
    world.bob.answers = False
    world.alice.call()
    world.run(0.1)
    world.bob.do("ring", world.bob.calls[0])
    first = world.alice.sent[0]
    text = (
        bytes(first).decode().replace("CSeq: 1", "CSeq: 2").replace("branch=z9", "branch=z9hG4bKx")
    )
    tag = world.bob.sent[-1].to.tag
    text = text.replace("To: <sip:bob@192.0.2.2>", f"To: <sip:bob@192.0.2.2>;tag={tag}")
    world.bob.agent.receive(text.encode(), world.alice.hop, world.now)
    world.flush()
    answer = world.bob.sent[-1]
    assert (answer.status, answer.first("retry-after") is not None) == (500, True)
    assert len(world.bob.all(Invited)) == 1


def test_the_target_is_where_the_peer_says():
    """A re-INVITE's Contact moves where the next requests go (§12.2)."""
    world = World()
    _, b = world.up()
    call = world.alice.agent._desk.calls[world.alice.calls[0]]
    call.dialog.contact = parse_uri("sip:elsewhere@203.0.113.9")
    world.alice.do("hold", world.alice.calls[0])
    world.run(1.0)
    world.bob.do("hang_up", b)
    assert world.third["203.0.113.9"][0].uri.user == "elsewhere"


@pytest.mark.parametrize("method", ["INVITE", "BYE", "REFER"])
def test_a_challenge_within_a_call_is_answered(method):
    """407 is no failure: the same request comes again with credentials and the next number."""
    peer = Peer(answerer=Answerer(Secret("alice", "secret"), lambda: "c0ffee"))
    peer.says(200, body=peer.described())
    verbs = {"INVITE": ("hold",), "BYE": ("hang_up",), "REFER": ("refer", parse_uri("sip:c@d"))}
    verb, *rest = verbs[method]
    peer.alice.do(verb, peer.call, *rest)
    first = peer.heard(method)[-1]
    challenge = ("Proxy-Authenticate", 'Digest realm="r", nonce="n", qop="auth"')
    peer.says(407, challenge, to=first)
    second = peer.heard(method)[-1]
    assert second.cseq.number == first.cseq.number + 1
    assert second.first("proxy-authorization")
    assert second.body == first.body
    peer.says(202 if method == "REFER" else 200, to=second, body=peer.described())
    assert peer.alice.all(ChangeRefused) == []
    if method == "INVITE":
        ack = peer.heard("ACK")[-1]
        assert (ack.cseq.number, bool(ack.first("proxy-authorization"))) == (3, True)


def test_an_early_fork_that_fails_leaves_nothing():
    """Early dialogs end with the call."""
    peer = Peer()
    for tag in ("one", "two"):
        peer.says(180, tag=tag)
    peer.says(486, tag="one")
    assert peer.alice.agent._desk.found == {}
    assert peer.alice.last(CallEnded).status == 486
