"""Facts about what is turned away: floods, scanners, too many calls, numbers that cost."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcatd.errors import LocalError
from flowcatd.sip.guard import (
    RISKY,
    SCANNERS,
    Dialled,
    FloodGate,
    GateTerms,
    Quota,
    is_scanner,
    limits_of,
    place_of,
    vet_number,
)
from flowcatd.sip.route import Refused
from flowcatd.sip.trunk import Inbound, Outbound

CARRIER = "192.0.2.7"
TERMS = GateTerms(stranger_rate=10, stranger_burst=30, strangers_rate=500, trunk_rate=3000)


def _gate(terms: GateTerms = TERMS) -> FloodGate:
    return FloodGate(lambda source: source == CARRIER, terms)


# --- floods


def test_one_source_gets_its_burst_and_then_its_rate():
    """In any ten seconds no more than the burst and ten times the rate."""
    gate = _gate()
    admitted = [gate.admit("198.51.100.1", n / 100) for n in range(1000)]
    assert all(admitted[:30])
    assert 125 <= sum(admitted) <= 130
    assert gate.turned_away == 1000 - sum(admitted)


def test_a_source_that_was_quiet_has_its_burst_again():
    """Nothing is held against it."""
    gate = _gate()
    for _ in range(100):
        gate.admit("198.51.100.1", 0.0)
    assert not gate.admit("198.51.100.1", 0.0)
    assert all(gate.admit("198.51.100.1", 60.0) for _ in range(30))


def test_a_flood_of_spoofed_sources_takes_bounded_room_and_nothing_from_a_carrier():
    """A million sources: the table stays small, strangers share their rate, the trunk is heard."""
    terms = GateTerms(sources_max=500)
    gate = _gate(terms)
    strangers = carrier = 0
    for n in range(200_000):
        now = n / 20_000
        strangers += gate.admit(f"10.{n >> 16 & 255}.{n >> 8 & 255}.{n & 255}", now)
        if n % 20 == 0:
            carrier += gate.admit(CARRIER, now)
        assert len(gate) <= 501
    assert strangers <= 500 + 500 * 10 + 1
    assert carrier == 10_000


def test_a_loud_stranger_takes_no_others_share():
    """Its refused messages cost the crowd nothing."""
    gate = _gate(GateTerms(stranger_rate=1, stranger_burst=5, strangers_rate=20))
    for n in range(5000):
        gate.admit("198.51.100.1", n / 10_000)
    assert gate.admit("198.51.100.2", 0.5)


def test_a_source_refused_for_the_crowd_keeps_its_own_token():
    """It may come in as soon as the crowd is smaller."""
    gate = _gate(GateTerms(stranger_rate=0.001, stranger_burst=2, strangers_rate=2))
    assert gate.admit("198.51.100.1", 0.0)
    assert gate.admit("198.51.100.2", 0.0)
    assert not gate.admit("198.51.100.1", 0.0)
    assert gate.admit("198.51.100.1", 10.0)


def test_an_ipv6_subscriber_is_one_source():
    """The 2^64 addresses of a /64 share a bucket."""
    gate = _gate()
    admitted = sum(gate.admit(f"2001:db8:1:1::{n:x}", 0.0) for n in range(100))
    assert admitted == 30
    assert gate.admit("2001:db8:1:2::1", 0.0)


def test_a_mapped_address_is_counted_with_its_own():
    """An IPv6 socket opens no second bucket."""
    assert place_of("::ffff:192.0.2.1") == place_of("192.0.2.1")
    with pytest.raises(LocalError):
        place_of("x")


def test_a_clock_that_steps_back_gives_no_tokens():
    """Nor does it take any."""
    gate = _gate()
    for _ in range(30):
        gate.admit("198.51.100.1", 100.0)
    assert not gate.admit("198.51.100.1", 0.0)
    assert not gate.admit("198.51.100.1", 100.0)


def test_a_scanner_is_not_heard_for_a_while_but_a_trunk_always():
    """A spoofed datagram cannot silence a carrier."""
    gate = _gate()
    gate.note_scanner("198.51.100.1", 0.0)
    gate.note_scanner(CARRIER, 0.0)
    assert not gate.admit("198.51.100.1", 3599.0)
    assert gate.admit("198.51.100.1", 3600.0)
    assert gate.admit(CARRIER, 0.0)


def test_scanners_are_remembered_up_to_a_limit():
    """The first is forgotten first."""
    gate = _gate(GateTerms(sources_max=10))
    for n in range(50):
        gate.note_scanner(f"198.51.100.{n}", 0.0)
    assert len(gate) == 10
    assert gate.admit("198.51.100.0", 1.0)
    assert not gate.admit("198.51.100.49", 1.0)


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.floats(0, 2, allow_nan=False)), min_size=1, max_size=200
    )
)
def test_no_source_ever_gets_more_than_burst_and_rate(steps):
    """For any arrivals, over the whole time."""
    gate = _gate(GateTerms(stranger_rate=2, stranger_burst=4, strangers_rate=1000))
    now, let_in = 0.0, dict.fromkeys(range(4), 0)
    for source, pause in steps:
        now += pause
        let_in[source] += gate.admit(f"198.51.100.{source}", now)
    assert all(count <= 4 + 2 * now + 1e-6 for count in let_in.values())


# --- scanners


@pytest.mark.parametrize("name", SCANNERS)
def test_a_known_tool_is_recognised(name):
    """By its User-Agent, in any case and with a version behind it."""
    assert is_scanner(f"OPTIONS sip:a SIP/2.0\r\nUSER-AGENT : x{name.upper()}/0.3\r\n\r\n".encode())


@pytest.mark.parametrize(
    "data",
    [
        b'OPTIONS sip:100@1.1.1.1 SIP/2.0\r\nFrom: "sipvicious"<sip:100@1.1.1.1>;tag=1\r\n\r\n',
        b"OPTIONS sip:nm SIP/2.0\r\nFrom: <sip:nm@nm>;tag=root\r\n\r\n",
        b"OPTIONS sip:nm SIP/2.0\r\nt: <sip:nm2@nm2>\r\n\r\n",
    ],
)
def test_a_tool_is_recognised_by_its_addresses(data):
    """SIPVicious and nmap write themselves into From and To."""
    assert is_scanner(data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"INVITE sip:sipcli@here.example SIP/2.0\r\nUser-Agent: Linphone/5.1\r\n\r\n",
        b"OPTIONS sip:a SIP/2.0\r\nUser-Agent: sipsak 0.9.8\r\nSubject: sipvicious\r\n\r\n",
        b"INVITE sip:a SIP/2.0\r\nUser-Agent: ok\r\n\r\n" + b" " * 5000 + b"User-Agent: sipcli",
    ],
)
def test_a_telephone_is_no_scanner(data):
    """Not by its user name, its body, or an operator's own probe."""
    assert not is_scanner(data)


# --- how many calls


def test_a_quota_is_exact():
    """Never one call more than the most, wherever the others are; one that ends makes room."""
    quota = Quota(3, 100.0)
    assert [quota.take(0.0, elsewhere=1) is None for _ in range(3)] == [True, True, False]
    quota.give_back()
    assert quota.take(0.0, elsewhere=1) is None
    assert quota.take(0.0, elsewhere=1) == Refused(503, "the trunk has its most calls")


def test_calls_come_no_faster_than_the_pace():
    """A second's worth at once, then one after another."""
    quota = Quota(1000, 5.0)
    started = sum(quota.take(n / 100) is None for n in range(1000))
    assert 54 <= started <= 55
    slow = Quota(10, 0.5)
    assert [slow.take(now) is None for now in (0.0, 1.0, 2.0, 3.9)] == [True, False, True, False]


def test_a_quota_of_none_refuses_and_giving_back_too_much_is_a_bug():
    """Outbound calls are off with most_calls of 0."""
    quota = Quota(0, 1.0)
    assert quota.take(0.0).status == 503
    with pytest.raises(LocalError):
        quota.give_back()
    quota.change(1, 2.0)
    assert quota.take(0.0) is None


def test_zero_calls_are_no_limit_inbound_and_none_outbound():
    """As the manual says."""
    assert Quota(*limits_of(Inbound())).take(0.0) is None
    assert Quota(*limits_of(Inbound(most_calls=1))).take(0.0, elsewhere=1).status == 503
    assert Quota(*limits_of(Outbound(most_calls=0))).take(0.0).status == 503


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 3, allow_nan=False)), max_size=200))
def test_a_quota_never_exceeds_its_most(steps):
    """For any coming and going."""
    quota, now = Quota(4, 2.0), 0.0
    for starts, pause in steps:
        now += pause
        if starts:
            quota.take(now)
        elif quota.live:
            quota.give_back()
        assert 0 <= quota.live <= 4


# --- what may be dialled

GERMAN = Outbound(
    enabled=True,
    prefixes=("+49", "+43"),
    denied=("+49180",),
    country="49",
    dial={"+49": "0", "+": "00", "+4930": "030"},
)


@pytest.mark.parametrize(
    ("text", "number", "user"),
    [
        ("+49 89 1234567", "+49891234567", "0891234567"),
        ("0891234567", "+49891234567", "0891234567"),
        ("030 1234567", "+49301234567", "0301234567"),
        ("0043 1 5880", "+4315880", "004315880"),
    ],
)
def test_an_allowed_number_is_dialled_as_the_carrier_wants_it(text, number, user):
    """The longest translation wins."""
    assert vet_number(text, GERMAN) == Dialled(number, user)


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("+33123456789", 403),
        ("+4918012345678", 403),
        ("+4990012345678", 403),
        ("+4390012345678", 403),
        ("110", 484),
        ("sip:x", 484),
        ("", 484),
        ("+49" + "1" * 100, 484),
        ("+49891234567;ext=1", 484),
    ],
)
def test_everything_else_is_refused(text, status):
    """Not allowed, denied, risky, or no number at all."""
    assert vet_number(text, GERMAN).status == status


def test_nothing_may_be_dialled_by_default():
    """Neither by a trunk that places no calls, nor by one that allows no prefix."""
    assert vet_number("+49891234567", Outbound()).status == 403
    assert vet_number("+49891234567", Outbound(enabled=True)).status == 403
    plain = Outbound(enabled=True, prefixes=("+",))
    assert vet_number("+49891234567", plain) == Dialled("+49891234567", "+49891234567")


@pytest.mark.parametrize("prefix", RISKY)
def test_a_risky_range_needs_a_prefix_of_its_own(prefix):
    """Everybody, or the country, is not enough; the operator's own ban stays above."""
    number = (prefix + "23456789012")[:13]
    wide = Outbound(enabled=True, prefixes=("+", prefix[:2]))
    assert vet_number(number, wide) == Refused(403, "the number is in a risky range")
    named = Outbound(enabled=True, prefixes=(prefix,))
    assert isinstance(vet_number(number, named), Dialled)
    banned = Outbound(enabled=True, prefixes=(prefix,), denied=(prefix,))
    assert vet_number(number, banned) == Refused(403, "the number is denied")
    careless = Outbound(enabled=True, prefixes=("+",), deny_risky=False)
    assert isinstance(vet_number(number, careless), Dialled)


@given(st.text(alphabet="+0123456789 -()abc", max_size=30))
def test_only_allowed_international_numbers_are_ever_dialled(text):
    """Whatever is asked for."""
    found = vet_number(text, GERMAN)
    if isinstance(found, Dialled):
        assert found.number.startswith(("+49", "+43"))
        assert not found.number.startswith("+49180")
