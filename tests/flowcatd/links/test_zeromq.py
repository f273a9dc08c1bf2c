"""A ZeroMQ socket on the loop: no message is forgotten, nobody waits, nobody is held up."""

from __future__ import annotations

import asyncio
import time

import pytest
import uvloop
import zmq

from flowcatd.links.zeromq import BATCH, Sent, Wire

LIMIT = 10.0
ADDRESS = "inproc://wire"


@pytest.fixture
def context():
    """A context that is gone after the test."""
    it = zmq.Context()
    yield it
    it.destroy(0)


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def runner(request):
    """Both loops, since they read descriptors in ways of their own."""
    with asyncio.Runner(loop_factory=request.param) as it:
        yield it


def test_every_message_is_heard_though_each_is_answered_while_more_come(runner, context):
    """The edge that a send uses up is looked for: without that, the exchange stops half-way."""

    async def exchange() -> list[int]:
        left, right = context.socket(zmq.PAIR), context.socket(zmq.PAIR)
        left.bind(ADDRESS)
        right.connect(ADDRESS)
        heard = [0, 0]
        done = asyncio.Event()
        count = 5000

        def hear(side: int) -> None:
            heard[side] += 1
            if heard[side] <= count:
                wires[side].send([b"again"])
            if min(heard) >= count:
                done.set()

        wires = [Wire(left, lambda _: hear(0)), Wire(right, lambda _: hear(1))]
        for _ in range(50):
            wires[0].send([b"begin"])
            wires[1].send([b"begin"])
        async with asyncio.timeout(LIMIT):
            await done.wait()
        for wire in wires:
            wire.close(0)
        return heard

    heard = runner.run(exchange())
    assert min(heard) >= 5000


def test_what_came_before_anybody_listened_is_heard(runner, context):
    """Its edge was used up by then."""

    async def listen() -> list[bytes]:
        left, right = context.socket(zmq.PAIR), context.socket(zmq.PAIR)
        left.bind(ADDRESS)
        right.connect(ADDRESS)
        left.send(b"early")
        assert right.getsockopt(zmq.EVENTS) & zmq.POLLIN
        heard: asyncio.Future[list[bytes]] = asyncio.get_running_loop().create_future()
        wire = Wire(right, heard.set_result)
        async with asyncio.timeout(LIMIT):
            frames = await heard
        wire.close(0)
        left.close(0)
        return frames

    assert runner.run(listen()) == [b"early"]


def test_a_flood_lets_others_have_their_turn(runner, context):
    """Between two batches everything else of the loop is run once."""

    async def flood() -> int:
        left, right = context.socket(zmq.PAIR), context.socket(zmq.PAIR)
        for socket in (left, right):
            socket.sndhwm = socket.rcvhwm = 0
        left.bind(ADDRESS)
        right.connect(ADDRESS)
        for _ in range(BATCH * 20):
            left.send(b"x")
        heard, most, since = 0, 0, 0

        def hear(_: list[bytes]) -> None:
            nonlocal heard, since, most
            heard += 1
            since += 1
            most = max(most, since)

        wire = Wire(right, hear)
        async with asyncio.timeout(LIMIT):
            while heard < BATCH * 20:
                since = 0
                await asyncio.sleep(0)
        wire.close(0)
        left.close(0)
        return most

    # Two callbacks may share a turn of the loop: the descriptor's and the batch before's.
    assert runner.run(flood()) <= 2 * BATCH


def test_a_callback_that_raises_loses_only_its_own_message(runner, context):
    """The loop's handler hears of it; the rest is read."""

    async def stumble() -> tuple[list[bytes], int]:
        left, right = context.socket(zmq.PAIR), context.socket(zmq.PAIR)
        left.bind(ADDRESS)
        right.connect(ADDRESS)
        for word in (b"bad", b"good"):
            left.send(word)
        told: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, what: told.append(what))
        heard: asyncio.Future[list[bytes]] = asyncio.get_running_loop().create_future()

        def hear(frames: list[bytes]) -> None:
            if frames == [b"bad"]:
                raise ValueError
            heard.set_result(frames)

        wire = Wire(right, hear)
        async with asyncio.timeout(LIMIT):
            frames = await heard
        wire.close(0)
        left.close(0)
        return frames, len(told)

    assert runner.run(stumble()) == ([b"good"], 1)


def test_sending_says_what_became_of_it_and_never_waits(runner, context):
    """There, full, no such peer, closed."""

    async def send() -> list[Sent]:
        router, nobody, pair = (context.socket(kind) for kind in (zmq.ROUTER, zmq.DEALER, zmq.PAIR))
        router.router_mandatory = 1
        pair.bind(ADDRESS)
        other = context.socket(zmq.PAIR)
        other.connect(ADDRESS)
        wires = [Wire(socket, print) for socket in (router, nobody, pair)]
        sent = [
            wires[0].send([b"nobody", b"x"]),
            wires[1].send([b"x"]),
            wires[2].send([b"x"]),
        ]
        for wire in wires:
            wire.close(0)
        sent.append(wires[2].send([b"x"]))
        other.close(0)
        return sent

    began = time.monotonic()
    assert runner.run(send()) == [Sent.GONE, Sent.FULL, Sent.DONE, Sent.GONE]
    assert time.monotonic() - began < 1


def test_a_closed_wire_hears_nothing_and_closes_twice(runner, context):
    """Also when it is closed by what it hears."""

    async def close() -> int:
        left, right = context.socket(zmq.PAIR), context.socket(zmq.PAIR)
        left.bind(ADDRESS)
        right.connect(ADDRESS)
        left.send(b"1")
        left.send(b"2")
        heard = []
        done = asyncio.Event()

        def hear(frames: list[bytes]) -> None:
            heard.append(frames)
            wire.close(0)
            done.set()

        wire = Wire(right, hear)
        async with asyncio.timeout(LIMIT):
            await done.wait()
        wire.close(0)
        left.close(0)
        await asyncio.sleep(0)
        return len(heard)

    assert runner.run(close()) == 1
