"""Facts about finding SIP servers: RFC 3263's steps, RFC 2782's order, failing resolvers and targets."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcatd.sip.resolve import (
    NEGATIVE_SECONDS,
    RECORDS_MAX,
    STALE_SECONDS,
    TARGETS_MAX,
    TTL_MAX,
    TTL_MIN,
    Abilities,
    Cache,
    Naptr,
    Plan,
    Question,
    Shunned,
    Srv,
    Target,
    is_failure_of_target,
    is_ipv6,
    locate,
    order_srv,
)
from flowcatd.sip.uri import Uri, parse_uri

ABLE = Abilities(families=("A",))
BOTH = Abilities()
ALL = Abilities(("UDP", "TCP", "TLS", "WS", "WSS"), ("A",))

Zone = dict[tuple[str, str], tuple]


def _middle() -> float:
    return 0.5


def _ask(uri: str, zone: Zone | None = None, able: Abilities = ABLE) -> tuple[Plan, list[Question]]:
    """Locates with a zone in which every question has an answer; the plan, and all that was asked."""
    known: dict[Question, tuple] = {}
    asked: list[Question] = []
    for _ in range(20):
        plan = locate(parse_uri(uri), known.get, able, _middle)
        if not plan.questions:
            return plan, asked
        assert not plan.targets
        for question in plan.questions:
            assert question not in known
            asked.append(question)
            known[question] = (zone or {}).get((question.kind, question.name), ())
    raise AssertionError("it never ends")


def _targets(uri: str, zone: Zone | None = None, able: Abilities = ABLE) -> list[str]:
    plan, _ = _ask(uri, zone, able)
    return [f"{each.transport} {each.host} {each.port}" for each in plan.targets]


HOSTS: Zone = {("A", "a.example"): ("192.0.2.1",), ("A", "b.example"): ("192.0.2.2",)}


# --- §4.1 and §4.2


@pytest.mark.parametrize(
    ("uri", "target"),
    [
        ("sip:192.0.2.9", "UDP 192.0.2.9 5060"),
        ("sip:192.0.2.9:5070", "UDP 192.0.2.9 5070"),
        ("sips:192.0.2.9", "TLS 192.0.2.9 5061"),
        ("sip:192.0.2.9;transport=tcp", "TCP 192.0.2.9 5060"),
        ("sip:192.0.2.9;transport=TLS", "TLS 192.0.2.9 5061"),
        ("sips:192.0.2.9;transport=tcp", "TLS 192.0.2.9 5061"),
        ("sip:[2001:db8::9]:5070", "UDP 2001:db8::9 5070"),
        ("sip:a.example;maddr=192.0.2.8", "UDP 192.0.2.8 5060"),
        ("sip:192.0.2.9;transport=ws", "WS 192.0.2.9 80"),
        ("sips:192.0.2.9;transport=ws", "WSS 192.0.2.9 443"),
    ],
)
def test_an_address_needs_no_dns(uri, target):
    """Nothing is asked; port and transport are the URI's, or the scheme's."""
    plan, asked = _ask(uri, able=ALL)
    assert asked == []
    assert [f"{each.transport} {each.host} {each.port}" for each in plan.targets] == [target]


def test_a_port_means_no_srv():
    """Host and port: address records only, both families at once, IPv6 first (RFC 7984)."""
    zone: Zone = {("A", "a.example"): ("192.0.2.1",), ("AAAA", "a.example"): ("2001:db8::1",)}
    plan, asked = _ask("sip:A.Example.:5070", zone, BOTH)
    assert asked == [Question("AAAA", "a.example"), Question("A", "a.example")]
    assert [each.host for each in plan.targets] == ["2001:db8::1", "192.0.2.1"]
    assert {(each.transport, each.port) for each in plan.targets} == {("UDP", 5070)}


def test_a_transport_means_srv_of_that_transport():
    """Or else the address records, with its default port."""
    zone: Zone = {**HOSTS, ("SRV", "_sip._tcp.x.example"): (Srv(1, 1, 5080, "a.example."),)}
    assert _targets("sip:x.example;transport=tcp", zone) == ["TCP 192.0.2.1 5080"]
    assert _targets("sip:a.example;transport=tcp", zone) == ["TCP 192.0.2.1 5060"]
    secure: Zone = {**HOSTS, ("SRV", "_sips._tcp.x.example"): (Srv(1, 1, 5081, "b.example"),)}
    assert _targets("sip:x.example;transport=tls", secure) == ["TLS 192.0.2.2 5081"]
    assert _targets("sip:a.example;transport=ws", HOSTS, ALL) == ["WS 192.0.2.1 80"]


NAPTR: Zone = {
    **HOSTS,
    ("NAPTR", "x.example"): (
        Naptr(90, 50, "s", "SIP+D2T", "_sip._tcp.x.example"),
        Naptr(50, 60, "S", "SIP+D2U", "_sip._udp.x.example."),
        Naptr(50, 50, "s", "SIPS+D2T", "_sips._tcp.x.example"),
        Naptr(10, 10, "s", "SIP+D2S", "_sip._sctp.x.example"),
        Naptr(10, 10, "u", "E2U+sip", ""),
    ),
    ("SRV", "_sip._tcp.x.example"): (Srv(1, 1, 5060, "a.example"),),
    ("SRV", "_sip._udp.x.example"): (Srv(1, 1, 5060, "a.example"),),
    ("SRV", "_sips._tcp.x.example"): (Srv(1, 1, 5061, "b.example"),),
}


def test_naptr_records_order_the_transports():
    """By order and preference, the ones we have; a certificate is for the name that was asked."""
    plan, _ = _ask("sip:x.example", NAPTR)
    assert plan.targets == (
        Target("TLS", "192.0.2.2", 5061, "x.example"),
        Target("UDP", "192.0.2.1", 5060, "x.example"),
        Target("TCP", "192.0.2.1", 5060, "x.example"),
    )
    assert _targets("sip:x.example", NAPTR, Abilities(("UDP",), ("A",))) == ["UDP 192.0.2.1 5060"]


def test_a_sips_uri_never_leaves_tls():
    """Records of other transports are not even followed (§4.1)."""
    assert _targets("sips:x.example", NAPTR) == ["TLS 192.0.2.2 5061"]
    _, asked = _ask("sips:none.example", {})
    assert Question("SRV", "_sips._tcp.none.example") in asked
    assert not [each for each in asked if each.name.startswith("_sip.")]


def test_naptr_may_lead_to_addresses_and_to_further_naptr():
    """RFC 3958: flag `a`, and no flag; a circle of them ends."""
    zone: Zone = {
        **HOSTS,
        ("NAPTR", "x.example"): (Naptr(1, 1, "", "SIP+D2T", "y.example"),),
        ("NAPTR", "y.example"): (Naptr(1, 1, "a", "SIP+D2T", "b.example"),),
        ("NAPTR", "z.example"): (Naptr(1, 1, "", "SIP+D2U", "z.example"),),
    }
    assert _targets("sip:x.example", zone) == ["TCP 192.0.2.2 5060"]
    plan, _ = _ask("sip:z.example", zone)
    assert plan == Plan(problem="the name leads nowhere")


def test_without_naptr_srv_of_every_transport_is_asked_at_once():
    """The first of our transports that has records is it."""
    zone: Zone = {**HOSTS, ("SRV", "_sip._tcp.x.example"): (Srv(1, 1, 5080, "a.example"),)}
    plan, asked = _ask("sip:x.example", zone)
    assert [each.name for each in asked[1:4]] == [
        "_sip._udp.x.example",
        "_sip._tcp.x.example",
        "_sips._tcp.x.example",
    ]
    assert [each.transport for each in plan.targets] == ["TCP"]


def test_without_any_of_that_the_addresses_are_it():
    """UDP and 5060, or the first transport that there is here."""
    assert _targets("sip:a.example", HOSTS) == ["UDP 192.0.2.1 5060"]
    assert _targets("sip:a.example", HOSTS, Abilities(("TCP",), ("A",))) == ["TCP 192.0.2.1 5060"]


@pytest.mark.parametrize(
    ("uri", "problem"),
    [
        ("sip:a.example;transport=sctp", "a transport that is not known"),
        ("sip:a.example;transport=", "a transport that is not known"),
        ("sips:a.example;transport=udp", "a sips URI over UDP"),
        ("sip:a.example;transport=ws", "no WS here"),
        ("tel:+49301", "no SIP URI"),
        ("sip:nowhere.example", "the name leads nowhere"),
        ("sip:closed.example;transport=tcp", "the service is decidedly not available"),
        ("sip:port0.example;transport=tcp", "the name leads nowhere"),
    ],
)
def test_where_nothing_can_be_sent_there_is_a_reason(uri, problem):
    """A plan without targets says why."""
    zone: Zone = {
        ("SRV", "_sip._tcp.closed.example"): (Srv(0, 0, 0, "."),),
        ("SRV", "_sip._tcp.port0.example"): (Srv(0, 0, 0, "a.example"),),
        **HOSTS,
    }
    plan, _ = _ask(uri, zone)
    assert (plan.targets, plan.questions, plan.problem) == ((), (), problem)
    assert bool(plan.status) is (problem != "the name leads nowhere")


def test_a_service_that_is_closed_on_one_transport_is_found_on_another():
    """`.` speaks for its own transport only."""
    zone: Zone = {
        **HOSTS,
        ("SRV", "_sip._udp.x.example"): (Srv(0, 0, 0, "."),),
        ("SRV", "_sip._tcp.x.example"): (Srv(1, 1, 5060, "a.example"),),
    }
    assert _targets("sip:x.example", zone) == ["TCP 192.0.2.1 5060"]


def test_we_must_have_something_to_send_by():
    """Without TLS there is no way to a sips address."""
    assert _ask("sips:192.0.2.1", able=Abilities(("UDP",)))[0].problem == "no TLS here"
    assert locate(Uri("sip"), {}.get, ABLE, _middle).problem == "a URI without a host"


def test_every_address_of_every_server_is_a_target_up_to_a_limit():
    """A zone that answers thousands costs a bounded list; doubles are left out."""
    many = tuple(f"10.0.{n // 256}.{n % 256}" for n in range(1000))
    zone: Zone = {
        ("SRV", "_sip._udp.x.example"): tuple(Srv(1, 1, 5060, f"h{n}.example") for n in range(99)),
        **{("A", f"h{n}.example"): (*many[n * 9 :], "x", "10.0.0.1") for n in range(99)},
    }
    plan, asked = _ask("sip:x.example;transport=udp", zone)
    assert len(plan.targets) == TARGETS_MAX == len(set(plan.targets))
    assert len(asked) == 1 + RECORDS_MAX


@given(
    st.dictionaries(
        st.tuples(
            st.sampled_from(["NAPTR", "SRV", "A", "AAAA"]),
            st.sampled_from(["x.example", "_sip._udp.x.example", "y.example", "."]),
        ),
        st.lists(
            st.one_of(
                st.text(max_size=8),
                st.builds(
                    Srv,
                    st.integers(0, 3),
                    st.integers(0, 3),
                    st.integers(-1, 70_000),
                    st.sampled_from(["x.example", "y.example", ".", "", "192.0.2.1"]),
                ),
                st.builds(
                    Naptr,
                    st.integers(0, 3),
                    st.integers(0, 3),
                    st.sampled_from(["s", "a", "", "u"]),
                    st.sampled_from(["SIP+D2U", "SIPS+D2T", "x"]),
                    st.sampled_from(["x.example", "_sip._udp.x.example", "", "."]),
                ),
            ),
            max_size=6,
        ).map(tuple),
    ),
    st.sampled_from(["sip:x.example", "sips:x.example", "sip:y.example;transport=udp"]),
)
def test_any_answers_end_in_targets_or_a_reason(zone, uri):
    """The walk ends, and never raises, whatever a server writes into its zone."""
    plan, _ = _ask(uri, zone, BOTH)
    assert bool(plan.targets) != bool(plan.problem)
    assert all(0 < target.port < 65_536 for target in plan.targets)


# --- RFC 2782


def test_lower_priority_comes_first_and_weight_is_a_share():
    """Of 20,000 draws, 3 : 1 within a few percent; a weight of 0 nearly never."""
    random = Random(1).random
    heavy, light, none = Srv(1, 30, 1, "h"), Srv(1, 10, 1, "l"), Srv(1, 0, 1, "n")
    backup = Srv(2, 100, 1, "b")
    firsts: Counter[str] = Counter()
    for _ in range(20_000):
        ordered = order_srv([backup, none, light, heavy], random)
        assert ordered[-1] is backup
        assert len(ordered) == 4
        firsts[ordered[0].target] += 1
    assert 0.73 < firsts["h"] / 20_000 < 0.77
    assert firsts["n"] < 60


def test_equal_records_are_drawn_equally():
    """Two of the same weight, and two of none."""
    for weight in (0, 5):
        random = Random(2).random
        pair = [Srv(1, weight, 1, "a"), Srv(1, weight, 1, "b")]
        first = sum(order_srv(pair, random)[0].target == "a" for _ in range(10_000))
        assert 4_800 < first < 5_200


@given(
    st.lists(st.builds(Srv, st.integers(0, 2), st.integers(0, 9), st.just(1), st.text(max_size=2))),
    st.floats(0, 1, exclude_max=True),
)
def test_an_order_has_every_record_once_by_priority(records, draw):
    """Nothing is lost or doubled by chance."""
    ordered = order_srv(records, lambda: draw)
    assert Counter(ordered) == Counter(records)
    assert [each.priority for each in ordered] == sorted(each.priority for each in records)


# --- answers

Q = Question("A", "a.example")


def test_an_answer_serves_for_its_time():
    """At least some seconds, at most an hour."""
    cache = Cache()
    assert cache.find(Q, 0.0) is None
    cache.put(Q, ["192.0.2.1"], 60, 0.0)
    assert cache.find(Q, 59.0) == ("192.0.2.1",)
    assert cache.find(Q, 60.0) is None
    cache.put(Q, ["192.0.2.1"], 0, 100.0)
    assert cache.find(Q, 100.0 + TTL_MIN - 0.1) is not None
    cache.put(Q, ["192.0.2.1"], 10**9, 200.0)
    assert cache.find(Q, 200.0 + TTL_MAX) is None


def test_a_name_without_records_is_asked_again_soon():
    """A negative answer lasts for half a minute at most."""
    cache = Cache()
    cache.put(Q, [], 3600, 0.0)
    assert cache.find(Q, NEGATIVE_SECONDS - 1) == ()
    assert cache.find(Q, NEGATIVE_SECONDS) is None


def test_while_the_resolver_fails_old_answers_serve():
    """For a day, asked again every half minute; then there are none."""
    cache = Cache()
    cache.put(Q, ["192.0.2.1"], 60, 0.0)
    now = 61.0
    while now < STALE_SECONDS:
        cache.put_failure(Q, now)
        assert cache.find(Q, now + 1) == ("192.0.2.1",)
        now += NEGATIVE_SECONDS
        assert cache.find(Q, now) is None
    cache.put_failure(Q, 61 + STALE_SECONDS)
    assert cache.find(Q, 62 + STALE_SECONDS) == ()


def test_a_resolver_that_never_answered_leads_nowhere():
    """And is asked again."""
    cache = Cache()
    cache.put_failure(Q, 0.0)
    assert cache.find(Q, 1.0) == ()
    assert cache.find(Q, NEGATIVE_SECONDS) is None


def test_a_failure_does_not_shorten_an_answer():
    """A lookup that crossed a good one changes nothing."""
    cache = Cache()
    cache.put(Q, ["192.0.2.1"], 600, 0.0)
    cache.put_failure(Q, 1.0)
    assert cache.find(Q, 599.0) == ("192.0.2.1",)


def test_the_cache_is_bounded():
    """The least used answer goes first."""
    cache = Cache(limit=10)
    cache.put(Q, ["192.0.2.1"], 600, 0.0)
    for n in range(100):
        cache.put(Question("A", f"h{n}"), ["192.0.2.1"], 600, 0.0)
        cache.find(Q, 0.0)
    assert len(cache) == 10
    assert cache.find(Q, 0.0) is not None


# --- failures

ONE, TWO, THREE = (Target("UDP", f"192.0.2.{n}", 5060, "a.example") for n in (1, 2, 3))


def test_a_target_that_failed_is_tried_last_for_a_while():
    """And first again afterwards, or once it has answered."""
    shunned = Shunned()
    shunned.fail(ONE, 0.0)
    assert shunned.order((ONE, TWO), 59.0) == (TWO, ONE)
    assert shunned.order((ONE, TWO), 60.0) == (ONE, TWO)
    shunned.fail(ONE, 100.0)
    assert shunned.is_shunned(ONE, 100.0)
    shunned.succeed(ONE)
    assert not shunned.is_shunned(ONE, 100.0)


def test_when_all_failed_all_are_still_tried():
    """The one that is back soonest first; Retry-After counts, up to an hour."""
    shunned = Shunned()
    shunned.fail(ONE, 0.0, retry_after=1e9)
    shunned.fail(TWO, 0.0, retry_after=0)
    shunned.fail(THREE, 0.0)
    assert shunned.order((ONE, THREE, TWO), 0.5) == (TWO, THREE, ONE)
    assert not shunned.is_shunned(ONE, 3600.0)


def test_what_failed_is_remembered_up_to_a_limit():
    """Bounded, whatever DNS invents."""
    shunned = Shunned(limit=5)
    for n in range(50):
        shunned.fail(Target("UDP", f"h{n}", 5060, ""), 0.0)
    assert len(shunned) == 5


@pytest.mark.parametrize(
    ("status", "fails"), [(None, True), (503, True), (486, False), (500, False)]
)
def test_only_silence_and_503_are_the_targets_fault(status, fails):
    """RFC 3263 §4.3."""
    assert is_failure_of_target(status) is fails


def test_a_target_knows_whether_it_needs_brackets():
    """IPv6 in a URI or Via does."""
    assert is_ipv6("2001:db8::1")
    assert not is_ipv6("192.0.2.1")
    assert not is_ipv6("x")
