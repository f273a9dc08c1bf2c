"""The shared SIP port: every message meets the worker whose call it is about."""

from __future__ import annotations

import socket

import pytest

from tests.workers.on_loop import on_worker_loop, until
from workers import sip_door
from workers.load import WORDS, LoadTable, Standing
from workers.sip_door import Routes, Sent, UdpSocket, is_one_host
from workers.sip_head import parse_head
from workers.steer import mint_stamp

REQUEST = (
    "{method} sip:{user}@127.0.0.1 SIP/2.0\r\n"
    "Via: SIP/2.0/UDP 127.0.0.1:{port};branch=z9hG4bK{branch};rport\r\n"
    "From: <sip:a@127.0.0.1>;tag=f\r\nTo: <sip:b@127.0.0.1>{to}\r\n"
    "Call-ID: {call}\r\nCSeq: 1 {method}\r\nMax-Forwards: 70\r\nContent-Length: 0\r\n\r\n"
)
RESPONSE = (
    "SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP 127.0.0.1;branch=z9hG4bK{branch}\r\n"
    "From: <sip:a@127.0.0.1>;tag={tag}\r\nTo: <sip:b@127.0.0.1>;tag=t\r\n"
    "Call-ID: {call}\r\nCSeq: 1 INVITE\r\n\r\n"
)


def request(method="INVITE", call="c1", *, user="b", to="", branch="x", port=5060) -> bytes:
    """One request."""
    return REQUEST.format(
        method=method, call=call, user=user, to=f";tag={to}" if to else "", branch=branch, port=port
    ).encode()


def response(call="c1", *, branch="x", tag="f") -> bytes:
    """One response."""
    return RESPONSE.format(call=call, branch=branch, tag=tag).encode()


def loads_of(slots: int) -> LoadTable:
    """Seat n in slot n, serving; twice as many seats."""
    loads = LoadTable([0] * (2 * slots * WORDS))
    for slot in range(slots):
        sit(loads, slot, slot, 1.0)
    return loads


def sit(loads: LoadTable, seat: int, slot: int, at: float, now: float = 1e9) -> None:
    """Somebody takes a seat and serves."""
    loads.row(seat).sit(slot=slot, capacity=100, now=at)
    loads.row(seat).standing(Standing.SERVING)
    loads.row(seat).ticked(now, 0.0)


# --- routes ---------------------------------------------------------------------------------------


def test_a_new_call_goes_by_its_call_id_and_stays_there():
    """Retransmission, CANCEL and ACK of it meet the same worker, however the loads have moved."""
    loads = loads_of(4)
    routes = Routes(loads, 1.0)
    first = {n: routes.seat(parse_head(request(call=f"c{n}")), 1.0) for n in range(40)}
    assert set(first.values()) == {0, 1, 2, 3}
    loads.row(first[0]).calls(90)
    fresh = Routes(loads, 1.0)
    assert fresh.seat(parse_head(request(call="c0")), 1.0) != first[0]
    for method in ("INVITE", "CANCEL", "ACK"):
        assert routes.seat(parse_head(request(method, "c0")), 2.0) == first[0]


def test_a_stamp_leads_to_its_minter():
    """In the To tag or the URI's user of a request, in the branch or From tag of a response."""
    loads = loads_of(4)
    routes = Routes(loads, 100.0)
    stamp = mint_stamp(loads.read(2))
    messages = [request("BYE", f"c{n}", to=stamp + "1") for n in range(8)]
    messages += [request("BYE", f"c{n}", user=stamp + "1") for n in range(8)]
    messages += [response(branch=stamp + "1"), response(tag=stamp + "1")]
    assert {routes.seat(parse_head(each), 1.0) for each in messages} == {2}
    assert len(routes) == 0


def test_after_its_minter_died_the_slot_adopts():
    """The present process of the slot gets what the dead one's tags say; it may know the dialog."""
    loads = loads_of(2)
    stamp = mint_stamp(loads.read(1))
    loads.row(1).leave()
    sit(loads, 3, 1, 5.0)
    routes = Routes(loads, 100.0)
    assert routes.seat(parse_head(request("BYE", to=stamp)), 1.0) == 3
    assert routes.seat(parse_head(request("BYE", to=stamp)), 1.0, passed=(3,)) is None


def test_who_follows_a_dead_process_is_waited_for_a_while():
    """An answer of ours would end calls that its successor takes up; after that they are nobody's."""
    loads = loads_of(2)
    stamp = mint_stamp(loads.read(1))
    loads.row(1).leave()
    routes = Routes(loads, 100.0)
    bye = parse_head(request("BYE", to=stamp))
    assert routes.seat(bye, 1.0) is None
    assert [routes.is_awaited(bye, 1.0 + late) for late in (0.0, 4.9, 5.1, 60.0)] == [
        *(True, True),
        *(False, False),
    ]
    assert routes.is_awaited(bye, 2.0 + sip_door.ROUTE_SECONDS)
    assert not routes.is_awaited(parse_head(request("BYE", to="theirs")), 1.0)


def test_minters_that_are_waited_for_are_bounded():
    """Whoever makes stamps up fills a small table."""
    loads = loads_of(1)
    routes = Routes(loads, 100.0)
    for since in range(1000):
        sit(loads, 1, 1, float(since))
        stamp = mint_stamp(loads.read(1))
        loads.row(1).leave()
        assert routes.is_awaited(parse_head(request("BYE", to=stamp)), 1.0)
        assert len(routes._awaited) <= sip_door.AWAITED


def test_a_strangers_response_goes_nowhere():
    """It answers nothing of ours."""
    assert Routes(loads_of(3), 1.25).seat(parse_head(response()), 1.0) is None


def test_what_is_remembered_is_bounded_and_forgotten():
    """At most ROUTES calls, the oldest go first; after ROUTE_SECONDS a Call-ID is as new."""
    loads = loads_of(2)
    routes = Routes(loads, 100.0)
    for number in range(sip_door.ROUTES + 50):
        routes.seat(parse_head(request(call=f"c{number}")), 1.0)
        assert len(routes) <= sip_door.ROUTES
    routes.seat(parse_head(request(call="new")), 1.0 + sip_door.ROUTE_SECONDS)
    assert len(routes) == 1


def test_a_remembered_owner_that_cannot_be_reached_is_replaced():
    """The next choice is remembered in its place."""
    routes = Routes(loads_of(3), 100.0)
    head = parse_head(request())
    first = routes.seat(head, 1.0)
    second = routes.seat(head, 1.0, passed=(first,))
    assert second not in (None, first)
    assert routes.seat(head, 1.0) == second


@pytest.mark.parametrize(
    ("host", "is_one"),
    [
        ("192.0.2.1", True),
        ("127.0.0.1", True),
        ("255.255.255.255", False),
        ("240.0.0.1", False),
        ("224.0.1.75", False),
        ("0.0.0.0", False),
        ("fe80::1%eth0", True),
        ("::1", True),
        ("64:ff9b::192.0.2.1", True),
        ("ff02::1%eth0", False),
        ("::", False),
        ("phone.example", False),
        ("", False),
    ],
)
def test_answers_go_to_one_host(host, is_one):
    """A forged source must not make us shout, or look names up."""
    assert is_one_host(host) is is_one


# --- sockets --------------------------------------------------------------------------------------


def bound() -> socket.socket:
    """A UDP socket of loopback."""
    wire = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    wire.bind(("127.0.0.1", 0))
    return wire


@on_worker_loop
async def test_a_datagram_is_told_whole_with_its_source_and_not_before_the_start() -> None:
    """The longest there is; and what waited is not lost."""
    got: list[tuple[bytes, object]] = []
    door = UdpSocket(bound(), lambda data, source: got.append((data, source)))
    with bound() as peer:
        for data in (b"first", b"x" * 65_507, b""):
            peer.sendto(data, door.address)
        assert got == []
        door.start()
        await until(lambda: len(got) == 3)
        assert got == [(data, peer.getsockname()) for data in (b"first", b"x" * 65_507, b"")]
    door.close()


@on_worker_loop
async def test_a_socket_that_stops_takes_what_waits_and_still_sends() -> None:
    """More than one turn of the loop takes; closed, it sends nothing and knows where it was."""
    got: list[bytes] = []
    door = UdpSocket(bound(), lambda data, _source: got.append(data))
    door.start()
    with bound() as peer:
        many = sip_door.READS * 2
        for number in range(many):
            peer.sendto(b"%d" % number, door.address)
        door.stop()
        door.stop()
        assert got == [b"%d" % number for number in range(many)]
        assert door.put(b"bye", peer.getsockname()) is Sent.GONE
        assert peer.recvfrom(10) == (b"bye", door.address)
        where = door.address
        door.close()
        assert door.put(b"late", peer.getsockname()) is Sent.REFUSED
        assert door.address == where


@pytest.mark.parametrize(
    "target", [("127.0.0.1", 70_000), ("255.255.255.255", 5060), ("::1", 5060)]
)
def test_where_there_is_no_way_is_told(target) -> None:
    """A port that is none, a broadcast, another family."""

    @on_worker_loop
    async def run() -> None:
        door = UdpSocket(bound(), lambda _data, _source: None)
        assert door.put(b"x", target) is Sent.REFUSED
        door.close()

    run()


@on_worker_loop
async def test_an_answer_nobody_takes_disturbs_nothing() -> None:
    """A closed port's refusal comes back as an error on the socket; the next is read, and sent."""
    got: list[bytes] = []
    door = UdpSocket(bound(), lambda data, _source: got.append(data))
    door.start()
    with bound() as gone:
        nobody = gone.getsockname()
    with bound() as peer:
        for number in range(20):
            assert door.put(b"x", nobody) is not Sent.REFUSED
            peer.sendto(b"%d" % number, door.address)
        await until(lambda: len(got) == 20)
    door.close()
