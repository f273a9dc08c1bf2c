"""A worker's line to the switchboard: orders in; life signs, figures and call events out.

    DEALER ─► control.sock   Hello, Beat (once a second), Reports; ◄─ Orders
    PUB    ─► publish.sock   metrics.<slot> (once a second), call.<event>

It never makes a call wait. Sending is now or not at all: what does not fit into a queue, or has
nobody to go to, is dropped and counted in `dropped`. The switchboard may die and come back; libzmq
reconnects by itself. A DEALER that queues only for completed connections (zmq_setsockopt(3),
ZMQ_IMMEDIATE) cannot send while nobody is there: by that the uplink notices, publishes nothing, and
says Hello anew, at once when the switchboard is back. A switchboard that came and went between two
beats learns the same from the next Beat.

What is published has topics of control.py. A PUB that does not drop silently (ZMQ_XPUB_NODROP) says
when its one subscriber, the switchboard, does not read.

Made after the fork, on the loop that will use it; its ZeroMQ context is its own.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import msgspec
import zmq

from flowcatd.control import (
    CONTROL_SOCKET,
    PUBLISH_SOCKET,
    Beat,
    CallEvent,
    CallLine,
    Hello,
    Level,
    Order,
    OrderCalls,
    OrderHangUp,
    OrderLadder,
    OrderLogLevel,
    OrderTrunks,
    Reader,
    Report,
    ReportCalls,
    ReportDone,
    ReportLadder,
    ReportTrunks,
    TrunkLine,
    encode,
    worker_identity,
)
from flowcatd.errors import ControlError
from flowcatd.links.zeromq import Sent, Wire
from flowcatd.sip_figures import SipFigures

INTERVAL_SECONDS = 1.0
"""Between two beats, and between two snapshots."""
SPARING_SECONDS = 5.0
"""Between two snapshots while what can wait has to."""
HELLO_SECONDS = 0.1
"""Between two tries to say Hello while nobody is there; also libzmq's between two connects."""
CONTROL_HWM = 128
"""Messages waiting on the control line: one Report for every ask that may be pending, twice."""
PUBLISH_HWM = 1000
"""Published messages waiting: the starts and ends of 500 calls, 300 KB."""
MESSAGE_MAX = 64 * 1024
"""Bytes of the longest message that is read; an order has 300."""
CALLS_MAX = 3000
"""Calls in one Report, so that it stays under control.MESSAGE_MAX."""
TRUNKS_MAX = 4000
"""Trunks in one Report, likewise."""
LINGER_MS = 200
"""What the last messages get to leave when the uplink closes."""


class Told(Protocol):
    """What a worker does when it is told to; the work is done at once, on the loop."""

    def list_calls(self) -> list[CallLine]:
        """The live calls."""

    def hang_up(self, call: str) -> bool:
        """End the call of this call id or run id; false when there is none."""

    def set_level(self, level: Level) -> None:
        """Write log lines from this level up."""

    def ladder(self, call: str) -> SipFigures | None:
        """How the call of this call id or run id goes; None when it is not here or not over SIP."""

    def trunks(self) -> list[TrunkLine]:
        """Every trunk, with what this worker knows of it."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a worker sits."""

    runtime_directory: Path
    seat: int
    slot: int
    pid: int


class Uplink:
    """One worker's line; `close` must be called before the loop ends."""

    def __init__(
        self, place: Place, told: Told, calls: Callable[[], int], snapshot: Callable[[], bytes]
    ) -> None:
        """`calls` is how many are live; `snapshot` gives an encoded metrics.Snapshot."""
        self._place = place
        self._told = told
        self._calls = calls
        self._snapshot = snapshot
        self._topic = f"metrics.{place.slot}".encode()
        self._reader = Reader(Order)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(io_threads=1)
        self._control = self._open_control()
        self._publish = self._open_publish()
        self._loop = asyncio.get_running_loop()
        self._due = 0.0
        self.interval_seconds = INTERVAL_SECONDS
        """Between two snapshots; under load they may be made rarer."""
        self.is_connected = False
        """Whether the switchboard took what was last said to it."""
        self.dropped = 0
        """Events, snapshots and reports that nobody got."""
        self.misunderstood = 0
        """Messages from the switchboard that are no orders."""
        self._timer = self._loop.call_soon(self._tick)

    def pace(self, deferring: bool) -> None:  # noqa: FBT001 it is the one thing this is told
        """Under load snapshots are rarer; the bridge takes ten seconds of silence for an absence."""
        self.interval_seconds = SPARING_SECONDS if deferring else INTERVAL_SECONDS

    def publish(self, event: CallEvent) -> None:
        """Tell subscribers, if there are any."""
        self._send_published(f"call.{event.event}".encode(), encode(event))

    def close(self) -> None:
        """Say the last figures and then no more; takes LINGER_MS at most, for what was said already."""
        self._timer.cancel()
        if self.is_connected:  # else what the last second counted is lost for good
            self._send_published(self._topic, self._snapshot())
        self._control.close(LINGER_MS)
        self._publish.close(LINGER_MS)
        self._context.destroy(LINGER_MS)

    def _open_control(self) -> Wire:
        dealer = self._context.socket(zmq.DEALER)
        dealer.setsockopt(zmq.IDENTITY, worker_identity(self._place.seat, self._place.pid))
        dealer.setsockopt(zmq.IMMEDIATE, 1)
        return self._connect(dealer, CONTROL_SOCKET, CONTROL_HWM)

    def _open_publish(self) -> Wire:
        publisher = self._context.socket(zmq.PUB)
        publisher.setsockopt(zmq.XPUB_NODROP, 1)
        return self._connect(publisher, PUBLISH_SOCKET, PUBLISH_HWM)

    def _connect(self, made: zmq.Socket[bytes], name: str, hwm: int) -> Wire:
        made.setsockopt(zmq.SNDHWM, hwm)
        made.setsockopt(zmq.RCVHWM, hwm)
        made.setsockopt(zmq.LINGER, LINGER_MS)
        made.setsockopt(zmq.MAXMSGSIZE, MESSAGE_MAX)
        made.setsockopt(zmq.RECONNECT_IVL, int(HELLO_SECONDS * 1000))
        made.connect(f"ipc://{self._place.runtime_directory / name}")
        return Wire(made, self._ordered)

    # --- out

    def _tick(self) -> None:
        try:
            self._speak(time.monotonic())
        finally:
            # Also when a callback raised: the loop's handler tells of it, and the next second comes.
            wait = INTERVAL_SECONDS if self.is_connected else HELLO_SECONDS
            if not self._control.closed:
                self._timer = self._loop.call_later(wait, self._tick)

    def _speak(self, now: float) -> None:
        place = self._place
        if not self.is_connected:
            hello = Hello(seat=place.seat, slot=place.slot, pid=place.pid)
            self.is_connected = self._say(hello) is Sent.DONE
        if self.is_connected:
            beat = Beat(seat=place.seat, slot=place.slot, pid=place.pid, calls=self._calls())
            self.is_connected = self._say(beat) is Sent.DONE
        if self.is_connected and now >= self._due:
            self._due = now + self.interval_seconds - INTERVAL_SECONDS / 10
            self._send_published(self._topic, self._snapshot())

    def _say(self, message: msgspec.Struct) -> Sent:
        return self._control.send([encode(message)])

    def _send_published(self, topic: bytes, data: bytes) -> None:
        if not self.is_connected or self._publish.send([topic, data]) is not Sent.DONE:
            self.dropped += 1

    # --- in

    def _ordered(self, frames: list[bytes]) -> None:
        try:
            order = self._reader.decode(frames[0])
        except ControlError:
            self.misunderstood += 1
            return
        if self._say(self._obey(order)) is not Sent.DONE:
            self.dropped += 1

    def _obey(self, order: msgspec.Struct) -> Report:
        seat = self._place.seat
        match order:
            case OrderCalls():
                calls = self._told.list_calls()[:CALLS_MAX]
                return ReportCalls(id=order.id, seat=seat, calls=calls)
            case OrderHangUp():
                found = self._told.hang_up(order.call)
                return ReportDone(id=order.id, seat=seat, found=found)
            case OrderLogLevel():
                self._told.set_level(order.level)
                return ReportDone(id=order.id, seat=seat, found=True)
            case OrderLadder():
                sip = self._told.ladder(order.call)
                return ReportLadder(id=order.id, seat=seat, sip=sip)
            case OrderTrunks():
                trunks = self._told.trunks()[:TRUNKS_MAX]
                return ReportTrunks(id=order.id, seat=seat, trunks=trunks)
        raise AssertionError(f"{order!r} is no order")
