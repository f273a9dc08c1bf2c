"""Facts about a registration, in virtual time against a registrar that can be told to misbehave."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import count
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcatd.errors import LocalError
from flowcatd.sip.digest import Answerer, Gate, Judgement, Secret
from flowcatd.sip.digest import Terms as GateTerms
from flowcatd.sip.header import Address, Via
from flowcatd.sip.message import Request, Response, build_response, parse_message
from flowcatd.sip.register import EVENTS_MAX, ROUNDS_MAX, Registration, State
from flowcatd.sip.register_terms import (
    Failed,
    Left,
    Lost,
    Registered,
    Terms,
    back_off,
    refresh_after,
    terms_of,
)
from flowcatd.sip.trunk import Account, Peer, Register, Trunk
from flowcatd.sip.uri import parse_uri
from tests.laws import keeps_bounded_law, keeps_quiet_law

TERMS = Terms(
    registrar=parse_uri("sip:r.example"),
    identity=Address(parse_uri("sip:ann@r.example")),
    contact=parse_uri("sip:ann@192.0.2.1:5060"),
    via=Via("UDP", "192.0.2.1", 5060),
)
HOUR = 3600.0

Reply = Callable[[Request], Response | None]


def _token() -> Callable[[], str]:
    numbers = count()
    return lambda: f"t{next(numbers)}"


def _registration(terms: Terms = TERMS, answerer: Answerer | None = None) -> Registration:
    return Registration(terms, answerer, _token(), Random(7).random)


def _sent(registration: Registration) -> Request:
    """The one request to send, as the registrar reads it."""
    (request,) = registration.outgoing()
    parsed = parse_message(bytes(request))
    assert isinstance(parsed, Request)
    return parsed


def _ok(request: Request, *lines: tuple[str, object], seconds: int = 600) -> Response:
    response = build_response(request, 200, tag="r")
    response.put("contact", f"{request.first('contact')};expires={seconds}")
    for name, value in lines:
        response.put(name, value)
    return response


def _bare(request: Request, *lines: tuple[str, object], status: int = 200) -> Response:
    response = build_response(request, status, tag="r")
    for name, value in lines:
        response.put(name, value)
    return response


def _registered(terms: Terms = TERMS, seconds: int = 600, now: float = 0.0) -> Registration:
    registration = _registration(terms)
    registration.start()
    registration.receive_response(_ok(_sent(registration), seconds=seconds), now)
    assert registration.events() == [Registered(seconds, is_refresh=False)]
    return registration


class World:
    """A registration and its registrar, run through virtual time; `reply` decides every answer."""

    def __init__(self, registration: Registration, reply: Reply) -> None:
        self.registration = registration
        self.reply = reply
        self.now = 0.0
        self.requests: list[tuple[float, Request]] = []
        self.told: list[tuple[float, object]] = []

    def run(self, until: float) -> None:
        """Until then, or until nothing is left to happen."""
        while True:
            self._settle()
            due = self.registration.wake_at()
            if due is None or due > until:
                self.now = max(self.now, until)
                return
            assert due >= self.now - 1e-6
            self.now = max(self.now, due)
            self.registration.wake(self.now)

    def _settle(self) -> None:
        for _ in range(100):
            sent = self.registration.outgoing()
            self.told += [(self.now, event) for event in self.registration.events()]
            if not sent:
                return
            (request,) = sent
            self.requests.append((self.now, request))
            response = self.reply(request)
            if response is None:
                self.now += 32.0
                self.registration.wake(self.now)
                self.registration.receive_failure(request, self.now)
            else:
                self.registration.receive_response(response, self.now)
        raise AssertionError("it asks for ever at one instant")


# --- the request


def test_a_register_is_what_the_rfc_wants():
    """§10.2: the domain as Request-URI, To and From alike, a contact, the lifetime."""
    registration = _registration()
    registration.start()
    request = _sent(registration)
    assert (request.method, str(request.uri)) == ("REGISTER", "sip:r.example")
    assert str(request.to) == "<sip:ann@r.example>"
    assert request.from_.uri == request.to.uri
    assert request.from_.tag
    assert request.top.branch.startswith("z9hG4bK")
    assert request.first("contact") == "<sip:ann@192.0.2.1:5060>"
    assert request.number("expires") == 3600
    assert request.words("supported") == ["path"]
    assert registration.outgoing() == []
    with pytest.raises(LocalError):
        registration.start()


def test_proxies_and_the_instance_stand_in_it():
    """Route with lr (§8.1.2); the instance asks for RFC 5626 outbound."""
    terms = replace(
        TERMS,
        proxies=(parse_uri("sip:p1.example;transport=tcp"), parse_uri("sip:p2.example")),
        instance="urn:uuid:00000000-0000-1000-8000-000000000001",
    )
    registration = _registration(terms)
    registration.start()
    request = _sent(registration)
    assert request.first("route") == "<sip:p1.example;transport=tcp;lr>"
    (contact,) = request.addresses("contact")
    assert contact.parameters["+sip.instance"] == f"<{terms.instance}>"
    assert contact.parameters["reg-id"] == "1"
    assert request.words("supported") == ["path", "outbound"]
    registration.receive_response(_bare(request, status=500), 0.0)
    registration.wake(HOUR)
    assert _sent(registration).first("route") == "<sip:p2.example;lr>"


def test_call_id_stays_and_cseq_rises():
    """§10.2, over refreshes and failures; every branch is new."""
    world = World(_registration(), lambda request: _ok(request, seconds=60))
    world.registration.start()
    world.run(HOUR)
    requests = [request for _, request in world.requests]
    assert len(requests) > 60
    assert len({request.call_id for request in requests}) == 1
    assert [request.cseq.number for request in requests] == list(range(1, len(requests) + 1))
    assert len({request.top.branch for request in requests}) == len(requests)


def test_a_trunk_gives_the_terms():
    """The first proxy alone is the registrar; with another domain it is on the way."""
    trunk = Trunk(
        Peer(name="t", proxies=("sip:p.example:5070",), transport="tcp"),
        Account(user="ann"),
        Register(enabled=True, seconds=600),
    )
    terms = terms_of(trunk, TERMS.contact, TERMS.via, "urn:uuid:x")
    assert str(terms.registrar) == "sip:p.example:5070;transport=tcp"
    assert (terms.proxies, terms.instance, terms.seconds) == ((), "", 600)
    assert str(terms.identity) == "<sip:ann@p.example>"
    other = replace(trunk, peer=replace(trunk.peer, domain="d.example"))
    terms = terms_of(
        replace(other, register=Register(outbound=True)), TERMS.contact, TERMS.via, "urn:uuid:x"
    )
    assert str(terms.registrar) == "sip:d.example"
    assert [str(each) for each in terms.proxies] == ["sip:p.example:5070;transport=tcp"]
    assert terms.instance == "urn:uuid:x"


# --- staying registered


def test_it_stays_registered():
    """For a day, refreshed before each end, without a gap."""
    world = World(_registration(), lambda request: _ok(request, seconds=300))
    world.registration.start()
    for hour in range(1, 25):
        world.run(hour * HOUR)
        assert world.registration.is_registered(world.now)
    assert not [event for _, event in world.told if isinstance(event, Lost | Failed)]
    gaps = [b - a for (a, _), (b, _) in zip(world.requests, world.requests[1:], strict=False)]
    assert all(200 < gap <= 250 for gap in gaps)


@given(st.integers(1, 86_400), st.floats(0, 1, exclude_max=True))
def test_a_refresh_has_time_to_fail_once(seconds, random):
    """Between half and 5/6 of the time, two timeouts before the end where there is room for that."""
    after = refresh_after(seconds, random)
    assert after >= 5.0
    if seconds >= 20:
        assert 0.45 * seconds <= after <= seconds * 5 / 6
    if seconds >= 128:
        assert seconds - after >= 64


def test_the_answers_own_contact_counts():
    """§10.2.4: of several bindings ours, by its own expires, then Expires, then what was asked."""
    registration = _registration()
    registration.start()
    request = _sent(registration)
    other = "<sip:ann@198.51.100.9>;expires=7"
    registration.receive_response(
        _bare(request, ("contact", f'{other}, "A" <sip:ann@192.0.2.1:5060;ob>;expires=120')), 0.0
    )
    assert registration.events() == [Registered(120, is_refresh=False)]
    for lines, seconds in (
        ((("contact", "<sip:ann@192.0.2.1:5060>"), ("expires", 90)), 90),
        ((("contact", "<sip:ann@192.0.2.1:5060>"),), 3600),
        ((("expires", 80),), 80),
        ((), 3600),
        ((("contact", "<sip:ann@203.0.113.5:1024>;expires=70"),), 70),
    ):
        registration.refresh()
        registration.receive_response(_bare(_sent(registration), *lines), 0.0)
        assert registration.events() == [Registered(seconds, is_refresh=True)]


def test_an_instance_is_recognised_whatever_became_of_its_address():
    """RFC 5626: the instance is who we are, the contact may have been rewritten."""
    terms = replace(TERMS, instance="urn:uuid:1")
    registration = _registration(terms)
    registration.start()
    mine = '<sip:x@203.0.113.5>;+sip.instance="<urn:uuid:1>";reg-id=1;expires=50'
    theirs = '<sip:ann@192.0.2.1:5060>;+sip.instance="<urn:uuid:2>";expires=900'
    registration.receive_response(_bare(_sent(registration), ("contact", f"{theirs}, {mine}")), 0.0)
    assert registration.events() == [Registered(50, is_refresh=False)]


@pytest.mark.parametrize(
    "contact",
    [
        "<sip:bob@198.51.100.9>;expires=600",
        "<sip:ann@192.0.2.1:5060>;expires=0",
        "<sip:ann@198.51.100.9>, <sip:ann@198.51.100.8>",
    ],
)
def test_a_binding_that_is_not_in_the_answer_is_lost(contact):
    """And asked for again, with back-off."""
    registration = _registered()
    registration.refresh()
    registration.receive_response(_bare(_sent(registration), ("contact", contact)), 10.0)
    lost, failed = registration.events()
    assert lost == Lost("the registrar does not have it")
    assert isinstance(failed, Failed)
    assert not registration.is_registered(10.0)
    assert registration.wake_at() > 10.0


def test_a_registrar_that_never_keeps_the_binding_is_backed_off_from():
    """The pauses grow as with any failure."""
    world = World(_registration(), lambda request: _bare(request, ("contact", "<sip:x@a.example>")))
    world.registration.start()
    world.run(HOUR)
    assert len(world.requests) < 30
    assert world.registration.status(world.now).failures == len(world.requests)


def test_service_route_and_flow_timer_come_with_the_binding():
    """RFC 3608 §6.1 and RFC 5626 §10; they change with each answer, and go with the binding."""
    registration = _registration()
    registration.start()
    route = "<sip:p1.example;lr>, <sip:p2.example;lr>"
    registration.receive_response(
        _ok(_sent(registration), ("service-route", route), ("flow-timer", 120)), 0.0
    )
    assert [str(each) for each in registration.service_route] == route.split(", ")
    assert registration.flow_seconds == 120
    registration.refresh()
    registration.receive_response(_ok(_sent(registration), ("flow-timer", "x")), 1.0)
    assert registration.service_route == ()
    assert registration.flow_seconds == 0
    registration.wake(601.0)
    assert Lost("it ran out") in registration.events()


# --- challenges and requests to ask otherwise


def _gate() -> Gate:
    counter = count(1)
    return Gate(
        GateTerms("r.example"),
        b"key",
        lambda: next(counter).to_bytes(8, "big"),
        {"ann": "secret"}.get,
    )


def _challenging(gate: Gate, world_now: Callable[[], float]) -> Reply:
    def reply(request: Request) -> Response:
        parsed = parse_message(bytes(request))
        assert isinstance(parsed, Request)
        verdict = gate.judge(parsed, world_now())
        if verdict.judgement is Judgement.PASSED:
            return _ok(request)
        response = build_response(request, 401, tag="r")
        gate.challenge(response, world_now(), stale=verdict.judgement is Judgement.STALE)
        return response

    return reply


def test_a_challenge_is_answered_and_stale_nonces_are_no_failure():
    """For a day: one more round trip whenever the nonce has aged, and never a gap."""
    answerer = Answerer(Secret("ann", "secret"), _token())
    registration = _registration(answerer=answerer)
    world = World(registration, lambda _: None)
    world.reply = _challenging(_gate(), lambda: world.now)
    registration.start()
    world.run(24 * HOUR)
    assert registration.is_registered(world.now)
    assert not [event for _, event in world.told if isinstance(event, Failed | Lost)]
    first, second = world.requests[0][1], world.requests[1][1]
    assert first.first("authorization") is None
    assert second.first("authorization").startswith("Digest ")
    assert (second.call_id, second.cseq.number) == (first.call_id, first.cseq.number + 1)


def test_a_wrong_password_is_not_tried_in_a_hurry():
    """At most every five minutes, whatever the registrar says."""
    answerer = Answerer(Secret("ann", "wrong"), _token())
    registration = _registration(answerer=answerer)
    world = World(registration, lambda _: None)
    world.reply = _challenging(_gate(), lambda: world.now)
    registration.start()
    world.run(HOUR)
    assert len(world.requests) <= 2 * 12 + 2
    status = registration.status(world.now)
    assert (status.last_status, status.problem) == (401, "the credentials were refused")
    assert not status.is_registered


def test_without_a_password_a_challenge_is_a_failure():
    """There is nothing to answer with."""
    registration = _registration()
    registration.start()
    registration.receive_response(_bare(_sent(registration), status=401), 0.0)
    (failed,) = registration.events()
    assert (failed.status, failed.retry_in) == (401, 300.0)


def test_a_registrar_that_challenges_for_ever_is_left():
    """Fresh, stale nonces without end make an attempt of six requests."""
    answerer = Answerer(Secret("ann", "secret"), _token())
    registration = _registration(answerer=answerer)
    nonce = count()

    def reply(request: Request) -> Response:
        text = f'Digest realm="r", nonce="{next(nonce)}", stale=true, qop="auth"'
        return _bare(request, ("www-authenticate", text), status=401)

    world = World(registration, reply)
    registration.start()
    world.run(1.0)
    assert len(world.requests) == ROUNDS_MAX
    assert isinstance(world.told[-1][1], Failed)


def test_a_longer_lifetime_is_asked_for_when_told():
    """423 with Min-Expires (§10.2.8), at once, and in every later request."""
    registration = _registration(replace(TERMS, seconds=60))
    registration.start()
    brief = _bare(_sent(registration), ("min-expires", 1800), status=423)
    registration.receive_response(brief, 0.0)
    request = _sent(registration)
    assert request.number("expires") == 1800
    registration.receive_response(_ok(request, seconds=1800), 0.0)
    registration.refresh()
    assert _sent(registration).number("expires") == 1800


@pytest.mark.parametrize("least", [(), (("min-expires", 60),), (("min-expires", 99_999_999),)])
def test_a_423_that_makes_no_sense_is_a_failure(least):
    """Without a Min-Expires, with one we met, or one nobody can mean."""
    registration = _registration(replace(TERMS, seconds=60))
    registration.start()
    registration.receive_response(_bare(_sent(registration), *least, status=423), 0.0)
    assert isinstance(registration.events()[0], Failed)
    assert registration.outgoing() == []


def test_a_redirection_is_followed_for_this_attempt():
    """§8.1.3.4: the contact is the next Request-URI, without user and headers; next time the first."""
    registration = _registration()
    registration.start()
    moved = ("contact", "<sip:ann@other.example:5070;transport=tcp?Route=x>;q=0.5")
    registration.receive_response(_bare(_sent(registration), moved, status=302), 0.0)
    request = _sent(registration)
    assert str(request.uri) == "sip:other.example:5070;transport=tcp"
    registration.receive_response(_ok(request), 0.0)
    registration.refresh()
    assert str(_sent(registration).uri) == "sip:r.example"


@pytest.mark.parametrize(
    ("registrar", "contact"),
    [
        ("sips:r.example", "<sip:other.example>"),
        ("sip:r.example", "<mailto:ann@other.example>"),
        ("sip:r.example", "<sip:r.example>"),
    ],
)
def test_a_redirection_never_leads_to_less_safety_or_round_in_a_circle(registrar, contact):
    """It is a failure like any other."""
    registration = _registration(replace(TERMS, registrar=parse_uri(registrar)))
    registration.start()
    registration.receive_response(_bare(_sent(registration), ("contact", contact), status=302), 0.0)
    assert isinstance(registration.events()[0], Failed)


def test_redirections_end():
    """A chain of them is followed three times."""
    hosts = count()

    def reply(request: Request) -> Response:
        return _bare(request, ("contact", f"<sip:h{next(hosts)}.example>"), status=301)

    world = World(_registration(), reply)
    world.registration.start()
    world.run(1.0)
    assert len(world.requests) == 4


# --- failures


def test_a_registrar_that_is_down_for_an_hour_is_found_again():
    """Few requests meanwhile, none bunched, and bound within the cap of its return."""
    registration = _registration()
    down = [False]
    world = World(registration, lambda request: None if down[0] else _ok(request, seconds=300))
    registration.start()
    world.run(1000.0)
    down[0] = True
    before = len(world.requests)
    world.run(1000.0 + HOUR)
    assert 10 <= len(world.requests) - before <= 40
    assert not registration.is_registered(world.now)
    assert sum(isinstance(event, Lost) for _, event in world.told) == 1
    down[0] = False
    back = world.now
    world.run(back + TERMS.back_off_cap + 32)
    assert registration.is_registered(world.now)
    assert registration.status(world.now).failures == 0
    world.run(back + 24 * HOUR)
    assert sum(isinstance(event, Lost) for _, event in world.told) == 1


def test_a_failed_refresh_leaves_the_binding_until_it_runs_out():
    """Calls still come; whoever looks sees both."""
    registration = _registered(seconds=600)
    registration.refresh()
    (request,) = registration.outgoing()
    registration.receive_failure(request, 100.0)
    assert registration.is_registered(100.0)
    status = registration.status(100.0)
    assert (status.state, status.expires_in) == (State.WAITING, 500.0)
    registration.refresh()
    registration.wake(600.0)
    assert not registration.is_registered(600.0)
    assert Lost("it ran out") in registration.events()
    assert registration.status(600.0).state is State.ASKING


@given(st.integers(0, 10_000), st.floats(0, 1, exclude_max=True))
def test_pauses_double_up_to_the_cap(failures, random):
    """RFC 5626 §4.5: between half and all of the bound."""
    bound = min(TERMS.back_off_cap, TERMS.back_off * 2 ** min(failures, 30))
    assert bound / 2 <= back_off(TERMS, failures, random) <= bound


@pytest.mark.parametrize(
    ("text", "least"), [("120", 120), ("90 (busy);duration=5", 90), ("1e9", 0)]
)
def test_retry_after_is_waited_for(text, least):
    """§20.33, with a comment and parameters, or without sense."""
    registration = _registration()
    registration.start()
    registration.receive_response(
        _bare(_sent(registration), ("retry-after", text), status=503), 0.0
    )
    (failed,) = registration.events()
    assert failed.status == 503
    assert least <= failed.retry_in <= max(least, 20)
    assert registration.wake_at() == failed.retry_in


def test_retry_after_of_a_week_is_an_hour():
    """A registrar's mistake does not last."""
    registration = _registration()
    registration.start()
    week = _bare(_sent(registration), ("retry-after", 604_800), status=503)
    registration.receive_response(week, 0.0)
    assert registration.events()[0].retry_in == 3600.0


@pytest.mark.parametrize(
    "lines",
    [
        (("contact", "<sip:ann@192.0.2.1:5060"),),
        (("contact", "<sip:ann@192.0.2.1:5060>;expires=x"),),
        (("expires", "x"),),
        (("service-route", "<"),),
    ],
)
def test_an_answer_that_cannot_be_read_is_a_failure(lines):
    """It raises nothing, and the next attempt has its time."""
    registration = _registration()
    registration.start()
    response = _bare(_sent(registration), *lines)
    registration.receive_response(response, 0.0)
    assert isinstance(registration.events()[0], Failed)
    assert registration.wake_at() is not None


def test_a_closed_connection_is_replaced_within_a_second():
    """RFC 5626 §4.4; while a request is under way its own failure decides."""
    registration = _registered()
    registration.receive_flow_closed(100.0)
    assert registration.events() == [Lost("the connection was closed")]
    assert not registration.is_registered(100.0)
    assert 100.0 <= registration.wake_at() < 101.0
    registration.wake(101.0)
    registration.receive_flow_closed(101.0)
    assert registration.status(101.0).state is State.ASKING
    registration.receive_response(_ok(_sent(registration)), 101.0)
    assert registration.events() == [Registered(600, is_refresh=False)]


def test_a_registrar_that_hangs_up_is_not_asked_in_a_hurry():
    """Neither after it accepted, nor out of a pause that it asked for."""
    registration = _registered()
    registration.receive_flow_closed(1.0)
    assert registration.wake_at() >= 1.0 + TERMS.back_off
    registration.wake(100.0)
    busy = _bare(_sent(registration), ("retry-after", 900), status=503)
    registration.receive_response(busy, 100.0)
    registration.receive_flow_closed(100.0)
    assert registration.wake_at() == 1000.0


def test_a_new_address_is_registered_at_once_or_next():
    """Also when the answer for the old one is still to come."""
    registration = _registration()
    registration.start()
    request = _sent(registration)
    registration.move(parse_uri("sip:ann@192.0.2.2:5060"), Via("UDP", "192.0.2.2", 5060))
    assert registration.outgoing() == []
    registration.receive_response(_ok(request), 0.0)
    again = _sent(registration)
    assert again.first("contact") == "<sip:ann@192.0.2.2:5060>"
    assert again.top.host == "192.0.2.2"
    registration.receive_response(_ok(again), 0.0)
    registration.move(TERMS.contact, TERMS.via)
    assert _sent(registration).first("contact") == "<sip:ann@192.0.2.1:5060>"


def test_strays_are_counted_and_change_nothing():
    """Provisional answers, late ones, those of another request, failures of one that is over."""
    registration = _registration()
    registration.start()
    (request,) = registration.outgoing()
    registration.receive_response(_bare(request, status=100), 0.0)
    assert registration.ignored == 0
    stranger = _registration(TERMS)
    stranger.start()
    foreign = _sent(stranger)
    foreign.call_id = "other"
    registration.receive_response(build_response(foreign, 200), 0.0)
    registration.receive_response(_ok(request), 0.0)
    registration.receive_response(_ok(request), 0.0)
    registration.receive_failure(request, 0.0)
    assert registration.ignored == 3
    assert registration.events() == [Registered(600, is_refresh=False)]


# --- leaving


def test_stopping_takes_the_binding_back():
    """Expires 0 with our contact only, through a challenge, and then nothing more."""
    answerer = Answerer(Secret("ann", "secret"), _token())
    registration = _registration(answerer=answerer)
    world = World(registration, lambda _: None)
    world.reply = _challenging(_gate(), lambda: world.now)
    registration.start()
    world.run(400.0)
    registration.stop(world.now)
    world.run(500.0)
    last = world.requests[-1][1]
    assert last.number("expires") == 0
    assert last.first("contact") == "<sip:ann@192.0.2.1:5060>;expires=0"
    assert world.told[-1][1] == Left(confirmed=True)
    assert registration.wake_at() is None
    registration.stop(world.now)
    assert registration.events() == []


def test_stopping_has_a_deadline():
    """A registrar that does not answer is not waited for."""
    registration = _registered()
    registration.stop(10.0)
    assert _sent(registration).number("expires") == 0
    assert registration.wake_at() == 14.0
    registration.wake(14.0)
    assert registration.events() == [Left(confirmed=False)]
    assert registration.state is State.LEFT


@pytest.mark.parametrize("status", [200, 500])
def test_stopping_waits_for_the_request_under_way(status):
    """§10.2: one at a time; what it bound is taken back, also when it failed over an older binding."""
    registration = _registered()
    registration.refresh()
    request = _sent(registration)
    registration.stop(10.0)
    assert registration.outgoing() == []
    response = _ok(request) if status == 200 else _bare(request, status=status)
    registration.receive_response(response, 11.0)
    leaving = _sent(registration)
    assert leaving.number("expires") == 0
    registration.receive_response(_bare(leaving, status=status), 11.5)
    assert registration.events() == [Left(confirmed=status == 200)]


def test_stopping_before_anything_is_bound_is_over_at_once():
    """Never started, waiting after a failure, or failing just now."""
    idle = _registration()
    idle.stop(0.0)
    assert idle.events() == [Left(confirmed=True)]
    waiting = _registration()
    waiting.start()
    waiting.receive_response(_bare(_sent(waiting), status=500), 0.0)
    waiting.stop(1.0)
    assert waiting.events()[-1] == Left(confirmed=False)
    failing = _registration()
    failing.start()
    (request,) = failing.outgoing()
    failing.stop(0.0)
    failing.receive_failure(request, 1.0)
    assert failing.events() == [Left(confirmed=False)]


def test_a_challenge_while_stopping_is_not_answered_for_a_new_binding():
    """What is not bound yet is not bound any more."""
    registration = _registration(answerer=Answerer(Secret("ann", "secret"), _token()))
    registration.start()
    request = _sent(registration)
    registration.stop(0.0)
    challenge = ("www-authenticate", 'Digest realm="r", nonce="1"')
    registration.receive_response(_bare(request, challenge, status=401), 0.0)
    assert registration.outgoing() == []
    assert registration.events() == [Left(confirmed=False)]


# --- laws


def test_events_that_nobody_drains_are_a_bug():
    """The bounded law."""
    registration = _registered()

    def feed() -> None:
        registration.refresh()
        registration.receive_response(_ok(_sent(registration)), 0.0)

    keeps_quiet_law(registration)
    keeps_bounded_law(registration, feed, limit=EVENTS_MAX)


@given(st.lists(st.integers(0, 9), max_size=60), st.integers(0, 2**32))
def test_any_course_of_events_leaves_one_request_at_most_and_a_way_on(steps, seed):
    """Never two under way, never without a next time, never an exception."""
    random = Random(seed)
    registration = Registration(TERMS, None, _token(), random.random)
    registration.start()
    now, flying = 0.0, None
    replies: dict[int, Callable[[Request], Response]] = {
        0: lambda request: _ok(request, seconds=random.randrange(0, 4000)),
        1: lambda request: _bare(
            request, status=random.choice([401, 403, 404, 486, 500, 503, 600])
        ),
        2: lambda request: _bare(request, ("min-expires", 4000), status=423),
        3: lambda request: _bare(request, ("contact", "<sip:z.example>"), status=302),
    }
    for step in steps:
        sent = registration.outgoing()
        assert len(sent) <= 1
        assert not (sent and flying)
        flying = sent[0] if sent else flying
        if step in replies and flying:
            flying, request = None, flying
            registration.receive_response(replies[step](request), now)
        elif step == 4 and flying:
            flying, request = None, flying
            registration.receive_failure(request, now)
        elif step == 5:
            registration.receive_flow_closed(now)
        elif step == 6:
            registration.refresh()
        elif step == 7 and random.random() < 0.2:
            registration.stop(now)
        else:
            now = max(now, registration.wake_at() or now)
            registration.wake(now)
        registration.events()
        over = registration.state is State.LEFT
        waits = registration.wake_at() is not None
        asked = flying is not None or registration._attempt is not None
        assert over or waits or asked
        if over:
            assert registration.wake_at() is None
            flying = None


# --- where it goes out from


def test_a_request_goes_out_from_where_its_target_wants_it():
    """Each target has a Via and branch of its own; the Contact is the last one's, the rest stays."""
    registration = _registration()
    registration.start()
    (request,) = registration.outgoing()
    first = parse_message(bytes(request))
    contact = parse_uri("sip:ann@198.51.100.2:5060;transport=tcp")
    registration.send_from(request, contact, Via("TCP", "198.51.100.2", 5060, {"rport": None}))
    second = parse_message(bytes(request))
    assert isinstance(second, Request)
    assert str(second.top).startswith("SIP/2.0/TCP 198.51.100.2:5060;rport;branch=z9hG4bK")
    assert second.top.branch != first.top.branch
    assert second.first("contact") == f"<{contact}>"
    assert (second.call_id, second.cseq) == (first.call_id, first.cseq)
    registration.receive_response(_ok(second), 0.0)
    assert registration.events() == [Registered(600, is_refresh=False)]
    assert registration.outgoing() == []
    assert registration.terms.contact == contact
    with pytest.raises(LocalError):
        registration.send_from(request, contact, TERMS.via)


def test_what_is_taken_back_is_what_was_bound():
    """Whatever Contact a failed refresh, or the leaving itself, goes out with."""
    registration = _registered()
    registration.wake(550.0)
    (refresh,) = registration.outgoing()
    elsewhere = parse_uri("sip:ann@203.0.113.1:5060")
    registration.send_from(refresh, elsewhere, TERMS.via)
    registration.receive_failure(refresh, 560.0, "the DNS does not answer")
    (failed,) = registration.events()
    assert isinstance(failed, Failed)
    assert failed.problem == "the DNS does not answer"
    registration.stop(561.0)
    (leaving,) = registration.outgoing()
    registration.send_from(leaving, elsewhere, TERMS.via)
    assert leaving.first("contact") == f"<{TERMS.contact}>;expires=0"


def test_a_refresh_does_not_make_a_connection_young():
    """One that has held for hours is replaced within a second, however fresh its last refresh is."""
    registration = _registered(seconds=120)
    for now in (60.0, 120.0, 180.0):
        registration.wake(now)
        registration.receive_response(_ok(_sent(registration), seconds=120), now)
    registration.receive_flow_closed(181.0)
    assert registration.wake_at() <= 182.0
