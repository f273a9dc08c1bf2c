"""A call that changes hands at any moment of its life: who takes it up goes on as if nothing had been."""

from __future__ import annotations

import re
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowcatd.errors import LocalError
from flowcatd.sip.adopt import CallSnapshot
from flowcatd.sip.agent import UserAgent
from flowcatd.sip.agent_event import CallEnded, Terms
from flowcatd.sip.body import Digit
from flowcatd.sip.message import Request, of_json_text
from flowcatd.sip.session import Capabilities, Local
from flowcatd.sip.trouble import SipError
from tests.flowcatd.sip.pair import Side, World
from tests.flowcatd.sip.test_agent import STRANGER, words
from tests.flowcatd.sip.test_invite import Peer

TERMS = Terms(session_seconds=90)
OFFER = Peer().heard("INVITE")[-1].body.decode()
INTERVALS = 300.0
"""Three session intervals and more: refreshes have to have worked."""

moments = st.floats(0.0, 30.0)
wishes = st.lists(
    st.tuples(
        moments, st.sampled_from(["alice", "bob"]), st.sampled_from(["hold", "resume", "digit"])
    ),
    max_size=6,
)
deaths = st.lists(
    st.tuples(moments, st.sampled_from(["alice", "bob"])), min_size=1, max_size=3
).map(sorted)


def side_of(world: World, name: str) -> Side:
    """By its name."""
    return world.alice if name == "alice" else world.bob


def wish(world: World, side: Side, what: str) -> None:
    """Something that its user wants of the call."""
    number = side.calls[-1]
    if what == "digit":
        side.agent.send_digit(number, Digit("5", 100), world.now)
    else:
        side.agent.hold(number, world.now, held=what == "hold")
    world.flush()


def die(world: World, side: Side) -> None:
    """The process of one side is killed; another takes its call up from what was written down."""
    snapshot = side.agent.snapshot(side.calls[-1])
    if snapshot is None:
        raise LocalError("nothing was up")
    kept = msgspec.json.decode(msgspec.json.encode(snapshot), type=CallSnapshot)
    side.agent = UserAgent(side.mint, TERMS)
    port = 10_000
    number = side.agent.restore(kept, Capabilities(), Local(side.hop.host, port), world.now)
    side.calls.append(number)
    world.flush()


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 10_000),
    delay=st.sampled_from([0.0, 0.05, 0.4]),
    wanted=wishes,
    killed=deaths,
    hangs_up=st.sampled_from(["alice", "bob"]),
)
def test_a_call_outlives_its_processes_whenever_they_die(seed, delay, wanted, killed, hangs_up):
    """Holds, digits, refreshes and the BYE work afterwards, and the numbers of requests have risen."""
    world = World(seed, terms=TERMS)
    world.up()
    start, world.delay = world.now, delay
    for due, name, what in wanted:
        world.at(start + due, lambda name=name, what=what: wish(world, side_of(world, name), what))
    for due, name in killed:
        world.at(start + due, lambda name=name: die(world, side_of(world, name)))
    world.run(INTERVALS)
    assert world.ends() == []
    for name in ("alice", "bob"):
        wish(world, side_of(world, name), "hold")
        world.run(20.0)
    assert world.alice.session.held_by_them
    assert world.bob.session.held_by_them
    ender = side_of(world, hangs_up)
    ender.do("hang_up", ender.calls[-1])
    world.run(60.0)
    assert sorted(world.ends()) == [("alice", 200), ("bob", 200)]
    for side in (world.alice, world.bob):
        assert len(side.agent) == 0
        asked = [each for each in side.sent if isinstance(each, Request)]
        counted = [each for each in asked if each.method not in {"ACK", "CANCEL"}]
        # Each where it first went out: an INVITE comes again although an INFO has followed it.
        first = dict.fromkeys((each.top.branch, each.cseq.number) for each in counted)
        assert all(one < other for (_, one), (_, other) in pairwise(first))


@pytest.mark.parametrize("dies", ["alice", "bob"])
def test_an_answer_to_the_dead_is_acknowledged(dies):
    """A 2xx to a re-INVITE of the dead process gets its ACK, and the offer is made once more."""
    world = World(terms=TERMS)
    world.up()
    side = side_of(world, dies)
    wish(world, side, "hold")
    die(world, side)
    before = side.words().count("ACK")
    world.run(40.0)
    assert side.words().count("ACK") > before
    assert world.ends() == []
    assert world.other(side).session.held_by_them == side.session.held_by_us


def test_a_name_that_is_no_utf_8_survives_its_process():
    """A Latin-1 display name and session name: written down, read again, and said as they came."""
    world = World(terms=TERMS)
    text = words("INVITE", "Content-Type: application/sdp", body=OFFER.replace("s=-", "s=J\xf6rg-"))
    data = text.replace("From: ", 'From: "J\xf6rg" ').replace("\r", "").replace("\n", "\r\n")
    data = re.sub(r"Content-Length: \d+", "X-Length: no", data)
    world.bob.agent.receive(data.encode("latin-1"), STRANGER, world.now)
    world.flush()
    die(world, world.bob)
    world.bob.do("hang_up", world.bob.calls[-1])
    assert b'To: "J\xf6rg" <sip:x@198.51.100.9>;tag=x' in bytes(world.third[STRANGER.host][-1])
    with pytest.raises(SipError):
        of_json_text("\u20ac")


def test_an_answer_that_nobody_asked_for_is_not_acknowledged():
    """Spoofed with the right tags, but a number that no process of ours has used yet: nothing is sent."""
    world = World(terms=TERMS)
    world.up()
    side = world.alice
    wish(world, side, "hold")
    world.run(5.0)
    answer = next(
        bytes(each)
        for each in reversed(world.bob.sent)
        if not isinstance(each, Request) and each.cseq.method == "INVITE"
    )
    die(world, side)
    before = len(side.sent)
    forged = answer.replace(b"CSeq: 2 ", b"CSeq: 200 ").replace(
        b"branch=z9hG4bK", b"branch=z9hG4bKq"
    )
    assert forged != answer
    side.agent.receive(forged, world.bob.hop, world.now)
    world.flush()
    assert len(side.sent) == before
    assert side.all(CallEnded) == []
