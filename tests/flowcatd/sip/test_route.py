"""Facts about who is calling, who answers, and what we say we are."""

from __future__ import annotations

import dataclasses
import re
import time
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcatd.errors import LocalError
from flowcatd.options import Secret
from flowcatd.sip.header import Address
from flowcatd.sip.message import Request, parse_message
from flowcatd.sip.route import (
    FOUND_MAX,
    Arrival,
    Challenge,
    Directory,
    Known,
    Presented,
    Refused,
    choose_route,
    find_agent,
    present,
    to_e164,
)
from flowcatd.sip.trouble import DROP
from flowcatd.sip.trunk import Account, Identity, Inbound, Outbound, Peer, Route, Trunk, join_trunks
from flowcatd.sip.trunk_file import find_pattern_problem
from flowcatd.sip.uri import Uri


def _trunk(name: str, *sources: str, **inbound) -> Trunk:
    return Trunk(Peer(name=name), inbound=Inbound(sources=sources, **inbound))


def _asking(name: str, user: str, *sources: str) -> Trunk:
    return _trunk(name, *sources, digest=True, user=user, password=Secret("env:P"))


def _directory(*trunks: Trunk, **more) -> Directory:
    return Directory(join_trunks((trunk.name, trunk) for trunk in trunks), **more)


def _invite(uri: str = "sip:100@here.example", *lines: str, caller: str = "") -> Request:
    caller = caller or '"Ann" <sip:+4930111@there.example>;tag=1'
    text = (
        f"INVITE {uri} SIP/2.0",
        "Via: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK1",
        f"From: {caller}",
        "To: <sip:+4930222@here.example>",
        "Call-ID: 1",
        "CSeq: 1 INVITE",
        *lines,
        "Content-Length: 0\r\n\r\n",
    )
    message = parse_message("\r\n".join(text).encode())
    assert isinstance(message, Request)
    return message


# --- whose it is


def test_the_narrowest_network_wins():
    """A host inside another trunk's network is its own trunk."""
    wide, narrow = _trunk("wide", "192.0.2.0/24"), _trunk("narrow", "192.0.2.7")
    directory = _directory(wide, narrow)
    assert directory.find_trunk("192.0.2.7") == Known(narrow)
    assert directory.find_trunk("192.0.2.8") == Known(wide)


def test_sources_are_remembered_up_to_a_limit():
    """A flood of addresses costs a search each, and no memory."""
    directory = _directory(_trunk("a", "10.0.0.0/16"))
    for n in range(2 * FOUND_MAX):
        assert directory.is_known(f"10.{n >> 12}.{n >> 8 & 15}.{n & 255}") == (n < 4096)
        assert len(directory._found) <= FOUND_MAX


def test_an_unknown_source_is_refused_or_dropped():
    """403, or silence where the operator wants it."""
    found = _directory(_trunk("a", "192.0.2.7")).find_trunk("198.51.100.1")
    assert found == Refused(403, "no trunk has this source")
    quiet = _directory(_trunk("a", "192.0.2.7"), unknown_status=DROP)
    assert quiet.find_trunk("198.51.100.1").status == DROP


def test_ipv4_over_an_ipv6_socket_is_ipv4():
    """A mapped address is the address it maps, and a zone is no part of it."""
    directory = _directory(_trunk("a", "192.0.2.7"), _trunk("b", "fe80::/10"))
    assert directory.find_trunk("::ffff:192.0.2.7").trunk.name == "a"
    assert directory.find_trunk("fe80::1%eth0").trunk.name == "b"


def test_what_is_no_address_is_a_bug():
    """The shell gives addresses."""
    with pytest.raises(LocalError):
        _directory().find_trunk("example.net")


def test_a_stranger_is_challenged_only_when_somebody_may_come_from_anywhere():
    """Then the user whom the Gate let in decides, and nobody else."""
    directory = _directory(_asking("a", "ann"), _asking("b", "bob"), _trunk("c", "192.0.2.7"))
    asked = directory.find_trunk("198.51.100.1")
    assert asked == Challenge("flowcatd", frozenset({"ann", "bob"}))
    assert directory.find_trunk("198.51.100.1", "bob").trunk.name == "b"
    assert directory.find_trunk("198.51.100.1", "eve").status == 403
    assert directory.find_trunk("192.0.2.7").trunk.name == "c"
    assert directory.password_user("flowcatd", "ann").name == "a"
    assert directory.password_user("flowcatd", "eve") is None
    assert directory.password_user("other", "ann") is None


def test_source_and_password_must_both_fit_where_both_are_asked():
    """A user of one network cannot call from another's."""
    directory = _directory(_asking("a", "ann", "192.0.2.0/24"), _asking("b", "bob"))
    assert directory.find_trunk("192.0.2.1") == Challenge("flowcatd", frozenset({"ann"}))
    assert directory.find_trunk("192.0.2.1", "bob").status == 403
    assert directory.find_trunk("198.51.100.1", "ann").status == 403


def test_a_trunk_learns_where_its_names_lead():
    """Only one that wants to; a new answer replaces the old one."""
    learner = dataclasses.replace(
        _trunk("a", peer_is_source=True), peer=Peer(name="a", proxies=("sip:a.example",))
    )
    directory = _directory(learner, _trunk("b", "192.0.2.0/24"))
    directory.learn("a", ["192.0.2.7", "2001:db8::7"])
    directory.learn("b", ["198.51.100.1"])
    directory.learn("nobody", ["198.51.100.1"])
    assert directory.find_trunk("192.0.2.7").trunk.name == "a"
    assert directory.is_known("2001:db8:0::7")
    assert not directory.is_known("198.51.100.1")
    directory.learn("a", ["192.0.2.9"])
    assert directory.find_trunk("192.0.2.7").trunk.name == "b"


def test_two_trunks_at_the_same_learned_address_are_nobody():
    """Which of them it is would be a guess."""
    one, two = _trunk("a", peer_is_source=True), _trunk("b", peer_is_source=True)
    directory = _directory(one, two)
    directory.learn("a", ["192.0.2.7"])
    directory.learn("b", ["192.0.2.7"])
    assert directory.find_trunk("192.0.2.7") == Refused(403, "several trunks have this source")


def test_what_a_trunk_may_learn_is_bounded():
    """A name with a thousand addresses takes the room of 64."""
    directory = _directory(_trunk("a", peer_is_source=True))
    addresses = [f"10.0.{n // 256}.{n % 256}" for n in range(1000)]
    directory.learn("a", addresses)
    assert sum(map(directory.is_known, addresses)) == 64


@given(
    st.lists(st.tuples(st.integers(0, 255), st.integers(24, 32)), max_size=12),
    st.integers(0, 255),
)
def test_the_trunk_is_that_of_the_longest_prefix(widths, last):
    """Against the plain definition, for any nest of networks."""
    networks = dict.fromkeys(ip_network(f"10.0.0.{n}/{w}", strict=False) for n, w in widths)
    trunks = [_trunk(f"t{n}", str(network)) for n, network in enumerate(networks)]
    source = f"10.0.0.{last}"
    fitting = [
        (network.prefixlen, trunk.name)
        for network, trunk in zip(networks, trunks, strict=True)
        if ip_address(source) in network
    ]
    found = _directory(*trunks).find_trunk(source)
    if fitting:
        assert found.trunk.name == max(fitting)[1]
    else:
        assert isinstance(found, Refused)


# --- who answers


def _routed(*routes: Route, **outbound) -> Trunk:
    return Trunk(Peer(name="t"), routes=routes, outbound=Outbound(**outbound))


def test_the_more_exact_route_wins_unless_order_says_otherwise():
    """Number, longest prefix, pattern, any; a lower order before all of that."""
    any_, number = Route(agent="any"), Route(number="100", agent="number")
    short, long_ = Route(prefix="1", agent="short"), Route(prefix="10", agent="long")
    pattern = Route(pattern="[0-9]+", agent="pattern")
    trunk = _routed(any_, pattern, short, long_, number)
    found = [choose_route(trunk, called).agent for called in ("100", "101", "11", "2", "x")]
    assert found == ["number", "long", "short", "pattern", "any"]
    first = _routed(dataclasses.replace(any_, order=-1), number)
    assert choose_route(first, "100").agent == "any"


def test_a_number_is_compared_as_it_came_and_as_e164():
    """A carrier that writes numbers its own way needs no route of its own."""
    trunk = _routed(Route(number="+4930222", agent="a"), country="49")
    arrival = find_agent(trunk, _invite("sip:030222@here.example"))
    assert (arrival.agent, arrival.called) == ("a", "+4930222")
    assert find_agent(trunk, _invite("sip:0049-30-222@here.example")).agent == "a"
    assert find_agent(trunk, _invite("tel:222;phone-context=+4930")).agent == "a"


def test_a_number_nobody_takes_is_not_found():
    """404, and 484 for one that is too long to be one."""
    assert find_agent(_routed(), _invite()) == Refused(404, "no route takes the called number")
    assert find_agent(_routed(Route()), _invite(f"sip:{'1' * 200}@a.example")).status == 484


def test_a_call_without_a_user_is_answered_by_the_route_for_any():
    """A softphone may call the bare address."""
    arrival = find_agent(_routed(Route()), _invite("sip:here.example"))
    assert isinstance(arrival, Arrival)
    assert (arrival.agent, arrival.called) == ("", "")


@pytest.mark.parametrize(
    ("called", "line", "number"),
    [
        ("request-uri", "", "100"),
        ("to", "", "+4930222"),
        ("p-called-party-id", "P-Called-Party-ID: <sip:300@here.example>", "300"),
        ("p-called-party-id", "", "100"),
        ("p-called-party-id", "P-Called-Party-ID: <sip", "100"),
    ],
)
def test_the_called_number_stands_where_the_trunk_says(called, line, number):
    """In the Request-URI where the wanted field is missing or malformed."""
    trunk = dataclasses.replace(_routed(Route()), inbound=Inbound(called=called))
    lines = [line] if line else []
    assert find_agent(trunk, _invite("sip:100;x=1@here.example", *lines)).called == number


@pytest.mark.parametrize(
    ("source", "caller", "lines", "said"),
    [
        ("from", "", (), ("+4930111", "Ann")),
        ("from", "<sip:030111@a.example>", (), ("+4930111", "")),
        ("from", "<sip:ann@a.example>", (), ("ann", "")),
        ("from", "<sip:anonymous@anonymous.invalid>", (), ("", "")),
        ("from", "", ("Privacy: id;critical",), ("", "")),
        (
            "p-asserted-identity",
            "<sip:x@a.example>",
            ("P-Asserted-Identity: <tel:+49-30-333>",),
            ("+4930333", ""),
        ),
        ("p-asserted-identity", "<sip:x@a.example>", (), ("x", "")),
        ("remote-party-id", "<sip:x@a.example>", ("Remote-Party-ID: <",), ("x", "")),
    ],
)
def test_the_caller_is_who_the_trunk_trusts(source, caller, lines, said):
    """From, or what the network asserts; nobody where the caller withholds it."""
    trunk = _routed(Route(), country="49")
    trunk = dataclasses.replace(trunk, inbound=Inbound(caller=source))
    arrival = find_agent(trunk, _invite("sip:1@a.example", *lines, caller=caller))
    assert (arrival.caller, arrival.caller_name) == said


def test_headers_become_variables_below_what_the_route_says():
    """Bounded, without control characters, and never over the operator's own words."""
    trunk = dataclasses.replace(
        _routed(Route(variables={"office": "Berlin"})),
        inbound=Inbound(variables={"X-Id": "id", "X-Office": "office", "X-None": "none"}),
    )
    arrival = find_agent(
        trunk, _invite("sip:1@a.example", f"X-Id: a\x07b{'c' * 500}", "X-Office: Rome")
    )
    assert arrival.variables["office"] == "Berlin"
    assert arrival.variables["id"].startswith("a bccc")
    assert len(arrival.variables["id"]) == 256
    assert "none" not in arrival.variables


@given(st.text(max_size=30), st.text(max_size=30), st.sampled_from(["", "49", "1"]))
def test_whatever_is_called_has_an_answer(called, name, country):
    """Any user, any display name; what the agent is told is one line."""
    request = _invite(str(Uri("sip", host="a.example", user=called)), "X-Id: " + repr(name))
    request.from_ = Address(Uri("sip", host="b.example", user=called), name)
    trunk = dataclasses.replace(
        _routed(Route(prefix="1"), Route(), country=country),
        inbound=Inbound(variables={"X-Id": "id"}),
    )
    arrival = find_agent(trunk, request)
    assert isinstance(arrival, Arrival)
    told = (arrival.called, arrival.caller, arrival.caller_name, *arrival.variables.values())
    assert all(not set(text) & set("\r\n\0") for text in told)
    assert all(text.encode("utf-8") or not text for text in told)


@pytest.mark.parametrize(
    ("text", "country", "number"),
    [
        ("+49 (30) 123-456", "", "+4930123456"),
        ("004930123456", "", "+4930123456"),
        ("030123456", "49", "+4930123456"),
        ("2125550123", "1", "+12125550123"),
        ("12125550123", "1", "+12125550123"),
        ("030123456", "", None),
        ("100", "49", None),
        ("+0123456789", "", None),
        ("+123456", "", None),
        ("+1234567890123456", "", None),
        ("+49301\u0663\u0664\u0665\u0666", "", None),
        ("+", "", None),
        ("", "49", None),
        ("+49abc1234567", "", None),
    ],
)
def test_numbers_become_international_only_when_that_is_sure(text, country, number):
    """Everything else stays what it was."""
    assert to_e164(text, country) == number


@given(st.text(max_size=40), st.sampled_from(["", "1", "49", "351"]))
def test_an_international_number_always_has_its_form(text, country):
    """Plus, and 7 to 15 digits of which the first is none."""
    number = to_e164(text, country)
    assert number is None or re.fullmatch(r"\+[1-9][0-9]{6,14}", number)
    assert number is None or to_e164(number, country) == number


@pytest.mark.parametrize("pattern", [".*.*.*x", "[0-9]*[0-9]*[0-9]*x", "(.*|.)(.*|.)(.*|.)x"])
def test_the_costliest_pattern_does_not_hold_a_worker_up(pattern):
    """At most some 10^5 steps for the longest number there may be."""
    assert find_pattern_problem(pattern) == ""
    trunk = _routed(Route(pattern=pattern))
    began = time.perf_counter()
    assert choose_route(trunk, "1" * 128) is None
    assert time.perf_counter() - began < 0.5


# --- who we say we are


def _calling(**identity) -> Trunk:
    return Trunk(
        Peer(name="t", proxies=("sip:sip.example.net",)),
        Account(user="acc"),
        identity=Identity(**identity),
    )


def test_a_call_introduces_itself_by_the_trunks_number():
    """From has the caller id, or the account where the carrier wants that."""
    shown = present(_calling(caller_id="+4930123456", caller_name="We"))
    assert isinstance(shown, Presented)
    assert str(shown.from_) == "We <sip:+4930123456@sip.example.net>"
    assert shown.fields == {}
    assert str(present(_calling()).from_) == "<sip:acc@sip.example.net>"
    asserted = present(
        _calling(caller_id="+4930123456", from_user="account", asserted="p-asserted-identity")
    )
    assert str(asserted.from_.uri) == "sip:acc@sip.example.net"
    assert asserted.fields == {"P-Asserted-Identity": "<sip:+4930123456@sip.example.net>"}


def test_a_private_call_shows_no_number_but_to_the_carrier():
    """RFC 3323 and RFC 3325: an anonymous From, the identity beside it, Privacy: id."""
    shown = present(_calling(caller_id="+4930123456", asserted="p-asserted-identity", private=True))
    assert "4930123456" not in str(shown.from_)
    assert shown.fields["Privacy"] == "id"
    party = present(_calling(caller_id="+4930123456", asserted="remote-party-id", private=True))
    assert party.fields["Remote-Party-ID"].endswith(";party=calling;screen=yes;privacy=full")


def test_a_private_call_of_an_account_keeps_the_account_but_no_name():
    """The carrier needs the account, and hides it from the called."""
    shown = present(_calling(caller_name="We", from_user="account", private=True))
    assert str(shown.from_) == "<sip:acc@sip.example.net>"
    assert shown.fields == {"Privacy": "id"}


def test_a_caller_id_is_one_of_the_trunks_or_refused():
    """Nobody borrows a stranger's number."""
    trunk = _calling(caller_id="+4930123456", caller_ids=("+4930123457",))
    assert present(trunk, "+4930123457").from_.uri.user == "+4930123457"
    assert present(trunk, "+4930999999") == Refused(403, "the caller id is not one of the trunk's")
