"""Connections between workers: served exactly once, whoever dies, hangs, or talks rubbish."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import mmap
import os
import resource
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

from flowcatd.sip.event import Hop
from tests.workers.on_loop import highest_descriptor, on_worker_loop, open_descriptors, until
from workers import hand_over
from workers.hand_over import OUTSTANDING, HandOver, Receivers
from workers.hand_over_message import VERSION, Ack, Connection, Datagram, SipGone, SipMessage
from workers.load import LoadTable, Standing, table_bytes
from workers.plan import hand_over_path

ROOT = Path(__file__).parents[2]
encode = msgspec.msgpack.encode


@pytest.fixture
def runtime() -> Iterator[Path]:
    """A directory whose name leaves room for a socket's."""
    path = Path(tempfile.mkdtemp(prefix="fc-", dir="/tmp"))
    yield path
    shutil.rmtree(path)


class Seat:
    """One worker's hand-over and what came of it."""

    def __init__(self, runtime: Path, seat: int) -> None:
        self.taken: list[tuple[socket.socket, tuple[int, ...]]] = []
        self.returned: list[tuple[socket.socket, tuple[int, ...]]] = []
        self.datagrams: list[tuple[bytes, object]] = []
        self.messages: list[SipMessage | SipGone] = []
        self.seat = seat
        self.wire = HandOver(
            runtime,
            seat,
            Receivers(
                lambda sock, passed: self.taken.append((sock, passed)),
                lambda sock, passed: self.returned.append((sock, passed)),
                lambda data, source: self.datagrams.append((data, source)),
                self.messages.append,
            ),
        )

    def give(self, seat: int, passed: tuple[int, ...] = ()) -> socket.socket:
        """Give one end of a pair; the other end is the caller."""
        ours, caller = socket.socketpair()
        ours.setblocking(False)
        self.wire.give(seat, ours, passed)
        return caller


@dataclass(frozen=True, slots=True)
class Two:
    """Seats 0 and 1."""

    a: Seat
    b: Seat
    runtime: Path


def with_seats(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """The test with seats 0 and 1, on the loop of workers."""

    async def run(runtime: Path) -> None:
        two = Two(Seat(runtime, 0), Seat(runtime, 1), runtime)
        try:
            await test(two)
        finally:
            two.a.wire.close()
            two.b.wire.close()
            await asyncio.sleep(0)  # what was still owed comes back by the loop
            for seat in (two.a, two.b):
                for sock, _ in (*seat.taken, *seat.returned):
                    sock.close()

    functools.update_wrapper(run, test)
    del run.__wrapped__
    parameter = inspect.Parameter("runtime", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    run.__signature__ = inspect.Signature([parameter])
    return on_worker_loop(run)


def fake_fellow(runtime: Path, seat: int) -> socket.socket:
    """A listener of our own in that seat."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(str(hand_over_path(runtime, seat)))
    listener.listen()
    return listener


def fake_giver(runtime: Path, seat: int) -> socket.socket:
    """A connection of our own to that seat."""
    wire = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    wire.connect(str(hand_over_path(runtime, seat)))
    return wire


def is_over(wire: socket.socket) -> bool:
    """Whether the other side has ended it."""
    wire.setblocking(False)
    try:
        return wire.recv(100) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True


# --- in order -------------------------------------------------------------------------------------


@with_seats
async def test_a_connection_goes_over_with_its_bytes_and_its_history(two: Two) -> None:
    """The taker has it and whom it passed; the giver's copy is closed once that is sure."""
    before = open_descriptors()
    with two.a.give(1, (5, 6)) as caller:
        caller.sendall(b"GET /")
        assert len(two.a.wire) == 1
        await until(lambda: two.b.taken and not len(two.a.wire))
        ((sock, passed),) = two.b.taken
        assert passed == (5, 6)
        assert sock.recv(10) == b"GET /"
        sock.sendall(b"200")
        assert caller.recv(10) == b"200"
        sock.close()
        assert caller.recv(10) == b""
    assert (two.a.wire.given, two.b.wire.taken, two.a.wire.failed) == (1, 1, 0)
    # Two ends of one connection between the fellows remain: it is kept.
    assert open_descriptors() == before + 2


@with_seats
async def test_a_datagram_of_an_older_fellow_is_still_taken(two: Two) -> None:
    """Both families, up to the longest there is: during an upgrade older workers live beside us."""
    sources = [("127.0.0.1", 5060), ("::1", 5060, 0, 0), ("fe80::1%lo", 5060, 0, 1)]
    with fake_giver(two.runtime, 1) as wire:
        for source in sources:
            wire.send(encode(Datagram(VERSION, source, b"x" * 65_507)))
        await until(lambda: len(two.b.datagrams) == 3)
    assert two.b.datagrams == [(b"x" * 65_507, source) for source in sources]


@with_seats
async def test_a_sip_message_goes_over_whole_with_its_hop_and_its_history(two: Two) -> None:
    """Of every transport and family, up to the longest there is, both ways; and so does its failure."""
    hops = [
        ("UDP", "127.0.0.1", 5060, 0),
        ("TLS", "::1", 1, 5 << 32 | 9),
        ("WS", "fe80::1%lo", 2, 1),
    ]
    sent: list[SipMessage | SipGone] = [
        SipMessage(VERSION, 0, *hop, b"x" * 65_536, outward=number == 1, passed=(7, number))
        for number, hop in enumerate(hops)
    ]
    sent.append(SipGone(VERSION, 0, *hops[1]))
    assert all(two.a.wire.give_sip(1, message) for message in sent)
    await until(lambda: len(two.b.messages) == 4)
    assert two.b.messages == sent
    assert two.b.messages[1].hop == Hop("TLS", "::1", 1, 5 << 32 | 9)
    assert not two.a.wire.give_sip(7, sent[0])


@with_seats
async def test_what_a_newer_worker_says_costs_nothing_but_itself(two: Two) -> None:
    """A kind or version that we do not know is passed by; what follows on that line is understood."""
    with fake_giver(two.runtime, 1) as wire:
        known = SipMessage(VERSION, 0, "UDP", "127.0.0.1", 5060, 0, b"x")
        ours, caller = socket.socketpair()
        for unknown in (["what", 1], ["sip", 2, {"a": 1}], ["connection", 3, 1, []]):
            socket.send_fds(wire, [encode(unknown)], [ours.fileno()])
        wire.send(encode(known))
        await until(lambda: two.b.messages)
        assert two.b.messages == [known]
        assert two.b.wire.unknown == 3
        assert not is_over(wire)
        ours.close()
        assert is_over(caller)
        caller.close()


@with_seats
async def test_thousands_of_hand_overs_leave_no_descriptor_behind(two: Two) -> None:
    """To and fro, with ends, deaths of fellows and returns among them."""
    caller = two.a.give(1)
    await until(lambda: two.b.taken)
    caller.close()
    before = open_descriptors() + 2  # the connection back from b to a comes, too
    for number in range(4000):
        giver, taker = (two.a, two.b) if number % 2 else (two.b, two.a)
        giver.give(taker.seat if number % 7 else 7).close()
        if number % 40 == 0:
            await until(lambda: not len(two.a.wire) + len(two.b.wire))
    total = 4001
    await until(
        lambda: sum(map(len, (two.a.taken, two.b.taken, two.a.returned, two.b.returned))) == total
    )
    await until(lambda: not len(two.a.wire) + len(two.b.wire))
    for sock, _ in (*two.a.taken[:], *two.b.taken[1:], *two.a.returned, *two.b.returned):
        sock.close()
    assert open_descriptors() == before
    assert len(two.a.returned) + len(two.b.returned) == len(range(0, 4000, 7))


@with_seats
async def test_a_stale_socket_is_replaced_and_ours_is_removed(two: Two) -> None:
    """Whatever a dead process left in the seat's name; never what a successor put there."""
    path = hand_over_path(two.runtime, 1)
    two.b.wire.close()
    assert not path.exists()
    fake_fellow(two.runtime, 1).close()
    assert path.exists()
    newer = Seat(two.runtime, 1)
    two.a.give(1).close()
    await until(lambda: newer.taken)
    path.unlink()
    fake = fake_fellow(two.runtime, 1)
    newer.wire.close()
    assert path.exists()
    fake.close()
    newer.taken[0][0].close()


# --- when a fellow fails --------------------------------------------------------------------------


@with_seats
async def test_nobody_there_is_known_at_once(two: Two) -> None:
    """The connection comes back by the loop, past that seat, open."""
    caller = two.a.give(7, (1,))
    assert two.a.returned == []
    await until(lambda: two.a.returned)
    ((sock, passed),) = two.a.returned
    assert passed == (1, 7)
    sock.sendall(b"here")
    assert caller.recv(10) == b"here"
    caller.close()
    assert two.a.wire.failed == 1


@with_seats
async def test_a_fellow_that_dies_gives_back_what_it_did_not_take(two: Two) -> None:
    """What it acknowledged is its own; the rest is routed again at once."""
    with fake_fellow(two.runtime, 2) as fellow:
        callers = [two.a.give(2) for _ in range(3)]
        wire, _ = fellow.accept()
        data, descriptors, _, _ = socket.recv_fds(wire, 1000, 4)
        number = msgspec.msgpack.decode(data, type=Connection).number
        wire.send(encode(Ack(VERSION, number)))
        wire.close()
    await until(lambda: len(two.a.returned) == 2, within=hand_over.ACK_SECONDS * 0.9)
    assert two.a.wire.given == 1
    assert [passed for _, passed in two.a.returned] == [(2,), (2,)]
    os.close(descriptors[0])
    assert [is_over(caller) for caller in callers] == [True, False, False]
    for caller in callers:
        caller.close()


@with_seats
async def test_a_fellow_that_is_late_can_take_it_no_more(two: Two) -> None:
    """After ACK_SECONDS it is routed again, and the kernel refuses the late Ack: served once."""
    with fake_fellow(two.runtime, 2) as fellow, two.a.give(2) as caller:
        wire, _ = fellow.accept()
        data, (descriptor,), _, _ = socket.recv_fds(wire, 1000, 4)
        os.close(descriptor)
        began = time.monotonic()
        await until(lambda: two.a.returned)
        assert hand_over.ACK_SECONDS * 0.9 < time.monotonic() - began < hand_over.ACK_SECONDS * 4
        number = msgspec.msgpack.decode(data, type=Connection).number
        with pytest.raises(BrokenPipeError):
            wire.send(encode(Ack(VERSION, number)))
        wire.close()
        assert not is_over(caller)


@with_seats
async def test_a_giver_that_stood_still_finds_the_ack_that_came(two: Two) -> None:
    """Its own delay is not the taker's: what was taken in time is not served a second time."""
    with fake_fellow(two.runtime, 2) as fellow, two.a.give(2):
        wire, _ = fellow.accept()
        wire.send(encode(Ack(VERSION, 0)))
        time.sleep(hand_over.ACK_SECONDS * 1.1)  # noqa: ASYNC251 the loop is to stand still
        await until(lambda: not len(two.a.wire))
        assert (two.a.wire.given, two.a.wire.failed) == (1, 0)
        with two.a.give(2):
            assert len(two.a.wire) == 1, "the fellow was dropped for our own delay"
        wire.close()


@with_seats
async def test_a_taker_does_not_serve_what_its_giver_has_taken_back(two: Two) -> None:
    """A message that is read too late is dropped with its descriptor."""
    before = open_descriptors()
    for end in (lambda wire: wire.shutdown(socket.SHUT_RD), lambda wire: wire.close()):
        ours, caller = socket.socketpair()
        with fake_giver(two.runtime, 1) as wire:
            message = encode(Connection(VERSION, 0, ()))
            socket.send_fds(wire, [message], [ours.fileno()])
            end(wire)
            ours.close()
            await until(lambda caller=caller: is_over(caller))
        caller.close()
    assert two.b.taken == []
    assert two.b.wire.taken == 0
    await until(lambda: open_descriptors() == before)


@with_seats
async def test_a_fellow_that_does_not_read_owes_a_bounded_number(two: Two) -> None:
    """One more is routed elsewhere at once."""
    with fake_fellow(two.runtime, 2) as fellow:
        callers = [two.a.give(2) for _ in range(OUTSTANDING + 5)]
        assert len(two.a.wire) == OUTSTANDING
        await until(lambda: len(two.a.returned) == 5, within=hand_over.ACK_SECONDS * 0.9)
        wire, _ = fellow.accept()
        wire.close()
    await until(lambda: len(two.a.returned) == OUTSTANDING + 5)
    assert not any(is_over(caller) for caller in callers)
    for caller in callers:
        caller.close()


@with_seats
async def test_messages_that_do_not_fit_are_refused_and_not_kept(two: Two) -> None:
    """A socket that is full says so, as does a seat that nobody has; nothing waits in a queue of ours."""
    message = SipMessage(VERSION, 0, "UDP", "127.0.0.1", 5060, 0, b"x" * 60_000)
    assert not two.a.wire.give_sip(7, message)
    with fake_fellow(two.runtime, 2):
        sent = [two.a.wire.give_sip(2, message) for _ in range(50)]
    assert sent[0]
    assert not sent[-1]


@with_seats
async def test_without_descriptors_nothing_is_lost_and_nothing_turns_in_circles(two: Two) -> None:
    """A fellow that cannot be let in waits; when descriptors come back, it is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    hoard: list[int] = []
    wire = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest_descriptor() + 3, hard))
        with contextlib.suppress(OSError):
            while True:
                hoard.append(os.dup(0))
        wire.connect(str(hand_over_path(two.runtime, 1)))
        await until(lambda: two.b.wire._pause is not None)
        before = time.process_time()
        await asyncio.sleep(hand_over.PAUSE_SECONDS * 1.5)
        assert time.process_time() - before < 0.1
        assert len(two.b.wire._givers) == 0
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for each in hoard:
            os.close(each)
    await until(lambda: len(two.b.wire._givers) == 1)
    wire.close()


@with_seats
async def test_closing_gives_back_what_nobody_has_taken(two: Two) -> None:
    """And afterwards nothing goes any more."""
    with fake_fellow(two.runtime, 2):
        caller = two.a.give(2)
        two.a.wire.close()
        late = two.a.give(1)
    await until(lambda: len(two.a.returned) == 2)
    assert [passed for _, passed in two.a.returned] == [(2,), (1,)]
    caller.close()
    late.close()


# --- garbage --------------------------------------------------------------------------------------

GOOD = encode(Connection(VERSION, 1, ()))
SIP = encode(SipMessage(VERSION, 0, "UDP", "127.0.0.1", 5060, 0, b"x"))
DATAGRAM = encode(Datagram(VERSION, ("127.0.0.1", 5), b"x"))


@pytest.mark.parametrize(
    ("message", "descriptors"),
    [
        (b"garbage", 0),
        (b"\xc1", 1),
        (b"\x91" * 5000, 1),
        (encode(["connection", 0, 1, []]), 1),
        (encode(["connection", 1, 1, [0] * 2000]), 1),
        (encode(["connection", 1, "x", []]), 1),
        (encode(["what"]), 0),
        (encode({"what": 1}), 0),
        (SIP, 1),
        (encode(["sip", 1, 0, "UDP", "localhost", 5, 0, b"x"]), 0),
        (encode(["sip", 1, 0, "UDP", "127.0.0.1", 0, 0, b"x"]), 0),
        (encode(["sip", 1, 0, "SCTP", "127.0.0.1", 5, 0, b"x"]), 0),
        (encode(["sip", 1, 0, "TCP", "127.0.0.1", 5, -1, b"x"]), 0),
        (encode(["sip", 1, 0, "TCP", "127.0.0.1", 5, 1, b"x" * 65_537]), 0),
        (encode(["sip-gone", 1, 5000, "TCP", "127.0.0.1", 5, 1]), 0),
        (GOOD, 0),
        (GOOD, 2),
        (GOOD, 9),
        (DATAGRAM, 1),
        (encode(Datagram(VERSION, ("localhost", 5), b"x")), 0),
        (encode(Datagram(VERSION, ("127.0.0.1", 0), b"x")), 0),
        (encode(Datagram(VERSION, ("127.0.0.1",), b"x")), 0),
        (encode(Datagram(VERSION, ("::1", 5, "a", "b"), b"x")), 0),
        (encode(Datagram(VERSION, ("a\0b", 5), b"x")), 0),
        (b"x" * 80_000, 0),
    ],
)
def test_garbage_costs_its_sender_its_connection(runtime, message, descriptors, capfd) -> None:
    """One line says so, no descriptor stays, and other fellows are not disturbed."""

    @with_seats
    async def run(two: Two) -> None:
        with two.a.give(1):
            await until(lambda: two.b.taken and not len(two.a.wire))
        before = open_descriptors()
        ours, caller = socket.socketpair()
        with fake_giver(two.runtime, 1) as wire, caller:
            socket.send_fds(wire, [message], [ours.fileno()] * descriptors)
            ours.close()
            await until(lambda: is_over(wire))
            assert is_over(caller)
        assert open_descriptors() == before
        assert len(two.b.taken) == 1
        assert two.b.datagrams == []
        assert two.b.messages == []
        with two.a.give(1):
            await until(lambda: len(two.b.taken) == 2)

    run(runtime)
    said = capfd.readouterr()
    assert (said.out + said.err).count("fellow.lost") == 1


@with_seats
async def test_what_is_no_socket_is_not_taken(two: Two) -> None:
    """A pipe in the place of a connection is closed."""
    read, write = os.pipe()
    with fake_giver(two.runtime, 1) as wire:
        socket.send_fds(wire, [GOOD], [write])
        os.close(write)
        await until(lambda: is_over(wire))
    poll = select.poll()
    poll.register(read, select.POLLIN)
    assert poll.poll(1000)[0][1] & select.POLLHUP
    os.close(read)
    assert two.b.taken == []


@with_seats
async def test_an_answer_that_is_garbage_ends_that_fellow(two: Two) -> None:
    """What it owes is routed elsewhere."""
    with fake_fellow(two.runtime, 2) as fellow, two.a.give(2):
        wire, _ = fellow.accept()
        wire.send(b"garbage")
        await until(lambda: two.a.returned)
        wire.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")
def test_another_user_is_turned_away(runtime, capfd) -> None:
    """Even one whom the directory would let in."""

    @with_seats
    async def run(two: Two) -> None:
        two.runtime.chmod(0o755)
        hand_over_path(two.runtime, 1).chmod(0o666)
        program = (
            "import os, socket, sys\nos.setuid(65534)\n"
            "wire = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)\n"
            "wire.connect(sys.argv[1])\nwire.settimeout(5)\n"
            "try:\n    print(wire.recv(10))\nexcept ConnectionResetError:\n    print(b'')\n"
        )
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-c", program, str(hand_over_path(two.runtime, 1)), stdout=-1
        )
        assert (await child.communicate())[0] == b"b''\n"
        assert len(two.b.wire._givers) == 0

    run(runtime)
    said = capfd.readouterr()
    assert (said.out + said.err).count("fellow.refused") == 1


# --- several processes ----------------------------------------------------------------------------


class Toys:
    """Toy workers on one port, one seat per slot."""

    def __init__(self, runtime: Path, count: int, capacity: int, bound: float = 1.25) -> None:
        self.runtime, self.bound, self.capacity = runtime, bound, capacity
        self.table_fd = os.memfd_create("toys")
        os.ftruncate(self.table_fd, table_bytes(count))
        self.memory = mmap.mmap(self.table_fd, 0)
        self.words = memoryview(self.memory).cast("q")
        self.loads = LoadTable(self.words)
        self.doors = [self._listen()]
        self.port = self.doors[0].getsockname()[1]
        self.doors += [self._listen(self.port) for _ in range(count - 1)]
        self.processes: dict[int, subprocess.Popen[bytes]] = {}
        for slot in range(count):
            self.start(slot, slot)
        self.wait(lambda: len(self.serving()) == count)

    @staticmethod
    def _listen(port: int = 0) -> socket.socket:
        door = socket.socket()
        door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        door.bind(("127.0.0.1", port))
        door.listen(1024)
        return door

    def start(self, seat: int, slot: int) -> None:
        """One more process."""
        self.loads.row(seat).sit(slot=slot, capacity=self.capacity, now=time.monotonic())
        door = self.doors[slot].fileno()
        words = [str(each) for each in (seat, self.table_fd, door, self.runtime, self.bound)]
        self.processes[seat] = subprocess.Popen(
            [sys.executable, "-m", "tests.workers.toy_worker", *words],
            cwd=ROOT,
            pass_fds=(self.table_fd, door),
        )

    def serving(self) -> list[int]:
        """Seats that take calls."""
        return [load.seat for load in self.loads if load.standing is Standing.SERVING]

    def wait(self, condition: Callable[[], object], within: float = 20.0) -> None:
        """Until it holds."""
        due = time.monotonic() + within
        while not condition():
            assert time.monotonic() < due, "it took too long"
            time.sleep(0.005)

    def connect(self, number: int) -> socket.socket:
        """One caller who has asked."""
        caller = socket.create_connection(("127.0.0.1", self.port))
        caller.sendall(b"GET /telephony/ws/raw/run-%d HTTP/1.1\r\nHost: h\r\n\r\n" % number)
        caller.settimeout(10)
        return caller

    def close(self) -> None:
        """Everybody goes."""
        for process in self.processes.values():
            process.kill()
            process.wait(10)
        for door in self.doors:
            door.close()
        self.words.release()
        self.memory.close()
        os.close(self.table_fd)


@pytest.fixture
def toys(runtime: Path) -> Iterator[Callable[..., Toys]]:
    """Make toy workers; they end with the test."""
    made: list[Toys] = []

    def make(count: int, capacity: int, bound: float = 1.25) -> Toys:
        made.append(Toys(runtime, count, capacity, bound))
        return made[-1]

    yield make
    for each in made:
        each.close()


def answers(callers: list[socket.socket]) -> list[bytes]:
    """What each was told: one line, and nothing behind it."""
    return [caller.recv(100) for caller in callers]


def test_two_hundred_at_once_fill_forty_places_exactly(toys) -> None:
    """Four processes of ten places, five times over: 40 calls, ten in each, and 160 refusals."""
    fleet = toys(4, 10)
    for turn in range(5):
        callers = [fleet.connect(1000 * turn + number) for number in range(200)]
        told = Counter(answers(callers))
        assert told == {b"200 %d\n" % seat: 10 for seat in range(4)} | {b"503 full\n": 160}
        for caller in callers:
            caller.close()
        fleet.wait(lambda: sum(load.calls for load in fleet.loads) == 0)


def test_one_identity_has_one_owner_whoever_accepts_it(toys) -> None:
    """The kernel spreads connections; the run id decides."""
    fleet = toys(3, 100, 100.0)
    callers = [fleet.connect(number % 5) for number in range(60)]
    told = answers(callers)
    assert all(len({*told[number::5]}) == 1 for number in range(5))
    assert len({*told}) > 1
    for caller in callers:
        caller.close()


def test_a_worker_that_stands_still_costs_its_callers_a_moment_and_no_call(toys) -> None:
    """Its share is served by the others, and once it goes on it serves none of them again."""
    fleet = toys(3, 100)
    stopped = fleet.processes[1]
    stopped.send_signal(signal.SIGSTOP)
    try:
        # Only doors 0 and 2 accept: the kernel's queue of door 1 would wait with its worker.
        callers = [fleet.connect(number) for number in range(60)]
        fleet.wait(
            lambda: (
                sum(load.calls for load in fleet.loads if load.seat != 1) + waiting(fleet.doors[1])
                >= 60
            )
        )
        served = sum(load.calls for load in fleet.loads)
        assert fleet.loads.read(1).calls == 0
    finally:
        stopped.send_signal(signal.SIGCONT)
    told = answers(callers)
    assert all(each.startswith(b"200 ") for each in told)
    assert served > 20
    fleet.wait(lambda: sum(load.calls for load in fleet.loads) == 60)
    for _ in range(2):  # its loop turns again, and would by then have served what it found
        ticked = fleet.loads.read(1).tick_us
        fleet.wait(lambda ticked=ticked: fleet.loads.read(1).tick_us > ticked)
    assert sum(load.calls for load in fleet.loads) == 60
    for caller in callers:
        caller.settimeout(0)
        with pytest.raises(BlockingIOError):
            caller.recv(1)
        caller.close()


def waiting(door: socket.socket) -> int:
    """How many connections are in this listener's queue (tcp(7), TCP_INFO: tcpi_unacked)."""
    info = door.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
    return int.from_bytes(info[24:28], sys.byteorder)


def test_no_caller_is_refused_while_every_worker_is_replaced(toys) -> None:
    """Successors come, predecessors drain, callers keep coming: all are served, by whoever owns."""
    fleet = toys(2, 400)
    callers: list[socket.socket] = []
    for slot in range(2):
        callers += [fleet.connect(len(callers) + number) for number in range(60)]
        fleet.start(2 + slot, slot)
        callers += [fleet.connect(len(callers) + number) for number in range(60)]
        fleet.wait(lambda slot=slot: 2 + slot in fleet.serving())
        callers += [fleet.connect(len(callers) + number) for number in range(60)]
        fleet.processes[slot].send_signal(signal.SIGTERM)
        callers += [fleet.connect(len(callers) + number) for number in range(60)]
        fleet.wait(lambda slot=slot: slot not in fleet.serving())
    callers += [fleet.connect(len(callers) + number) for number in range(60)]
    told = Counter(answers(callers))
    assert sum(told.values()) == 540
    assert {each.split()[0] for each in told} == {b"200"}
    assert told[b"200 2\n"] > 10
    assert told[b"200 3\n"] > 10
    for caller in callers:
        caller.close()
    for seat in range(2):
        assert fleet.processes[seat].wait(10) == 0


def test_a_worker_that_is_killed_takes_only_its_own_calls_along(toys) -> None:
    """New callers are served by the others at once, even before anybody knows that it is gone."""
    fleet = toys(2, 100)
    callers = [fleet.connect(number) for number in range(40)]
    told = answers(callers)
    fleet.processes[0].kill()
    fleet.processes[0].wait(10)
    fleet.doors[0].close()  # what the supervisor does not do; the kernel would keep callers for it
    for caller, each in zip(callers, told, strict=True):
        if each == b"200 1\n":
            caller.sendall(b"")
            caller.settimeout(0)
            with pytest.raises(BlockingIOError):
                caller.recv(1)
        caller.close()
    later = [fleet.connect(number) for number in range(40)]
    assert Counter(answers(later)) == {b"200 1\n": 40}
    for caller in later:
        caller.close()
