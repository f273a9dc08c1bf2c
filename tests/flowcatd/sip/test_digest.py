"""Digest authentication: the RFCs' figures, both sides against each other, every way to be refused."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcatd.sip.credentials import parse_credentials, write_credentials
from flowcatd.sip.digest import (
    COUNT_WINDOW,
    STRENGTH,
    Answerer,
    Flavour,
    Gate,
    Judgement,
    Proof,
    Secret,
    Terms,
    Verdict,
)
from flowcatd.sip.message import Request, Response, build_response, parse_message
from flowcatd.sip.trouble import SipError
from tests.flowcatd.sip.torture import case, request

MUFASA = "http-auth@example.org"
BOB = Secret("bob", "zanzibar")


def proof(algorithm: str) -> Proof:
    """RFC 7616 §3.9.1's request."""
    return Proof(
        algorithm,
        MUFASA,
        "7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v",
        "/dir/index.html",
        "GET",
        "auth",
        "00000001",
        "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ",
    )


@pytest.mark.parametrize(
    ("algorithm", "response"),
    [
        ("MD5", "8ca523f5e9506fed4657c9700eebdbec"),
        ("SHA-256", "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"),
    ],
)
def test_the_example_of_rfc_7616_is_computed(algorithm: str, response: str):
    """§3.9.1."""
    assert proof(algorithm).response(Secret("Mufasa", "Circle of Life")) == response


def test_the_example_of_rfc_2617_is_computed():
    """§3.5: the digest that every telephone can."""
    old = Proof(
        "MD5",
        "testrealm@host.com",
        "dcd98b7102dd2f0e8b11d0f600bfb0c093",
        "/dir/index.html",
        "GET",
        "auth",
        "00000001",
        "0a4f113b",
    )
    assert old.response(Secret("Mufasa", "Circle Of Life")) == "6629fae49393a05397450978507c4ef1"


# --- both sides against each other


class Door:
    """A gate, a client, and the requests between them."""

    def __init__(self, terms: Terms | None = None, secret: Secret = BOB, **client) -> None:
        counter = itertools.count()
        self.gate = Gate(
            terms or Terms("example.com"),
            b"k" * 32,
            lambda: next(counter).to_bytes(8, "big"),
            {"bob": "zanzibar"}.get,
        )
        self.client = Answerer(secret, lambda: "c0ffee", **client)
        self.cseq = 0

    def ask(self, *, authorized: bool = True, method: str = "REGISTER") -> Request:
        """A request with the credentials that the client has."""
        self.cseq += 1
        asked = request(method, cseq=f"{self.cseq} {method}", uri="sip:example.com")
        if authorized:
            self.client.authorize(asked, method, str(asked.uri))
        return asked

    def refuse(self, asked: Request, now: float = 0.0, *, stale: bool = False) -> Response:
        """The gate's challenge to it."""
        flavour = self.gate.terms.flavour
        response = build_response(asked, flavour.status, tag="t")
        self.gate.challenge(response, now, stale=stale)
        return response

    def enter(self, now: float = 0.0) -> Verdict:
        """Asks, is challenged, asks again."""
        first = self.ask()
        assert self.gate.judge(first, now).judgement is Judgement.MISSING
        assert self.client.accept(first, self.refuse(first, now))
        return self.gate.judge(self.ask(), now)


@pytest.mark.parametrize("flavour", Flavour)
@pytest.mark.parametrize("qop", ["auth", "auth-int"])
@pytest.mark.parametrize("algorithm", STRENGTH)
def test_who_knows_the_password_is_let_in(algorithm: str, qop: str, flavour: Flavour):
    """By every algorithm and quality, at a user agent and at a proxy."""
    door = Door(Terms("example.com", (algorithm,), flavour, (qop,)))
    verdict = door.enter()
    assert (verdict.judgement, verdict.user) == (Judgement.PASSED, "bob")
    assert "rspauth=" in verdict.info


@pytest.mark.parametrize("algorithm", STRENGTH)
def test_who_does_not_know_it_is_not(algorithm: str):
    """Nor who does not exist; and the client does not try for ever."""
    for secret in (Secret("bob", "zanzibaz"), Secret("eve", "zanzibar"), Secret("eve", "")):
        door = Door(Terms("example.com", (algorithm,)), secret)
        assert door.enter().judgement is Judgement.WRONG
        tried = door.ask()
        door.client.accept(request(), door.refuse(tried))
        again = door.ask()
        assert not door.client.accept(again, door.refuse(again))


def test_the_strongest_that_is_allowed_is_answered():
    """Whatever the order of the challenges."""
    terms = Terms("example.com", ("MD5", "SHA-512-256", "SHA-256"))
    door = Door(terms)
    door.enter()
    assert "algorithm=SHA-512-256" in door.ask().first("authorization")
    weak = Door(terms, allowed=("MD5",))
    weak.enter()
    assert "algorithm=MD5" in weak.ask().first("authorization")
    none = Door(Terms("example.com", ("MD5",)), allowed=("SHA-256",))
    first = none.ask()
    assert not none.client.accept(first, none.refuse(first))


def test_a_nonce_is_used_again_with_a_rising_count():
    """One challenge serves many requests."""
    door = Door()
    door.enter()
    for count in (2, 3, 4):
        asked = door.ask(method="INVITE")
        assert f"nc={count:08x}" in asked.first("authorization")
        assert door.gate.judge(asked, 1.0).judgement is Judgement.PASSED


def test_the_same_credentials_pass_once():
    """A replayed request is stale."""
    door = Door()
    door.enter()
    asked = door.ask()
    assert door.gate.judge(asked, 0.0).judgement is Judgement.PASSED
    assert door.gate.judge(asked, 0.0).judgement is Judgement.STALE


@given(st.permutations(range(20)))
def test_counts_that_overtake_each_other_pass_once_each(order: list[int]):
    """UDP reorders; within the window nothing is lost by it."""
    door = Door()
    door.enter()
    asked = [door.ask() for _ in order]
    for at in order:
        assert door.gate.judge(asked[at], 0.0).judgement is Judgement.PASSED
    assert {door.gate.judge(each, 0.0).judgement for each in asked} == {Judgement.STALE}


def test_a_count_below_the_window_is_stale():
    """What cannot be remembered does not pass."""
    door = Door()
    door.enter()
    asked = [door.ask() for _ in range(COUNT_WINDOW + 1)]
    assert door.gate.judge(asked[-1], 0.0).judgement is Judgement.PASSED
    assert door.gate.judge(asked[0], 0.0).judgement is Judgement.STALE
    assert door.gate.judge(asked[1], 0.0).judgement is Judgement.PASSED


def test_an_old_nonce_is_stale_and_the_client_asks_again():
    """With the same password, at once."""
    door = Door()
    door.enter()
    late = door.ask()
    assert door.gate.judge(late, 301.0).judgement is Judgement.STALE
    assert door.client.accept(late, door.refuse(late, 301.0, stale=True))
    assert door.gate.judge(door.ask(), 301.0).judgement is Judgement.PASSED


def test_a_server_that_does_not_say_stale_is_understood():
    """A nonce that had served has aged, whatever the challenge says; only a fresh one proves us wrong."""
    door = Door()
    door.enter()
    late = door.ask()
    assert door.client.accept(late, door.refuse(late, 301.0))
    assert door.gate.judge(door.ask(), 301.0).judgement is Judgement.PASSED


def test_another_calls_challenge_is_no_refusal_of_this_one():
    """Two calls of a trunk are challenged at the same time."""
    door = Door()
    one, two = door.ask(), door.ask()
    assert door.client.accept(one, door.refuse(one))
    assert door.gate.judge(door.ask(), 0.0).judgement is Judgement.PASSED
    assert door.client.accept(two, door.refuse(two))
    assert door.gate.judge(door.ask(), 0.0).judgement is Judgement.PASSED


@pytest.mark.parametrize(
    "spoil", [lambda n: n[:-1] + ("A" if n[-1] != "A" else "B"), lambda n: n + "A"]
)
def test_a_forged_nonce_is_stale(spoil):
    """Nothing but what we have signed, letter for letter."""
    door = Door()
    door.enter()
    session = next(iter(door.client._sessions.values()))
    session.challenge["nonce"] = spoil(session.challenge["nonce"])
    assert door.gate.judge(door.ask(), 0.0).judgement is Judgement.STALE


def test_a_nonce_written_another_way_is_stale():
    """Base64's last letter has two bits that mean nothing: each spelling would be a life of its own."""
    door = Door()
    door.enter()
    session = next(iter(door.client._sessions.values()))
    nonce = session.challenge["nonce"]
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    passed = []
    for letter in letters:
        session.challenge["nonce"] = nonce[:-1] + letter
        if door.gate.judge(door.ask(), 0.0).judgement is Judgement.PASSED:
            passed.append(letter)
    assert passed == [nonce[-1]]


def test_a_neighbours_nonce_is_stale():
    """Each worker signs with a key of its own."""
    door, other = Door(), Door()
    door.enter()
    other.gate._key = b"o" * 32
    assert other.gate.judge(door.ask(), 0.0).judgement is Judgement.STALE


def test_forgotten_nonces_never_pass_again():
    """At the limit the oldest go, and with them everything as old."""
    door = Door(Terms("example.com", nonces_max=2))
    replay = []
    for now in range(4):
        first = door.ask(authorized=False)
        assert door.client.accept(first, door.refuse(first, float(now)))
        replay.append(door.ask())
        assert door.gate.judge(replay[-1], float(now)).judgement is Judgement.PASSED
    assert len(door.gate._used) == 2
    assert {door.gate.judge(each, 4.0).judgement for each in replay} == {Judgement.STALE}


def test_a_peer_without_qop_is_let_in_only_on_demand_and_once_per_nonce():
    """RFC 2069's digest has no count that could rise."""
    for legacy, wanted in ((True, Judgement.PASSED), (False, Judgement.WRONG)):
        door = Door(Terms("example.com", ("MD5",), legacy=legacy))
        first = door.ask()
        challenge = door.refuse(first)
        old = challenge.first("www-authenticate").replace(', qop="auth"', "")
        challenge.put("www-authenticate", old)
        assert door.client.accept(first, challenge)
        asked = door.ask()
        assert "nc=" not in asked.first("authorization")
        assert door.gate.judge(asked, 0.0).judgement is wanted
        if legacy:
            assert door.gate.judge(asked, 0.0).judgement is Judgement.STALE


def test_credentials_for_another_address_are_wrong():
    """Or a captured INVITE would call anybody."""
    door = Door()
    door.enter()
    stolen = door.ask(method="INVITE").first("authorization")
    other = request("INVITE", f"Authorization: {stolen}", uri="sip:premium@elsewhere.example")
    assert door.gate.judge(other, 0.0).judgement is Judgement.WRONG


def test_a_changed_body_is_noticed_by_auth_int():
    """The digest covers it."""
    door = Door(Terms("example.com", qops=("auth-int",)))
    door.enter()
    asked = door.ask()
    asked.body = b"v=0"
    assert door.gate.judge(asked, 0.0).judgement is Judgement.WRONG


def test_a_nonce_is_good_for_one_call_only():
    """Credentials that were overheard, and were never used here, let no other call in."""
    door = Door()
    first = door.ask()
    door.client.accept(first, door.refuse(first))
    asked = door.ask()
    asked.call_id = "another@example.com"
    assert door.gate.judge(asked, 0.0).judgement is Judgement.STALE
    assert door.gate.judge(door.ask(), 0.0).judgement is Judgement.PASSED


def test_the_next_nonce_is_taken_from_a_success():
    """RFC 7616 §3.5: no challenge is needed then."""
    door = Door()
    door.enter()
    fresh = door.gate._mint(1.0, door.ask().call_id)
    answer = build_response(door.ask(), 200)
    answer.put("Authentication-Info", f'nextnonce="{fresh}"')
    door.client.learn(answer)
    asked = door.ask()
    assert fresh in asked.first("authorization")
    assert "nc=00000001" in asked.first("authorization")
    assert door.gate.judge(asked, 1.0).judgement is Judgement.PASSED


def test_an_unknown_scheme_is_no_credentials():
    """RFC 4475 §3.3.7: challenged, not refused."""
    register = parse_message(case("regaut01"))
    assert isinstance(register, Request)
    assert Door().gate.judge(register, 0.0).judgement is Judgement.MISSING


@pytest.mark.parametrize(
    "value",
    [
        'Digest realm="example.com"',
        'Digest realm="example.com", realm="example.com"',
        "Digest realm",
        "Digest ,",
        "=",
        'Digest realm="example.com',
        "Digest " + ",".join(f"a{n}=1" for n in range(99)),
    ],
)
def test_malformed_credentials_are_a_bad_request(value: str):
    """400, not a challenge."""
    with pytest.raises(SipError) as caught:
        Door().gate.judge(request("REGISTER", f"Authorization: {value}"), 0.0)
    assert caught.value.status == 400


@pytest.mark.parametrize(("name", "value"), [("nc", "1"), ("nc", "0000000g"), ("cnonce", "")])
def test_a_count_that_is_none_is_a_bad_request(name: str, value: str):
    """Eight hexadecimal digits, and a cnonce with them."""
    door = Door()
    door.enter()
    asked = door.ask()
    said = parse_credentials(asked.first("authorization")).parameters | {name: value}
    asked.put("authorization", write_credentials("Digest", said))
    with pytest.raises(SipError):
        door.gate.judge(asked, 0.0)


@given(st.text(max_size=80))
def test_no_credentials_break_the_gate(text: str):
    """A verdict or SipError: the garbage law."""
    door = Door()
    asked = request("REGISTER")
    asked.fields["authorization"] = [f'Digest realm="example.com", {text}']
    try:
        assert door.gate.judge(asked, 0.0).judgement is not Judgement.PASSED
    except SipError as error:
        assert error.status == 400  # noqa: PT017 either outcome is allowed


texts = st.text(st.characters(exclude_characters="\r\n\0", codec="utf-8"), max_size=20)


@given(st.dictionaries(st.text("abcxyz", min_size=1, max_size=9), texts, max_size=8))
def test_values_survive_being_written(said: dict[str, str]):
    """Quotes, commas and backslashes in them too."""
    assert parse_credentials(write_credentials("Digest", said)).parameters == said


def test_nothing_shows_a_password():
    """Neither the secret nor what is computed from it."""
    door = Door()
    door.enter()
    assert "zanzibar" not in repr(BOB)
    assert "zanzibar" not in repr(vars(door.client))
    assert "zanzibar" not in str(bytes(door.ask()))


def test_challenges_of_no_use_are_passed_over():
    """Foreign schemes, unknown algorithms, no nonce: the one that is of use is found behind them."""
    door = Door()
    first = door.ask()
    challenge = door.refuse(first)
    challenge.fields["www-authenticate"][:0] = [
        "Basic realm",
        'Digest realm="a", nonce="n", algorithm=SHA-3',
        'Digest realm="b"',
    ]
    assert door.client.accept(first, challenge)
    assert 'realm="example.com"' in door.ask().first("authorization")


def test_a_challenge_without_an_algorithm_is_md5():
    """RFC 3261's telephones and registrars; the answer names none either."""
    door = Door(Terms("example.com", ("MD5",)))
    first = door.ask()
    challenge = door.refuse(first)
    text = challenge.first("www-authenticate").replace(", algorithm=MD5", ', opaque="o"')
    challenge.put("www-authenticate", text)
    assert door.client.accept(first, challenge)
    asked = door.ask()
    assert "algorithm" not in asked.first("authorization")
    assert 'opaque="o"' in asked.first("authorization")
    assert door.gate.judge(asked, 0.0).judgement is Judgement.PASSED


def test_realms_are_answered_side_by_side_and_limited():
    """A proxy's and the registrar's; sixteen of them at most."""
    door = Door()
    door.enter()
    door.gate.terms = Terms("proxy.example", flavour=Flavour.PROXY)
    asked = door.ask()
    assert door.client.accept(asked, door.refuse(asked))
    both = door.ask()
    assert both.first("authorization")
    assert both.first("proxy-authorization")
    assert door.gate.judge(both, 0.0).judgement is Judgement.PASSED
    taken = 0
    for number in range(20):
        door.gate.terms = Terms(f"realm{number}")
        taken += door.client.accept(asked, door.refuse(asked))
    assert taken == 14


def test_a_success_without_a_next_nonce_changes_nothing():
    """Most have none."""
    door = Door()
    door.enter()
    answer = build_response(door.ask(), 200)
    door.client.learn(answer)
    answer.put("Authentication-Info", "qop=auth")
    door.client.learn(answer)
    assert "nc=00000003" in door.ask().first("authorization")


@pytest.mark.parametrize("nonce", ["", "=", "é", "AAAA", "a" * 43])
def test_a_nonce_that_is_no_nonce_is_stale(nonce: str):
    """Whatever text it is."""
    door = Door()
    door.enter()
    next(iter(door.client._sessions.values())).challenge["nonce"] = nonce
    assert door.gate.judge(door.ask(), 0.0).judgement is Judgement.STALE


def test_a_digest_about_no_address_is_wrong():
    """The hashed URI must be one."""
    door = Door()
    door.enter()
    asked = request("REGISTER", uri="sip:example.com")
    door.client.authorize(asked, "REGISTER", "no address")
    assert door.gate.judge(asked, 0.0).judgement is Judgement.WRONG


def test_credentials_for_another_realm_are_none():
    """They may be meant for the next proxy."""
    door = Door()
    door.enter()
    asked = door.ask()
    other = Gate(Terms("other.example"), b"k", lambda: b"", {}.get)
    assert other.judge(asked, 0.0).judgement is Judgement.MISSING
