"""Stamped frames over a plain WebSocket to an echo and back, 50 a second, each of them checked.

The other end is any flowcatd with the echo agent, or, with no address, an echo server in this
process: the raw carrier core, the edge, and a chain with Echo, over loopback. What comes back is
judged by `flowcatd.caller.stamp`: lost, duplicated, reordered and corrupted frames are told apart,
and every round trip is timed.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field

import aiohttp
import uvloop
from aiohttp import WSMsgType, web

from flowcatd.caller.address import Address, resolve
from flowcatd.caller.phone import POLL_SECONDS, connected
from flowcatd.caller.stamp import StampCheck, Verdict
from flowcatd.carriers.catalogue import open_carrier
from flowcatd.carriers.events import Audio, Started
from flowcatd.carriers.far_end import FarEnd, MarkAsked
from flowcatd.errors import FlowcatdError, LinkClosed
from flowcatd.frames import OutputAudio
from flowcatd.media import PTIME_MS, frame_bytes
from flowcatd.pipeline.chain import Chain
from flowcatd.pipeline.processor import Processor, down
from flowcatd.processors.echo import Echo
from flowcatd.transports.edge import SAMPLE_BYTES, Edge
from supervisor.demo_pipeline import VirtualScope

CONNECT_SECONDS = 5.0
TAIL_SECONDS = 2.0
"""What the last frames get to come back."""
SEND_SECONDS = 5.0


@dataclass(slots=True)
class Outcome:
    """What came back."""

    url: str
    verdict: Verdict = field(default_factory=Verdict)
    trips_ms: list[float] = field(default_factory=list)
    """Sorted."""
    problem: str = ""

    @property
    def ok(self) -> bool:
        """Whether every frame came back once, in order and unchanged."""
        return not self.problem and self.verdict.all_right

    def at(self, share: float) -> float:
        """This quantile of the round trips, in ms; the nearest one that was measured."""
        if not self.trips_ms:
            return 0.0
        return self.trips_ms[min(len(self.trips_ms), math.ceil(share * len(self.trips_ms))) - 1]


def run(url: str, seconds: int) -> Outcome:
    """Send for so long; an empty address is an echo of our own."""
    return uvloop.run(_run(url, seconds))


async def _run(url: str, seconds: int) -> Outcome:
    if url:
        return await _exchange(resolve(url, carrier="", agent="", run_id="demo"), seconds)
    async with echo_server() as port:
        here = resolve(f"ws://127.0.0.1:{port}", carrier="raw", agent="echo", run_id="demo")
        return await _exchange(here, seconds)


async def _exchange(address: Address, seconds: int) -> Outcome:
    outcome = Outcome(address.shown)
    size = frame_bytes(address.rate_hz) * SAMPLE_BYTES[address.encoding] // 2
    check = StampCheck(size)
    async with connected(address) as socket:
        try:
            await _Exchange(socket, address, check).run(seconds)
        except (FlowcatdError, TimeoutError, ConnectionError) as error:
            outcome.problem = str(error) or "the other end does not read"
    outcome.verdict = check.verdict()
    outcome.trips_ms = sorted(trip * 1000 for trip in check.trips)
    return outcome


class _Exchange:
    """One socket's frames, out and back."""

    def __init__(
        self, socket: aiohttp.ClientWebSocketResponse, address: Address, check: StampCheck
    ) -> None:
        started = Started("CAdemo", "MZdemo", address.encoding, address.rate_hz)
        self._socket = socket
        self._far = FarEnd(address.row, started)
        self._is_text = address.row.media is not None
        self._check = check

    async def run(self, seconds: int) -> None:
        """Send a frame every 20 ms, and read until all are back or TAIL_SECONDS have passed."""
        for message in self._far.start():
            await self._send(message, is_text=True)
        total, count = seconds * 1000 // PTIME_MS, 0
        began = time.monotonic()
        while count < total or not self._check.complete:
            due = began + count * PTIME_MS / 1000
            if count == total:
                due += TAIL_SECONDS
            now = time.monotonic()
            if now < due:
                await self._receive(due - now)
            elif count == total:
                return
            else:
                frame = self._check.next_frame(time.monotonic())
                await self._send(self._far.audio(frame), is_text=self._is_text)
                count += 1
        await self._send(self._far.stop(), is_text=True)

    async def _send(self, message: bytes, *, is_text: bool) -> None:
        async with asyncio.timeout(SEND_SECONDS):
            if is_text:
                await self._socket.send_str(message.decode())
            else:
                await self._socket.send_bytes(message)

    async def _receive(self, seconds: float) -> None:
        try:
            message = await self._socket.receive(timeout=max(POLL_SECONDS, seconds))
        except TimeoutError:
            return
        now = time.monotonic()
        if message.type is WSMsgType.TEXT:
            self._far.receive_text(message.data)
        elif message.type is WSMsgType.BINARY:
            self._far.receive_binary(message.data)
        else:
            raise LinkClosed(f"the other end closed with code {self._socket.close_code}")
        for event in self._far.events():
            if isinstance(event, Audio):
                self._check.receive(event.payload, now)
            elif isinstance(event, MarkAsked):
                await self._send(self._far.mark_played(event.name), is_text=True)


class _Sink(Processor):
    """The end of the chain: encoded frames for the way out."""

    def __init__(self, encode: Callable[[bytes], bytes]) -> None:
        super().__init__()
        self._encode = encode
        self.outgoing: list[bytes] = []

    @down(OutputAudio)
    def audio(self, frame: OutputAudio) -> None:
        """One more."""
        self.outgoing.append(self._encode(frame.pcm))


@asynccontextmanager
async def echo_server() -> AsyncIterator[int]:
    """A plain socket with an echo behind it, on loopback; its port."""
    application = web.Application()
    application.router.add_get("/telephony/ws/raw/{run_id}", _answer)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


async def _answer(request: web.Request) -> web.StreamResponse:
    core = open_carrier("raw", request.query)
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    (started,) = core.events()
    assert isinstance(started, Started), "a plain socket is up from construction"
    edge = Edge(started.encoding, started.rate_hz)
    sink = _Sink(edge.encode)
    chain = Chain([Echo(), sink], VirtualScope())
    began = time.monotonic()
    async for message in socket:
        now = time.monotonic()
        if message.type is WSMsgType.BINARY:
            core.receive_binary(message.data, now)
        elif message.type is WSMsgType.TEXT:
            core.receive_text(message.data, now)
        for event in core.events():
            if isinstance(event, Audio):
                for frame in edge.receive(event.payload, None, int((now - began) * 1000)):
                    chain.feed(frame)
        outgoing, sink.outgoing = sink.outgoing, []
        for payload in outgoing:
            await socket.send_bytes(core.audio(payload))
        if core.closed:
            await socket.close()
    return socket


def figures(outcome: Outcome) -> dict[str, object]:
    """For a program."""
    return {
        "ok": outcome.ok,
        "url": outcome.url,
        **asdict(outcome.verdict),
        "round_trip_ms": {
            name: round(outcome.at(share), 3)
            for name, share in (("p50", 0.5), ("p99", 0.99), ("max", 1.0))
        },
        "problem": outcome.problem,
    }


def render(outcome: Outcome) -> str:
    """For a person."""
    verdict = outcome.verdict
    lines = [
        f"{verdict.sent} frames of {PTIME_MS} ms to {outcome.url} and back",
        (
            f"  right {verdict.right}, lost {verdict.lost}, duplicate {verdict.duplicate}, "
            f"reordered {verdict.reordered}, corrupt {verdict.corrupt}"
        ),
        (
            f"  round trip {outcome.at(0.5):.2f} ms (p50), {outcome.at(0.99):.2f} ms (p99), "
            f"{outcome.at(1.0):.2f} ms (max)"
        ),
    ]
    if outcome.problem:
        lines.append(f"  {outcome.problem}")
    lines.append("all right" if outcome.ok else "NOT all right")
    return "\n".join(lines)
