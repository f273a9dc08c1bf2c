"""Facts about who registers which trunk, when, how often, and what becomes of it when things fail."""

from __future__ import annotations

import asyncio
import secrets
import time
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from flowcatd.links.dns import Resolver, Sources
from flowcatd.sip.digest import Answerer, Secret
from flowcatd.sip.event import Hop
from flowcatd.sip.message import Response, build_response, parse_message
from flowcatd.sip.register_terms import Failed, Left, Lost, Registered
from flowcatd.sip.resolve import Abilities
from flowcatd.sip.trunk import Account, Inbound, Peer, Register, Route, Trunk
from flowcatd.sip.uri import parse_uri
from tests.flowcatd.links.nameserver import Zone, nameserver
from tests.interop.kamailio import PASSWORD as KAMAILIO_PASSWORD
from tests.interop.kamailio import REALM, kamailio
from tests.interop.programs import free_ports, needs
from tests.workers.on_loop import on_worker_loop, until
from tests.workers.registrar import PASSWORD, Clock, Registrar, World, asked, settled, trunk
from workers.clock import WorkerClock
from workers.load import WORDS, LoadTable, Standing
from workers.registrations import (
    AWAY_LOOKS,
    HAND_OVER_SECONDS,
    LEAVE_SECONDS,
    LOOK_SECONDS,
    Registrations,
)
from workers.steer import STALE_SECONDS, find_tender, heads, mint_stamp, read_stamp, tender
from workers.trunk_errands import TARGET_SECONDS, Road
from workers.trunk_health import DEAD_AFTER, Pulse
from workers.trunk_sources import LEARN_SECONDS
from workers.trunk_tending import Means

HOUR = 3600.0
SECOND = ("192.0.2.2", 5060)


def fleet(*trunks: Trunk, workers: int = 1, slots: int = 4) -> World:
    """So many workers with these trunks."""
    world = World(trunks, slots)
    for seat in range(workers):
        world.worker(seat)
    return world


def answering(status: int, *fields: tuple[str, object]):
    """A reply that is always the same."""

    def reply(request):
        response = build_response(request, status, tag="r")
        for name, value in fields:
            response.put(name, value)
        return response

    return reply


# --- who does it ----------------------------------------------------------------------------------

rows = st.lists(
    st.tuples(
        st.integers(0, 3),
        st.sampled_from([each for each in Standing if each]),
        st.integers(0, 5),
        st.floats(0, 4),
    ),
    max_size=8,
)


def table(entries) -> LoadTable:
    """A load table; each entry is slot, standing, when it was forked, and how long ago it ticked."""
    loads = LoadTable([0] * (16 * WORDS))
    for seat, (slot, standing, since, ago) in enumerate(entries):
        loads.row(seat).sit(slot=slot, capacity=1, now=float(since))
        loads.row(seat).standing(standing)
        loads.row(seat).ticked(100.0 - ago, 0.0)
    return loads


@given(rows, st.binary(max_size=20), st.randoms())
def test_the_tender_is_one_head_that_serves_and_the_same_everywhere(entries, key, chance):
    """Whoever reads the table in whatever order says the same seat, or nobody when nobody serves."""
    loads = list(table(entries))
    found = tender(key, loads, 100.0)
    shuffled = list(loads)
    chance.shuffle(shuffled)
    assert tender(key, shuffled, 100.0) == found
    members = heads(loads, 100.0)
    assert found == find_tender(key, members)
    assert (found is None) is (not members)
    if found is not None:
        row = loads[found]
        assert row.standing in (Standing.SERVING, Standing.SHEDDING)
        assert 100.0 - row.tick_us / 1e6 <= STALE_SECONDS


@given(st.lists(st.integers(0, 200), min_size=2, max_size=8, unique=True), st.binary(max_size=20))
def test_a_slot_that_goes_moves_only_what_it_did(slots, key):
    """Everybody else's trunks stay where they are."""
    members = {slot: slot + 1000 for slot in slots}
    before = find_tender(key, members)
    gone = slots[0]
    after = find_tender(key, {slot: seat for slot, seat in members.items() if slot != gone})
    assert after == before or before == gone + 1000


@on_worker_loop
async def test_each_trunk_is_registered_by_exactly_one_worker():
    """Forty trunks, four workers: forty REGISTERs, every worker has some, and they stay registered."""
    trunks = [trunk(f"t{n}", proxy=f"sip:192.0.2.{n + 1}") for n in range(40)]
    world = World(trunks)
    servers = [world.server(f"192.0.2.{n + 1}") for n in range(40)]
    for seat in range(4):  # all serve before the first one looks, as after a quick start
        world.loads.row(seat).sit(slot=seat, capacity=10, now=1000.0)
        world.loads.row(seat).standing(Standing.SERVING)
    for seat in range(4):
        world.worker(seat)
    await world.run(5.0)
    assert [each.count() for each in servers] == [1] * 40
    assert {len(world.tenders(f"t{n}")) for n in range(40)} == {1}
    assert {seat for n in range(40) for seat in world.tenders(f"t{n}")} == {0, 1, 2, 3}
    await world.run(HOUR)
    assert all(each.bound for each in servers)
    assert not world.events(Failed)
    assert not world.events(Lost)
    world.close()


@on_worker_loop
async def test_a_register_is_stamped_and_the_contact_is_everybodys():
    """The branch brings the answer here; the Contact is no worker's own, and asks where it is seen."""
    world = fleet(trunk())
    server = world.server()
    await world.run(1.0)
    (first,) = server.requests
    stamp = read_stamp(first.top.branch)
    assert stamp is not None
    assert stamp.seat == 0
    assert "rport" in first.top.parameters
    assert str(first.addresses("contact")[0].uri) == "sip:ann@198.51.100.9:5060"
    assert str(first.uri) == "sip:192.0.2.1"
    world.close()


@on_worker_loop
async def test_a_worker_that_dies_is_followed_within_a_look():
    """The next one registers the same Contact; nobody unregisters; the new one in its slot takes it back."""
    world = fleet(trunk(), workers=3)
    server = world.server()
    await world.run(5.0)
    (first,) = world.tenders("t")
    server.requests.clear()
    world.kill(first)
    await world.run(LOOK_SECONDS + 0.1)
    (second,) = world.tenders("t")
    assert second != first
    assert server.count() == 1
    assert len(server.bound) == 1
    world.worker(7, slot=first)
    await world.run(0.1)
    assert 7 in world.tenders("t")
    await world.run(LOOK_SECONDS * (AWAY_LOOKS + 1))
    assert world.tenders("t") == [7]
    assert server.count() == 2
    assert all(each.number("expires") for each in server.requests)
    assert len(server.bound) == 1
    world.close()


@on_worker_loop
async def test_a_worker_that_hangs_is_followed_when_its_timer_is_late():
    """Nobody has to see the process die."""
    world = fleet(trunk(), workers=3)
    server = world.server()
    await world.run(5.0)
    (first,) = world.tenders("t")
    world.hang(first)
    await world.run(STALE_SECONDS + LOOK_SECONDS + 0.1)
    assert len(world.tenders("t")) == 1
    assert world.tenders("t") != [first]
    assert len(server.bound) == 1
    world.close()


@on_worker_loop
async def test_whoever_is_late_for_a_moment_keeps_what_it_has():
    """One look at which another is the tender does not make it let go."""
    world = fleet(trunk(), workers=2)
    server = world.server()
    await world.run(5.0)
    (first,) = world.tenders("t")
    server.requests.clear()
    row = world.loads.row(first)
    row.standing(Standing.DRAINING)
    world.workers[first].look()
    row.standing(Standing.SERVING)
    world.workers[first].look()
    row.standing(Standing.DRAINING)
    world.workers[first].look()
    row.standing(Standing.SERVING)
    world.workers[first].look()
    await world.run(0.5)
    assert world.tenders("t") == [first]
    assert server.requests == []
    world.close()


@on_worker_loop
async def test_with_nobody_to_do_it_whoever_did_goes_on():
    """All are late at once, as on a machine that stood still."""
    world = fleet(trunk(seconds=60), workers=2)
    server = world.server()
    await world.run(5.0)
    for seat in (0, 1):
        world.loads.row(seat).standing(Standing.DRAINING)
    await world.run(300.0)
    assert len(world.tenders("t")) == 1
    assert server.bound
    world.close()


# --- leaving --------------------------------------------------------------------------------------


@on_worker_loop
async def test_a_reload_costs_a_register_and_no_gap():
    """The successor in the slot registers; the predecessor's leaving takes nothing back."""
    world = fleet(trunk(), workers=1)
    server = world.server()
    await world.run(5.0)
    server.requests.clear()
    successor = world.worker(5, slot=0)
    world.loads.row(0).standing(Standing.DRAINING)
    leaving = asyncio.ensure_future(world.workers[0].leave())
    while not leaving.done():
        await world.run(0.1)
    await world.run(LOOK_SECONDS)
    assert [line.trunk for line in successor.lines()] == ["t"]
    assert server.count() == 1
    assert all(each.number("expires") for each in server.requests)
    assert world.tenders("t") == [5]
    world.close()


@pytest.mark.parametrize("apart", [0.0, HAND_OVER_SECONDS / 2])
@on_worker_loop
async def test_when_the_daemon_ends_every_binding_is_taken_back_once(apart):
    """All leave, be it a moment apart: each registrar hears of it from whoever had registered."""
    trunks = [trunk(f"t{n}", proxy=f"sip:192.0.2.{n + 1}") for n in range(8)]
    world = World(trunks)
    servers = [world.server(f"192.0.2.{n + 1}", password=PASSWORD) for n in range(8)]
    for seat in range(3):
        world.worker(seat)
    await world.run(10.0)
    assert all(each.bound for each in servers)
    for each in servers:
        each.requests.clear()
    leaving = []
    for seat, worker in world.workers.items():
        world.loads.row(seat).standing(Standing.DRAINING)
        leaving.append(asyncio.ensure_future(worker.leave()))
        await world.run(apart / 2)
    began = world.clock.now()
    while not all(each.done() for each in leaving):
        await world.run(0.1)
    assert world.clock.now() - began < HAND_OVER_SECONDS + LEAVE_SECONDS
    assert [each.bound for each in servers] == [[]] * 8
    taken = [[each for each in one.requests if each.number("expires") == 0] for one in servers]
    assert {len({each.call_id for each in one}) for one in taken} == {1}
    assert len(world.events(Left)) == 8
    world.close()


@on_worker_loop
async def test_leaving_is_bounded_when_nobody_answers():
    """A registrar that is gone holds up no shutdown."""
    world = fleet(trunk())
    server = world.server()
    await world.run(5.0)
    server.silent = True
    world.loads.row(0).standing(Standing.DRAINING)
    began = world.clock.now()
    leaving = asyncio.ensure_future(world.workers[0].leave())
    while not leaving.done():
        await world.run(0.1)
    assert world.clock.now() - began <= HAND_OVER_SECONDS + LEAVE_SECONDS + 0.2
    assert world.events(Left) == [Left(confirmed=False)]
    world.close()


@on_worker_loop
async def test_a_closed_worker_does_nothing_more():
    """No wake, no task, no datagram."""
    world = fleet(trunk(), replace(asked("o"), inbound=Inbound(peer_is_source=True)))
    world.server()
    await world.run(5.0)
    world.close()
    await settled()
    sent = len(world.sent)
    await world.run(HOUR)
    assert len(world.sent) == sent
    assert world.clock.wakes.wake_at() is None
    assert len(asyncio.all_tasks()) == 1


# --- reloads --------------------------------------------------------------------------------------


def _routed(one: Trunk) -> Trunk:
    return replace(one, routes=(Route(number="123", agent="echo"),))


def _longer(one: Trunk) -> Trunk:
    return replace(one, register=replace(one.register, seconds=500))


def _renamed(one: Trunk) -> Trunk:
    return replace(one, account=Account(user="bob"))


def _quiet(one: Trunk) -> Trunk:
    return replace(one, register=Register())


@pytest.mark.parametrize(
    ("change", "registers", "unregisters", "bound"),
    [
        (_routed, 0, 0, ["ann"]),
        (_longer, 1, 0, ["ann"]),
        (_renamed, 1, 1, ["bob"]),
        (_quiet, 0, 1, []),
        (lambda _: None, 0, 1, []),
    ],
)
@on_worker_loop
async def test_a_reload_touches_only_what_it_changes(change, registers, unregisters, bound):
    """Counted at the registrars, of the trunk that changed and of one that did not."""
    world = fleet(trunk("a"), trunk("b", proxy="sip:192.0.2.2"), workers=2)
    server, other = world.server(), world.server(*SECOND)
    await world.run(10.0)
    server.requests.clear()
    other.requests.clear()
    changed = change(world.trunks["a"])
    trunks = dict(world.trunks)
    if changed is None:
        del trunks["a"]
    else:
        trunks["a"] = changed
    world.change(trunks)
    await world.run(10.0)
    expires = [each.number("expires") for each in server.requests]
    assert len([each for each in expires if each]) == registers
    assert len([each for each in expires if not each]) == unregisters
    assert [parse_uri(each).user for each in server.bound] == bound
    assert other.requests == []
    assert other.bound
    world.close()


@on_worker_loop
async def test_a_trunk_that_is_added_is_registered_at_once():
    """And nothing else happens."""
    world = fleet(trunk("a"), workers=2)
    server, other = world.server(), world.server(*SECOND)
    await world.run(10.0)
    server.requests.clear()
    world.change({**world.trunks, "b": trunk("b", proxy="sip:192.0.2.2")})
    await world.run(0.1)
    assert other.count() == 1
    assert server.requests == []
    world.close()


@on_worker_loop
async def test_a_thousand_trunks_do_not_come_at_once():
    """So many per second, all of them in the end; and a look at them costs next to nothing."""
    world = fleet(*(trunk(f"t{n}") for n in range(1000)))
    server = world.server()
    await world.run(1.0)
    assert server.count() <= 51
    await world.run(20.0)
    assert server.count() == 1000
    worker = world.workers[0]
    began = time.perf_counter()
    for _ in range(20):
        worker.look()
    assert (time.perf_counter() - began) / 20 < 0.005
    world.close()


# --- what registrars do ---------------------------------------------------------------------------


@on_worker_loop
async def test_a_registrar_that_is_down_for_an_hour_is_asked_seldom_and_found_again():
    """Bounded traffic meanwhile, one line in the log, and registered within one pause of its return."""
    world = fleet(trunk())
    server = world.server()
    await world.run(5.0)
    server.requests.clear()
    server.silent = True
    await world.run(HOUR)
    (line,) = world.workers[0].lines()
    assert (line.is_registered, line.state, line.status) == (False, "waiting", 0)
    assert line.failures >= 8
    assert line.problem == "no answer"
    assert world.events(Lost) == [Lost("it ran out")]
    assert server.count() <= 20
    assert len(server.requests) <= 20 * 11
    server.silent = False
    await world.run(300.0 + 32.0)
    (line,) = world.workers[0].lines()
    assert (line.is_registered, line.failures) == (True, 0)
    world.close()


@on_worker_loop
async def test_a_wrong_password_is_not_hammered(capfd):
    """At most two requests every five minutes, for an hour; and one line in the log without a name."""
    world = fleet(trunk())
    world.password = "wrong"
    world.kill(0)
    world.worker(1)
    server = world.server(password=PASSWORD)
    await world.run(HOUR)
    assert 2 <= len(server.requests) <= 2 * 13
    (line,) = world.workers[1].lines()
    assert (line.status, line.problem) == (401, "the credentials were refused")
    said = capfd.readouterr().err
    assert said.count("trunk.refused") == 1
    assert not any(word in said for word in ("ann", PASSWORD, "wrong"))
    world.close()


@on_worker_loop
async def test_a_nonce_that_aged_or_was_forgotten_is_no_failure():
    """For a day, with a registrar that restarts in between."""
    world = fleet(trunk(seconds=600))
    server = world.server(password=PASSWORD)
    await world.run(12 * HOUR)
    server.forget_nonces()
    await world.run(12 * HOUR)
    assert not world.events(Failed)
    assert not world.events(Lost)
    assert server.bound
    world.close()


@on_worker_loop
async def test_a_longer_lifetime_is_asked_for_when_told():
    """423 with Min-Expires."""
    world = fleet(trunk(seconds=60))
    server = world.server()
    server.most_seconds = HOUR

    def brief(request):
        if (request.number("expires") or 0) >= 1800:
            return None
        return answering(423, ("min-expires", 1800))(request)

    server.reply = brief
    await world.run(1.0)
    assert [each.number("expires") for each in server.requests] == [60, 1800]
    assert server.bound
    assert not world.events(Failed)
    world.close()


@on_worker_loop
async def test_503_with_retry_after_is_waited_for():
    """From the only target there is; and then it is tried again."""
    world = fleet(trunk())
    server = world.server()
    server.reply = answering(503, ("retry-after", "900 (busy)"))
    await world.run(890.0)
    assert server.count() == 1
    server.reply = None
    await world.run(60.0)
    assert server.bound
    world.close()


@on_worker_loop
async def test_a_dns_that_fails_is_waited_out():
    """Said as such, and registered soon after it is back."""
    world = fleet(trunk(proxy="sip:r.example"))
    world.names["r.example"] = [("UDP", "192.0.2.1", 5060)]
    server = world.server()
    world.broken = True
    await world.run(600.0)
    (line,) = world.workers[0].lines()
    assert line.problem == "the DNS does not answer"
    assert server.requests == []
    world.broken = False
    await world.run(300.0)
    assert server.bound
    world.close()


@on_worker_loop
async def test_of_two_registrars_the_one_that_lives_is_found():
    """RFC 3263 §4.3: the silent one is left after a while, shunned, and asked first again later."""
    world = fleet(trunk(proxy="sip:r.example"))
    world.names["r.example"] = [("UDP", "192.0.2.1", 5060), ("UDP", "192.0.2.2", 5060)]
    dead, alive = world.server(), world.server(*SECOND)
    dead.silent = True
    await world.run(TARGET_SECONDS + 1.0)
    assert alive.bound
    assert not world.events(Failed)
    assert world.shunned == ["192.0.2.1"]
    assert dead.requests[0].cseq == alive.requests[0].cseq
    assert dead.requests[0].top.branch != alive.requests[0].top.branch
    await world.run(HOUR)
    assert not world.events(Lost)
    assert not world.events(Failed)
    dead.silent = False
    alive.silent = True
    await world.run(700.0)
    assert dead.bound
    assert not world.events(Lost)
    world.close()


@on_worker_loop
async def test_a_503_leads_to_the_next_target_at_once():
    """Without waiting for anything."""
    world = fleet(trunk(proxy="sip:r.example"))
    world.names["r.example"] = [("UDP", "192.0.2.1", 5060), ("UDP", "192.0.2.2", 5060)]
    busy, free = world.server(), world.server(*SECOND)
    busy.reply = answering(503, ("retry-after", "600"))
    await world.run(0.5)
    assert free.bound
    assert not world.events(Failed)
    world.close()


@on_worker_loop
async def test_credentials_go_to_the_server_that_asked_for_them():
    """Names whose order changes with every look, as SRV of equal weight do."""
    world = fleet(trunk(proxy="sip:r.example"))
    servers = [world.server(password=PASSWORD), world.server(*SECOND, password=PASSWORD)]
    keys = [("UDP", "192.0.2.1", 5060), ("UDP", "192.0.2.2", 5060)]

    class Turning(dict):
        def __getitem__(self, _):
            keys.reverse()
            return list(keys)

    world.names = Turning({"r.example": []})
    await world.run(HOUR)
    assert not world.events(Failed)
    assert {len(each.requests) > 0 for each in servers} == {True}
    for server in servers:
        for one, two in zip(server.requests[::2], server.requests[1::2], strict=False):
            if one.first("authorization") is None:
                assert two.first("authorization") is not None
    world.close()


@on_worker_loop
async def test_what_cannot_be_sent_to_is_left_at_once():
    """The wire says so (ICMP, a connection refused): nobody waits for a timer."""
    world = fleet(trunk(proxy="sip:r.example"))
    world.names["r.example"] = [("UDP", "192.0.2.1", 5060), ("TCP", "192.0.2.2", 5060)]
    alive = world.server(*SECOND)
    await world.run(0.1)
    worker = world.workers[0]
    assert worker.receive_failure(Hop("UDP", "192.0.2.1", 5060), world.clock.now())
    assert not worker.receive_failure(Hop("UDP", "192.0.2.99", 5060), world.clock.now())
    await world.run(0.1)
    (contact,) = alive.bound
    assert contact == "sip:ann@198.51.100.9:5060;transport=tcp"
    world.close()


@on_worker_loop
async def test_calls_come_over_the_connection_where_the_trunk_wants_that():
    """RFC 5626: the flow is kept for every refresh; when it is gone, another one within a second."""
    one = trunk(proxy="sip:192.0.2.1;transport=tcp", seconds=120)
    world = fleet(replace(one, register=replace(one.register, outbound=True)))
    server = world.server()
    await world.run(500.0)
    flows = {hop.connection for _, _, hop in world.sent}
    assert len(flows) == 2  # 0 for the first, and the one that it became
    assert {each.addresses("contact")[0].parameters["+sip.instance"] for each in server.requests}
    (connection,) = flows - {0}
    hop = Hop("TCP", "192.0.2.1", 5060, connection)
    before = server.count()
    assert world.workers[0].receive_failure(hop, world.clock.now())
    assert len(world.events(Lost)) == 1
    await world.run(1.5)
    assert server.count() == before + 1
    assert world.sent[-1][2].connection == 0
    world.close()


@on_worker_loop
async def test_answers_of_others_are_not_ours():
    """A stray response is the user agent's to ignore."""
    world = fleet(trunk())
    server = world.server()
    await world.run(1.0)
    worker = world.workers[0]
    request = server.requests[0]
    request.top = request.top.with_parameters(branch="z9hG4bKelse")
    request.put("via", request.top)
    stray = parse_message(bytes(build_response(request, 200, tag="x")))
    assert isinstance(stray, Response)
    assert not worker.receive(stray, Hop("UDP", "192.0.2.1", 5060), world.clock.now())
    world.close()


@on_worker_loop
async def test_where_the_registrar_sees_us_is_told():
    """The operator learns of a NAT; the Contact stays what it was told to be."""
    world = fleet(trunk())
    server = world.server()
    real = server.receive
    server.receive = lambda data, _source: real(data, ("203.0.113.7", 40_000))
    with capture_logs() as lines:
        await world.run(HOUR)
    (line,) = world.workers[0].lines()
    assert line.seen == "203.0.113.7:40000"
    assert line.is_registered
    (told,) = (each for each in lines if each["event"] == "trunk.limited")
    assert (told["trunk"], told["key"]) == ("t", "sip.public_host")
    assert "203.0.113.7:40000" in told["why"]
    assert "198.51.100.9:5060" in told["why"]
    world.close()


@on_worker_loop
async def test_the_port_of_a_connection_of_ours_is_no_nat():
    """It leaves from any port; only another address is worth a word."""
    world = fleet(trunk(proxy="sip:192.0.2.1;transport=tcp"))
    server = world.server()
    real = server.receive
    server.receive = lambda data, _source: real(data, ("198.51.100.9", 40_000))
    await world.run(1.0)
    (line,) = world.workers[0].lines()
    assert (line.is_registered, line.seen) == (True, "")
    world.close()


@on_worker_loop
async def test_a_registrar_says_how_often_it_wants_a_sign_of_life():
    """RFC 5626 §4.4: Flow-Timer, over the flow; a registration without a flow has nothing to keep."""
    one = trunk(proxy="sip:192.0.2.1;transport=tcp")
    for is_flow in (True, False):
        world = fleet(replace(one, register=replace(one.register, outbound=is_flow)))
        world.server().reply = answering(200, ("expires", 600), ("flow-timer", 25))
        await world.run(1.0)
        assert [seconds for _, seconds in world.kept] == [25] * is_flow
        assert all(hop.connection for hop, _ in world.kept)
        world.close()


# --- whether it lives -----------------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 401, 403, 404, 405, 407, 481, 486, 500, 603])
@on_worker_loop
async def test_any_answer_is_a_sign_of_life(status):
    """But 408 and 503."""
    world = fleet(asked())
    server = world.server()
    server.reply = answering(status)
    await world.run(300.0)
    assert server.count("OPTIONS") >= 8
    assert world.workers[0].is_alive("t")
    assert not world.events(Pulse)
    world.close()


@pytest.mark.parametrize("status", [0, 408, 503])
@on_worker_loop
async def test_two_bad_answers_in_a_row_are_a_dead_trunk(status):
    """One is chance; one good one brings it back."""
    world = fleet(asked())
    server = world.server()
    await world.run(5.0)
    bad = None if status == 0 else answering(status)
    server.silent, server.reply = status == 0, bad
    worker = world.workers[0]
    await world.run(30.0 + TARGET_SECONDS + 5.0)
    assert worker.is_alive("t")
    assert worker.lines()[0].unanswered == DEAD_AFTER - 1
    await world.run(30.0 + TARGET_SECONDS + 5.0)
    assert not worker.is_alive("t")
    server.silent, server.reply = False, None
    await world.run(60.0)
    assert worker.is_alive("t")
    assert [each.is_alive for each in world.events(Pulse)] == [False, True]
    world.close()


@on_worker_loop
async def test_a_trunk_lives_while_one_of_its_proxies_does():
    """The next one is asked at once when the first is silent."""
    world = fleet(asked("t", "sip:192.0.2.1", "sip:192.0.2.2"))
    world.server().silent = True
    second = world.server(*SECOND)
    await world.run(300.0)
    assert second.count("OPTIONS") >= 5
    assert world.workers[0].is_alive("t")
    world.close()


@on_worker_loop
async def test_who_is_not_asked_is_alive():
    """Of no trunk, of one without OPTIONS, and of one that another worker asks."""
    world = fleet(trunk("r"), asked("o"), workers=2)
    world.server().silent = True
    await world.run(200.0)
    (asker,) = world.tenders("o")
    assert not world.workers[asker].is_alive("o")
    assert world.workers[1 - asker].is_alive("o")
    assert all(each.is_alive("r") and each.is_alive("none") for each in world.workers.values())
    world.close()


@on_worker_loop
async def test_an_options_asks_the_server_and_nobody_behind_it():
    """RFC 3261 §11.1: no user in it, and every one is a request of its own."""
    world = fleet(asked())
    server = world.server()
    await world.run(100.0)
    first, second = server.requests[:2]
    assert (first.method, str(first.uri)) == ("OPTIONS", "sip:192.0.2.1")
    assert first.call_id != second.call_id
    assert first.words("accept") == ["application/sdp"]
    world.close()


# --- where callers may come from ------------------------------------------------------------------


def _sourced(name: str, *proxies: str) -> Trunk:
    return Trunk(peer=Peer(name=name, proxies=proxies), inbound=Inbound(peer_is_source=True))


@on_worker_loop
async def test_every_worker_learns_where_the_peers_are():
    """All addresses of all proxies; a change is seen when the answer runs out."""
    one = _sourced("s", "sip:r.example", "sip:192.0.2.9")
    world = World([one])
    world.names["r.example"] = [("UDP", "192.0.2.1", 5060), ("TCP", "192.0.2.2", 5060)]
    for seat in range(3):
        world.worker(seat)
    await world.run(0.1)
    wanted = ("192.0.2.1", "192.0.2.2", "192.0.2.9")
    assert world.learned == {(seat, "s"): wanted for seat in range(3)}
    world.names["r.example"] = [("UDP", "192.0.2.3", 5060)]
    await world.run(world.ttl + 1)
    assert set(world.learned.values()) == {("192.0.2.3", "192.0.2.9")}
    world.close()


@on_worker_loop
async def test_a_dns_that_fails_turns_no_caller_away():
    """What was learned stays, whatever the DNS says, until it says something."""
    world = World([_sourced("s", "sip:r.example")])
    world.names["r.example"] = [("UDP", "192.0.2.1", 5060)]
    worker = world.worker(0)
    await world.run(1.0)
    world.broken = True
    await world.run(HOUR)
    assert world.learned == {(0, "s"): ("192.0.2.1",)}
    world.broken = False
    world.names["r.example"] = [("UDP", "192.0.2.4", 5060)]
    await world.run(LEARN_SECONDS)
    assert world.learned == {(0, "s"): ("192.0.2.4",)}
    world.names["r.example"] = []
    worker.change({})
    await world.run(HOUR)
    assert world.learned == {(0, "s"): ("192.0.2.4",)}
    world.close()


@on_worker_loop
async def test_after_a_reload_what_was_learned_is_told_again():
    """Policy may have begun anew with the trunk; nothing is looked up for that."""
    world = World([_sourced("s", "sip:r.example")])
    world.names["r.example"] = [("UDP", "192.0.2.1", 5060)]
    worker = world.worker(0)
    await world.run(1.0)
    world.learned.clear()
    world.broken = True
    worker.change({"s": _routed(world.trunks["s"])})
    assert world.learned == {(0, "s"): ("192.0.2.1",)}
    world.close()


# --- whatever happens -----------------------------------------------------------------------------

steps = st.lists(
    st.one_of(
        st.tuples(st.just("run"), st.integers(1, 400)),
        st.tuples(st.just("kill"), st.integers(0, 2)),
        st.tuples(st.just("back"), st.integers(0, 2)),
        st.tuples(st.just("silent"), st.integers(0, 1)),
        st.tuples(st.just("broken"), st.integers(0, 1)),
        st.tuples(st.just("drop"), st.integers(0, 2)),
        st.tuples(st.just("add"), st.integers(0, 2)),
    ),
    max_size=12,
)


@settings(max_examples=40)
@given(steps)
def test_in_the_end_every_trunk_is_registered_by_one(course):
    """Workers die and come back, the registrar and the DNS fail, trunks come and go: it heals."""
    asyncio.run(_heals(course))


async def _heals(course) -> None:  # noqa: C901 one case per step
    world = World([trunk(f"t{n}", proxy="sip:r.example") for n in range(3)])
    world.names["r.example"] = [("UDP", "192.0.2.1", 5060)]
    server = world.server(password=PASSWORD)
    every = dict(world.trunks)
    for seat in range(3):
        world.worker(seat)
    for what, number in course:
        match what:
            case "run":
                await world.run(float(number))
            case "kill" if number in world.workers:
                world.kill(number)
            case "back" if number not in world.workers:
                world.worker(number)
            case "silent":
                server.silent = bool(number)
            case "broken":
                world.broken = bool(number)
            case "drop":
                world.change({k: v for k, v in world.trunks.items() if k != f"t{number}"})
            case "add":
                world.change({**world.trunks, f"t{number}": every[f"t{number}"]})
    server.silent = world.broken = False
    world.change(every)
    for seat in {0, 1, 2} - world.workers.keys():
        world.worker(seat)
    await world.run(700.0)
    assert {len(world.tenders(name)) for name in every} == {1}
    lines = [line for each in world.workers.values() for line in each.lines()]
    assert {line.state for line in lines} == {"registered"}
    assert len(server.bound) == 1
    world.close()


# --- the real thing -------------------------------------------------------------------------------


class Wire:
    """A UDP socket with the two verbs of SipWire that registrations need."""

    def __init__(self) -> None:
        self.registrations: Registrations | None = None
        self.transport: asyncio.DatagramTransport | None = None
        self.sent = 0

    async def open(self) -> None:
        """On a free port of 127.0.0.1."""
        wire = self

        class Protocol(asyncio.DatagramProtocol):
            def datagram_received(self, data, addr):
                message = parse_message(data)
                assert isinstance(message, Response)
                wire.registrations.receive(message, Hop("UDP", *addr[:2]), time.monotonic())

        loop = asyncio.get_running_loop()
        self.transport, _ = await loop.create_datagram_endpoint(
            Protocol, local_addr=("127.0.0.1", 0)
        )

    def send(self, data: bytes, hop: Hop) -> None:
        """One datagram."""
        self.sent += 1
        self.transport.sendto(data, (hop.host, hop.port))

    def here(self, _hop: Hop) -> tuple[str, int]:
        """Where it is."""
        return self.transport.get_extra_info("sockname")[:2]


@asynccontextmanager
async def real_worker(resolver: Resolver, *trunks: Trunk, password: str = PASSWORD, patience=8.0):
    """A worker's registrations on the worker's clock, over a real socket."""
    wire = Wire()
    await wire.open()
    clock = WorkerClock(asyncio.get_running_loop())
    loads = LoadTable([0] * WORDS)
    loads.row(0).sit(slot=0, capacity=1, now=clock.now())
    loads.row(0).standing(Standing.SERVING)
    stamp = mint_stamp(loads.read(0))
    told = []

    def token() -> str:
        return f"{stamp}{secrets.token_hex(8)}"

    means = Means(
        road=Road(wire.send, clock, resolver, target_seconds=patience),
        here=wire.here,
        token=token,
        random=secrets.SystemRandom().random,
        loads=loads,
        seat=0,
        answerer=lambda _: Answerer(Secret("ann", password), token),
        told=lambda _, event: told.append(event),
        learn=lambda *_: None,
    )
    made = Registrations(means, {each.name: each for each in trunks})
    wire.registrations = made
    made.start()
    try:
        yield made, told, wire
    finally:
        made.close()
        wire.transport.close()


@asynccontextmanager
async def real_registrar():
    """Our own registrar on a real port; its clock is the machine's."""

    class Now(Clock):
        def now(self) -> float:
            return time.monotonic()

    server = Registrar(Now(), password=PASSWORD)

    class Protocol(asyncio.DatagramProtocol):
        def connection_made(self, transport):
            self.transport = transport

        def datagram_received(self, data, addr):
            answer = server.receive(data, addr[:2])
            if answer is not None:
                self.transport.sendto(answer, addr)

    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(Protocol, local_addr=("127.0.0.1", 0))
    try:
        yield server, transport.get_extra_info("sockname")[1]
    finally:
        transport.close()


@on_worker_loop
async def test_of_two_registrars_by_srv_the_silent_one_is_passed_over_on_a_real_network():
    """DNS, UDP and timers are the machine's: SRV names a server that is silent, and one that lives."""
    async with real_registrar() as (dead, port), real_registrar() as (alive, other):
        dead.silent = True
        zone: Zone = {
            ("_sip._udp.r.example", "SRV"): [f"1 1 {port} a.example.", f"2 1 {other} a.example."],
            ("a.example", "A"): ["127.0.0.1"],
        }
        async with nameserver(zone) as server:
            resolver = Resolver(
                Abilities(families=("A",)),
                sources=Sources((("127.0.0.1", server.port),), hosts=Path("/nonexistent")),
            )
            one = trunk(proxy="sip:r.example;transport=udp")
            async with real_worker(resolver, one, patience=0.6) as (worker, told, _):
                await until(lambda: alive.bound)
                await until(lambda: told)
                assert [type(each) for each in told] == [Registered]
                assert len(dead.requests) == 2  # T1 later once more, then it was left
                assert worker.lines()[0].is_registered
            await resolver.close()


@on_worker_loop
async def test_a_datagram_that_is_lost_is_sent_again():
    """Timer E, on the machine's clock."""
    async with real_registrar() as (server, port):
        server.silent = True
        real = server.receive

        def receive(data, source):
            answer = real(data, source)
            server.silent = False
            return answer

        server.receive = receive
        resolver = Resolver()
        one = trunk(proxy=f"sip:127.0.0.1:{port}")
        async with real_worker(resolver, one) as (worker, _, _):
            await until(lambda: server.bound)
            assert server.requests[0].top.branch == server.requests[1].top.branch
            assert worker.lines()[0].seen == ""
        await resolver.close()


@needs("kamailio")
@on_worker_loop
async def test_kamailio_registers_us_and_takes_us_off(tmp_path):
    """Digest, refresh, OPTIONS and leaving, with a registrar that is not ours."""
    port = free_ports()
    one = replace(
        trunk(proxy=f"sip:127.0.0.1:{port}"),
        peer=Peer(
            name="k",
            proxies=(f"sip:127.0.0.1:{port}",),
            domain=REALM,
            options_seconds=30.0,
        ),
        register=Register(enabled=True, registrar=f"sip:127.0.0.1:{port}", seconds=30),
    )
    resolver = Resolver()
    async with kamailio(tmp_path, port) as running:
        async with real_worker(resolver, one, password=KAMAILIO_PASSWORD) as (worker, told, _):
            await running.says("REGISTERED ann")
            await until(lambda: told)
            assert told == [Registered(30, is_refresh=False)]
            assert worker.is_alive("k")
            assert running.log.count("SEEN OPTIONS") == 1
            tended = worker._tended["k"]
            tended.registering.refresh()
            await running.says("REGISTERED ann", times=2)
            await until(lambda: len(told) == 2)
            assert told[1] == Registered(30, is_refresh=True)
            # The nonce still served: no challenge for the refresh.
            assert running.log.count("SEEN REGISTER") == 3
            await worker.leave()
            assert told[-1] == Left(confirmed=True)
        async with real_worker(resolver, one, password="wrong") as (worker, told, _):
            await until(lambda: told)
            (failed,) = told
            assert isinstance(failed, Failed)
            assert failed.status == 401
            assert failed.retry_in >= 300.0
    await resolver.close()


@on_worker_loop
async def test_a_registrar_that_comes_up_later_is_found_on_a_real_network():
    """Nobody at the port first; the daemon is neither ended nor stuck by that."""
    async with real_registrar() as (server, port):
        server.silent = True
        resolver = Resolver()
        one = trunk(proxy=f"sip:127.0.0.1:{port}")
        async with real_worker(resolver, one) as (worker, told, _):
            await until(lambda: server.requests)
            now = time.monotonic()
            assert worker.receive_failure(Hop("UDP", "127.0.0.1", port), now)
            await until(lambda: told)
            assert isinstance(told[0], Failed)
            server.silent = False
            worker._tended["t"].registering.refresh()
            await until(lambda: server.bound)
        await resolver.close()
