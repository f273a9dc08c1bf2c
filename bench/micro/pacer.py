"""How evenly a worker sends, and what a wire costs: streams on loopback, one loop, one core.

`python -m bench.micro.pacer [--calls N] [--seconds S]`. Half of the wires talk to the other half, so N
calls are N streams that send and hear 50 packets of G.711 a second each. Printed are the errors between
two packets of a stream (distance from 20 ms, by the sender's clock as each goes) and the CPU time per
call: once with the pacer alone, once with the whole wire and its codec, once with SRTP as well; and
against the pacer, a wake of the worker's clock per stream. A busy neighbour shows in the errors at
once: take them on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import random
import socket
import struct
import time
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import uvloop

from flowcatd.errors import FlowcatdError
from flowcatd.rtp.codec import PCMU
from flowcatd.rtp.stream import Guard, Plan, Stream, StreamEvent
from flowcatd.sip.session import SUITES, Key, Sdes
from flowcatd.transports.pacer import PERIOD, Pacer
from flowcatd.transports.rtp_wire import RtpWire
from flowcatd.transports.srtp import Srtp
from flowcatd.wake import Wake, WakeList

TONE = struct.pack("<160h", *(int(8000 * math.sin(i * math.pi / 4)) for i in range(160)))
_WARM_SECONDS = 0.5

Stamps = list[list[float]]
"""Of each stream, when its packets went."""


class BenchClock:
    """One timer of the loop for all wakes, rounded as the worker's clock does it (workers/clock.py)."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._wakes = WakeList()
        self._timer: asyncio.TimerHandle | None = None
        self._running = False

    def now(self) -> float:
        """Monotonic seconds."""
        return time.monotonic()

    def wake(self, due: float, callback: Callable[[], None]) -> Wake:
        """Call back at `due`."""
        wake = self._wakes.add(due, callback)
        if not self._running:
            self._arm()
        return wake

    def _arm(self) -> None:
        due = self._wakes.wake_at()
        if self._timer is not None:
            self._timer.cancel()
        if due is not None:
            delay = max(0, math.ceil(due * 1000) - math.floor(time.monotonic() * 1000))
            self._timer = self._loop.call_later(delay / 1000, self._ring)

    def _ring(self) -> None:
        self._running = True
        try:
            self._wakes.wake(time.monotonic())
        finally:
            self._running = False
            self._arm()


class _Pair(NamedTuple):
    """Two sockets; with rtcp-mux the second one is idle."""

    rtp: socket.socket
    rtcp: socket.socket

    @classmethod
    def bound(cls) -> _Pair:
        """On free ports."""
        made = cls(*(socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2)))
        for wire in made:
            wire.setblocking(False)
            wire.bind(("127.0.0.1", 0))
        return made


class _Talker:
    """A call that says a tone and notes when it was asked."""

    def __init__(self) -> None:
        self.asked: list[float] = []

    def hear(self, pcm: bytes) -> None:
        """Nobody listens."""

    def speak(self) -> bytes:
        """A tone."""
        self.asked.append(time.monotonic())
        return TONE

    def told(self, event: StreamEvent) -> None:
        """Nor reads."""

    def broken(self, error: FlowcatdError) -> None:
        """A benchmark of something broken is none."""
        raise SystemExit(str(error))


def _show(name: str, stamps: Stamps, cpu: float, seconds: float) -> None:
    errors = sorted(abs(b - a - PERIOD) * 1e3 for times in stamps for a, b in pairwise(times))
    p50, p99, p999 = (errors[int(len(errors) * part)] for part in (0.5, 0.99, 0.999))
    ticks = sum(map(len, stamps))
    print(
        f"{name:<26} p50 {p50:5.2f}  p99 {p99:5.2f}  p99.9 {p999:5.2f}  max {errors[-1]:5.2f} ms"
        f"   {cpu / ticks * 1e6:5.1f} µs/tick  {cpu / seconds / len(stamps) * 100:5.3f} % of a core"
        " per call"
    )


async def _measured(name: str, seconds: float, stamps: Stamps) -> None:
    """Let it run; what was noted while it warmed up does not count."""
    await asyncio.sleep(_WARM_SECONDS)
    for times in stamps:
        times.clear()
    begun, cpu = time.monotonic(), time.process_time()
    await asyncio.sleep(seconds)
    cpu, lasted = time.process_time() - cpu, time.monotonic() - begun
    _show(name, [list(times) for times in stamps], cpu, lasted)


async def _bench_clock(calls: int, seconds: float) -> None:
    """A wake per stream, each with its own schedule, sending a bare datagram."""
    clock = BenchClock(asyncio.get_running_loop())
    stamps, sends = _senders(calls)
    live = [True]

    def begin(send: Callable[[float], None], due: float) -> None:
        def tick() -> None:
            nonlocal due
            send(clock.now())
            due += PERIOD
            if live[0]:
                clock.wake(due, tick)

        clock.wake(due, tick)

    for number, send in enumerate(sends):
        begin(send, clock.now() + PERIOD * number / calls)
    await _measured("a wake per stream", seconds, stamps)
    live[0] = False
    await asyncio.sleep(2 * PERIOD)


async def _bench_pacer(calls: int, seconds: float) -> None:
    """The pacer, sending a bare datagram."""
    pacer = Pacer(BenchClock(asyncio.get_running_loop()))
    stamps, sends = _senders(calls)
    beats = [pacer.add(send) for send in sends]
    await _measured("the pacer", seconds, stamps)
    for beat in beats:
        beat.cancel()


def _senders(calls: int) -> tuple[Stamps, list[Callable[[float], None]]]:
    sink = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sink.bind(("127.0.0.1", 0))
    to = sink.getsockname()
    stamps: Stamps = [[] for _ in range(calls)]
    wires = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(calls)]

    def sender(wire: socket.socket, times: list[float]) -> Callable[[float], None]:
        def send(_now: float) -> None:
            wire.sendto(bytes(172), to)
            times.append(time.monotonic())
            _ = sink  # lives as long as we do

        return send

    return stamps, [sender(wire, times) for wire, times in zip(wires, stamps, strict=True)]


def _keys() -> tuple[Guard, Guard]:
    suite = SUITES["AES_CM_128_HMAC_SHA1_80"]
    one, two = Key(suite, bytes(range(30))), Key(suite, bytes(range(1, 31)))
    return Srtp(Sdes(one, two)).guard, Srtp(Sdes(two, one)).guard


async def _bench_wire(calls: int, seconds: float, *, secret: bool) -> None:
    """Whole wires in pairs: read, jitter buffer, decode, encode, send, reports."""
    clock = BenchClock(asyncio.get_running_loop())
    pacer = Pacer(clock)
    talkers: list[_Talker] = []
    wires: list[tuple[RtpWire, _Pair, Stream]] = []

    def begin(pair: _Pair, far: _Pair, guard: Guard | None) -> None:
        chance = random.Random(len(wires))
        plan = Plan((PCMU,), far.rtp.getsockname(), mux=True, digits_type=101, cname=b"bench")
        stream = Stream(plan, chance.getrandbits, guard)
        stream.direct(clock.now(), sending=True, receiving=True)
        talkers.append(_Talker())
        wires.append((RtpWire(pair, stream, pacer, talkers[-1]), pair, stream))

    for _ in range(calls // 2):
        one, two = _Pair.bound(), _Pair.bound()
        guards = _keys() if secret else (None, None)
        begin(one, two, guards[0])
        begin(two, one, guards[1])
    name = "wires with SRTP" if secret else "wires, G.711"
    await _measured(name, seconds, [talker.asked for talker in talkers])
    figures = [stream.figures() for _, _, stream in wires]
    lost, late = sum(each.lost for each in figures), sum(each.late for each in figures)
    print(f"{'':<26} lost {lost}, late {late}, owed {pacer.owed}, given up {pacer.given_up}")
    for wire, pair, _ in wires:
        wire.close()
        pair.rtp.close()
        pair.rtcp.close()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.micro.pacer", description=__doc__)
    parser.add_argument("--calls", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=5.0)
    args = parser.parse_args()
    print(f"{args.calls} streams, {args.seconds:g} s each, errors between two packets:")
    uvloop.run(_bench_clock(args.calls, args.seconds))
    uvloop.run(_bench_pacer(args.calls, args.seconds))
    uvloop.run(_bench_wire(args.calls, args.seconds, secret=False))
    uvloop.run(_bench_wire(args.calls, args.seconds, secret=True))


if __name__ == "__main__":
    main()
