"""The shared SIP port: every datagram meets the worker whose call it is about."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.workers.on_loop import on_worker_loop, until
from workers import sip_door
from workers.load import WORDS, LoadTable, Standing
from workers.sip_door import Refuser, Routes, SipDoor, is_answerable
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
    ("target", "own", "may"),
    [
        (("192.0.2.1", 5060), ("0.0.0.0", 5060), True),
        (("127.0.0.1", 5061), ("127.0.0.1", 5060), True),
        (("127.0.0.1", 5060), ("127.0.0.1", 5060), False),
        (("127.0.0.1", 5060), ("0.0.0.0", 5060), False),
        (("255.255.255.255", 5060), ("0.0.0.0", 5060), False),
        (("224.0.1.75", 5060), ("0.0.0.0", 5060), False),
        (("0.0.0.0", 5060), ("127.0.0.1", 5060), False),
        (("ff02::1%eth0", 5060, 0, 2), ("::", 5060, 0, 0), False),
        (("fe80::1%eth0", 5060, 0, 2), ("::", 5060, 0, 0), True),
        (("phone.example", 5060), ("0.0.0.0", 5060), False),
        (("::1", 5061, 0, 0), ("::1", 5060, 0, 0), True),
        (("::1", 5060, 0, 0), ("::", 5060, 0, 0), False),
        (("64:ff9b::192.0.2.1", 5060, 0, 0), ("::", 5060, 0, 0), True),
        (("::", 5060, 0, 0), ("::", 5060, 0, 0), False),
    ],
)
def test_answers_go_to_one_host_that_is_not_ourselves(target, own, may):
    """A forged source must not make us shout, or talk to ourselves."""
    assert is_answerable(target, own) is may


# --- doors ----------------------------------------------------------------------------------------


class Trunk:
    """A SIP peer, and the workers of one shared port in this process."""

    def __init__(self, workers: int) -> None:
        loop = asyncio.get_running_loop()
        self.loads = loads_of(workers)
        for seat in range(workers):
            self.loads.row(seat).ticked(loop.time(), 0.0)
        self.doors: list[SipDoor] = []
        self.got: list[tuple[int, bytes, object]] = []
        self.unreachable: set[int] = set()
        self.port = 0
        for seat in range(workers):
            wire = self._bind()
            self.port = wire.getsockname()[1]
            door = SipDoor(wire, seat, Routes(self.loads, 100.0), self._give, self._gets(seat))
            door.start()
            self.doors.append(door)
        self.refusers = [Refuser(door, 7) for door in self.doors]
        self.peer = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.peer.bind(("127.0.0.1", 0))
        self.peer.settimeout(0)
        self.peer_port = self.peer.getsockname()[1]

    def _bind(self) -> socket.socket:
        wire = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        wire.bind(("127.0.0.1", self.port))
        return wire

    def _give(self, seat: int, data: bytes, source) -> bool:
        if seat in self.unreachable:
            return False
        self.doors[seat].receive(data, source)
        return True

    def _gets(self, seat: int) -> Callable[[bytes, object], None]:
        def gets(data: bytes, source) -> None:
            self.got.append((seat, data, source))
            self.refusers[seat].on_datagram(data, source)

        return gets

    def send(self, data: bytes) -> None:
        """From the peer."""
        self.peer.sendto(data, ("127.0.0.1", self.port))

    async def answer(self) -> tuple[bytes, object]:
        """What the peer hears next."""
        heard: list[tuple[bytes, object]] = []

        def hear() -> bool:
            with contextlib.suppress(BlockingIOError):
                heard.append(self.peer.recvfrom(65_535))
            return bool(heard)

        await until(hear)
        return heard[0]

    def counted(self, what: str) -> int:
        """By all doors."""
        return sum(door.counts[what] for door in self.doors)

    def close(self) -> None:
        """Everybody goes."""
        for door in self.doors:
            door.close()
            door.close()
        self.peer.close()


def with_trunk(test):
    """The test with a trunk and three workers, on the loop of workers."""

    async def run() -> None:
        trunk = Trunk(3)
        try:
            await test(trunk)
        finally:
            trunk.close()

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return on_worker_loop(run)


@with_trunk
async def test_every_call_is_refused_in_sips_own_words(trunk: Trunk) -> None:
    """503 with Retry-After from the shared port, whoever read it and whoever owns it."""
    seen = set()
    for number in range(30):
        trunk.send(request(call=f"c{number}"))
        answer, source = await trunk.answer()
        assert source == ("127.0.0.1", trunk.port)
        assert answer.startswith(b"SIP/2.0 503 Service Unavailable\r\n")
        assert b"\r\nRetry-After: 7\r\n" in answer
        assert b"\r\nCall-ID: c%d\r\n" % number in answer
        seen.add(trunk.got[-1][0])
    assert seen == {0, 1, 2}
    assert trunk.counted("answered") == trunk.counted("ours") == 30
    assert 0 < trunk.counted("given") < 30


@with_trunk
async def test_the_owner_gets_the_whole_datagram_and_its_source(trunk: Trunk) -> None:
    """By a stamp as by the Call-ID."""
    stamp = mint_stamp(trunk.loads.read(2))
    data = request("BYE", to=stamp + "z")
    trunk.send(data)
    await until(lambda: trunk.got)
    assert trunk.got == [(2, data, ("127.0.0.1", trunk.peer_port))]


@with_trunk
async def test_ack_cancel_responses_and_garbage_are_left_alone(trunk: Trunk) -> None:
    """RFC 3261 §8.2.7; they are counted, and the next request is answered as ever."""
    for data in (request("ACK"), request("CANCEL"), response(), b"\r\n\r\n", b"", b"\xff" * 2000):
        trunk.send(data)
    trunk.send(request("OPTIONS", "last"))
    answer, _ = await trunk.answer()
    assert b"CSeq: 1 OPTIONS" in answer
    await until(lambda: trunk.counted("ignored") == 3 and trunk.counted("garbage") == 3)
    with pytest.raises(BlockingIOError):
        trunk.peer.recv(10)


@with_trunk
async def test_an_owner_that_cannot_be_reached_is_passed_over(trunk: Trunk) -> None:
    """Somebody answers always."""
    trunk.unreachable = {0, 1, 2}
    for number in range(10):
        trunk.send(request(call=f"c{number}"))
        answer, _ = await trunk.answer()
        assert answer.startswith(b"SIP/2.0 503 ")
    assert trunk.counted("given") == 0


@with_trunk
async def test_a_retransmission_gets_the_same_answer(trunk: Trunk) -> None:
    """Byte for byte, without anybody keeping a state."""
    trunk.send(request())
    first, _ = await trunk.answer()
    trunk.send(request())
    assert (await trunk.answer())[0] == first


@with_trunk
async def test_a_door_that_stops_answers_what_waits_and_what_it_is_given(trunk: Trunk) -> None:
    """What came before it was told is not lost; afterwards its port is the others'."""
    trunk.doors[1].close()
    trunk.doors[2].close()
    trunk.unreachable = {1, 2}
    for number in range(20):
        trunk.send(request(call=f"c{number}"))
    trunk.doors[0].stop()
    answers = {(await trunk.answer())[0].split(b"Call-ID: ")[1].split(b"\r")[0] for _ in range(20)}
    assert len(answers) == 20
    trunk.doors[0].receive(request(call="given"), ("127.0.0.1", trunk.peer_port))
    answer, source = await trunk.answer()
    assert b"Call-ID: given" in answer
    assert source == ("127.0.0.1", trunk.port)
    trunk.doors[0].close()
    trunk.doors[0].receive(request(call="late"), ("127.0.0.1", trunk.peer_port))
    assert not trunk.doors[0].send(b"x", ("127.0.0.1", trunk.peer_port))


@with_trunk
async def test_a_request_in_our_own_name_is_not_answered(trunk: Trunk) -> None:
    """Its answer would come back to the port it was sent from."""
    trunk.refusers[0].on_datagram(request(), ("127.0.0.1", trunk.port))
    assert (trunk.counted("ignored"), trunk.counted("answered")) == (1, 0)


@with_trunk
async def test_an_answer_nobody_takes_disturbs_nothing(trunk: Trunk) -> None:
    """A closed port's refusal comes back as an error on the socket, and the next call is answered."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as gone:
        gone.bind(("127.0.0.1", 0))
        for number in range(20):
            gone.sendto(request(call=f"c{number}"), ("127.0.0.1", trunk.port))
    await until(lambda: trunk.counted("ours") == 20)
    trunk.send(request(call="after"))
    assert b"Call-ID: after" in (await trunk.answer())[0]


SCENARIO = """<?xml version="1.0" encoding="ISO-8859-1" ?>
<scenario name="refused">
  <send retrans="500"><![CDATA[

    INVITE sip:service@[remote_ip]:[remote_port] SIP/2.0
    Via: SIP/2.0/[transport] [local_ip]:[local_port];branch=[branch]
    From: sipp <sip:sipp@[local_ip]:[local_port]>;tag=[call_number]
    To: service <sip:service@[remote_ip]:[remote_port]>
    Call-ID: [call_id]
    CSeq: 1 INVITE
    Contact: sip:sipp@[local_ip]:[local_port]
    Max-Forwards: 70
    Content-Length: 0

  ]]></send>
  <recv response="503"/>
  <send><![CDATA[

    ACK sip:service@[remote_ip]:[remote_port] SIP/2.0
    Via: SIP/2.0/[transport] [local_ip]:[local_port];branch=[branch-1]
    From: sipp <sip:sipp@[local_ip]:[local_port]>;tag=[call_number]
    To: service <sip:service@[remote_ip]:[remote_port]>[peer_tag_param]
    Call-ID: [call_id]
    CSeq: 1 ACK
    Max-Forwards: 70
    Content-Length: 0

  ]]></send>
</scenario>
"""


@pytest.mark.skipif(shutil.which("sipp") is None, reason="SIPp (Debian's sip-tester) is not there")
def test_sipp_is_refused_as_it_expects(tmp_path: Path) -> None:
    """An independent SIP stack sees a hundred proper refusals."""
    scenario = tmp_path / "refused.xml"
    scenario.write_text(SCENARIO, encoding="latin-1")

    @with_trunk
    async def run(trunk: Trunk) -> None:
        words = ["-m", "100", "-r", "100", "-sf", str(scenario), "-timeout", "20", "-nostdin"]
        child = await asyncio.create_subprocess_exec(
            "sipp",
            f"127.0.0.1:{trunk.port}",
            "-i",
            "127.0.0.1",
            *words,
            cwd=tmp_path,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        assert await child.wait() == 0
        assert trunk.counted("answered") == 100

    run()
