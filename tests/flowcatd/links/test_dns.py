"""Facts about asking the DNS, against a real server on loopback that can be told to misbehave."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import dns.flags
import dns.message
import dns.rcode
import pytest

from flowcatd.errors import LinkError, LinkRefused, LinkTimeout
from flowcatd.links import dns as room
from flowcatd.links.dns import Patience, Resolver, Sources
from flowcatd.sip.resolve import NEGATIVE_SECONDS, Abilities, Target
from flowcatd.sip.trouble import SipError
from flowcatd.sip.uri import parse_uri
from tests.flowcatd.links.nameserver import Nameserver, Zone, nameserver
from tests.workers.on_loop import on_worker_loop, open_descriptors, until

ABLE = Abilities(families=("A",))
QUICK = Patience(question=0.6, one_try=0.2, whole=1.5)
NO_FILE = Path("/nonexistent")

ZONE: Zone = {
    ("x.example", "NAPTR"): [
        '50 50 "s" "SIP+D2U" "" _sip._udp.x.example.',
        '60 50 "s" "SIP+D2T" "" _sip._tcp.x.example.',
        '10 10 "u" "E2U+sip" "!^.*$!sip:a@x.example!" .',
    ],
    ("_sip._udp.x.example", "SRV"): ["1 1 5060 a.example.", "2 1 5070 b.example."],
    ("_sip._tcp.x.example", "SRV"): ["1 1 5060 a.example."],
    ("a.example", "A"): ["192.0.2.1"],
    ("b.example", "A"): ["192.0.2.2"],
    ("six.example", "AAAA"): ["2001:db8::6"],
    ("six.example", "A"): ["192.0.2.6"],
    ("alias.example", "CNAME"): ["a.example."],
    ("closed.example", "A"): ["192.0.2.3"],
    ("_sip._udp.closed.example", "SRV"): ["0 0 0 ."],
    ("pbx.office.example", "A"): ["192.0.2.9"],
}


@asynccontextmanager
async def resolver(
    *servers: Nameserver | int,
    able: Abilities = ABLE,
    hosts: Path = NO_FILE,
    clock: Callable[[], float] = time.monotonic,
    patience: Patience | None = None,
) -> AsyncIterator[Resolver]:
    """One that asks these servers; a number is a port where nobody may be."""
    ports = [each if isinstance(each, int) else each.port for each in servers]
    made = Resolver(
        able,
        sources=Sources(tuple(("127.0.0.1", port) for port in ports), NO_FILE, hosts),
        patience=patience,
        clock=clock,
        random=lambda: 0.5,
    )
    try:
        yield made
    finally:
        await made.close()


class Clock:
    """Time that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """The time."""
        return self.now


def shown(targets: Iterable[Target]) -> list[str]:
    """Targets as text."""
    return [f"{each.transport} {each.host} {each.port}" for each in targets]


def silent(_server, _query, _wire):
    """Answers nothing."""
    return []


def failing(_server, query, _wire):
    """SERVFAIL."""
    response = dns.message.make_response(query)
    response.set_rcode(dns.rcode.SERVFAIL)
    return [response.to_wire()]


# --- what is found


@on_worker_loop
async def test_naptr_srv_and_addresses_are_walked():
    """RFC 3263 §4: three round trips, then the targets in order; the second time nothing is asked."""
    async with nameserver(ZONE) as server, resolver(server) as found:
        targets = await found.find(parse_uri("sip:x.example"))
        assert shown(targets) == [
            "UDP 192.0.2.1 5060",
            "UDP 192.0.2.2 5070",
            "TCP 192.0.2.1 5060",
        ]
        assert {each.name for each in targets} == {"x.example"}
        assert max(server.asked.values()) == 1
        asked = server.asked.total()
        assert await found.find(parse_uri("sip:x.example")) == targets
        assert found.known(parse_uri("sip:x.example")) == targets
        assert server.asked.total() == asked == found.counts["asked"]


@on_worker_loop
async def test_both_families_are_asked_for():
    """RFC 7984: IPv6 first, as we prefer it."""
    async with nameserver(ZONE) as server, resolver(server, able=Abilities()) as found:
        targets = await found.find(parse_uri("sip:six.example:5070"))
        assert shown(targets) == ["UDP 2001:db8::6 5070", "UDP 192.0.2.6 5070"]


@on_worker_loop
async def test_an_alias_leads_to_its_addresses():
    """A CNAME is followed within one answer, and the shortest time to live counts."""
    clock = Clock()
    async with nameserver(ZONE) as server, resolver(server, clock=clock) as found:
        looked = await found.look(parse_uri("sip:alias.example:5060"))
        assert shown(looked.targets) == ["UDP 192.0.2.1 5060"]
        assert looked.until == clock.now + server.ttl


@on_worker_loop
async def test_an_address_is_never_asked_for():
    """Nor does it run out."""
    async with resolver(9) as found:
        looked = await found.look(parse_uri("sip:192.0.2.7"))
        assert shown(looked.targets) == ["UDP 192.0.2.7 5060"]
        assert looked.until == float("inf")
        assert found.counts["asked"] == 0


@on_worker_loop
async def test_a_name_that_leads_nowhere_says_so():
    """NXDOMAIN, a closed service, a URI that cannot be sent to: each its own error, at once."""
    async with nameserver(ZONE) as server, resolver(server) as found:
        began = time.monotonic()
        with pytest.raises(LinkRefused, match="leads nowhere"):
            await found.find(parse_uri("sip:none.example"))
        with pytest.raises(SipError, match="decidedly not available"):
            await found.find(parse_uri("sip:closed.example;transport=udp"))
        with pytest.raises(SipError, match="transport"):
            await found.find(parse_uri("sip:x.example;transport=sctp"))
        assert time.monotonic() - began < 1.0


@pytest.mark.parametrize("host", ["a..example", f"{'a' * 64}.example", ".".join(["a" * 60] * 5)])
@on_worker_loop
async def test_a_name_that_is_none_does_not_exist(host):
    """Names that DNS cannot carry are no failure of the DNS."""
    async with nameserver(ZONE) as server, resolver(server) as found:
        with pytest.raises(LinkRefused):
            await found.find(parse_uri(f"sip:{host}"))
        assert found.counts["failed"] == 0


@on_worker_loop
async def test_the_same_question_is_asked_once_at_a_time():
    """A hundred calls to one name cost as many questions as one."""
    async with nameserver(ZONE) as server, resolver(server) as found:
        uri = parse_uri("sip:x.example")
        answers = await asyncio.gather(*(found.find(uri) for _ in range(100)))
        assert len(set(answers)) == 1
        assert max(server.asked.values()) == 1


@on_worker_loop
async def test_every_question_has_a_port_of_its_own():
    """RFC 5452 §9.2: an answer that is to be forged needs more than the id."""
    zone: Zone = {(f"h{n}.example", "A"): ["192.0.2.1"] for n in range(20)}
    async with nameserver(zone) as server, resolver(server) as found:
        for number in range(20):
            await found.find(parse_uri(f"sip:h{number}.example:5060"))
        assert len(server.ports) > 15


# --- servers that misbehave


@on_worker_loop
async def test_a_cut_answer_is_asked_for_again_over_tcp():
    """The TC bit (RFC 1035 §4.2.1)."""

    def cut(_server, query, _wire):
        response = dns.message.make_response(query)
        response.flags |= dns.flags.TC
        return [response.to_wire()]

    async with nameserver(ZONE) as server, resolver(server) as found:
        server.trick = cut
        targets = await found.find(parse_uri("sip:a.example:5060"))
        assert shown(targets) == ["UDP 192.0.2.1 5060"]
        assert server.asked["tcp", "A", "a.example"] == 1


@on_worker_loop
async def test_answers_that_were_not_asked_for_are_passed_over():
    """Another id, another question, garbage, a sender who is nobody: the true one still counts."""

    def lie(_server, query, wire):
        other = dns.message.make_query("evil.example.", query.question[0].rdtype)
        other.id = query.id
        forged = dns.message.make_response(other).to_wire()
        another_id = struct.pack("!H", query.id ^ 1) + wire[2:].replace(
            socket.inet_aton("192.0.2.1"), socket.inet_aton("203.0.113.66")
        )
        return [another_id, forged, b"", b"\0" * 11, wire + b"junk", wire]

    async with nameserver(ZONE) as server, resolver(server) as found:
        server.trick = lie
        targets = await found.find(parse_uri("sip:a.example:5060"))
        assert shown(targets) == ["UDP 192.0.2.1 5060"]


@on_worker_loop
async def test_a_lost_datagram_is_asked_again():
    """The first of each question is dropped."""
    dropped = set()

    def drop_first(_server, query, wire):
        key = str(query.question[0])
        if key in dropped:
            return [wire]
        dropped.add(key)
        return []

    async with nameserver(ZONE) as server, resolver(server) as found:
        server.trick = drop_first
        assert await found.find(parse_uri("sip:a.example:5060"))
        assert found.counts["failed"] == 0


@pytest.mark.parametrize("first", [silent, failing])
@on_worker_loop
async def test_another_nameserver_answers_in_place_of_one_that_does_not(first):
    """Silence and SERVFAIL of the first are no end."""
    async with nameserver(ZONE) as bad, nameserver(ZONE) as good, resolver(bad, good) as found:
        bad.trick = first
        assert shown(await found.find(parse_uri("sip:a.example:5060"))) == ["UDP 192.0.2.1 5060"]


@on_worker_loop
async def test_a_dns_that_is_silent_costs_a_bounded_time():
    """Whoever asks hears of it within the limit of a walk, and the loop is never held up."""
    async with nameserver(ZONE) as server, resolver(server, patience=QUICK) as found:
        server.trick = silent
        began = time.monotonic()
        with pytest.raises(LinkTimeout):
            await found.find(parse_uri("sip:x.example"))
        assert time.monotonic() - began < QUICK.whole + 0.5
        # What failed is remembered: the next one hears it at once.
        await until(lambda: found.counts["failed"] >= 2)
        began = time.monotonic()
        with pytest.raises(LinkTimeout):
            await found.find(parse_uri("sip:a.example:5060"))
        with pytest.raises(LinkTimeout, match="does not answer"):
            await found.find(parse_uri("sip:a.example:5060"))
        assert time.monotonic() - began < QUICK.question + 0.5


@on_worker_loop
async def test_nobody_at_the_nameservers_address_is_no_exception_but_ours():
    """Also over TCP, and also when the network refuses."""
    async with resolver(9) as found:
        began = time.monotonic()
        with pytest.raises(LinkError):
            await found.find(parse_uri("sip:a.example:5060"))
        assert time.monotonic() - began < room.TRY_SECONDS


@on_worker_loop
async def test_while_the_dns_fails_old_answers_serve_and_then_it_is_back():
    """RFC 8767: out-of-date answers are better than none; new ones come once it answers again."""
    clock = Clock()
    zone = dict(ZONE)
    async with nameserver(zone) as server, resolver(server, clock=clock) as found:
        uri = parse_uri("sip:a.example:5060")
        assert shown(await found.find(uri)) == ["UDP 192.0.2.1 5060"]
        server.trick = failing
        clock.now += server.ttl + 1
        assert shown(await found.find(uri)) == ["UDP 192.0.2.1 5060"]
        assert found.counts["failed"] == 1
        server.trick = None
        zone["a.example", "A"] = ["192.0.2.77"]
        clock.now += NEGATIVE_SECONDS + 1
        assert shown(await found.find(uri)) == ["UDP 192.0.2.77 5060"]


@on_worker_loop
async def test_a_dns_that_never_answered_is_asked_again_after_a_while():
    """A daemon that starts before its network does not stay blind."""
    clock = Clock()
    async with nameserver(ZONE) as server, resolver(server, clock=clock) as found:
        server.trick = failing
        uri = parse_uri("sip:a.example:5060")
        with pytest.raises(LinkTimeout):
            await found.find(uri)
        server.trick = None
        with pytest.raises(LinkTimeout):
            await found.find(uri)
        clock.now += NEGATIVE_SECONDS + 1
        assert await found.find(uri)


@on_worker_loop
async def test_what_is_known_is_told_without_asking():
    """Out of date or not; and nothing where that does not suffice."""
    clock = Clock()
    async with nameserver(ZONE) as server, resolver(server, clock=clock) as found:
        uri = parse_uri("sip:a.example:5060")
        assert found.known(uri) == ()
        targets = await found.find(uri)
        clock.now += 3 * server.ttl
        assert found.known(uri) == targets
        assert found.counts["asked"] == 1


@on_worker_loop
async def test_records_without_end_are_bounded():
    """A thousand NAPTR that lead to NAPTR, a thousand SRV: an answer in time, and bounded."""
    zone: Zone = {
        (f"n{n}.example", "NAPTR"): [f'1 1 "" "SIP+D2U" "" n{n + 1}.example.'] for n in range(50)
    }
    many = [f"{n} 1 {5000 + n} a.example." for n in range(200)]
    zone |= {("_sip._udp.many.example", "SRV"): many, ("a.example", "A"): ["192.0.2.1"]}
    async with nameserver(zone) as server, resolver(server) as found:
        with pytest.raises(LinkRefused):
            await found.find(parse_uri("sip:n0.example"))
        assert server.asked.total() < 10
        targets = await found.find(parse_uri("sip:many.example;transport=udp"))
        assert 0 < len(targets) <= 64


@on_worker_loop
async def test_too_many_questions_are_refused_and_never_too_many_sockets():
    """A flood of names costs a bounded number of descriptors, and an error."""
    async with nameserver(ZONE) as server, resolver(server, patience=QUICK) as found:
        server.trick = silent
        before = open_descriptors()
        asking = [
            asyncio.ensure_future(found.find(parse_uri(f"sip:h{n}.example:5060")))
            for n in range(room.ASKING_MAX + 50)
        ]
        await until(lambda: server.asked.total() >= room.AT_ONCE)
        assert open_descriptors() - before <= 40
        done = await asyncio.gather(*asking, return_exceptions=True)
        assert {type(each) for each in done} == {LinkRefused, LinkTimeout}
        assert sum(isinstance(each, LinkRefused) for each in done) == 50
    await until(lambda: open_descriptors() <= before)


# --- the machine's files


@on_worker_loop
async def test_hosts_are_honoured_before_the_dns(tmp_path):
    """Such a name has those addresses and nothing else; a change is seen after a while."""
    hosts = tmp_path / "hosts"
    hosts.write_text(
        "# ours\n192.0.2.50 pbx.example PBX  # the box\n::1 six\nfe80::1%eth0 scoped\nrubbish pbx2\n"
    )
    clock = Clock()
    able = Abilities()
    async with (
        nameserver(ZONE) as server,
        resolver(server, hosts=hosts, clock=clock, able=able) as found,
    ):
        assert shown(await found.find(parse_uri("sip:Pbx.Example"))) == ["UDP 192.0.2.50 5060"]
        assert shown(await found.find(parse_uri("sip:pbx"))) == ["UDP 192.0.2.50 5060"]
        assert shown(await found.find(parse_uri("sip:six"))) == ["UDP ::1 5060"]
        assert server.asked.total() == 0
        hosts.write_text("192.0.2.51 pbx.example\n")
        os.utime(hosts, (1, 1))
        clock.now += room.FILES_SECONDS
        assert shown(await found.find(parse_uri("sip:pbx.example"))) == ["UDP 192.0.2.51 5060"]


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST.", "sip.localhost"])
@on_worker_loop
async def test_localhost_is_this_machine(host):
    """RFC 6761 §6.3: whatever the files lack, and without a question."""
    async with resolver(9, able=Abilities()) as found:
        targets = await found.find(parse_uri(f"sip:{host}"))
        assert shown(targets) == ["UDP ::1 5060", "UDP 127.0.0.1 5060"]
        assert found.counts["asked"] == 0


@on_worker_loop
async def test_a_hosts_file_of_megabytes_holds_nobody_up(tmp_path):
    """Only its beginning is read."""
    hosts = tmp_path / "hosts"
    hosts.write_text("192.0.2.1 first\n" + "0.0.0.0 some.name.that.is.blocked.example\n" * 100_000)
    async with resolver(9, hosts=hosts) as found:
        began = time.monotonic()
        assert await found.find(parse_uri("sip:first"))
        assert time.monotonic() - began < 0.25


@on_worker_loop
async def test_resolv_conf_names_the_nameservers_and_the_search_list(tmp_path):
    """One that is missing or broken means this machine, as resolv.conf(5) has it."""
    conf = tmp_path / "resolv.conf"
    conf.write_text("search office.example\nnameserver 127.0.0.1\noptions timeout:30\n")
    made = room._Files(Sources((), conf, NO_FILE), QUICK)
    configured = made.resolver(0.0)
    assert [str(each) for each in configured.nameservers] == ["127.0.0.1"]
    assert (configured.timeout, configured.lifetime) == (QUICK.one_try, QUICK.question)
    for text in ("", "nameserver elsewhere\n"):
        conf.write_text(text)
        assert room._Files(Sources((), conf, NO_FILE), QUICK).resolver(0.0).nameservers == [
            "127.0.0.1"
        ]
    conf.unlink()
    assert room._Files(Sources((), conf, NO_FILE), QUICK).resolver(0.0).nameservers == ["127.0.0.1"]


@on_worker_loop
async def test_a_name_without_a_dot_is_searched_for():
    """Kubernetes and offices have such names; only their addresses are looked for there."""
    async with nameserver(ZONE) as server, resolver(server) as found:
        configured = found._files.resolver(found._clock())
        configured.search = [dns.name.from_text("office.example.")]
        assert shown(await found.find(parse_uri("sip:pbx"))) == ["UDP 192.0.2.9 5060"]
        assert server.asked["udp", "NAPTR", "pbx"] == 1
        assert server.asked["udp", "A", "pbx.office.example"] == 1


# --- targets that fail


@on_worker_loop
async def test_a_target_that_failed_comes_last_until_it_answers():
    """RFC 3263 §4.3."""
    async with nameserver(ZONE) as server, resolver(server) as found:
        uri = parse_uri("sip:x.example;transport=udp")
        first, second = await found.find(uri)
        found.shun(first)
        assert await found.find(uri) == (second, first)
        assert found.known(uri) == (second, first)
        found.praise(first)
        assert await found.find(uri) == (first, second)


# --- the house


@on_worker_loop
async def test_no_thread_and_no_descriptor_is_left():
    """Everything is done on the loop; a resolver that is closed in the middle leaves nothing."""
    threads = threading.active_count()
    async with nameserver(ZONE) as server:
        before = open_descriptors()
        async with resolver(server, patience=QUICK) as found:
            await found.find(parse_uri("sip:x.example"))
            assert threading.active_count() == threads
            server.trick = silent
            asking = asyncio.ensure_future(found.find(parse_uri("sip:six.example:5060")))
            await until(lambda: server.asked["udp", "A", "six.example"])
            await found.close()
            with pytest.raises(LinkError):
                await asking
        await until(lambda: open_descriptors() <= before)
    assert threading.active_count() == threads
