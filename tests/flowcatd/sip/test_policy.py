"""Facts about calls: who answers, whom we may call, how many there may be, and on what terms."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from flowcatd.errors import LocalError
from flowcatd.options import Secret
from flowcatd.sip.agent_event import CallTerms
from flowcatd.sip.policy import Arrived, Dial, Policy, Terms
from flowcatd.sip.policy_terms import secrecy_of, terms_of
from flowcatd.sip.route import Refused
from flowcatd.sip.session import CODECS, Secrecy
from flowcatd.sip.trunk import (
    Account,
    Identity,
    Inbound,
    Media,
    Outbound,
    Peer,
    Register,
    Route,
    Session,
    Trunk,
)
from tests.flowcatd.sip.ledger import Ledger
from tests.flowcatd.sip.test_policy_door import CARRIER, at, hop, policy, reveal
from tests.flowcatd.sip.torture import request

NUMBER = "+4930123456"


def caller(name: str = "out", *, proxy: str = "sip:sip.example.net", **outbound) -> Trunk:
    """A trunk that we may call Germany over."""
    settings_ = {"enabled": True, "prefixes": ("+49",), "calls_per_second": 1000.0, **outbound}
    return Trunk(
        Peer(name=name, proxies=(proxy,)),
        Account("acc", password=Secret("env:ANN")),
        identity=Identity(caller_id="+4930999999", caller_ids=("+4930888888",)),
        outbound=Outbound(**settings_),
    )


def worker(ledger: Ledger, *trunks: Trunk, **terms) -> Policy:
    """A policy that counts in a table."""
    counter = itertools.count(1)
    named = {trunk.name: trunk for trunk in trunks}
    return Policy(
        named, reveal, lambda: next(counter).to_bytes(16, "little"), ledger, Terms(**terms)
    )


# --- calls that come in


def test_a_call_is_its_trunks_and_its_routes():
    """Agent, number, caller and variables are there, and how to answer; nothing is from the body."""
    trunk = dataclasses.replace(
        at("a", CARRIER, variables={"X-Id": "id"}),
        routes=(Route(number="+4930222", agent="sales", variables={"office": "Berlin"}),),
        session=Session(timer="off"),
        media=Media(("pcma",), "optional"),
    )
    asked = request(
        "INVITE",
        "X-Id: 7",
        uri="sip:+4930222@us.example",
        from_='"Ann" <sip:+4930111@b.example>;tag=1',
        body=b"v=0\r\ns=agent=boss\r\n",
        content_type="application/sdp",
    )
    arrived = policy(trunk).arrive(asked, hop(), 0.0)
    assert isinstance(arrived, Arrived)
    assert (arrived.trunk, arrived.agent) == (trunk, "sales")
    assert (arrived.called, arrived.caller, arrived.caller_name) == ("+4930222", "+4930111", "Ann")
    assert arrived.variables == {"id": "7", "office": "Berlin"}
    assert arrived.capabilities.codecs == (CODECS["pcma"],)
    assert arrived.capabilities.secrecy is Secrecy.ALLOWED
    assert arrived.terms.timer == "off"
    assert "4930" not in repr(arrived).replace(repr(trunk), "")


def test_a_call_that_nobody_takes_counts_nothing():
    """404 without a route, 484 for a number that is none, 403 for a stranger."""
    ledger = Ledger()
    door = worker(ledger, dataclasses.replace(at("a", CARRIER), routes=(Route(number="1"),)))
    for uri, host, status in (
        ("sip:2@us.example", CARRIER, 404),
        (f"sip:{'1' * 200}@us.example", CARRIER, 484),
        ("sip:1@us.example", "198.51.100.1", 403),
    ):
        refused = door.arrive(request(uri=uri), hop(host), 0.0)
        assert isinstance(refused, Refused)
        assert refused.status == status
    assert ledger.total("a", inbound=True) == 0


def test_a_trunk_has_no_more_calls_than_it_may_in_all_workers():
    """The next one is a 503 in whichever worker it comes, and one that ends makes room."""
    ledger, trunk = Ledger(), at("a", CARRIER, most_calls=2)
    one, two = worker(ledger, trunk), worker(ledger.beside(), trunk)
    assert isinstance(one.arrive(request(), hop(), 0.0), Arrived)
    assert isinstance(two.arrive(request(), hop(), 0.0), Arrived)
    for each in (one, two):
        refused = each.arrive(request(), hop(), 0.0)
        assert isinstance(refused, Refused)
        assert refused.status == 503
    assert ledger.total("a", inbound=True) == 2
    one.depart("a", inbound=True)
    assert isinstance(two.arrive(request(), hop(), 0.0), Arrived)


def test_a_trunk_has_its_pace():
    """No more calls a second than it may in one worker; a refused one is not counted."""
    ledger = Ledger()
    door = worker(ledger, at("a", CARRIER, calls_per_second=2.0))
    found = [door.arrive(request(), hop(), 0.0) for _ in range(4)]
    assert [isinstance(each, Arrived) for each in found] == [True, True, False, False]
    assert ledger.total("a", inbound=True) == 2
    assert isinstance(door.arrive(request(), hop(), 0.5), Arrived)


def test_a_call_that_ends_gives_no_pace_back():
    """Calls that are hung up at once are calls, too."""
    door = worker(Ledger(), at("a", CARRIER, calls_per_second=1.0))
    assert isinstance(door.arrive(request(), hop(), 0.0), Arrived)
    door.depart("a", inbound=True)
    assert isinstance(door.arrive(request(), hop(), 0.5), Refused)


def test_a_call_taken_up_counts_whatever_the_limits():
    """It is there already; the next new one waits until there is room."""
    ledger = Ledger()
    door = worker(ledger, at("a", CARRIER, most_calls=1))
    for _ in range(2):
        door.take_up("a", inbound=True)
    assert door.live("a", inbound=True) == 2
    door.depart("a", inbound=True)
    assert isinstance(door.arrive(request(), hop(), 0.0), Refused)
    door.depart("a", inbound=True)
    assert isinstance(door.arrive(request(), hop(), 0.0), Arrived)


def test_a_call_departs_once():
    """A second time is a bug, and changes no count; so is one that never was."""
    ledger = Ledger()
    door = worker(ledger, at("a", CARRIER))
    door.arrive(request(), hop(), 0.0)
    door.depart("a", inbound=True)
    for name in ("a", "nobody"):
        with pytest.raises(LocalError):
            door.depart(name, inbound=True)
    assert ledger.total("a", inbound=True) == 0


def test_a_call_outlives_its_trunk():
    """Removed, its calls still depart, also those taken up; then nothing of it is left."""
    ledger = Ledger()
    door = worker(ledger, at("a", CARRIER))
    door.arrive(request(), hop(), 0.0)
    assert [each.name for each in door.change({}).removed] == ["a"]
    assert isinstance(door.arrive(request(), hop(), 0.0), Refused)
    door.take_up("a", inbound=False)
    for inbound in (True, False):
        door.depart("a", inbound=inbound)
    assert sum(ledger.table.values()) == 0
    assert door._quotas == {}


def test_a_call_outlives_its_trunks_return():
    """Removed and added again, the trunk still has the call that it had."""
    ledger, trunk = Ledger(), at("a", CARRIER, most_calls=1)
    door = worker(ledger, trunk)
    door.arrive(request(), hop(), 0.0)
    door.change({})
    door.change({"a": trunk})
    assert isinstance(door.arrive(request(), hop(), 1.0), Refused)
    door.depart("a", inbound=True)
    assert isinstance(door.arrive(request(), hop(), 1.0), Arrived)


def test_a_reload_changes_limits_and_no_live_call():
    """Fewer than there are refuses new ones only; another trunk's pace is as it was."""
    ledger = Ledger()
    slow = at("slow", "203.0.113.1", calls_per_second=1.0)
    door = worker(ledger, at("a", CARRIER, most_calls=3), slow)
    for _ in range(3):
        assert isinstance(door.arrive(request(), hop(), 0.0), Arrived)
    assert isinstance(door.arrive(request(), hop("203.0.113.1"), 0.0), Arrived)
    changed = door.change({"a": at("a", CARRIER, most_calls=1), "slow": slow}).changed
    assert [(trunk.name, sections) for trunk, sections in changed] == [("a", {"inbound"})]
    assert ledger.total("a", inbound=True) == 3
    assert isinstance(door.arrive(request(), hop("203.0.113.1"), 0.1), Refused)
    for _ in range(3):
        assert isinstance(door.arrive(request(), hop(), 1.0), Refused)
        door.depart("a", inbound=True)
    assert isinstance(door.arrive(request(), hop(), 1.0), Arrived)


# --- calls of ours


def test_a_call_goes_out_as_the_trunk_says():
    """Number, target, From, next hops, what answers challenges, and the terms."""
    trunk = dataclasses.replace(
        caller(dial={"+49": "0"}),
        session=Session(timer="ask", seconds=600),
        identity=Identity(caller_id="+4930999999", asserted="p-asserted-identity"),
    )
    door = worker(Ledger(), trunk)
    dial = door.dial("+49 30 123456", now=0.0)
    assert isinstance(dial, Dial)
    assert (dial.trunk, dial.number, dial.caller) == (trunk, NUMBER, "+4930999999")
    assert str(dial.target) == "sip:030123456@sip.example.net"
    assert str(dial.caller_address) == "<sip:+4930999999@sip.example.net>"
    assert dial.fields == (("P-Asserted-Identity", "<sip:+4930999999@sip.example.net>"),)
    assert [str(each) for each in dial.next_hops] == ["sip:sip.example.net"]
    assert dial.routes == ()
    assert dial.answerer is door.answerer("out")
    assert dial.terms.session_seconds == 600
    assert "123456" not in repr(dial)


@pytest.mark.parametrize(
    ("peer", "target"),
    [
        (Peer(name="t", proxies=("sip:192.0.2.1:5070;transport=tcp",)), f"{NUMBER}@192.0.2.1:5070"),
        (Peer(name="t", proxies=("sip:[2001:db8::1]",)), f"{NUMBER}@[2001:db8::1]"),
        (
            Peer(name="t", proxies=("sip:p.example:5070",), domain="d.example"),
            f"{NUMBER}@d.example",
        ),
        (Peer(name="t"), f"{NUMBER}@reg.example"),
    ],
)
def test_a_number_is_at_the_trunks_domain_or_its_first_proxy(peer, target):
    """With the port of the proxy, which is where it is; and somewhere to send it there always is."""
    trunk = dataclasses.replace(
        caller(), peer=peer, register=Register(registrar="sip:reg.example"), account=Account("acc")
    )
    dial = worker(Ledger(), trunk).dial(NUMBER, now=0.0)
    assert isinstance(dial, Dial)
    assert str(dial.target) == f"sip:{target}"
    assert dial.caller_address.uri.host
    assert dial.next_hops
    assert dial.answerer is None


def test_the_first_trunk_that_may_call_a_number_does():
    """In the order of the files; one that is named is taken or refused."""
    door = worker(
        Ledger(),
        caller("off", enabled=False),
        caller("france", prefixes=("+33",)),
        caller("one"),
        caller("two"),
    )
    assert door.dial(NUMBER, now=0.0).trunk.name == "one"
    assert door.dial("+33123456789", now=0.0).trunk.name == "france"
    assert door.dial(NUMBER, trunk="two", now=0.0).trunk.name == "two"
    assert door.dial(NUMBER, trunk="france", now=0.0) == Refused(403, "no allowed prefix")
    assert door.dial(NUMBER, trunk="off", now=0.0) == Refused(403, "the trunk places no calls")
    assert door.dial(NUMBER, trunk="none", now=0.0) == Refused(404, "no such trunk")


def test_a_caller_id_leads_to_the_trunk_that_has_it():
    """And to nobody where no trunk has it."""
    other = dataclasses.replace(caller("other"), identity=Identity(caller_id="+4930777777"))
    door = worker(Ledger(), caller("one"), other)
    assert door.dial(NUMBER, caller_id="+4930777777", now=0.0).trunk.name == "other"
    assert door.dial(NUMBER, caller_id="+4930888888", now=0.0).caller == "+4930888888"
    refused = door.dial(NUMBER, caller_id="+4930666666", now=0.0)
    assert refused == Refused(403, "the caller id is not one of the trunk's")


@pytest.mark.parametrize(
    ("to", "status"),
    [
        ("+33123456789", 403),
        ("+49900123456", 403),
        ("+49301234", 403),
        ("030123456", 484),
        ("bob", 484),
        ("sip:+4930123456@evil.example", 484),
        ("", 484),
    ],
)
def test_what_may_not_be_called_is_refused_before_anything_is_counted(to, status):
    """Other countries, premium and denied numbers, names, URIs; and the reason repeats none of it."""
    ledger = Ledger()
    door = worker(ledger, caller(denied=("+49301234",), calls_per_second=1.0))
    refused = door.dial("+49301234" if to == "" else to, now=0.0) if to else door.dial(to, now=0.0)
    assert isinstance(refused, Refused)
    assert refused.status == status
    assert not to or to not in refused.reason
    assert sum(ledger.table.values()) == 0
    assert isinstance(door.dial("+4930555555", now=0.0), Dial)


def test_without_a_trunk_that_places_calls_nobody_is_called():
    """403, whatever the number."""
    assert policy().dial(NUMBER, now=0.0) == Refused(403, "no trunk places calls")


def test_calls_of_ours_have_a_cap_and_a_pace():
    """In all workers the one, in each the other; calls that come in take nothing from them."""
    ledger = Ledger()
    trunk = dataclasses.replace(caller(most_calls=2), inbound=Inbound(sources=(CARRIER,)))
    trunk = dataclasses.replace(trunk, routes=(Route(),))
    one, two = worker(ledger, trunk), worker(ledger.beside(), trunk)
    assert isinstance(one.dial(NUMBER, now=0.0), Dial)
    assert isinstance(two.dial(NUMBER, now=0.0), Dial)
    assert one.dial(NUMBER, now=0.0) == Refused(503, "the trunk has its most calls")
    assert isinstance(one.arrive(request(), hop(), 0.0), Arrived)
    one.depart("out", inbound=False)
    assert isinstance(two.dial(NUMBER, now=0.0), Dial)
    paced = worker(Ledger(), caller(calls_per_second=1.0))
    assert isinstance(paced.dial(NUMBER, now=0.0), Dial)
    assert paced.dial(NUMBER, now=0.5).status == 503
    assert isinstance(paced.dial(NUMBER, now=1.0), Dial)


def test_a_full_trunk_sends_no_call_to_a_dearer_one():
    """The order of trunks is the operator's price list, not a pool."""
    door = worker(Ledger(), caller("cheap", most_calls=1), caller("dear"))
    assert isinstance(door.dial(NUMBER, now=0.0), Dial)
    assert door.dial(NUMBER, now=0.0).status == 503


def test_a_transfer_asks_without_counting():
    """The target, or why not; over the trunk of the call, and no other."""
    ledger = Ledger()
    door = worker(ledger, caller())
    assert str(door.may_dial("out", NUMBER)) == f"sip:{NUMBER}@sip.example.net"
    assert door.may_dial("out", "+33123456789") == Refused(403, "no allowed prefix")
    assert door.may_dial("", NUMBER) == Refused(404, "no such trunk")
    assert sum(ledger.table.values()) == 0


# --- how


def test_codecs_are_those_that_are_installed():
    """In the trunk's order; a trunk without any is told, and takes and places no call."""
    media = Media(("opus", "g722", "pcma"))
    trunk = dataclasses.replace(at("a", CARRIER), media=media)
    both = worker(Ledger(), trunk, codecs=frozenset({"pcma", "pcmu", "g722"}))
    assert both.capabilities(trunk).codecs == (CODECS["g722"], CODECS["pcma"])
    assert both.problems == ()
    ledger, opus = Ledger(), Media(("opus",))
    without = worker(
        ledger,
        dataclasses.replace(trunk, media=opus),
        dataclasses.replace(caller(), media=opus),
    )
    assert [each.key for each in without.problems] == ["media.codecs"] * 2
    assert without.arrive(request(), hop(), 0.0).status == 488
    assert without.dial(NUMBER, now=0.0).status == 488
    assert sum(ledger.table.values()) == 0


@pytest.mark.parametrize(
    ("srtp", "proxies", "transport", "has_dtls", "secrecy"),
    [
        ("off", ("sip:a.example",), "tls", True, Secrecy.OFF),
        ("optional", ("sip:a.example",), "tls", True, Secrecy.ALLOWED),
        ("required", ("sip:a.example",), "tls", True, Secrecy.SDES),
        ("required", ("sips:a.example",), "auto", True, Secrecy.SDES),
        ("required", ("sip:a.example;transport=WSS",), "auto", True, Secrecy.SDES),
        ("required", ("sips:a.example", "sip:b.example"), "auto", True, Secrecy.DTLS),
        ("required", ("sip:a.example",), "auto", True, Secrecy.DTLS),
        ("required", (), "auto", True, Secrecy.DTLS),
        ("required", ("sip:a.example",), "udp", False, Secrecy.SDES),
    ],
)
def test_keys_are_written_down_only_where_tls_hides_them(
    srtp, proxies, transport, has_dtls, secrecy
):
    """By DTLS elsewhere, as far as it is installed; where it is not, that is told."""
    trunk = Trunk(Peer(name="a", proxies=proxies, transport=transport), media=Media(srtp=srtp))
    assert secrecy_of(trunk, has_dtls=has_dtls) is secrecy
    problems = worker(Ledger(), trunk, has_dtls=has_dtls).problems
    assert [each.key for each in problems] == ([] if has_dtls else ["media.srtp"])


@pytest.mark.parametrize(
    ("session", "terms"),
    [
        (Session(), CallTerms(0, 90, "auto", "supported", "accept")),
        (Session("ask", 600, 120, "us", "off"), CallTerms(600, 120, "us", "off", "ask")),
        (Session("off", reliable="required"), CallTerms(0, 90, "auto", "required", "off")),
    ],
)
def test_a_calls_terms_are_its_trunks(session, terms):
    """A session timer is asked for only where the trunk wants that."""
    assert terms_of(Trunk(Peer(name="a"), session=session)) == terms


# --- histories

NAMES = ("a", "b")
CAPS = st.integers(1, 3)


def _both_ways(name: str, most: int, pace: float) -> Trunk:
    number = NAMES.index(name) + 1
    return Trunk(
        Peer(name=name, proxies=(f"sip:{name}.example",)),
        inbound=Inbound(sources=(f"192.0.2.{number}",), most_calls=most, calls_per_second=pace),
        outbound=Outbound(enabled=True, prefixes=("+",), most_calls=most, calls_per_second=pace),
        routes=(Route(),),
    )


class Fleet(RuleBasedStateMachine):
    """Two workers, two trunks, any history: what is counted is what there is."""

    def __init__(self) -> None:
        super().__init__()
        self.trunks = {name: _both_ways(name, 2, 1000.0) for name in NAMES}
        ledger = Ledger()
        self.table = ledger.table
        self.workers = [worker(each, *self.trunks.values()) for each in (ledger, ledger.beside())]
        self.live: list[tuple[int, str, bool]] = []
        self.now = 0.0

    @rule(seat=st.integers(0, 1), name=st.sampled_from(NAMES), pause=st.floats(0.01, 2))
    def arrive(self, seat: int, name: str, pause: float) -> None:
        """A call comes in."""
        self.now += pause
        source = hop(f"192.0.2.{NAMES.index(name) + 1}")
        found = self.workers[seat].arrive(request(), source, self.now)
        self._judge(seat, name, isinstance(found, Arrived), inbound=True)

    @rule(seat=st.integers(0, 1), name=st.sampled_from(NAMES), pause=st.floats(0.01, 2))
    def dial(self, seat: int, name: str, pause: float) -> None:
        """We call somebody."""
        self.now += pause
        found = self.workers[seat].dial(NUMBER, trunk=name, now=self.now)
        self._judge(seat, name, isinstance(found, Dial), inbound=False)

    def _judge(self, seat: int, name: str, let_in: bool, *, inbound: bool) -> None:  # noqa: FBT001
        before = sum(each[1:] == (name, inbound) for each in self.live)
        trunk = self.trunks.get(name)
        if let_in:
            assert trunk is not None
            assert before < trunk.outbound.most_calls
            self.live.append((seat, name, inbound))
        elif trunk is not None:
            paced = trunk.outbound.calls_per_second < 1000
            assert paced or before >= trunk.outbound.most_calls

    @rule(number=st.integers(0, 100))
    def depart(self, number: int) -> None:
        """One of the calls ends."""
        if self.live:
            seat, name, inbound = self.live.pop(number % len(self.live))
            self.workers[seat].depart(name, inbound=inbound)

    @rule(seat=st.integers(0, 1), name=st.sampled_from(NAMES), inbound=st.booleans())
    def take_up(self, seat: int, name: str, inbound: bool) -> None:  # noqa: FBT001
        """A call of another worker goes on here."""
        self.workers[seat].take_up(name, inbound=inbound)
        self.live.append((seat, name, inbound))

    @rule(name=st.sampled_from(NAMES), most=CAPS, pace=st.sampled_from([1.0, 1000.0]))
    def change(self, name: str, most: int, pace: float) -> None:
        """Every worker reads trunks that differ."""
        self.trunks[name] = _both_ways(name, most, pace)
        for each in self.workers:
            each.change(self.trunks)

    @rule(name=st.sampled_from(NAMES))
    def remove(self, name: str) -> None:
        """Or that have gone."""
        self.trunks.pop(name, None)
        for each in self.workers:
            each.change(self.trunks)

    @invariant()
    def what_is_counted_is_there(self) -> None:
        """Never below zero, never a call too many or too few."""
        assert Counter(each[1:] for each in self.live) == +self.table

    def teardown(self) -> None:
        """Everything ends: every count is zero again."""
        for seat, name, inbound in self.live:
            self.workers[seat].depart(name, inbound=inbound)
        assert not any(self.table.values())
        for each in self.workers:
            each.change({})
            assert each._quotas == {}


TestFleet = Fleet.TestCase
TestFleet.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


@given(st.lists(st.floats(0, 1), max_size=40))
@settings(deadline=None)
def test_reloads_of_others_leave_a_trunks_pace_alone(pauses):
    """Whoever reloads between calls lets in exactly as many as without."""
    trunk = at("a", CARRIER, calls_per_second=1.5)
    still, busy = worker(Ledger(), trunk), worker(Ledger(), trunk)
    now = 0.0
    for number, pause in enumerate(pauses):
        now += pause
        busy.change({"a": trunk, "b": at("b", f"203.0.113.{number}")})
        found = [type(each.arrive(request(), hop(), now)) for each in (still, busy)]
        assert found[0] is found[1]
