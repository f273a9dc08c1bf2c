"""The SIP sockets of a worker: every message meets its worker, and what is sent its peer."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import subprocess
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Self

import pytest

from flowcatd.sip.event import Hop
from flowcatd.sip.message import Request, build_response, parse_message
from flowcatd.sip.resolve import Abilities
from tests.workers.on_loop import open_descriptors, until
from tests.workers.sip_wires import Caller, Fleet, request, with_fleet
from workers import sip_here
from workers.hand_over_message import VERSION, SipGone, SipMessage
from workers.load import Standing
from workers.sip_here import Addresses, Called
from workers.sip_links import LinkTerms
from workers.steer import mint_stamp


def terms(**fields) -> LinkTerms:
    """Limits of a test; looked after often."""
    return LinkTerms(sweep_seconds=0.01, **fields)


def udp(host: str = "127.0.0.1") -> socket.socket:
    """A peer over UDP."""
    peer = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
    peer.bind((host, 0))
    peer.setblocking(False)
    return peer


# --- UDP ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("door", "host"), [("udp", "127.0.0.1"), ("udp6", "::1")])
def test_a_datagram_comes_with_its_hop_and_its_answer_goes_back(door: str, host: str) -> None:
    """From our own port, in both families."""

    @with_fleet
    async def run(fleet: Fleet) -> None:
        one = fleet.wire()
        one.answer = b"answer"
        with udp(host) as peer:
            peer.sendto(request(to=one.stamp), (host, one.ports[door]))
            await until(lambda: one.got)
            assert one.got == [
                (request(to=one.stamp), Hop("UDP", host, peer.getsockname()[1])),
            ]
            assert peer.recvfrom(100)[1][:2] == (host, one.ports[door])
        assert (one.wire.counts["udp_in"], one.wire.counts["udp_out"]) == (1, 1)
        assert one.failed == []

    run()


@with_fleet
async def test_keep_alives_over_udp_are_passed_by_in_silence(fleet: Fleet) -> None:
    """Line ends, zeros, nothing at all; STUN is garbage that nobody tries to answer."""
    one = fleet.wire()
    with udp() as peer:
        for data in (b"", b"\r\n", b"\r\n\r\n", b"\0\0\0\0", b"\0\1\0\0" + b"x" * 16):
            peer.sendto(data, ("127.0.0.1", one.ports["udp"]))
        peer.sendto(b"no SIP at all", ("127.0.0.1", one.ports["udp"]))
        await until(lambda: one.got)
        assert [data for data, _ in one.got] == [b"no SIP at all"]
        counts = one.wire.counts
        assert (counts["kept_alive"], counts["garbage"], counts["udp_in"]) == (4, 2, 2)
        with pytest.raises(BlockingIOError):
            peer.recv(10)


@with_fleet
async def test_who_is_not_listened_to_costs_nothing_more(fleet: Fleet) -> None:
    """Neither read nor passed on, over whatever it comes."""
    one, two = fleet.wire(), fleet.wire()
    with udp() as peer, Caller.to(one.ports["tcp"]) as caller:
        caller.send(b"\r\n\r\n")
        await caller.hears(b"\r\n")
        one.deaf.add("127.0.0.1")
        with Caller.to(one.ports["tcp"]) as late:
            await late.ends()
        peer.sendto(request(to=two.stamp), ("127.0.0.1", one.ports["udp"]))
        caller.send(request(to=two.stamp))
        await until(lambda: one.wire.counts["screened"] == 2)
        caller.send(b"garbage without end\r\n\r\n")
        await caller.ends()
        assert caller.heard == b"\r\n"
    assert one.wire.links.counts["refused"] == 1
    assert one.got == two.got == []


@pytest.mark.parametrize(
    "hop",
    [
        Hop("UDP", "224.0.1.75", 5060),
        Hop("UDP", "0.0.0.0", 5060),
        Hop("UDP", "255.255.255.255", 5060),
        Hop("UDP", "phone.example", 5060),
        Hop("UDP", "127.0.0.1", 0),
        Hop("UDP", "127.0.0.1", 70_000),
        Hop("TCP", "phone.example", 5060),
        Hop("TCP", "127.0.0.1", 70_000),
        Hop("TLS", "127.0.0.1", 5061),
        Hop("WS", "127.0.0.1", 5060),
        Hop("WSS", "127.0.0.1", 5060),
        Hop("TCP", "127.0.0.1", 5060, 77),
        Hop("TCP", "127.0.0.1", 5060, 2 << 32 | 1),
    ],
)
def test_what_cannot_be_sent_is_told_soon_and_once(hop: Hop) -> None:
    """Never from within `send`, and for a burst of messages one time."""

    @with_fleet
    async def run(fleet: Fleet) -> None:
        one = fleet.wire()
        for _ in range(5):
            one.wire.send(b"x", hop)
        assert one.failed == []
        await until(lambda: one.failed)
        assert one.failed == [hop]

    run()


@with_fleet
async def test_a_large_request_goes_over_udp_all_the_same(fleet: Fleet) -> None:
    """And is counted; more than a datagram holds cannot be sent."""
    one = fleet.wire()
    with udp() as peer:
        hop = Hop("UDP", *peer.getsockname())
        one.wire.send(b"x" * 20_000, hop)
        assert len(peer.recv(65_535)) == 20_000
        assert one.wire.counts["large"] == 1
        one.wire.send(b"x" * 65_536, hop)
        await until(lambda: one.failed == [hop])


@with_fleet
async def test_a_door_that_stops_takes_what_waits_and_still_sends(fleet: Fleet) -> None:
    """And connections go on."""
    one = fleet.wire()
    one.answer = b"SIP/2.0 200 OK\r\n\r\n"
    with udp() as peer, Caller.to(one.ports["tcp"]) as caller:
        caller.send(request(to=one.stamp))
        await caller.hears(b"200")
        for number in range(20):
            peer.sendto(request(to=one.stamp, call=f"c{number}"), ("127.0.0.1", one.ports["udp"]))
        one.wire.stop()
        assert len(one.got) == 21
        caller.send(request(to=one.stamp))
        await until(lambda: len(one.got) == 22)
        assert peer.recv(100) == one.answer
        one.wire.send(b"later", Hop("UDP", *peer.getsockname()))
        for _ in range(19):
            peer.recv(100)
        assert peer.recv(100) == b"later"


@with_fleet
async def test_who_leaves_the_ports_still_ends_its_calls(fleet: Fleet) -> None:
    """From ports of its own, where the answers come; connections go on; others may take the ports."""
    one = fleet.wire()
    with Caller.to(one.ports["tcp"]) as caller, udp() as peer:
        caller.send(request(to=one.stamp))
        await until(lambda: one.got)
        one.wire.leave()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as successor:
            successor.bind(("127.0.0.1", one.ports["udp"]))
        with pytest.raises(ConnectionRefusedError):
            Caller.to(one.ports["tcp"])
        hop = Hop("UDP", *peer.getsockname())
        one.wire.send(b"bye", hop)
        data, source = peer.recvfrom(100)
        assert (data, source == ("127.0.0.1", one.ports["udp"])) == (b"bye", False)
        assert one.wire.here(hop) == source
        peer.sendto(request(to=one.stamp), source)
        await until(lambda: len(one.got) == 2)
        one.wire.send(b"bye", one.got[0][1])
        await caller.hears(b"bye")
    one.wire.leave()


# --- TCP ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("door", "host"), [("tcp", "127.0.0.1"), ("tcp6", "::1")])
def test_a_message_byte_by_byte_is_one_message(door: str, host: str) -> None:
    """And its answer goes back on its connection, whose number begins with the seat."""

    @with_fleet
    async def run(fleet: Fleet) -> None:
        fleet.wire()
        two = fleet.wire()
        two.answer = b"SIP/2.0 200 OK\r\n\r\n"
        data = request(to=two.stamp, body="body")
        with Caller.to(two.ports[door], host) as caller:
            for number in range(len(data)):
                caller.send(data[number : number + 1])
                await asyncio.sleep(0)
            await caller.hears(b"200 OK")
            assert two.got == [
                (data, Hop("TCP", host, caller.socket.getsockname()[1], 1 << 32 | 1))
            ]

    run()


@with_fleet
async def test_many_messages_in_one_segment_are_many_and_in_order(fleet: Fleet) -> None:
    """A turn of the loop takes some of them; pings between them are answered."""
    one = fleet.wire()
    with Caller.to(one.ports["tcp"]) as caller:
        burst = [request(to=one.stamp, call=f"c{number}") for number in range(100)]
        caller.send(b"\r\n\r\n".join(burst))
        turns = []
        await until(lambda: turns.append(len(one.got)) or len(one.got) == 100)
        assert [data for data, _ in one.got] == burst
        await caller.hears(b"\r\n" * 99)
        await asyncio.sleep(0.01)
        assert caller.look() == b"\r\n" * 99


@with_fleet
async def test_what_came_before_the_end_is_still_handed_on(fleet: Fleet) -> None:
    """A BYE, and then the connection goes."""
    one = fleet.wire()
    with Caller.to(one.ports["tcp"]) as caller:
        caller.send(b"".join(request(to=one.stamp, call=f"c{number}") for number in range(90)))
    await until(lambda: len(one.got) == 90)
    await until(lambda: one.failed)
    assert one.failed == [one.got[0][1]]
    assert len(one.wire.links) == 0


@with_fleet
async def test_a_stream_that_cannot_be_understood_is_answered_and_closed(fleet: Fleet) -> None:
    """With what the RFC names, where there is enough to answer with."""
    one = fleet.wire()
    good = request(to=one.stamp)
    for bad, answer in (
        (good.replace(b"Content-Length: 0\r\n", b""), b"SIP/2.0 400 "),
        (good.replace(b"Content-Length: 0", b"Content-Length: 99999"), b"SIP/2.0 513 "),
        (b"x" * 70_000, b""),
    ):
        with Caller.to(one.ports["tcp"]) as caller:
            caller.send(good + bad)
            await caller.ends()
            assert caller.heard[:12] == answer
    assert [data for data, _ in one.got] == [good] * 3
    await until(lambda: len(one.wire.links) == 0)


@with_fleet
async def test_who_says_nothing_or_never_ends_is_dropped(fleet: Fleet) -> None:
    """Bytes are no message; keep-alives are one sign of life, and no message either."""
    one = fleet.wire(terms=terms(silent_seconds=0.2, unfinished_seconds=0.4, idle_seconds=0.8))
    data = request(to=one.stamp)
    with contextlib.ExitStack() as stack:
        mute, half, idle, alive = (
            stack.enter_context(Caller.to(one.ports["tcp"])) for _ in range(4)
        )
        half.send(data + data[:40])
        idle.send(data)
        alive.send(data)
        ended: list[str] = []

        def look() -> bool:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                half.send(b"x")
            alive.send(b"\r\n\r\n")
            mute.look()
            for name, each in (("mute", mute), ("half", half), ("idle", idle)):
                each.look()
                if each.is_over and name not in ended:
                    ended.append(name)
            return len(ended) == 3

        await until(look)
        assert ended == ["mute", "half", "idle"]
        alive.look()
        assert not alive.is_over
        counts = one.wire.links.counts
        assert (counts["silent"], counts["unfinished"], counts["idle"]) == (1, 1, 1)


@with_fleet
async def test_who_does_not_read_loses_its_connection_and_nothing_else(fleet: Fleet) -> None:
    """What waits for one peer is bounded; whoever sends is told."""
    one = fleet.wire(terms=terms(write_bytes=50_000))
    with Caller.to(one.ports["tcp"]) as slow, Caller.to(one.ports["tcp"]) as other:
        slow.send(request(to=one.stamp))
        await until(lambda: one.got)
        hop = one.got[0][1]
        for _ in range(2000):
            one.wire.send(b"x" * 20_000, hop)
            await asyncio.sleep(0)
            if one.failed:
                break
        assert one.failed == [hop]
        assert one.wire.links.counts["slow"] == 1
        other.send(request(to=one.stamp))
        await until(lambda: len(one.got) == 2)


@with_fleet
async def test_a_storm_of_connections_is_bounded_and_leaves_nothing(fleet: Fleet) -> None:
    """So many per source; who has said nothing makes room for the next; a trunk always gets in."""
    before = open_descriptors() + 1  # libuv keeps a spare one, from the first connection on
    one = fleet.wire(terms=terms(connections=8, per_source=6), known=("127.0.0.3",))
    with_wire = open_descriptors() + 1
    callers: list[Caller] = []

    def call(source: str) -> Caller:
        connection = socket.create_connection(
            ("127.0.0.1", one.ports["tcp"]), 5, source_address=(source, 0)
        )
        callers.append(Caller(connection))
        return callers[-1]

    first = [call("127.0.0.1") for _ in range(40)]
    await until(lambda: sum(caller.look() == b"" and caller.is_over for caller in first) == 34)
    assert len(one.wire.links) == 6
    second = [call("127.0.0.2") for _ in range(3)]
    await until(lambda: sum(caller.look() == b"" and caller.is_over for caller in first) == 35)
    assert one.wire.links.accepted == 8
    for caller in (*[each for each in first if not each.is_over], *second):
        caller.send(request(to=one.stamp))
    await until(lambda: len(one.got) == 8)
    late = call("127.0.0.4")
    await late.ends()  # everybody has said something: no room for one more stranger
    trunk = [call("127.0.0.3") for _ in range(8)]  # one after the other, strangers make room
    await until(lambda: one.wire.links.counts["evicted"] == 9)
    for caller in trunk:
        caller.send(request(to=one.stamp))
    await until(lambda: len(one.got) == 16)
    await call("127.0.0.3").ends()  # of all it is bound by this limit only
    assert one.wire.links.accepted == 8
    for caller in callers:
        caller.close()
    await until(lambda: len(one.wire.links) == 0 and open_descriptors() == with_wire)
    one.close()
    await until(lambda: open_descriptors() <= before)


# --- connections of ours --------------------------------------------------------------------------


class Peer:
    """A SIP peer that listens over TCP."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.listener = socket.create_server((host, 0), family=family)
        self.listener.setblocking(False)
        self.hop = Hop("TCP", host, self.listener.getsockname()[1])
        self.callers: list[Caller] = []

    async def called(self) -> Caller:
        """The next connection."""

        def accept() -> bool:
            with contextlib.suppress(BlockingIOError):
                self.callers.append(Caller(self.listener.accept()[0]))
                return True
            return False

        await until(accept)
        return self.callers[-1]

    def has_more(self) -> bool:
        """Whether somebody else has connected."""
        with contextlib.suppress(BlockingIOError):
            self.callers.append(Caller(self.listener.accept()[0]))
            return True
        return False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        for each in self.callers:
            each.close()
        self.listener.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_one_connection_of_ours_serves_an_address(host: str) -> None:
    """What waited for it comes first and in order; what comes back on it is ours to route."""

    @with_fleet
    async def run(fleet: Fleet) -> None:
        one = fleet.wire()
        with Peer(host) as peer:
            for number in range(3):
                one.wire.send(b"message %d\r\n" % number, peer.hop)
            caller = await peer.called()
            await caller.hears(b"message 0\r\nmessage 1\r\nmessage 2\r\n")
            one.wire.send(b"message 3", peer.hop)
            await caller.hears(b"message 3")
            caller.send(request(to=one.stamp))
            await until(lambda: one.got)
            hop = one.got[0][1]
            assert hop == Hop("TCP", host, peer.hop.port, 1)
            one.wire.send(b"answer", hop)
            await caller.hears(b"answer")
            assert caller.socket.getpeername()[0] == host
            assert not peer.has_more()

    run()


@with_fleet
async def test_a_connection_that_ended_is_told_and_made_again(fleet: Fleet) -> None:
    """By its number and by its address: something may be under way by either."""
    one = fleet.wire()
    with Peer() as peer:
        one.wire.send(b"first", peer.hop)
        await (await peer.called()).hears(b"first")
        peer.callers[0].close()
        await until(lambda: one.failed)
        assert one.failed == [Hop("TCP", "127.0.0.1", peer.hop.port, 1), peer.hop]
        one.wire.send(b"second", peer.hop)
        await (await peer.called()).hears(b"second")


@with_fleet
async def test_where_nobody_listens_is_told(fleet: Fleet) -> None:
    """And the next message tries again."""
    one = fleet.wire()
    with Peer() as peer:
        hop = peer.hop
    for number in (1, 2):
        one.wire.send(b"x", hop)
        await until(lambda number=number: one.failed == [hop] * number)
    assert len(one.wire.links) == 0


@with_fleet
async def test_who_does_not_answer_is_waited_for_a_while_with_a_bounded_queue(fleet: Fleet) -> None:
    """What is too much is told at once, the rest when time is up."""
    one = fleet.wire(terms=terms(open_seconds=0.4, queue=3))
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full, contextlib.ExitStack() as stack:
        for _ in range(4):  # whoever comes now gets no answer to its SYN
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        hop = Hop("TCP", *full.getsockname())
        for _ in range(3):
            one.wire.send(b"x", hop)
        await asyncio.sleep(0.05)
        assert one.failed == []
        one.wire.send(b"x", hop)
        await until(lambda: one.failed)
        assert one.failed == [hop]
        await until(lambda: one.failed == [hop, hop])
    assert one.wire.counts["failed"] == 2


@with_fleet
async def test_pings_go_out_and_a_missing_pong_is_judged_of_who_gave_one_before(
    fleet: Fleet,
) -> None:
    """RFC 5626 §4.4.1, but a carrier that never answers pings keeps its connection."""
    quick = terms(ping_seconds=(0.1, 0.12), pong_seconds=0.4)
    one = fleet.wire(terms=quick)
    with Peer() as mute, Peer() as polite:
        for peer in (mute, polite):
            one.wire.send(b"hello", peer.hop)
        unanswered = await mute.called()
        answered = await polite.called()
        await answered.hears(b"hello\r\n\r\n")
        answered.send(b"\r\n")
        await unanswered.hears(b"hello" + b"\r\n\r\n" * 4)
        await answered.ends()
        assert answered.heard.count(b"\r\n\r\n") == 2
        await until(lambda: polite.hop in one.failed)
        one.wire.send(b"again", polite.hop)
        again = await polite.called()
        await again.ends()  # known by then as one who answers
        assert again.heard == b"again\r\n\r\n"
        assert mute.hop not in one.failed


@with_fleet
async def test_who_asked_for_signs_of_life_gets_them_and_owes_an_answer(fleet: Fleet) -> None:
    """RFC 5626 §4.4: Flow-Timer; the connection ends with the first ping that is not answered."""
    one = fleet.wire(terms=terms(ping_seconds=(60.0, 60.0), pong_seconds=0.2))
    with Peer() as peer:
        one.wire.send(b"hello", peer.hop)
        called = await peer.called()
        await called.hears(b"hello")
        (link,) = one.wire.links
        one.wire.keep(replace(link.hop, connection=7), 0.1)
        one.wire.keep(link.hop, 0.2)
        await called.hears(b"hello\r\n\r\n")
        called.send(b"\r\n")
        await called.hears(b"hello\r\n\r\n\r\n\r\n")
        await called.ends()
        await until(lambda: peer.hop in one.failed)


# --- fellows --------------------------------------------------------------------------------------


@with_fleet
async def test_a_message_travels_to_its_worker_and_the_answer_back(fleet: Fleet) -> None:
    """The connection stays where it is; over UDP the owner answers by itself."""
    one, two = fleet.wire(), fleet.wire()
    two.answer = b"SIP/2.0 200 OK\r\n\r\n"
    with Caller.to(one.ports["tcp"]) as caller, udp() as peer:
        caller.send(request(to=two.stamp))
        await caller.hears(b"200 OK")
        assert two.got == [(request(to=two.stamp), Hop("TCP", *caller.socket.getsockname(), 1))]
        peer.sendto(request(to=two.stamp), ("127.0.0.1", one.ports["udp"]))
        await until(lambda: len(two.got) == 2)
        assert peer.recvfrom(100)[1] == ("127.0.0.1", two.ports["udp"])
        assert two.got[1][1] == Hop("UDP", *peer.getsockname())
    assert one.got == []
    assert (one.wire.counts["given"], one.wire.counts["outward"]) == (2, 1)
    assert two.wire.counts["taken"] == 2


@with_fleet
async def test_a_fellow_is_told_that_a_connection_it_uses_has_ended(fleet: Fleet) -> None:
    """When it ends, and again when somebody sends on it nevertheless."""
    one, two = fleet.wire(), fleet.wire()
    with Caller.to(one.ports["tcp"]) as caller:
        caller.send(request(to=two.stamp))
        await until(lambda: two.got)
    hop = two.got[0][1]
    await until(lambda: two.failed == [hop])
    two.wire.send(b"too late", hop)
    await until(lambda: two.failed == [hop, hop])


@with_fleet
async def test_who_took_a_call_up_is_told_of_its_connection_as_well(fleet: Fleet) -> None:
    """It has sent on it, and never got anything by it."""
    one, two = fleet.wire(), fleet.wire()
    with Caller.to(one.ports["tcp"]) as caller:
        caller.send(request(to=one.stamp))
        await until(lambda: one.got)
        two.wire.send(b"taken up", one.got[0][1])
        await caller.hears(b"taken up")
    await until(lambda: two.failed == [one.got[0][1]])


@with_fleet
async def test_a_worker_that_ends_tells_who_uses_its_connections(fleet: Fleet) -> None:
    """Calls of fellows that came by them look for another way."""
    one, two = fleet.wire(), fleet.wire()
    with Caller.to(one.ports["tcp"]) as caller:
        caller.send(request(to=two.stamp))
        await until(lambda: two.got)
        one.wire.close()
        await caller.ends()
        await until(lambda: two.failed == [two.got[0][1]])
    assert one.failed == []


@with_fleet
async def test_a_dead_fellows_connections_are_gone_and_another_has_not_its_numbers(
    fleet: Fleet,
) -> None:
    """Who sits in its seat next has a connection of that number to somebody else."""
    one, two = fleet.wire(), fleet.wire()
    with Caller.to(two.ports["tcp"]) as caller:
        caller.send(request(to=one.stamp))
        await until(lambda: one.got)
        hop = one.got[0][1]
        two.close()
        one.wire.send(b"x", hop)
        await until(lambda: one.failed == [hop])
        fleet.wires.pop()
        successor = fleet.wire()
        with Caller.to(successor.ports["tcp"]) as other:
            other.send(request(to=successor.stamp))
            await until(lambda: successor.got)
            assert successor.got[0][1].connection == hop.connection
            one.wire.send(b"secret", hop)
            await until(lambda: one.failed == [hop, hop])
            assert other.look() == b""


@with_fleet
async def test_a_request_for_a_worker_that_just_died_waits_for_its_successor(fleet: Fleet) -> None:
    """Over TCP it is kept, over UDP it comes again; nobody else ends the call."""
    one = fleet.wire()
    dead = request(to=_stamp_of(fleet, 1))
    fleet.loads.row(1).leave()
    with Caller.to(one.ports["tcp"]) as caller, udp() as peer:
        caller.send(dead)
        peer.sendto(dead, ("127.0.0.1", one.ports["udp"]))
        await until(lambda: one.wire.counts["held"] and one.wire.counts["lost"])
        successor = fleet.wire()
        fleet.loads.row(1).sit(slot=1, capacity=100, now=7.0)
        fleet.loads.row(1).standing(Standing.SERVING)
        await until(lambda: successor.got)
        assert successor.got[0] == (dead, Hop("TCP", *caller.socket.getsockname(), 1))
    assert one.got == []


@with_fleet
async def test_after_a_while_somebody_answers_for_the_dead(fleet: Fleet) -> None:
    """Else its peer would wait for half a minute."""
    one = fleet.wire(await_seconds=1.0)
    dead = request(to=_stamp_of(fleet, 1))
    fleet.loads.row(1).leave()
    with Caller.to(one.ports["tcp"]) as caller:
        caller.send(dead)
        await until(lambda: one.got)
    assert 2 <= one.wire.counts["held"] <= 8


def _stamp_of(fleet: Fleet, seat: int) -> str:
    return mint_stamp(fleet.loads.read(seat))


@with_fleet
async def test_a_call_without_room_is_passed_on_and_never_back(fleet: Fleet) -> None:
    """Each names itself; when nobody is left it is the last one's to refuse."""
    wires = [fleet.wire() for _ in range(3)]
    for wire in wires:
        wire.on_got = lambda data, hop, wire=wire: told.append(
            (wire.seat, wire.wire.pass_on(data, hop))
        )
    told: list[tuple[int, bool]] = []
    with Caller.to(wires[0].ports["tcp"]) as caller:
        caller.send(request("INVITE", call="full"))
        await until(lambda: len(told) == 3)
        assert sorted(seat for seat, _ in told) == [0, 1, 2]
        assert [was_passed for _, was_passed in told] == [True, True, False]
        caller.send(request("INVITE", call="full"))  # again: whoever got it last has it
        await until(lambda: len(told) >= 4)


@with_fleet
async def test_nothing_that_a_fellow_says_does_harm(fleet: Fleet) -> None:
    """Hops of connections that are none, of nobody, of ourselves; and late, when all is closed."""
    one, two = fleet.wire(), fleet.wire()
    strange = [
        SipMessage(VERSION, 1, "TCP", "127.0.0.1", 9, 5, b"x", outward=True),
        SipMessage(VERSION, 999, "UDP", "127.0.0.1", 9, 0, b"x", outward=True),
        SipMessage(VERSION, 1, "WS", "127.0.0.1", 9, 1 << 40, b"x", outward=True),
        SipGone(VERSION, 1, "TLS", "127.0.0.1", 9, 3),
    ]
    for message in strange:
        assert two.fellows.give_sip(0, message)
    await until(lambda: len(two.failed) == 2 and one.failed)
    assert two.failed == [strange[0].hop, strange[2].hop]
    assert one.failed == [strange[3].hop]
    one.wire.close()
    for message in strange:
        one.wire.given(message)
    one.wire.send(b"x", Hop("UDP", "127.0.0.1", 9))
    await asyncio.sleep(0.01)
    assert one.failed == [strange[3].hop]


# --- who we are -----------------------------------------------------------------------------------


@with_fleet
async def test_we_call_ourselves_what_the_other_side_can_reach(fleet: Fleet) -> None:
    """The bound address, or the public one; the port of the transport that is spoken."""
    one = fleet.wire(called=Called(public_host="192.0.2.7", web_port=6210))
    ports = one.ports
    assert one.wire.here(Hop("UDP", "198.51.100.1", 5060)) == ("192.0.2.7", ports["udp"])
    assert one.wire.here(Hop("TCP", "::1", 5060)) == ("[::1]", ports["tcp6"])
    assert one.wire.here(Hop("WS", "127.0.0.1", 5060, 5)) == ("192.0.2.7", 6210)
    assert one.wire.here(Hop("TLS", "127.0.0.1", 5060)) == ("192.0.2.7", 5061)
    two = fleet.wire()
    assert two.wire.here(Hop("TCP", "127.0.0.1", 5060)) == ("127.0.0.1", two.ports["tcp"])
    assert two.wire.able.transports == ("UDP", "TCP")
    assert two.wire.able.families == ("AAAA", "A")


def test_a_wildcard_is_told_as_the_address_towards_the_peer() -> None:
    """The one that packets to it leave from; asked again after a while, and bounded in number."""
    addresses = Addresses(Called(public_host6="2001:db8::7"))
    addresses.bind("UDP", socket.AF_INET, ("0.0.0.0", 5062))
    addresses.bind("UDP", socket.AF_INET6, ("::", 5062))
    assert addresses.here(Hop("UDP", "127.0.0.9", 5060), 0.0) == ("127.0.0.1", 5062)
    assert addresses.here(Hop("UDP", "::1", 5060), 0.0) == ("[2001:db8::7]", 5062)
    assert addresses.source("127.0.0.1") == ""
    for number in range(600):
        peer = f"127.0.{number // 250}.{number % 250 + 1}"
        assert addresses.here(Hop("UDP", peer, 5060), float(number)) == ("127.0.0.1", 5062)
    assert len(addresses) == sip_here.LOCALS


def test_abilities_are_what_is_bound_and_what_can_be_opened() -> None:
    """TLS without a port of ours as well; nothing at all without any."""
    addresses = Addresses(Called())
    assert addresses.abilities(opens_tls=True) == Abilities((), ())
    assert not addresses.reaches("127.0.0.1")
    addresses.bind("UDP", socket.AF_INET, ("127.0.0.1", 5060))
    assert addresses.abilities(opens_tls=True) == Abilities(("UDP", "TLS"), ("A",))
    assert addresses.abilities(opens_tls=False) == Abilities(("UDP",), ("A",))
    assert addresses.reaches("192.0.2.1")
    assert not addresses.reaches("::1")
    assert addresses.source("192.0.2.1") == "127.0.0.1"


# --- an independent stack -------------------------------------------------------------------------

SCENARIO = """<?xml version="1.0" encoding="ISO-8859-1" ?>
<scenario name="options">
  <send retrans="500"><![CDATA[

    OPTIONS sip:service@[remote_ip]:[remote_port] SIP/2.0
    Via: SIP/2.0/[transport] [local_ip]:[local_port];branch=[branch]
    From: sipp <sip:sipp@[local_ip]:[local_port]>;tag=[call_number]
    To: service <sip:service@[remote_ip]:[remote_port]>
    Call-ID: [call_id]
    CSeq: 1 OPTIONS
    Contact: sip:sipp@[local_ip]:[local_port];transport=[transport]
    Max-Forwards: 70
    Content-Length: 0

  ]]></send>
  <recv response="200"/>
</scenario>
"""


@pytest.mark.skipif(shutil.which("sipp") is None, reason="SIPp (Debian's sip-tester) is not there")
@pytest.mark.parametrize("how", ["u1", "t1", "tn"])
def test_sipp_gets_its_answers(tmp_path: Path, how: str) -> None:
    """Two hundred requests by UDP, by one connection, by a connection each; two workers answer."""
    scenario = tmp_path / "options.xml"
    scenario.write_text(SCENARIO, encoding="latin-1")

    @with_fleet
    async def run(fleet: Fleet) -> None:
        wide = terms(per_source=500)
        wires = [fleet.wire(terms=wide), fleet.wire(terms=wide)]
        for wire in wires:
            wire.on_got = lambda data, hop, wire=wire: answer(wire, data, hop)
        fleet.loads.row(2).leave()
        port = wires[0].ports["udp" if how == "u1" else "tcp"]
        words = ["-m", "200", "-r", "200", "-t", how, "-sf", str(scenario), "-max_socket", "300"]
        child = await asyncio.create_subprocess_exec(
            *("sipp", f"127.0.0.1:{port}", "-i", "127.0.0.1", *words, "-timeout", "20"),
            "-nostdin",
            cwd=tmp_path,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        assert await child.wait() == 0
        told = Counter({wire.seat: len(wire.got) for wire in wires})
        assert told.total() >= 200
        assert min(told.values()) > 20

    def answer(wire, data: bytes, hop: Hop) -> None:
        message = parse_message(data)
        assert isinstance(message, Request)
        wire.wire.send(bytes(build_response(message, 200, tag=wire.stamp)), hop)

    run()
