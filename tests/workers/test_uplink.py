"""A worker's line against real ZeroMQ sockets, and against the real switchboard."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import zmq

from flowcatd.control import (
    CONTROL_SOCKET,
    PUBLISH_SOCKET,
    Answer,
    AskCalls,
    AskHangUp,
    Beat,
    CallEvent,
    CallLine,
    Calls,
    Hello,
    OrderCalls,
    OrderHangUp,
    OrderLadder,
    OrderLogLevel,
    OrderTrunks,
    Reader,
    Refused,
    Report,
    ReportCalls,
    ReportDone,
    ReportLadder,
    ReportTrunks,
    TrunkLine,
    encode,
    worker_identity,
)
from flowcatd.sip_figures import SipFigures
from tests.supervisor.board import Board, Peer, short_directory, sockets
from workers import uplink
from workers.uplink import Place, Uplink

LIMIT = 10.0
ME = worker_identity(3, 77)
CALL = CallLine(
    call_id="c1",
    run_id="r1",
    carrier="raw",
    agent="echo",
    slot=1,
    state="up",
    seconds=1.0,
    turns=0,
)
SIP = SipFigures(trunk="loopback", ladder=["0.000 ← INVITE 1 +body"])
TRUNK = TrunkLine(name="loopback", registration="off")
EVENT = CallEvent(event="started", at_utc=1.0, slot=1, call_id="c1")


class Worker:
    """What is told to a worker, and one call it has."""

    def __init__(self) -> None:
        self.levels: list[str] = []
        self.ended: list[str] = []

    def list_calls(self) -> list[CallLine]:
        """The one."""
        return [CALL]

    def hang_up(self, call: str) -> bool:
        """It is called r1."""
        self.ended.append(call)
        return call == "r1"

    def set_level(self, level: str) -> None:
        """This worker fails at errors."""
        if level == "error":
            raise ValueError(level)
        self.levels.append(level)

    def ladder(self, call: str) -> SipFigures | None:
        """Of the one."""
        return SIP if call == "r1" else None

    def trunks(self) -> list[TrunkLine]:
        """The one."""
        return [TRUNK]


class Office:
    """The switchboard's sockets, played by the test: bound, read when the test says so."""

    def __init__(self, context: zmq.Context, runtime: Path, **options: int) -> None:
        self.router = context.socket(zmq.ROUTER)
        self.xsub = context.socket(zmq.XSUB)
        for name, value in options.items():
            setattr(self.xsub, name, value)
        self.router.bind(f"ipc://{runtime / CONTROL_SOCKET}")
        self.xsub.bind(f"ipc://{runtime / PUBLISH_SOCKET}")
        self.xsub.send(b"\x01")
        self._reports = Reader(Report)

    def close(self) -> None:
        """Nobody there."""
        self.router.close(0)
        self.xsub.close(0)

    async def said(self, kind: type) -> object:
        """The worker's next message of this kind."""
        async with asyncio.timeout(LIMIT):
            while True:
                identity, data = await _next(self.router)
                assert identity == ME
                message = self._reports.decode(data)
                if isinstance(message, kind):
                    return message

    async def published(self, topic: bytes) -> bytes:
        """The next one on this topic."""
        async with asyncio.timeout(LIMIT):
            while True:
                found, data = await _next(self.xsub)
                if found == topic:
                    return data

    def order(self, message: object) -> None:
        """To the worker."""
        data = message if isinstance(message, bytes) else encode(message)
        self.router.send_multipart([ME, data])


async def _next(socket: zmq.Socket) -> list[bytes]:
    while not socket.poll(0):  # noqa: ASYNC110 this socket is not on the loop
        await asyncio.sleep(0.005)
    return socket.recv_multipart()


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition, with a limit."""
    async with asyncio.timeout(LIMIT):
        while not condition():  # noqa: ASYNC110 another process's state has no event
            await asyncio.sleep(0.01)


@pytest.fixture
def runtime():
    """A runtime directory."""
    with short_directory() as path:
        yield path


@pytest.fixture
def context():
    """A context for the test's own sockets."""
    it = zmq.Context()
    yield it
    it.destroy(0)


@pytest.fixture
def office(context, runtime):
    """Somebody at the other end."""
    it = Office(context, runtime)
    yield it
    it.close()


@pytest.fixture
def told():
    """The worker's work."""
    return Worker()


@pytest.fixture
async def line(runtime, told) -> AsyncIterator[Uplink]:
    """An uplink, closed in time."""
    it = Uplink(Place(runtime, seat=3, slot=1, pid=77), told, lambda: 5, lambda: b"{}")
    yield it
    began = time.monotonic()
    it.close()
    assert time.monotonic() - began < 2


@pytest.mark.usefixtures("line")
async def test_it_says_hello_then_beats(office):
    """At once, and once a second."""
    assert await office.said(object) == Hello(seat=3, slot=1, pid=77)
    assert await office.said(object) == Beat(seat=3, slot=1, pid=77, calls=5)
    began = time.monotonic()
    for _ in range(2):
        assert await office.said(object) == Beat(seat=3, slot=1, pid=77, calls=5)
    assert 1.5 < time.monotonic() - began < 5


@pytest.mark.usefixtures("line")
async def test_it_publishes_a_snapshot_every_second(office):
    """On its slot's topic."""
    assert await office.published(b"metrics.1") == b"{}"
    began = time.monotonic()
    await office.published(b"metrics.1")
    assert 0.7 < time.monotonic() - began < 3


async def test_snapshots_can_be_made_rarer(office, line):
    """Under load; the beat stays."""
    line.interval_seconds = 60.0
    await office.published(b"metrics.1")
    for _ in range(2):
        await office.said(Beat)
    assert not office.xsub.poll(0)


async def test_call_events_have_a_topic_each(office, line):
    """And nothing is dropped when somebody listens."""
    await office.said(Beat)
    await office.published(b"metrics.1")
    line.publish(EVENT)
    assert Reader(CallEvent).decode(await office.published(b"call.started")) == EVENT
    assert line.dropped == 0


@pytest.mark.usefixtures("line")
async def test_orders_are_obeyed_and_answered(office, told):
    """Under the id they came with."""
    await office.said(Hello)
    office.order(OrderCalls(id="1"))
    assert await office.said(ReportCalls) == ReportCalls(id="1", seat=3, calls=[CALL])
    for call, found in (("r1", True), ("r2", False)):
        office.order(OrderHangUp(id=call, call=call))
        assert await office.said(ReportDone) == ReportDone(id=call, seat=3, found=found)
    office.order(OrderLogLevel(id="3", level="debug"))
    assert await office.said(ReportDone) == ReportDone(id="3", seat=3, found=True)
    assert told.levels == ["debug"]
    for call, sip in (("r1", SIP), ("r2", None)):
        office.order(OrderLadder(id=call, call=call))
        assert await office.said(ReportLadder) == ReportLadder(id=call, seat=3, sip=sip)
    office.order(OrderTrunks(id="4"))
    assert await office.said(ReportTrunks) == ReportTrunks(id="4", seat=3, trunks=[TRUNK])


@pytest.mark.parametrize("junk", [b"", b"\xff", encode(Refused(code="garbage", text="no"))])
async def test_what_is_no_order_is_counted_and_not_answered(office, line, junk):
    """A Refused that were refused would go on for ever."""
    await office.said(Hello)
    office.order(junk)
    office.order(OrderCalls(id="1"))
    assert (await office.said(ReportCalls)).id == "1"
    assert line.misunderstood == 1


@pytest.mark.usefixtures("line")
async def test_an_order_that_fails_does_not_stop_the_next(office):
    """The loop's own handler hears of it; the line goes on."""
    heard: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, what: heard.append(what))
    await office.said(Hello)
    office.order(OrderLogLevel(id="1", level="error"))
    office.order(OrderCalls(id="2"))
    assert (await office.said(ReportCalls)).id == "2"
    assert len(heard) == 1


async def test_with_nobody_there_everything_is_dropped_and_nothing_waits(line):
    """A thousand events in no time, all of them counted."""
    began = time.monotonic()
    for _ in range(1000):
        line.publish(EVENT)
    assert time.monotonic() - began < 0.5
    assert line.dropped == 1000
    assert not line.is_connected


async def test_it_says_hello_again_when_the_switchboard_is_back(context, runtime, line):
    """And what it says then arrives."""
    first = Office(context, runtime)
    await first.said(Hello)
    first.close()
    await until(lambda: not line.is_connected)
    second = Office(context, runtime)
    await second.said(Hello)
    await second.published(b"metrics.1")
    line.publish(EVENT)
    await second.published(b"call.started")
    second.close()


async def test_a_full_queue_drops_and_counts(context, runtime, line):
    """Whoever does not read does not make the worker wait, and gets the beginning, unbroken."""
    office = Office(context, runtime, rcvhwm=1)
    await office.said(Hello)
    await office.published(b"metrics.1")
    sent, longest = 0, 0.0
    while not line.dropped:
        began = time.monotonic()
        line.publish(EVENT)
        longest = max(longest, time.monotonic() - began)
        sent += 1
        assert sent < 100_000
    assert longest < 0.1
    assert sent >= uplink.PUBLISH_HWM - 1
    got = 0
    while office.xsub.poll(200):
        frames = office.xsub.recv_multipart()
        assert len(frames) == 2
        got += frames[0] == b"call.started"
    assert got == sent - 1
    office.close()


@pytest.mark.usefixtures("line")
async def test_a_worker_whose_loop_stands_still_is_there_again_after(office):
    """Orders wait for it; its next beat comes."""
    await office.said(Beat)
    office.order(OrderCalls(id="1"))
    time.sleep(1.5)  # noqa: ASYNC251 this is the standstill
    assert (await office.said(ReportCalls)).id == "1"
    await office.said(Beat)


@pytest.mark.usefixtures("line")
async def test_the_whole_way_through_the_real_switchboard(runtime, told):
    """Asked by an operator, before and after the switchboard was killed."""
    with sockets() as theirs:
        for _ in range(2):
            board = await asyncio.to_thread(Board, runtime)
            operator = Peer(theirs, zmq.DEALER, f"ipc://{runtime / CONTROL_SOCKET}")

            async def listed(peer: Peer = operator) -> Calls:
                reply = await asyncio.to_thread(peer.ask, AskCalls(id="c"))
                assert isinstance(reply, Calls)
                return reply

            async with asyncio.timeout(LIMIT):
                while not (await listed()).calls:  # noqa: ASYNC110 as above
                    await asyncio.sleep(0.02)
            assert (await listed()).calls == [CALL]
            answer = await asyncio.to_thread(operator.ask, AskHangUp(id="h", call="r1"))
            assert isinstance(answer, Answer)
            assert answer.ok
            assert board.faults() == []
            board.process.kill()
            board.end()
    assert told.ended == ["r1", "r1"]
