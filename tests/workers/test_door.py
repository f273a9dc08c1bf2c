"""The door: every connection is steered by its request line, whatever comes and however slowly."""

from __future__ import annotations

import asyncio
import functools
import inspect
import os
import resource
import socket
import ssl
import struct
import time
from collections.abc import Awaitable, Callable

import pytest

from tests.workers.on_loop import highest_descriptor, on_worker_loop, open_descriptors, until
from workers import door as room
from workers.door import HEAD_BYTES, HEADS, Door
from workers.steer import Way

REQUEST = b"GET /telephony/ws/raw/r1 HTTP/1.1\r\nHost: h\r\n\r\n"
LINE = b"GET /telephony/ws/raw/r1 HTTP/1.1\r"


class Hall:
    """What is behind a door: it remembers who came, and gives away what it is told to."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
        self.address = self.listener.getsockname()
        self.door = Door(self.listener, self.decide, self.serve, self.give)
        self.owner: int | None = None
        self.decided: list[tuple[bytes, tuple[int, ...], bool]] = []
        self.served: list[socket.socket] = []
        self.given: list[tuple[int, socket.socket, tuple[int, ...]]] = []
        self.callers: list[socket.socket] = []
        self.door.start()

    def decide(self, line, passed, _connection, *, given) -> Way:
        """As it was told."""
        self.decided.append((line, passed, given))
        return Way(self.owner, (*passed, 99))

    def serve(self, connection: socket.socket) -> None:
        """Here."""
        self.served.append(connection)

    def give(self, seat: int, connection: socket.socket, passed: tuple[int, ...]) -> None:
        """Elsewhere."""
        self.given.append((seat, connection, passed))

    def call(self, data: bytes = b"") -> socket.socket:
        """A caller, who has said this much."""
        caller = socket.create_connection(self.address)
        self.callers.append(caller)
        if data:
            caller.sendall(data)
        return caller

    def close(self) -> None:
        """Everybody goes."""
        self.door.close()
        for each in (*self.callers, *self.served, *(given[1] for given in self.given)):
            each.close()


def with_hall(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """The test, on the loop of workers, with a door of its own as its first argument."""

    async def run(*args: object, **fixtures: object) -> None:
        hall = Hall()
        try:
            await test(hall, *args, **fixtures)
        finally:
            hall.close()

    functools.update_wrapper(run, test)
    del run.__wrapped__
    _, *others = inspect.signature(test).parameters.values()
    run.__signature__ = inspect.Signature(others)
    return on_worker_loop(run)


def is_closed(caller: socket.socket) -> bool:
    """Whether the other side has closed it."""
    caller.setblocking(False)
    try:
        return caller.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True


@with_hall
async def test_a_request_is_served_with_every_byte_still_there(hall: Hall) -> None:
    """The request line decides; nothing of it is consumed, and TCP_NODELAY is set."""
    hall.call(REQUEST)
    await until(lambda: hall.served)
    assert hall.decided == [(LINE, (), False)]
    (connection,) = hall.served
    assert connection.recv(1000) == REQUEST
    assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert not connection.getblocking()


@with_hall
async def test_what_belongs_to_a_fellow_is_given(hall: Hall) -> None:
    """With the seats that the decision named, and every byte still there."""
    hall.owner = 7
    hall.call(REQUEST)
    await until(lambda: hall.given)
    ((seat, connection, passed),) = hall.given
    assert (seat, passed) == (7, (99,))
    assert connection.recv(1000) == REQUEST


@with_hall
async def test_what_a_fellow_gives_and_what_comes_back_are_told_apart(hall: Hall) -> None:
    """`take` says that we were chosen, `route` that the choice is open; both keep who passed."""
    for put in (hall.door.take, hall.door.route):
        ours, theirs = socket.socketpair()
        hall.callers.append(theirs)
        ours.setblocking(False)
        theirs.sendall(REQUEST)
        put(ours, (3,))
    assert hall.decided == [(LINE, (3,), True), (LINE, (3,), False)]
    assert len(hall.served) == 2


@with_hall
async def test_a_head_in_pieces_is_waited_for_without_turning_in_circles(hall: Hall) -> None:
    """Byte by byte, it is one decision at the end; a partial line costs no processor time."""
    caller = hall.call()
    for number in range(len(REQUEST) - 1):
        caller.sendall(REQUEST[number : number + 1])
        await asyncio.sleep(0)
    await until(lambda: len(hall.door) == 1)
    await asyncio.sleep(0.05)
    before = time.process_time()
    await asyncio.sleep(0.5)
    assert time.process_time() - before < 0.1
    assert [head.recheck for head in hall.door._heads.values()] == [None]
    assert hall.served == []
    caller.sendall(REQUEST[-1:])
    await until(lambda: hall.served)
    assert hall.decided == [(LINE, (), False)]
    assert hall.served[0].recv(1000) == REQUEST
    assert hall.served[0].getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT) == 1


@with_hall
async def test_a_served_connection_wakes_its_server_for_a_single_byte(hall: Hall) -> None:
    """What the door asked of the socket while it waited is undone."""
    caller = hall.call(REQUEST[:20])
    await until(lambda: len(hall.door) == 1)
    caller.sendall(REQUEST[20:])
    await until(lambda: hall.served)
    loop = asyncio.get_running_loop()
    await loop.sock_recv(hall.served[0], 1000)
    caller.sendall(b"x")
    async with asyncio.timeout(2):
        assert await loop.sock_recv(hall.served[0], 10) == b"x"


@pytest.mark.parametrize(
    "said",
    [
        b"\x16\x03\x01\x02\x00\x01\x00",  # a TLS hello
        b"PRI * HTTP/2.0\r\n",
        b"hello\r\n",
        b"\0\0\0\0",
        b"SSH-2.0-x\r\n",
        b"G" * (HEAD_BYTES + 100),
        b"GET /" + b"x" * HEAD_BYTES + b" HTTP/1.1\r\n",
    ],
)
@with_hall
async def test_what_is_no_request_is_served_at_once(hall: Hall, said: bytes) -> None:
    """The HTTP server answers it; nothing waits for the rest of it."""
    hall.call(said)
    await until(lambda: hall.served)
    assert len(hall.door) == 0


@pytest.mark.parametrize("said", [b"", b"GET /telephony"])
@pytest.mark.parametrize("reset", [False, True])
@with_hall
async def test_an_early_end_costs_nothing(hall: Hall, said: bytes, reset) -> None:
    """A caller that goes before its head is complete is forgotten at once, and is no call."""
    caller = hall.call(said)
    await until(lambda: len(hall.door) == 1)
    if reset:
        caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    caller.close()
    await until(lambda: len(hall.door) == 0, within=1.0)
    assert hall.decided == []
    assert hall.door.dropped == 0


@with_hall
async def test_a_head_that_does_not_come_is_dropped(hall: Hall) -> None:
    """After HEAD_SECONDS, however alive it looks; the caller sees its connection closed."""
    caller = hall.call(b"GET /")
    await until(lambda: len(hall.door) == 1)
    (head,) = hall.door._heads.values()
    assert 0 < head.deadline.when() - asyncio.get_running_loop().time() <= room.HEAD_SECONDS
    hall.door._drop(head.connection.fileno())  # what that timer does
    assert len(hall.door) == 0
    assert hall.door.dropped == 1
    await until(lambda: is_closed(caller))


@with_hall
async def test_too_many_silent_connections_cost_the_oldest_of_them(hall: Hall) -> None:
    """At most HEADS wait, and a real caller gets through a crowd that says nothing."""
    for _ in range(HEADS):
        hall.call()
        await asyncio.sleep(0)
    await until(lambda: len(hall.door) == HEADS)
    hall.call(REQUEST)
    await until(lambda: hall.served)
    assert hall.door.dropped == 0
    hall.call()
    hall.call()
    await until(lambda: hall.door.dropped == 2)
    assert len(hall.door) == HEADS
    assert [is_closed(caller) for caller in hall.callers[:4]] == [True, True, False, False]


@with_hall
async def test_a_closing_door_takes_what_waits_and_lets_heads_finish(hall: Hall) -> None:
    """Whoever was in the queue is served, nobody comes in afterwards."""
    slow = hall.call(b"GET /telephony/ws/raw/r1 HTT")
    await until(lambda: len(hall.door) == 1)
    for _ in range(100):
        hall.call(REQUEST)
    hall.door.stop()
    assert len(hall.served) == 100
    with pytest.raises(ConnectionRefusedError):
        hall.call()
    slow.sendall(b"P/1.1\r\n\r\n")
    await until(lambda: len(hall.served) == 101)
    hall.door.stop()


@with_hall
async def test_without_descriptors_callers_wait_and_are_served_afterwards(
    hall: Hall, capfd: pytest.CaptureFixture[str]
) -> None:
    """Accepting pauses without turning in circles; nobody is torn, and one line says so."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    callers = [socket.socket() for _ in range(5)]
    hall.callers += callers
    used = highest_descriptor()
    hoard = [os.dup(0) for _ in range(used + 3 - open_descriptors())]
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 1, hard))
    try:
        for caller in callers:
            caller.connect(hall.address)
            caller.sendall(REQUEST)
        await until(lambda: hall.door._pause is not None)
        before = time.process_time()
        await asyncio.sleep(room.PAUSE_SECONDS * 2.5)
        assert time.process_time() - before < 0.1
        waiting = 5 - len(hall.served)
        assert waiting > 0
        assert not any(is_closed(caller) for caller in callers)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for each in hoard:
            os.close(each)
    await until(lambda: len(hall.served) == 5)
    await until(lambda: hall.door._pause is None)
    said = capfd.readouterr()
    assert (said.out + said.err).count("door.choked") == 1


@with_hall
async def test_a_tls_client_is_told_and_not_left_waiting(hall: Hall) -> None:
    """A real hello is served at once; what the server answers is its own affair."""
    caller = hall.call()
    context = ssl.create_default_context()
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    caller.sendall(outgoing.read())
    await until(lambda: hall.served)


@with_hall
async def test_a_storm_of_connections_leaves_no_descriptor_behind(hall: Hall) -> None:
    """Two thousand of every kind: served, given, broken off."""
    before = open_descriptors()
    for number in range(2000):
        caller = socket.create_connection(hall.address)
        if number % 3:
            caller.sendall(REQUEST[: None if number % 3 == 1 else 10])
        hall.owner = 1 if number % 2 else None
        caller.close()
        if number % 50 == 0:
            await asyncio.sleep(0)
    await until(lambda: len(hall.served) + len(hall.given) >= 667 and len(hall.door) == 0)
    for each in (*hall.served, *(given[1] for given in hall.given)):
        each.close()
    assert open_descriptors() == before
