"""Facts about who is let in: strangers, passwords, floods, what a reload keeps."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcatd.errors import ConfigError
from flowcatd.options import Secret
from flowcatd.sip import digest
from flowcatd.sip.agent import UserAgent
from flowcatd.sip.agent_event import Here, Invited, Mint
from flowcatd.sip.dialog import nearest
from flowcatd.sip.digest import Answerer
from flowcatd.sip.event import Hop
from flowcatd.sip.guard import GateTerms
from flowcatd.sip.message import Request, Response, parse_message
from flowcatd.sip.policy import ADMITTED_MAX, Arrived, Policy, Terms
from flowcatd.sip.policy_door import PROVEN_MAX, PROVEN_SECONDS, begins_something
from flowcatd.sip.route import Refused
from flowcatd.sip.trouble import DROP
from flowcatd.sip.trunk import Account, Inbound, Peer, Register, Route, Trunk, join_trunks
from flowcatd.sip.uri import Uri
from tests.flowcatd.sip.ledger import Ledger
from tests.flowcatd.sip.torture import plain, request

CARRIER, STRANGER = "192.0.2.7", "198.51.100.1"
PASSWORDS = {"env:ANN": "zanzibar", "env:BOB": "mufasa"}


def reveal(secret: Secret) -> str:
    """What the environment of these tests holds."""
    if secret.reference not in PASSWORDS:
        raise ConfigError(secret.reference, "is empty or not set")
    return PASSWORDS[secret.reference]


def at(name: str, *sources: str, **inbound) -> Trunk:
    """A trunk at some addresses that answers every number."""
    return Trunk(Peer(name=name), inbound=Inbound(sources=sources, **inbound), routes=(Route(),))


def asking(name: str = "phones", user: str = "ann", *sources: str, **inbound) -> Trunk:
    """A trunk whose callers must know a password."""
    secret = Secret(f"env:{user.upper()}")
    return at(name, *sources, digest=True, user=user, password=secret, **inbound)


def policy(*trunks: Trunk, **terms) -> Policy:
    """A worker's policy over these trunks."""
    counter = itertools.count(1)
    return Policy(
        join_trunks((trunk.name, trunk) for trunk in trunks),
        reveal,
        lambda: next(counter).to_bytes(16, "little"),
        Ledger(),
        Terms(**terms),
    )


def hop(host: str = CARRIER) -> Hop:
    """Where a request comes from."""
    return Hop("UDP", host, 5060)


class Phone:
    """A telephone with a password, and the door it stands before."""

    def __init__(self, door: Policy, host: str = STRANGER, user: str = "ann", password: str = ""):
        self.door = door
        self.hop = hop(host)
        secret = digest.Secret(user, password or PASSWORDS["env:ANN"])
        self.answerer = Answerer(secret, lambda: "c0ffee")
        self.cseq = 0

    def ask(self, method: str = "INVITE") -> Request:
        """The next request, with the credentials that there are."""
        self.cseq += 1
        branch = f"SIP/2.0/UDP {self.hop.host}:5060;branch=z9hG4bK{self.cseq}"
        asked = request(method, cseq=f"{self.cseq} {method}", via=branch)
        self.answerer.authorize(asked, method, str(asked.uri))
        return asked

    def enter(self, now: float = 0.0, method: str = "INVITE") -> tuple[Request, Response | None]:
        """Asks, is challenged, asks again: the second request and what it got."""
        first = self.ask(method)
        answer = self.door.admit(first, self.hop, now)
        assert answer is not None
        assert answer.status == 401
        assert self.answerer.accept(first, answer)
        second = self.ask(method)
        return second, self.door.admit(second, self.hop, now)


# --- sources


def test_a_trunks_address_is_let_in_and_no_other():
    """403 for the others, whatever their request says of itself."""
    door = policy(at("a", CARRIER))
    for method in ("INVITE", "OPTIONS", "SUBSCRIBE", "MESSAGE"):
        assert door.admit(request(method), hop(), 0.0) is None
        answer = door.admit(request(method), hop(STRANGER), 0.0)
        assert answer is not None
        assert answer.status == 403
        assert "allow" not in answer.fields
    assert door.counts.strangers == 4


def test_no_registrar_is_here():
    """405 with what we take, for those whom we know; a stranger is told no more than by INVITE."""
    door = policy(at("a", CARRIER))
    known = door.admit(request("REGISTER"), hop(), 0.0)
    assert known is not None
    assert known.status == 405
    assert "INVITE" in known.fields["allow"][0]
    stranger = door.admit(request("REGISTER"), hop(STRANGER), 0.0)
    assert stranger is not None
    assert stranger.status == 403


def test_an_invite_with_a_to_tag_is_none_of_ours():
    """481, or 403 to a stranger."""
    door = policy(at("a", CARRIER))
    inside = request(to="<sip:bob@example.com>;tag=b1")
    assert door.admit(inside, hop(), 0.0).status == 481
    assert door.admit(inside, hop(STRANGER), 0.0).status == 403


def test_an_answer_to_a_stranger_is_the_same_whenever_it_asks():
    """Its tag too (RFC 3261 §8.2.7): a repeated request is no second one."""
    door = policy(at("a", CARRIER))
    answers = [bytes(door.admit(request(), hop(STRANGER), now)) for now in (0.0, 1.0)]
    assert answers[0] == answers[1]


# --- passwords


def test_who_knows_the_password_is_let_in_and_is_that_trunk():
    """The challenge names the realm, the second INVITE is admitted, and arrives as the user's trunk."""
    door = policy(asking("phones", "ann"), asking("others", "bob"), at("c", CARRIER))
    phone = Phone(door)
    second, answer = phone.enter()
    assert answer is None
    arrived = door.arrive(second, phone.hop, 0.0)
    assert isinstance(arrived, Arrived)
    assert arrived.trunk.name == "phones"


def test_only_the_request_that_proved_the_password_arrives():
    """A copy of it, made of the same bytes, has proved nothing."""
    door = policy(asking())
    phone = Phone(door)
    second, _ = phone.enter()
    copy = parse_message(bytes(second))
    assert isinstance(copy, Request)
    assert door.arrive(copy, phone.hop, 0.0) == Refused(403, "nobody proved a password")
    assert isinstance(door.arrive(second, phone.hop, 0.0), Arrived)
    assert isinstance(door.arrive(second, phone.hop, 0.0), Refused)


def test_a_replayed_digest_is_refused():
    """The same credentials in another request are stale: asked again, and not let in."""
    door = policy(asking())
    phone = Phone(door)
    second, _ = phone.enter()
    thief = request(
        cseq="99 INVITE", call_id="other", authorization=second.fields["authorization"][0]
    )
    answer = door.admit(thief, hop("203.0.113.9"), 1.0)
    assert answer is not None
    assert answer.status == 401
    assert all("stale=true" in each for each in answer.fields["www-authenticate"])
    assert isinstance(door.arrive(thief, hop("203.0.113.9"), 1.0), Refused)
    assert door.counts.stale == 1


def test_an_aged_nonce_costs_one_more_round_and_no_password():
    """The answer says stale, and the telephone asks again by itself."""
    door = policy(asking())
    phone = Phone(door)
    phone.enter()
    late = phone.ask()
    answer = door.admit(late, phone.hop, 1000.0)
    assert answer is not None
    assert phone.answerer.accept(late, answer)
    assert door.admit(phone.ask(), phone.hop, 1000.0) is None


@pytest.mark.parametrize(
    ("user", "password"), [("ann", "wrong"), ("eve", "zanzibar"), ("bob", "mufasa")]
)
def test_a_wrong_password_an_unknown_user_and_anothers_are_refused_alike(user, password):
    """403, and no new challenge to go on guessing with; nothing arrives."""
    door = policy(asking(), asking("office", "bob", "203.0.113.0/24"))
    phone = Phone(door, user=user, password=password)
    second, answer = phone.enter()
    assert answer is not None
    assert (answer.status, "www-authenticate" in answer.fields) == (403, False)
    assert isinstance(door.arrive(second, phone.hop, 0.0), Refused)


def test_broken_credentials_are_answered_by_400():
    """Not by an exception, and not by a challenge."""
    door = policy(asking())
    broken = request(authorization='Digest realm="flowcatd", username="ann')
    assert door.admit(broken, hop(STRANGER), 0.0).status == 400


def test_options_of_a_carrier_needs_no_password_where_its_calls_do():
    """Or it would take the trunk down; from elsewhere it is challenged like anything."""
    door = policy(asking("a", "ann", CARRIER), asking("b", "bob"))
    assert door.admit(request("OPTIONS"), hop(), 0.0) is None
    assert door.admit(request("INVITE"), hop(), 0.0).status == 401
    assert door.admit(request("OPTIONS"), hop(STRANGER), 0.0).status == 401


def test_a_password_that_cannot_be_revealed_lets_nobody_in_and_stops_nobody_else():
    """It is told once as a problem that names the setting; other trunks work."""
    door = policy(asking("lost", "eve"), asking("phones", "ann"), at("c", CARRIER))
    assert [(each.trunk, each.key) for each in door.problems] == [("lost", "inbound.password")]
    _, answer = Phone(door, user="eve", password="").enter()
    assert answer is not None
    assert answer.status == 403
    assert Phone(door).enter()[1] is None
    assert door.admit(request(), hop(), 0.0) is None


def test_problems_and_the_policy_show_no_password():
    """Neither in problems, nor in what is printed of the policy or a call."""
    trunk = Trunk(Peer(name="x"), Account("acc", password=Secret("env:NOPE")))
    door = policy(asking(), trunk)
    phone = Phone(door)
    second, _ = phone.enter()
    shown = repr((door.problems, door, door.arrive(second, phone.hop, 0.0), door.terms))
    assert len(door.problems) == 1
    assert not any(password in shown for password in PASSWORDS.values())
    assert "zanzibar" not in repr(vars(door)["_answerers"])


def test_requests_that_never_arrive_are_forgotten():
    """A worker that is busy admits, and never asks for them: what waits is bounded."""
    door = policy(asking())
    phone = Phone(door)
    first, _ = phone.enter()
    for _ in range(ADMITTED_MAX):
        assert door.admit(phone.ask(), phone.hop, 0.0) is None
    assert len(door._admitted) == ADMITTED_MAX
    assert isinstance(door.arrive(first, phone.hop, 0.0), Refused)


# --- the way of a call through the user agent


def test_a_challenged_call_comes_through_the_user_agent_once():
    """401, ACK, INVITE with credentials: one Invited, and it arrives as the trunk of its user."""
    door = policy(asking())
    tokens = itertools.count(1)
    here = Here("192.0.2.1", 5060, Uri("sip", "192.0.2.1", "us"))
    mint = Mint(lambda: f"t{next(tokens)}", lambda _: here, lambda: 0.5, nearest)
    agent = UserAgent(mint, admit=door.admit)
    phone = Phone(door)
    first = phone.ask()
    first.put("contact", f"<sip:ann@{STRANGER}>")
    agent.receive(bytes(first), phone.hop, 0.0)
    challenge = parse_message(agent.outgoing()[0].data)
    assert isinstance(challenge, Response)
    assert challenge.status == 401
    assert phone.answerer.accept(first, challenge)
    second = phone.ask()
    second.put("contact", f"<sip:ann@{STRANGER}>")
    for _ in range(2):
        agent.receive(bytes(second), phone.hop, 0.1)
    invited = [event for event in agent.events() if isinstance(event, Invited)]
    assert len(invited) == 1
    arrived = door.arrive(invited[0].request, invited[0].hop, 0.1)
    assert isinstance(arrived, Arrived)
    assert arrived.trunk.name == "phones"


# --- before any parsing


@given(
    st.lists(
        st.tuples(st.integers(0, 3000), st.booleans(), st.floats(0, 0.01)), min_size=1, max_size=300
    )
)
def test_a_flood_of_strangers_slows_no_trunk(history):
    """Whatever strangers send between them, and whatever it is, the carrier's messages are all read."""
    door = policy(at("a", CARRIER), flood=GateTerms(sources_max=50))
    now = 0.0
    for source, is_scanner, pause in history:
        now += pause
        data = plain(user_agent="friendly-scanner") if is_scanner else plain()
        door.screen(data, f"198.51.{source >> 8}.{source & 255}", now)
        assert door.screen(plain(), CARRIER, now)


def test_a_flood_in_full_slows_no_trunk_and_takes_bounded_room():
    """Twenty thousand messages of ten thousand strangers in a second, a reload in the middle."""
    trunk = at("a", CARRIER)
    door = policy(trunk, flood=GateTerms(sources_max=200))
    read = 0
    for n in range(20_000):
        read += door.screen(plain(), f"10.0.{n >> 8 & 63}.{n & 255}", n / 20_000)
        if n % 10 == 0:
            assert door.screen(plain(), CARRIER, n / 20_000)
        if n == 10_000:
            door.change({"a": trunk, "b": at("b", "203.0.113.1")})
    assert read <= 1001
    assert len(door._door.flood) <= 202
    assert door.turned_away == 20_000 - read


def test_a_scanner_gets_no_answer_and_is_not_heard_again():
    """Not even when it says something else; a trunk whose caller is called so is heard."""
    door = policy(at("a", CARRIER))
    scan = plain(user_agent="friendly-scanner")
    assert not door.screen(scan, STRANGER, 0.0)
    assert not door.screen(plain(), STRANGER, 1.0)
    assert door.screen(scan, CARRIER, 0.0)
    assert door.screen(plain(), CARRIER, 1.0)
    assert (door.counts.scanners, door.turned_away) == (1, 1)


def test_a_source_that_proved_a_password_is_heard_like_a_trunk_for_a_while():
    """Its calls do not drown among strangers; a wrong password proves nothing."""
    door = policy(asking(), flood=GateTerms(stranger_burst=5, strangers_rate=5))
    _, answer = Phone(door, user="ann", password="wrong").enter()
    assert answer is not None
    assert sum(door.screen(plain(), STRANGER, 0.0) for _ in range(50)) == 5
    assert Phone(door).enter(1.0)[1] is None
    assert all(door.screen(plain(), STRANGER, 1.0) for _ in range(50))
    later = 1.0 + PROVEN_SECONDS
    assert sum(door.screen(plain(), STRANGER, later) for _ in range(50)) == 5


def test_proven_sources_are_remembered_up_to_a_limit():
    """The one that proved itself longest ago is forgotten."""
    door = policy()
    for n in range(PROVEN_MAX + 10):
        door._door._prove(f"10.0.{n >> 8}.{n & 255}", 0.0)
    assert len(door._door._proven) == PROVEN_MAX
    assert "10.0.0.9" not in door._door._proven


@pytest.mark.parametrize(
    ("data", "begins"),
    [
        (plain(), True),
        (plain("OPTIONS"), True),
        (plain("CANCEL"), True),
        (plain(to="<sip:bob@example.com>;tag=b1"), False),
        (plain("BYE", to="<sip:bob@example.com> ; TAG=b1"), False),
        (
            plain().replace(b"\r\nto:", b"\r\nt :").replace(b"bob@example.com>", b"b@c>;tag=1"),
            False,
        ),
        (plain().replace(b"to: <sip:bob@example.com>", b"To: <sip:b@c>\r\n ;tag=1"), False),
        (b"\r\n\r\nSIP/2.0 200 OK\r\n\r\n", False),
        (b"sip/2.0 200 OK\r\n\r\n", False),
        (b"rubbish", True),
        (b"", True),
    ],
)
def test_what_begins_something_is_seen_without_parsing(data, begins):
    """A request whose To has no tag, or what is no SIP; answers and calls go on."""
    assert begins_something(data) is begins


def test_with_drop_a_stranger_finds_nobody():
    """Nothing that begins something is read; answers to our requests, and calls, are."""
    door = policy(at("a", CARRIER), unknown_status=DROP)
    assert not door.screen(plain("OPTIONS"), STRANGER, 0.0)
    assert door.screen(b"SIP/2.0 200 OK\r\n\r\n", STRANGER, 0.0)
    assert door.screen(plain("BYE", to="<sip:bob@example.com>;tag=b1"), STRANGER, 0.0)
    assert door.screen(plain("OPTIONS"), CARRIER, 0.0)
    assert door.counts.strangers == 1
    assert door.admit(request(), hop(STRANGER), 0.0).status == 403
    open_ = policy(asking(), unknown_status=DROP)
    assert open_.screen(plain(), STRANGER, 0.0)


@given(st.binary(max_size=300))
def test_whatever_comes_is_screened_without_an_error(data):
    """Any bytes from anybody."""
    for door in (policy(at("a", CARRIER), unknown_status=DROP), policy(asking())):
        assert door.screen(data, STRANGER, 0.0) in {True, False}
        assert door.screen(data, CARRIER, 0.0) in {True, False}


# --- reload


def test_a_reload_keeps_the_nonces_of_realms_that_stay():
    """Credentials that were computed before it are let in after it; those of another realm's too."""
    phones, others = asking(), asking("others", "bob", realm="other")
    door = policy(phones, at("a", CARRIER))
    phone = Phone(door)
    phone.enter()
    door.change({"phones": phones, "b": at("b", "203.0.113.1")})
    assert door.admit(phone.ask(), phone.hop, 1.0) is None
    with_realm = asking("others", "bob", "203.0.113.9", realm="other")
    door.change({"phones": phones, "others": with_realm})
    assert door.admit(phone.ask(), phone.hop, 1.0) is None
    assert others.inbound.realm in door._door._gates


def test_a_digest_is_not_replayed_past_a_reload():
    """What was used stays used, in a realm that stays."""
    trunk = asking()
    door = policy(trunk)
    second, answer = Phone(door).enter()
    assert answer is None
    door.change({"phones": trunk, "b": at("b", "203.0.113.1")})
    assert door.admit(second, hop(STRANGER), 0.0).status == 401
    assert set(door.trunks) == {"phones", "b"}


def test_an_empty_password_lets_nobody_in():
    """It is a problem, not a password."""
    empty = Policy({"phones": asking()}, lambda _: "", lambda: bytes(16), Ledger())
    assert [each.problem for each in empty.problems] == ["is empty"]
    _, answer = Phone(empty).enter()
    assert answer is not None
    assert answer.status == 403


def test_a_reload_takes_a_new_password_at_once():
    """The old one is wrong from then on, though the trunk's file is the same."""
    found = {"env:ANN": "zanzibar"}
    trunk = asking()
    counter = itertools.count(1)
    door = Policy(
        {"phones": trunk},
        lambda secret: found[secret.reference],
        lambda: next(counter).to_bytes(16, "little"),
        Ledger(),
    )
    old = Phone(door)
    assert old.enter()[1] is None
    found["env:ANN"] = "changed"
    assert not door.change({"phones": trunk})
    assert door.admit(old.ask(), old.hop, 0.0).status == 403
    assert Phone(door, password="changed").enter()[1] is None


def test_a_reload_keeps_learned_addresses_as_long_as_the_names_are_the_same():
    """A new route does not make a carrier a stranger; new proxies do, until they are resolved."""
    trunk = Trunk(
        Peer(name="a", proxies=("sip:a.example",)),
        inbound=Inbound(peer_is_source=True),
        routes=(Route(),),
    )
    door = policy(trunk)
    door.learn("a", [CARRIER])
    door.learn("nobody", [STRANGER])
    routed = Trunk(trunk.peer, inbound=trunk.inbound, routes=(Route(agent="x"),))
    assert door.change({"a": routed, "b": at("b", "203.0.113.1")}).changed
    assert door.admit(request(), hop(), 0.0) is None
    moved = Trunk(Peer(name="a", proxies=("sip:b.example",)), inbound=trunk.inbound)
    door.change({"a": moved})
    assert door.admit(request(), hop(), 0.0).status == 403
    door.learn("a", [CARRIER])
    door.change({})
    door.change({"a": moved})
    assert door.admit(request(), hop(), 0.0).status == 403


def test_an_answerer_stays_with_its_account():
    """Its nonces and counts survive a reload; another password makes another one."""
    account = Account("acc", password=Secret("env:ANN"))
    trunk = Trunk(Peer(name="a", proxies=("sip:a.example",)), account)
    door = policy(trunk, Trunk(Peer(name="b")))
    before = door.answerer("a")
    assert before is not None
    assert door.answerer("b") is None
    assert door.answerer("nobody") is None
    door.change({"a": Trunk(trunk.peer, account, routes=(Route(),))})
    assert door.answerer("a") is before
    other = Account("acc", password=Secret("env:BOB"))
    assert door.change({"a": Trunk(trunk.peer, other)}).changed
    assert door.answerer("a") is not before
    lost = Account("acc", password=Secret("env:NOPE"))
    door.change({"a": Trunk(trunk.peer, lost)})
    assert door.answerer("a") is None
    assert [each.key for each in door.problems] == ["account.password"]


def test_a_trunk_with_a_registrar_alone_has_its_domain():
    """Or From and To would be addresses without a host."""
    trunk = Trunk(Peer(name="a"), register=Register(enabled=True, registrar="sip:reg.example:5070"))
    assert trunk.domain == "reg.example"
    assert str(trunk.registrar) == "sip:reg.example:5070"
