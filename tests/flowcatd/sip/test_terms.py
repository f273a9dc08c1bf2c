"""A call's own terms: session timers and reliable provisional answers as its trunk wants them."""

from __future__ import annotations

import msgspec
import pytest

from flowcatd.sip.adopt import CallSnapshot
from flowcatd.sip.agent_event import CallEnded, CallTerms, Invited
from flowcatd.sip.message import Message, Request, Response
from flowcatd.sip.trouble import SipError
from tests.flowcatd.sip.pair import World
from tests.flowcatd.sip.test_agent import STRANGER, ask, words
from tests.flowcatd.sip.test_invite import Peer

OFFER = Peer().heard("INVITE")[-1].body.decode()
SDP = "Content-Type: application/sdp"


def asked(**terms: object) -> Request:
    """The INVITE of a call of ours."""
    world = World()
    world.alice.call(terms=CallTerms(**terms))
    return world.alice.sent[-1]


def answered(*fields: str, **terms: object) -> Response:
    """The final answer to an INVITE with these fields, to which bob wants to say yes."""
    world = World()
    world.bob.answers = False
    ask(world, words("INVITE", SDP, *fields, body=OFFER))
    call = world.bob.last(Invited).call
    try:
        world.bob.do("answer", call, world.bob.negotiation(), terms=CallTerms(**terms))
    except SipError as error:
        world.bob.do("reject", call, error.status)
    return world.third[STRANGER.host][-1]


def timer_of(message: Message) -> tuple[str, str | None]:
    """The Session-Expires of a message, as interval and refresher."""
    told = message.valued("session-expires")
    return (told.value, told.parameters.get("refresher")) if told else ("", None)


# --- session timers -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("timer", "refresher", "said"),
    [
        ("off", "auto", ("", None)),
        ("accept", "us", ("", None)),
        ("ask", "auto", ("600", None)),
        ("ask", "us", ("600", "uac")),
        ("ask", "them", ("600", "uas")),
    ],
)
def test_a_call_asks_for_the_timer_that_its_terms_want(timer, refresher, said):
    """RFC 4028 §7.1: the interval, and who refreshes when that is not left to the callee."""
    invite = asked(session_seconds=600, timer=timer, refresher=refresher)
    assert timer_of(invite) == said
    assert ("timer" in invite.words("supported")) is (timer != "off")


def test_no_seconds_ask_for_no_timer():
    """A trunk that says 0 leaves it to the other side."""
    assert timer_of(asked(session_seconds=0, timer="ask")) == ("", None)


@pytest.mark.parametrize(
    ("fields", "terms", "said", "is_required"),
    [
        # RFC 4028 Table 2, row by row: who asks for nobody gets our choice, else what was asked for.
        (("Supported: timer", "Session-Expires: 300"), {}, ("300", "uac"), True),
        (("Supported: timer", "Session-Expires: 300"), {"refresher": "us"}, ("300", "uas"), True),
        (("Supported: timer", "Session-Expires: 300;refresher=uac"), {}, ("300", "uac"), True),
        (
            ("Supported: timer", "Session-Expires: 300;refresher=uac"),
            {"refresher": "us"},
            ("300", "uac"),
            True,
        ),
        (
            ("Supported: timer", "Session-Expires: 300;refresher=uas"),
            {"refresher": "them"},
            ("300", "uas"),
            True,
        ),
        (("Session-Expires: 300",), {"refresher": "them"}, ("300", "uas"), False),
        (("Require: timer", "Session-Expires: 300"), {}, ("300", "uac"), True),
        # Nobody asked: only terms that ask bring a timer up.
        (("Supported: timer",), {}, ("", None), False),
        (("Supported: timer",), {"timer": "ask"}, ("1800", "uac"), True),
        ((), {"timer": "ask", "session_seconds": 600}, ("600", "uas"), False),
        (("Supported: timer", "Session-Expires: 300"), {"timer": "off"}, ("", None), False),
        # Too little, said by somebody whom a 422 would only confuse (§8.1, erratum 1687).
        (("Session-Expires: 60",), {"session_least": 120}, ("120", "uas"), False),
    ],
)
def test_an_answer_grants_the_timer_that_the_table_says(fields, terms, said, is_required):
    """RFC 4028 §9."""
    answer = answered(*fields, **terms)
    assert answer.status == 200
    assert timer_of(answer) == said
    assert ("timer" in answer.words("require")) is is_required


@pytest.mark.parametrize(
    ("fields", "terms", "status", "says"),
    [
        (
            ("Supported: timer", "Session-Expires: 300"),
            {"session_least": 400},
            422,
            ("min-se", "400"),
        ),
        ((), {"reliable": "required"}, 421, ("require", "100rel")),
        (("Require: 100rel",), {"reliable": "off"}, 420, ("unsupported", "100rel")),
        (
            ("Require: timer", "Session-Expires: 300"),
            {"timer": "off"},
            420,
            ("unsupported", "timer"),
        ),
    ],
)
def test_what_the_terms_forbid_is_refused_with_the_reason(fields, terms, status, says):
    """The refusal names what the caller has to change (RFC 3261 §8.2.2.3, RFC 4028 §6)."""
    answer = answered(*fields, **terms)
    name, value = says
    assert (answer.status, answer.first(name)) == (status, value)


def test_a_timer_that_our_terms_exclude_is_not_honoured():
    """Who does not support timers is not the one to hang up by them."""
    peer = Peer(call_terms=CallTerms(timer="off"))
    peer.says(200, ("session-expires", "90;refresher=uas"), body=peer.described())
    peer.world.run(600.0)
    assert not peer.alice.all(CallEnded)


def test_the_terms_of_a_call_survive_its_process():
    """Who takes the call up refuses what the dead one would have refused."""
    world = World()
    world.alice.call(terms=CallTerms(timer="off", reliable="off"))
    world.run(1.0)
    kept = world.alice.agent.snapshot(world.alice.calls[0])
    read = msgspec.json.decode(msgspec.json.encode(kept), type=CallSnapshot)
    assert read.terms == CallTerms(timer="off", reliable="off")


# --- reliable provisional answers -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("reliable", "is_supported", "is_required"),
    [("off", False, False), ("supported", True, False), ("required", True, True)],
)
def test_a_call_says_what_it_thinks_of_reliable_answers(reliable, is_supported, is_required):
    """RFC 3262 §4."""
    invite = asked(reliable=reliable)
    assert ("100rel" in invite.words("supported")) is is_supported
    assert ("100rel" in invite.words("require")) is is_required


@pytest.mark.parametrize(
    ("reliable", "sent"), [("off", False), ("supported", False), ("required", True)]
)
def test_a_ring_without_a_description_is_reliable_where_the_terms_require_it(reliable, sent):
    """RFC 3262 §3: whoever can may be made to acknowledge each of them."""
    world = World()
    world.bob.answers = False
    ask(world, words("INVITE", SDP, "Supported: 100rel", body=OFFER))
    world.bob.do("ring", world.bob.last(Invited).call, terms=CallTerms(reliable=reliable))
    ring = world.third[STRANGER.host][-1]
    assert (ring.status, "100rel" in ring.words("require")) == (180, sent)
