"""The user agent as a whole: the pair law, garbage, strangers, limits, and calls that change hands."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcatd.errors import CapacityError, LocalError
from flowcatd.sip.adopt import CallSnapshot
from flowcatd.sip.agent import UserAgent
from flowcatd.sip.agent_event import Busy, CallEnded, Invited, Media, Terms
from flowcatd.sip.attribute import Direction
from flowcatd.sip.event import Hop
from flowcatd.sip.message import Request, build_response, parse_message
from flowcatd.sip.session import Capabilities, Local
from flowcatd.sip.trouble import SipError
from tests.flowcatd.sip.pair import Side, World
from tests.fuzz.sip_agent import run as fuzz
from tests.laws import keeps_bounded_law, keeps_garbage_law, keeps_quiet_law

STRANGER = Hop("UDP", "198.51.100.9", 5060)
SECONDS_MAX = 500.0
"""Timer C, then 64*T1 for each of the CANCEL's rest, the ACK, the BYE and the repetitions."""


def settle(seed: int) -> World:
    """One call with wishes on both sides at random times over a bad link; asserts the pair law."""
    world = World(seed, terms=Terms(ring_seconds=60.0))
    random = world.random
    world.loss = random.choice([0.0, 0.1, 0.3, 0.5])
    world.repeats, world.delay = random.choice([0.0, 0.2]), random.choice([0.0, 0.3, 2.0])
    world.bob.answers = False
    alice, bob = world.alice.agent, world.bob.agent
    world.alice.call()
    a = world.alice.calls[0]

    def b() -> int:
        if not world.bob.calls:
            raise LocalError("not invited yet")
        return world.bob.calls[0]

    def bob_answers() -> None:
        if not world.bob.calls and world.now < 40.0:
            world.at(world.now + 0.5, bob_answers)
        elif random.random() < 0.15:
            bob.reject(b(), random.choice([486, 603, 480]), world.now)
        else:
            bob.answer(b(), world.bob.negotiation(), world.now)

    if random.random() < 0.9:
        world.at(random.random() * 4, bob_answers)
    for _ in range(random.randrange(5)):
        due = random.choice([3.0, 6.0, random.random() * 20])
        held = random.random() < 0.5
        if random.random() < 0.5:
            world.at(due, lambda held=held: alice.hold(a, world.now, held=held))
        else:
            world.at(due, lambda held=held: bob.hold(b(), world.now, held=held))
    end = random.choice([0.1, 2.0, 10.0, random.random() * 30])
    world.at(end, lambda: alice.hang_up(a, world.now))
    world.at(end + random.choice([0.0, 0.0, 0.5, 5.0]), lambda: bob.hang_up(b(), world.now))
    # Whoever is asked while it waits is asked again: the user of a real call does not forget it either.
    world.at(100.0, lambda: bob.hang_up(b(), world.now))
    world.flush()
    world.run()
    for side in (world.alice, world.bob):
        keeps_pair_law(side, seed)
    assert world.now < SECONDS_MAX, seed
    return world


def keeps_pair_law(side: Side, seed: int) -> None:
    """Nothing is left, each call ended once and last, and the numbers of the requests rose."""
    assert len(side.agent) == 0, seed
    assert side.agent._desk.found == {}, seed
    assert side.agent._desk.sent == {}, seed
    assert side.agent._desk.asked == {}, seed
    assert side.agent._desk.invites == {}, seed
    assert len(side.agent._desk.transactions) == 0, seed
    assert len(side.all(CallEnded)) == len(side.calls), (seed, side.told)
    for number in side.calls:
        mine = [each for each in side.told if getattr(each, "call", None) == number]
        assert isinstance(mine[-1], CallEnded), seed
    # A repetition is the same branch again, and a CANCEL and an ACK have their INVITE's number.
    asked = {
        each.top.branch: each.cseq.number
        for each in side.sent
        if isinstance(each, Request) and each.method not in {"ACK", "CANCEL"}
    }
    numbers = list(asked.values())
    assert all(one < two for one, two in pairwise(numbers)), (seed, numbers)


@pytest.mark.parametrize("first", range(0, 400, 50))
def test_both_calls_always_end(first):
    """Over a link that loses, repeats, delays and reorders, through CANCEL races, glare, crossing BYEs."""
    for seed in range(first, first + 50):
        settle(seed)


def test_the_agent_survives_its_fuzz_run():
    """Mutated messages of real calls raise nothing and leave nothing for ever."""
    tried, _ = fuzz(1500, 30.0, 11)
    assert tried == 1500


@given(st.binary(max_size=300))
def test_garbage_gives_events_or_nothing(data):
    """Any bytes at all are dropped or answered."""
    agent = World().bob.agent
    keeps_garbage_law(agent, lambda: agent.receive(data, STRANGER, 0.0), SipError)


def test_events_that_nobody_drains_have_a_limit():
    """The agent says whose fault it is, instead of growing."""
    world = World(their_terms=Terms(undrained=20, calls=1000))
    world.drops = lambda _side, _message: True
    invites = []
    for _ in range(50):
        world.alice.call()
        invites.append(bytes(world.alice.sent[-1]))
    feed = iter(invites)
    keeps_bounded_law(
        world.bob.agent, lambda: world.bob.agent.receive(next(feed), world.alice.hop, 0.0), limit=20
    )
    keeps_quiet_law(world.bob.agent)


# --- strangers ------------------------------------------------------------------------------------


def ask(world: World, text: str, hop: Hop = STRANGER) -> list:
    """What bob answers to a message from elsewhere."""
    world.bob.agent.receive(text.replace("\n", "\r\n").encode(), hop, world.now)
    world.flush()
    return world.third.get(hop.host, [])


def words(method: str, *fields: str, to_tag: str = "", branch: str = "1", body: str = "") -> str:
    """A request from a stranger."""
    tag = f";tag={to_tag}" if to_tag else ""
    lines = [
        f"{method} sip:bob@192.0.2.2 SIP/2.0",
        f"Via: SIP/2.0/UDP 198.51.100.9;branch=z9hG4bK{branch}",
        "From: <sip:x@198.51.100.9>;tag=x",
        f"To: <sip:bob@192.0.2.2>{tag}",
        "Call-ID: stranger",
        f"CSeq: 7 {method}",
        "Contact: <sip:x@198.51.100.9>",
        *fields,
        f"Content-Length: {len(body)}",
    ]
    return "\n".join(lines) + "\n\n" + body


def test_options_tells_what_we_can():
    """A trunk that gets no 200 goes down."""
    (answer,) = ask(World(), words("OPTIONS"))
    assert answer.status == 200
    assert "invite" in answer.words("allow")
    assert "100rel" in answer.words("supported")
    assert "application/sdp" in answer.words("accept")


def test_a_full_worker_says_when_to_come_again():
    """OPTIONS and INVITE get 503 with Retry-After; calls that are up go on."""
    world = World()
    _, b = world.up()
    world.bob.agent.set_busy(Busy(17))
    (answer,) = ask(world, words("OPTIONS"))
    assert (answer.status, answer.number("retry-after")) == (503, 17)
    world.alice.call()
    world.run(1.0)
    ended = world.alice.last(CallEnded)
    assert (ended.status, ended.retry_after) == (503, 17)
    world.bob.do("hold", b)
    world.run(1.0)
    assert world.bob.session.direction is Direction.SENDONLY


@pytest.mark.parametrize(
    ("text", "status", "field"),
    [
        (words("SUBSCRIBE"), 405, "allow"),
        (words("FROBNICATE"), 501, "allow"),
        (words("INVITE", "Require: nothing-we-know"), 420, "unsupported"),
        (words("INVITE", "Content-Type: text/html", body="<b>"), 415, "accept"),
        (words("BYE", to_tag="nobody"), 481, None),
        (words("INVITE", to_tag="nobody"), 481, None),
        (words("UPDATE", to_tag="nobody"), 481, None),
        (words("PRACK", "RAck: 1 1 INVITE", to_tag="nobody"), 481, None),
        (words("REFER", "Refer-To: <sip:y@192.0.2.3>"), 603, None),
        (words("MESSAGE", "Content-Type: text/plain", body="hi"), 405, "allow"),
        (words("NOTIFY", "Event: refer"), 481, None),
        (words("INVITE", "Replaces: a;to-tag=b;from-tag=c"), 481, None),
        (words("INVITE", "Replaces: a"), 400, None),
        (words("INVITE", "Session-Expires: 60", "Supported: timer"), 422, "min-se"),
    ],
)
def test_what_is_not_for_us_is_answered_as_the_rfc_names(text, status, field):
    """One answer each, with the field that helps the peer."""
    answers = ask(World(), text)
    assert [answer.status for answer in answers] == [status]
    assert field is None or answers[0].first(field)


def test_a_request_by_two_ways_is_merged():
    """The second way gets 482 (§8.2.2.2), and there is one call."""
    world = World()
    world.bob.answers = False
    ask(world, words("INVITE", branch="1"))
    answers = ask(world, words("INVITE", branch="2"))
    assert [each.status for each in answers] == [482]
    assert len(world.bob.all(Invited)) == 1


def test_a_bye_with_wrong_tags_ends_nothing():
    """481, and the call goes on."""
    world = World()
    _, b = world.up()
    real = world.alice.sent[0]
    spoofed = words("BYE", to_tag="wrong").replace("stranger", real.call_id)
    (answer,) = ask(world, spoofed)
    assert answer.status == 481
    assert world.bob.all(CallEnded) == []
    assert world.bob.agent.snapshot(b) is not None


def test_a_bye_with_the_right_tags_is_taken_from_anywhere():
    """Proxies have several addresses: the tags, which nobody can guess, are the protection."""
    world = World()
    _, b = world.up()
    dialog = world.bob.agent._desk.calls[b].dialog
    spoofed = words("BYE", to_tag=dialog.local.tag).replace("stranger", dialog.call_id)
    (answer,) = ask(world, spoofed.replace("tag=x", f"tag={dialog.remote.tag}"))
    assert answer.status == 200
    assert world.bob.last(CallEnded).by_peer


def test_a_request_out_of_order_is_refused():
    """An old CSeq gets 500 (§12.2.2), and ends nothing."""
    world = World()
    _, b = world.up()
    dialog = world.bob.agent._desk.calls[b].dialog
    late = words("BYE", to_tag=dialog.local.tag).replace("stranger", dialog.call_id)
    late = late.replace("tag=x", f"tag={dialog.remote.tag}").replace("CSeq: 7", "CSeq: 1")
    (answer,) = ask(world, late)
    assert answer.status == 500
    assert world.bob.all(CallEnded) == []


def test_whoever_is_not_admitted_costs_no_call():
    """The hook's answer goes out, and nothing is made."""
    world = World(admit=lambda request, _hop, _now: build_response(request, 403, tag="t"))
    (answer,) = ask(world, words("INVITE"))
    assert answer.status == 403
    assert world.bob.all(Invited) == []


def test_there_is_room_for_so_many_calls():
    """One more is refused with 503, and one of ours with CapacityError."""
    world = World(their_terms=Terms(calls=1))
    world.up()
    world.alice.call()
    world.run(1.0)
    assert world.alice.last(CallEnded).status == 503
    with pytest.raises(CapacityError):
        world.bob.call("sip:alice@192.0.2.1")


# --- calls that change hands ----------------------------------------------------------------------


def take_up(world: World) -> int:
    """Bob's process dies; another one restores its call from JSON."""
    number = world.bob.calls[-1]
    text = msgspec.json.encode(world.bob.agent.snapshot(number))
    world.bob.agent = UserAgent(replace(world.bob.mint), Terms())
    snapshot = msgspec.json.decode(text, type=CallSnapshot)
    local = Local("192.0.2.2", 10_000)
    return world.bob.agent.restore(snapshot, Capabilities(), local, world.now)


def test_a_restored_call_changes_both_ways():
    """Re-INVITEs work after the other process has died, with the same tags and rising numbers."""
    world = World()
    a, _ = world.up()
    tags = {each.to.tag for each in world.bob.sent}
    b = take_up(world)
    world.alice.do("hold", a)
    world.run(2.0)
    assert world.alice.session.direction is Direction.SENDONLY
    world.alice.do("hold", a, held=False)
    world.run(2.0)
    before = len(world.bob.sent)
    world.bob.do("hold", b)
    world.run(2.0)
    assert world.alice.session.held_by_them
    ours = world.bob.sent[before]
    assert (ours.method, ours.from_.tag in tags) == ("INVITE", True)


@pytest.mark.parametrize("hangs_up", ["alice", "bob"])
def test_a_restored_call_ends_both_ways(hangs_up):
    """A BYE from either side is understood by the other."""
    world = World()
    a, _ = world.up()
    b = take_up(world)
    if hangs_up == "alice":
        world.alice.do("hang_up", a)
    else:
        world.bob.do("hang_up", b)
    world.run(40.0)
    assert sorted(world.ends()) == [("alice", 200), ("bob", 200)]
    assert len(world.alice.agent) == len(world.bob.agent) == 0


@pytest.mark.parametrize("seconds", [90, 1800])
def test_a_restored_call_is_still_refreshed(seconds):
    """Session refreshes, whosever they are, go on: the call outlives its interval by far."""
    world = World(terms=Terms(session_seconds=seconds))
    a, _ = world.up()
    take_up(world)
    world.run(3 * seconds)
    assert world.ends() == []
    assert "UPDATE" in world.alice.words() + world.bob.words()
    world.alice.do("hang_up", a)
    world.run()
    assert len(world.bob.agent) == 0


def test_a_request_that_the_dead_process_had_taken_is_answered_again():
    """Its answer was lost with it; the repetition is no request out of order."""
    world = World()
    a, _ = world.up()
    number = world.bob.calls[-1]
    world.drops = lambda side, message: side is world.bob and message.cseq.method == "BYE"
    snapshot = world.bob.agent.snapshot(number)
    world.alice.do("hang_up", a)
    world.run(0.1)
    world.bob.agent = UserAgent(world.bob.mint)
    world.bob.agent.restore(snapshot, Capabilities(), Local("192.0.2.2", 10_000), world.now)
    world.drops = lambda _side, _message: False
    world.run()
    assert ("alice", 200) in world.ends()
    assert len(world.bob.agent) == 0


def test_an_unanswered_call_has_no_snapshot():
    """There is nothing to take up."""
    world = World()
    world.bob.answers = False
    world.alice.call()
    world.run(1.0)
    assert world.alice.agent.snapshot(world.alice.calls[0]) is None
    assert world.bob.agent.snapshot(world.bob.calls[0]) is None


def test_the_ladder_has_every_message_and_nothing_private():
    """Methods, statuses and times, and no number, address or body."""
    world = World()
    a, _ = world.up()
    text = [str(step) for step in world.alice.agent.ladder(a)]
    assert [line.split(" ", 1)[1] for line in text] == [
        "→ INVITE 1 +body",
        "← 180 INVITE 1",
        "← 200 INVITE 1 +body",
        "→ ACK 1",
    ]
    assert world.alice.all(Media)


def test_everything_that_goes_out_is_read_again():
    """What we write, the parser accepts, byte for byte."""
    world = settle(3)
    for message in world.alice.sent + world.bob.sent:
        assert bytes(parse_message(bytes(message))) == bytes(message)
