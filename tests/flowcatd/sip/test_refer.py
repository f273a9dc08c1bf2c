"""Transfers, both ways: blind, attended, refused, forgotten; and the words they are made of."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcatd.errors import LocalError
from flowcatd.sip.agent_event import CallEnded, Invited, ReferProgress, Referred
from flowcatd.sip.body import FRAGMENT
from flowcatd.sip.header import parse_address
from flowcatd.sip.message import Request
from flowcatd.sip.refer import REFERENCES_MAX, Replaces, parse_replaces, refer_to
from flowcatd.sip.trouble import SipError
from flowcatd.sip.uri import parse_uri
from tests.flowcatd.sip.pair import World

CAROL = parse_uri("sip:carol@192.0.2.3")


def notifies(world: World) -> list[Request]:
    """Bob's NOTIFYs."""
    return [each for each in world.bob.sent if getattr(each, "method", "") == "NOTIFY"]


def test_a_blind_transfer_is_accepted_and_reported():
    """REFER, 202, NOTIFY 100, NOTIFY 180, NOTIFY 200: each gets its 200, the last ends it."""
    world = World()
    a, b = world.up()
    world.alice.do("refer", a, CAROL)
    world.run(1.0)
    referred = world.bob.last(Referred)
    assert (referred.target, referred.replaces) == (CAROL, None)
    assert referred.referred_by == "<sip:alice@192.0.2.1>"
    world.bob.do("report_refer", b, referred.reference, 180)
    world.bob.do("report_refer", b, referred.reference, 200)
    world.run(1.0)
    assert [each.status for each in world.alice.all(ReferProgress)] == [100, 180, 200]
    assert world.alice.words().count("200 NOTIFY") == 3
    states = [each.valued("subscription-state").value for each in notifies(world)]
    assert states == ["active", "active", "terminated"]
    assert notifies(world)[0].body == b"SIP/2.0 100 Trying\r\n"
    assert notifies(world)[0].first("content-type").startswith(FRAGMENT)
    assert world.ends() == []


def test_a_decided_transfer_is_reported_no_more():
    """After the final report there is nothing to say."""
    world = World()
    a, b = world.up()
    world.alice.do("refer", a, CAROL)
    world.run(1.0)
    reference = world.bob.last(Referred).reference
    for status in (486, 200, 200):
        world.bob.do("report_refer", b, reference, status)
    world.run(1.0)
    assert [each.status for each in world.alice.all(ReferProgress)] == [100, 486]


def test_an_attended_transfer_takes_the_place_of_a_call():
    """The Replaces names the dialog as its own peer sees it; answering hangs the old call up."""
    world = World()
    first, _ = world.up()
    second, target = world.up()
    world.alice.do("refer", first, CAROL, replaces=second)
    world.run(1.0)
    replaces = world.bob.last(Referred).replaces
    world.bob.call(
        "sip:bob@192.0.2.2", hops=(world.bob.hop,), fields=(("Replaces", str(replaces)),)
    )
    world.run(2.0)
    invited = world.bob.last(Invited)
    assert invited.replaces == target
    assert any(each.call == target for each in world.bob.all(CallEnded))
    assert any(each.call == second for each in world.alice.all(CallEnded))


def test_a_refused_transfer_is_told_and_the_call_goes_on():
    """603: the asker hears it, nothing else changes."""
    world = World()
    a, _ = world.up()
    world.bob.hears = world.bob.told.append
    world.alice.do("refer", a, CAROL)
    world.run(0.1)
    referred = world.bob.last(Referred)
    world.bob.agent.answer_refer(referred.call, referred.reference, 603, world.now)
    world.flush()
    world.run(1.0)
    assert [each.status for each in world.alice.all(ReferProgress)] == [603]
    assert world.ends() == []


def test_a_transfer_that_nobody_reports_ends():
    """The subscription has an end: 408, and room for the next one."""
    world = World()
    a, _ = world.up()
    world.alice.do("refer", a, CAROL)
    world.run(200.0)
    assert world.alice.last(ReferProgress).status == 408
    call = world.alice.agent._desk.calls[a]
    assert call.transfers == {}


def test_so_many_transfers_at_once():
    """One more is our own mistake."""
    world = World()
    a, _ = world.up()
    for _ in range(REFERENCES_MAX):
        world.alice.do("refer", a, CAROL)
    with pytest.raises(LocalError):
        world.alice.do("refer", a, CAROL)


def test_a_notify_after_the_bye_gets_its_200():
    """Who asked for a transfer may hang up first; the report finds the dialog a while longer."""
    world = World()
    a, b = world.up()
    world.alice.do("refer", a, CAROL)
    world.run(0.1)
    world.drops = lambda _side, message: (
        message.cseq.method == "BYE" and isinstance(message, Request)
    )
    world.alice.do("hang_up", a)
    world.bob.do("report_refer", b, world.bob.last(Referred).reference, 200)
    world.run(0.2)
    assert world.alice.words().count("200 NOTIFY") == 2


@pytest.mark.parametrize(
    ("field", "status"),
    [
        (None, 400),
        ("<sip:c@d?Replaces=nonsense>", 400),
        ("<sip:c@d;method=SUBSCRIBE>", 501),
        ("<http://example.net>", 416),
    ],
)
def test_a_refer_to_what_cannot_be_called_is_refused(field, status):
    """And costs nothing."""
    world = World()
    a, b = world.up()
    call = world.alice.agent._desk.calls[a]
    request, _ = world.alice.agent._desk.compose(call, call.dialog, "REFER")
    if field is not None:
        request.put("refer-to", field)
    world.bob.agent.receive(bytes(request), world.alice.hop, world.now)
    world.flush()
    assert world.bob.sent[-1].status == status
    assert world.bob.agent._desk.calls[b].transfers == {}


def test_without_a_subscription_nothing_is_reported():
    """Refer-Sub: false (RFC 4488) is granted, and no NOTIFY follows."""
    world = World()
    a, _ = world.up()
    call = world.alice.agent._desk.calls[a]
    request, _ = world.alice.agent._desk.compose(call, call.dialog, "REFER")
    request.put("refer-to", f"<{CAROL}>")
    request.put("refer-sub", "false")
    world.bob.agent.receive(bytes(request), world.alice.hop, world.now)
    world.flush()
    accepted = world.bob.sent[-1]
    assert (accepted.status, accepted.first("refer-sub")) == (202, "false")
    assert notifies(world) == []


TOKENS = st.text("abcXYZ019-.!%*_+`'~", min_size=1, max_size=12)


@given(TOKENS, TOKENS, TOKENS, st.booleans())
def test_a_replaces_survives_a_refer_to(call_id, to_tag, from_tag, early_only):
    """Round trip through text and through the headers of a URI."""
    replaces = Replaces(f"{call_id}@192.0.2.1", to_tag, from_tag, early_only)
    assert parse_replaces(str(replaces)) == replaces
    uri = parse_address(refer_to(CAROL, replaces)).uri
    assert parse_replaces(dict(uri.headers)["Replaces"]) == replaces


@given(st.text(max_size=40))
def test_a_replaces_is_one_or_an_error(text):
    """Nothing else comes out."""
    with contextlib.suppress(SipError):
        assert parse_replaces(text).to_tag
