"""Two workers' entrances on one loop: who comes is served once, by whom there is, and holds no place long.

Real sockets, the real table of loads, the real HTTP side, and a caller who writes its own bytes.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import json
import os
import shutil
import socket
import struct
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from flowcatd.links.disk import Disk
from flowcatd.links.journal import Found
from flowcatd.metrics import Metrics
from flowcatd.options import Calls, Options, Records, Speech
from flowcatd.record import Identity
from tests.workers.on_loop import on_worker_loop, until
from workers import speech
from workers.agents import load_agents
from workers.calls import CallTable
from workers.clock import WorkerClock
from workers.entrance import Entrance
from workers.household import Household
from workers.listeners import Doors
from workers.load import WORDS, LoadTable
from workers.parts import Parts
from workers.plan import WorkerPlan
from workers.wiring import Wiring, open_store

MEDIA = "GET /telephony/ws/raw/{} HTTP/1.1\r\nHost: h\r\n"
UPGRADE = (
    "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
HEALTH = "GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n"


class Worker:
    """What `workers.main` puts together, without a process."""

    def __init__(self, runtime: Path, loads: LoadTable, seat: int, family: int) -> None:
        host = "::1" if family == socket.AF_INET6 else "127.0.0.1"
        self.listener = socket.create_server((host, 0), family=family, backlog=256)
        self.address = self.listener.getsockname()
        options = Options(
            calls=Calls(per_worker=1, end_seconds=0.3),
            speech=Speech(hearing="none", voice="none"),
            records=Records(recording=False, transcript=False, record=False, journal=False),
        )
        agents = load_agents(Path("conf/agents"), "echo")
        plan = WorkerPlan(
            slot=seat,
            seat=seat,
            generation=1,
            load=loads,
            cpu=None,
            options=options,
            port=0,
            door_fd=self.listener.detach(),
            sip_doors={},
            ready_fd=-1,
            alive_fd=-1,
            runtime_directory=runtime,
            agents=agents,
            records_directory=runtime,
            providers_directory=runtime,
        )
        clock = WorkerClock(asyncio.get_running_loop())
        row = loads.row(seat)
        row.sit(slot=seat, capacity=1, now=time.monotonic())
        self.table = CallTable(options.calls, row, loads)
        self.household = Household(plan, clock, Metrics(), self.table, row)
        store = open_store(options.records, Disk(), runtime, seat)
        ears = speech.Speech(options.speech, runtime, ())
        self.refused: list[str] = []
        wiring = Leaky(options, clock, ears, store)
        self.wiring = wiring
        self.leaks = wiring.leaks
        told = (self.refused.append, self.household.ended)
        doors = Doors("", self.table, wiring, agents, (seat, "echo"), told)
        self.entrance = Entrance(plan, self.table, doors)

    async def open(self) -> None:
        """As the end of a start."""
        await self.entrance.open(1.25)
        self.table.shedding = False

    async def retire(self) -> None:
        """As an end that hears RETIRE, with no calls up."""
        self.table.draining = True
        self.entrance.stop()
        await self.entrance.close()

    @property
    def leftovers(self) -> float:
        """Things that calls left, as metrics tell."""
        return self.household.metrics.counters["calls_leftovers"][""]


class Leaky(Wiring):
    """Makes calls that leave a task behind when told to."""

    leaks: list[asyncio.Event]

    def __init__(self, *parts: object) -> None:
        super().__init__(*parts)  # type: ignore[arg-type]
        self.leaks = []
        self.trouble: Exception | None = None

    async def look(self, identity: Identity) -> Sequence[Found]:
        """Fails when told to."""
        if self.trouble is not None:
            raise self.trouble
        return await super().look(identity)

    def open(self, *parts: object) -> Parts:  # type: ignore[override]
        """One call, with a task that ends when its event is set and not before."""
        made = super().open(*parts)  # type: ignore[arg-type]
        for release in self.leaks:
            made.call.spawn(_stubborn(release), "test.stubborn")
        return made


async def _stubborn(release: asyncio.Event) -> None:
    while not release.is_set():
        try:
            await release.wait()
        except asyncio.CancelledError:
            continue


@asynccontextmanager
async def two_workers(family: int = socket.AF_INET) -> AsyncIterator[tuple[Worker, Worker]]:
    """Seats 0 and 1 with one place each."""
    runtime = Path(tempfile.mkdtemp(prefix="fc-", dir="/tmp"))
    loads = LoadTable([0] * (4 * WORDS))
    both = (Worker(runtime, loads, 0, family), Worker(runtime, loads, 1, family))
    for each in both:
        await each.open()
    try:
        yield both
    finally:
        for each in both:
            await each.entrance.close()
            each.household.close()
        shutil.rmtree(runtime)


def with_workers(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """The test with two workers, on the loop of workers."""

    async def run(**fixtures: object) -> None:
        async with two_workers() as (a, b):
            await test(a, b, **fixtures)

    functools.update_wrapper(run, test)
    del run.__wrapped__
    _, _, *others = inspect.signature(test).parameters.values()
    run.__signature__ = inspect.Signature(others)
    return on_worker_loop(run)


class Caller:
    """Somebody who writes bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def ask(self, text: str) -> str:
        """Say this; the head that comes back, or nothing when the connection was closed."""
        self.say(text)
        return await self.answer()

    def say(self, text: str) -> None:
        """Write, and wait for nothing."""
        self._writer.write(text.encode())

    async def answer(self) -> str:
        """The next head; a body with a length is read too."""
        async with asyncio.timeout(5):
            try:
                head = (await self._reader.readuntil(b"\r\n\r\n")).decode()
                for line in head.lower().splitlines():
                    if line.startswith("content-length:"):
                        await self._reader.readexactly(int(line.split(":")[1]))
            except (asyncio.IncompleteReadError, ConnectionResetError):
                return ""
        return head

    def close(self) -> None:
        """Gone."""
        self._writer.close()

    def reset(self) -> None:
        """Gone, with RST."""
        wire = self._writer.get_extra_info("socket")
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()


async def call(worker: Worker) -> Caller:
    """A connection to this worker's door."""
    return Caller(*await asyncio.open_connection(*worker.address[:2]))


def media(run_id: str) -> str:
    """The whole head of a media request."""
    return MEDIA.format(run_id) + UPGRADE


@on_worker_loop
async def test_a_promised_place_is_redeemed_over_ipv6_too() -> None:
    """Door and HTTP server know the caller by one name: two places give two calls and a refusal."""
    async with two_workers(socket.AF_INET6) as (a, b):
        answers = []
        callers = [await call(a) for _ in range(3)]
        for number, caller in enumerate(callers):
            answers.append((await caller.ask(media(f"v6-{number}")))[:12])
        assert answers == ["HTTP/1.1 101", "HTTP/1.1 101", "HTTP/1.1 503"]
        assert (len(a.table), len(b.table)) == (1, 1)
        for caller in callers:
            caller.close()
        await until(lambda: len(a.table) + len(b.table) == 0)


@with_workers
async def test_a_broken_request_gives_its_place_back_with_its_connection(
    a: Worker, b: Worker
) -> None:
    """What the parser refuses never reaches a handler; the place is free as soon as it is answered."""
    before = time.monotonic()
    for number in range(4):
        caller = await call(a)
        said = MEDIA.format(number) + "no header at all\r\n\r\n"
        assert (await caller.ask(said)).startswith("HTTP/1.0 400")
        await until(lambda: len(a.table) + len(b.table) == 0)
        caller.close()
    assert time.monotonic() - before < 1.5


@with_workers
async def test_a_connection_that_dies_at_the_door_holds_no_place(a: Worker, b: Worker) -> None:
    """A whole head and a reset behind it, thirty times; then there is room for two calls."""
    for number in range(30):
        caller = await call(a)
        caller.say(media(f"dead-{number}"))
        await asyncio.sleep(0)
        caller.reset()
    await until(lambda: len(a.table) + len(b.table) == 0, within=1.5)
    callers = [await call(a), await call(b)]
    for number, caller in enumerate(callers):
        assert (await caller.ask(media(f"alive-{number}"))).startswith("HTTP/1.1 101")
        caller.close()


@with_workers
async def test_a_request_that_is_no_websocket_is_told_so_and_counted(a: Worker, b: Worker) -> None:
    """426 before any place is taken for longer; the count names the cause."""
    caller = await call(a)
    assert (await caller.ask(MEDIA.format("x") + "\r\n")).startswith("HTTP/1.1 426")
    assert a.refused + b.refused == ["not_understood"]
    await until(lambda: len(a.table) + len(b.table) == 0)
    caller.close()


@with_workers
async def test_who_has_not_said_what_it_wants_outlives_the_worker_it_came_to(
    a: Worker, b: Worker
) -> None:
    """The retired worker ends; silent and half-spoken connections are answered by its fellow."""
    silent, half, health = await call(a), await call(a), await call(a)
    half.say(MEDIA.format("half"))
    await until(lambda: len(a.entrance._door) == 3)
    await a.retire()
    assert (await half.ask(UPGRADE)).startswith("HTTP/1.1 101")
    assert (await health.ask(HEALTH)).startswith("HTTP/1.1 200")
    assert (await silent.ask(HEALTH)).startswith("HTTP/1.1 200")
    assert (len(a.table), len(b.table)) == (0, 1)
    for caller in (silent, half, health):
        caller.close()


@with_workers
async def test_what_waits_in_the_queue_of_a_worker_that_ends_is_served_by_its_fellow(
    a: Worker, b: Worker
) -> None:
    """Requests that came in the very moment of its end, calls or not, are all answered."""
    asked = []
    for number in range(20):  # connected and written before the loop turns once: all in the queue
        wire = socket.create_connection(a.address)
        wire.sendall((HEALTH if number else media("queued")).encode())
        wire.setblocking(False)
        asked.append(wire)
    await a.retire()
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(5):
        answers = [(await loop.sock_recv(wire, 4096))[:12] for wire in asked]
    assert answers == [b"HTTP/1.1 101"] + [b"HTTP/1.1 200"] * 19
    assert (len(a.table), len(b.table)) == (0, 1)
    for wire in asked:
        wire.close()


@with_workers
async def test_the_last_worker_closes_whom_nobody_takes(a: Worker, b: Worker) -> None:
    """With no fellow left a silent caller sees its connection end, within the worker's last second."""
    await b.retire()
    silent = await call(a)
    await until(lambda: len(a.entrance._door) == 1)
    before = time.monotonic()
    await a.retire()
    assert await silent.answer() == ""
    assert time.monotonic() - before < 1.0
    silent.close()


@with_workers
async def test_a_media_request_on_a_kept_connection_goes_to_who_has_room(
    a: Worker, b: Worker
) -> None:
    """After GET /healthz the upgrade: at a full or retiring worker it is the fellow's; exactly two fit."""
    kept = [await call(a) for _ in range(4)]
    for caller in kept:
        assert (await caller.ask(HEALTH)).startswith("HTTP/1.1 200")
    answers = [await caller.ask(media(f"kept-{number}")) for number, caller in enumerate(kept)]
    assert sorted(each[9:12] for each in answers) == ["101", "101", "503", "503"]
    assert (len(a.table), len(b.table)) == (1, 1)
    refused = next(kept[n] for n, each in enumerate(answers) if each[9:12] == "503")
    for number, each in enumerate(answers):
        if each[9:12] == "101":
            kept[number].close()
    await until(lambda: len(a.table) + len(b.table) == 0)
    a.table.draining = True
    assert (await refused.ask(media("again")))[9:12] == "101"
    assert (len(a.table), len(b.table)) == (0, 1)
    for caller in kept:
        caller.close()


@with_workers
async def test_a_kept_connection_that_its_fellow_does_not_take_is_answered_here(
    a: Worker, b: Worker
) -> None:
    """The fellow looks alive and takes nothing: the request comes back whole, and is served or refused."""
    b.entrance._fellows.close()
    kept = [await call(a) for _ in range(6)]
    for caller in kept:
        assert (await caller.ask(HEALTH)).startswith("HTTP/1.1 200")
    answers = [await caller.ask(media(f"back-{number}")) for number, caller in enumerate(kept)]
    assert sorted(each[9:12] for each in answers) == ["101"] + ["503"] * 5
    assert (len(a.table), len(b.table)) == (1, 0)
    assert a.entrance.hand_overs()[2] > 0
    for caller in kept:
        caller.close()


@with_workers
async def test_a_task_that_outlives_its_call_is_counted_and_logged(a: Worker, b: Worker) -> None:
    """A real task that will not be cancelled: five seconds later it is in the figures and the log."""
    release = asyncio.Event()
    a.leaks.append(release)
    b.leaks.append(release)
    caller = await call(a)
    assert (await caller.ask(media("leaky"))).startswith("HTTP/1.1 101")
    caller.close()
    await until(lambda: a.table.leaked + b.table.leaked == 1)
    assert a.leftovers + b.leftovers == 0
    try:
        await until(lambda: a.leftovers + b.leftovers == 1, within=8)
    finally:
        release.set()


@with_workers
async def test_a_connection_that_outlives_its_call_is_counted_and_logged(
    a: Worker, b: Worker, capfd
) -> None:
    """Its descriptor is kept open under its own number by somebody who should not: one leftover."""
    caller = await call(a)
    assert (await caller.ask(media("held"))).startswith("HTTP/1.1 101")
    worker = a if len(a.table) else b
    (transport,) = worker.entrance._runner.server._connections.values()
    number = transport.get_extra_info("socket").fileno()
    copy = socket.socket(fileno=socket.dup(number))
    caller.close()
    await until(lambda: len(worker.table) == 0)
    await until(lambda: worker.entrance._runner.server._connections == {})
    os.dup2(copy.fileno(), number)
    try:
        await until(lambda: worker.leftovers == 1, within=8)
    finally:
        os.close(number)
        copy.close()
    said = capfd.readouterr()
    assert "call.leaked" in said.out + said.err
    assert "socket" in said.out + said.err


@with_workers
async def test_a_request_that_fails_by_our_fault_is_told_without_values(
    a: Worker, b: Worker, capfd
) -> None:
    """500 for that caller, a line with the place and no words of theirs, and the next one is served."""
    for each in (a, b):
        each.wiring.trouble = RuntimeError("what the caller said")
    first, second = await call(a), await call(a)
    assert (await first.ask(media("broken"))).startswith("HTTP/1.1 500")
    for each in (a, b):
        each.wiring.trouble = None
    assert (await second.ask(media("sound"))).startswith("HTTP/1.1 101")
    first.close()
    second.close()
    said = capfd.readouterr()
    lines = [json.loads(line) for line in (said.out + said.err).splitlines()]
    (line,) = [str(each) for each in lines if each["event"] == "loop.raised"]
    assert "RuntimeError" in line
    assert "what the caller said" not in said.out + said.err
